"""Faults of a base URL, seen from the answers that it leads to. Nothing was bought by any of them.

A front door that asks for https, a server that speaks TLS alone, a path that begins twice: each is told as
what it is, to the first request, and stops the others.
"""

from typing import Final

from yarl import URL

from novita_async._http import HTTPResponse

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_NOT_THERE: Final = frozenset({404, 405})
_USUAL: Final = "/v3/async"
"""How most paths begin."""
_TLS_ALONE: Final = b"sent to HTTPS port"
"""Words of nginx, and of the doors that are made of it, to a request without TLS."""


def host_of(base_url: URL) -> str:
    """Name the host of a URL, with its port where that is not the usual one."""
    return str(base_url.origin()).partition("//")[2]


def misdirection(base_url: URL, path: str, answer: HTTPResponse) -> str | None:
    """Say why an answer is that of a wrong address. None: nothing tells.

    Args:
        base_url: As the user gave it.
        path: The path of the request, below it.
        answer: An answer that is not good.
    """
    if base_url.scheme == "http" and (_leads_to_https(base_url, answer) or _TLS_ALONE in answer.body):
        return f"{host_of(base_url)} wants https, and the base URL begins with http"
    doubled = _doubled(base_url.path, path) or _doubled(base_url.path, _USUAL)
    if doubled and answer.status in _NOT_THERE:
        return f"the base URL ends in {doubled}, with which paths begin anyway: leave {doubled} out of it"
    return None


def _leads_to_https(base_url: URL, answer: HTTPResponse) -> bool:
    """Whether a redirect leads to the same host, but with TLS."""
    if answer.status not in _REDIRECTS:
        return False
    try:
        place = URL(answer.headers.get("location", ""))
    except ValueError:
        return False
    return place.scheme == "https" and place.host == base_url.host


def _doubled(base: str, path: str) -> str:
    """The end of the base URL's path that the path begins with: `/v3`. Empty: there is none."""
    end, begin = base.strip("/").split("/"), path.strip("/").split("/")
    shared = next((size for size in range(len(end), 0, -1) if end[-size:] == begin[:size]), 0)
    return "".join(f"/{step}" for step in begin[:shared] if step)
