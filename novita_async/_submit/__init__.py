"""Purchases: accounts and quotas, the one loop that sends, lost ones found again."""
