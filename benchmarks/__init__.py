"""What this library costs, beside other clients and beside the physical limit. `make bench` measures it all."""

NAMES = (
    "submit",
    "conditions",
    "upload",
    "forms",
    "answers",
    "poll",
    "watch",
    "wait",
    "window",
    "outage",
    "webhooks",
    "batch",
    "journal",
    "resume",
    "workers",
    "scale",
    "start",
)
"""Tables, in the order in which they are shown; each is a module that gives `tables(quick=...)`."""

LONG = ("scale",)
"""Tables that are measured only when they are asked for by name: each takes half an hour."""

PEERS = (
    "novita-client",
    "fal-client",
    "replicate",
    "httpx",
    "httpx2",
    "aiohttp",
    "aiohttp-retry",
    "tenacity",
    "aiolimiter",
    "pyrate-limiter",
)
"""Packages beside which it is measured."""
