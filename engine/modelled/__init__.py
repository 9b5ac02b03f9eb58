"""A model that computes nothing and takes the time that a profile says."""
