"""How tasks end, and what time it is."""
