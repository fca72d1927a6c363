"""The collection of printed loads: which there are, what is read of each, what agrees."""
