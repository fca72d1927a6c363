"""Other estimates on the same rows."""
