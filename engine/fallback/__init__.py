"""Architectures that the engine has no layers for, through transformers' own."""
