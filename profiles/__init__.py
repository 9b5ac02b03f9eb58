"""How long model steps take on named hardware, and what fits its memory; no code of an engine."""
