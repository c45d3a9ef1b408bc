"""Observers for what services watch with. Each needs an extra of its own."""
