"""Drives the pinned engine: measures what it allocates and traces the graphs it builds (docs/internals/engine.md)."""
