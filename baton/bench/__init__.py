"""The measured figures: rows with their baselines."""
