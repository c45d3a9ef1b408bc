"""Many requests: from input to outcomes."""
