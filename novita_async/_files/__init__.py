"""Result URLs to files."""
