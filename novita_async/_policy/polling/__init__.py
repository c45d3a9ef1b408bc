"""Decides when to poll: what is learned of durations and of the server, and the schedule made of it."""
