"""Decisions: when to send, whether to try again, when to look. Nothing here waits or reads a clock."""
