"""Helpers of the tests: services, servers, scripts, campaigns."""
