"""Commands for work on the project that are longer than a line of the Makefile."""
