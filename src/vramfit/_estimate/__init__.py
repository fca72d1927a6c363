"""Estimate what the engine reserves when a context starts: replayed to the byte, or bounded from above."""
