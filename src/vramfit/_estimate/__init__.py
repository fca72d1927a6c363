"""What a context's start reserves, replayed or bounded: `Estimate`."""
