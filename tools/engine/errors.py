"""What the tool says when the engine cannot be driven."""


class EngineError(Exception):
    """The engine, its source or a compiler is missing, or the engine refused; the text says which."""
