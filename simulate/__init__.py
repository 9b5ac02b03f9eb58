"""A cluster in virtual time: the real placement and policies over modelled workers and links."""
