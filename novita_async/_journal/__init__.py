"""Purchases kept beyond this process: in memory, in a SQLite file, in Postgres."""
