"""What each further process takes of a card, by the name that `shared` knows it."""

from ..warnings import process_bytes

__all__ = ["process_bytes"]
