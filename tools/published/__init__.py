"""Headers as published models have them, made from small facts."""
