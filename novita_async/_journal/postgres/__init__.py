"""Purchases in Postgres: rows, windows and money that many processes share. Needs the extra `postgres`."""
