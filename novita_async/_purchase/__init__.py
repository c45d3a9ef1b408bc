"""The record and the state machine of a purchase, and the protocol of the journals that keep it."""
