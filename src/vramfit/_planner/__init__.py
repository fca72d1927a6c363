"""What vramfit adds to the engine: the largest safe context, other settings, cards, quantizations, sweeps."""
