"""Purchases in a SQLite file: what is told together goes into it in one commit."""
