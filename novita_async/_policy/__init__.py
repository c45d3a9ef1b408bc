"""Decisions: when to send, whether to try again, when to poll. Nothing here waits or reads a clock."""
