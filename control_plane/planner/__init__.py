"""What the two pools should be: observations in, decisions with their reasons out. No I/O."""
