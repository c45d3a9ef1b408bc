"""The one loop that polls."""
