"""The API without the network: JSON, and what its answers mean."""
