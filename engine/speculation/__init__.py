"""Speculative decoding: tokens are guessed, then computed and judged in one step."""
