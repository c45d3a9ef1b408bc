"""aiohttp, and only here: sessions, exchanges, bodies, downloads."""
