"""Hosts of the API: the provider, and the sister services that speak the same protocol.

A key belongs to one host and is never sent to another. A host that is not known here (a proxy, a simulator)
stands in for any: all routes are taken to be served there.
"""

from collections.abc import Collection
from typing import ClassVar, Final, cast
from urllib.parse import urlsplit

from attrs import field

from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError
from novita_async.models import _rules as rules


def _trimmed(base_url: str) -> str:
    return base_url.rstrip("/") if isinstance(cast("object", base_url), str) else base_url


@frozen(kw_only=True)
class Host:
    """A service that speaks this API: `Host.NOVITA`, `Host.PPIO`, `Host.JIEKOU`, `Host.MYROUTER`.

    Args:
        name: Name in tasks, journals and the table of routes. A proxy may bear the name of the host behind
            it.
        base_url: Where the API is. The transport checks the address.
    """

    NOVITA: ClassVar["Host"]
    """The provider itself: https://api.novita.ai."""
    PPIO: ClassVar["Host"]
    """https://api.ppio.com, of the same company."""
    JIEKOU: ClassVar["Host"]
    """https://api.jiekou.ai, of the same company."""
    MYROUTER: ClassVar["Host"]
    """https://api.myrouter.ai, of the same company."""

    name: str
    """Name in tasks, journals and the table of routes. A proxy may bear the name of the host behind it."""
    base_url: str = field(converter=_trimmed)
    """Where the API is. The transport checks the address."""

    def __attrs_post_init__(self) -> None:
        message = rules.text().explain(self, self.name)
        if message:
            raise ConfigurationError(problem=f"Host.name: {message}", advice="give a name such as novita")

    @classmethod
    def at(cls, base_url: str) -> "Host":
        """The host behind a base URL: a known one, or another, which is called by its address."""
        trimmed = _trimmed(base_url)
        known = (host for host in KNOWN_HOSTS if host.base_url == trimmed)
        address = urlsplit(str(trimmed)).netloc.rpartition("@")[2]
        return next(known, None) or cls(name=address or "base_url", base_url=trimmed)

    def may_be(self, name: str | None) -> bool:
        """Whether this is the host of a name. None: not known, so that any may be it.

        An unknown host may be another: a proxy, or a simulator, that has moved.
        """
        return name is None or name == self.name or not (self.is_known or name in KNOWN_NAMES)

    def serves(self, names: Collection[str]) -> bool:
        """Whether routes of these hosts are served here. Empty: by all."""
        return not names or not self.is_known or self.name in names

    @property
    def is_known(self) -> bool:
        """Whether the table of routes says what this host serves."""
        return self.name in KNOWN_NAMES


Host.NOVITA = Host(name="novita", base_url="https://api.novita.ai")
Host.PPIO = Host(name="ppio", base_url="https://api.ppio.com")
Host.JIEKOU = Host(name="jiekou", base_url="https://api.jiekou.ai")
Host.MYROUTER = Host(name="myrouter", base_url="https://api.myrouter.ai")

KNOWN_HOSTS: Final = (Host.NOVITA, Host.PPIO, Host.JIEKOU, Host.MYROUTER)
"""Hosts of which the table of routes knows what they serve."""
KNOWN_NAMES: Final = frozenset(host.name for host in KNOWN_HOSTS)
