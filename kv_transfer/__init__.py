"""Moves KV blocks between two pools; knows layouts and bytes, not models."""
