"""Observers for monitoring systems: OpenTelemetry, Prometheus. Each needs an extra of its own."""
