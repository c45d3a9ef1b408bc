"""Accounts: the key, its quota, its balance."""

import hashlib
from decimal import Decimal
from typing import Final, NoReturn

from attrs import Factory, field, validators

from novita_async._util.plain import Plain
from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError
from novita_async.models import _rules as rules
from novita_async.models.hosts import Host

_BALANCE_UNIT: Final = Decimal(10_000)


class ApiKey:
    """A secret that shows itself only to `reveal()`: not in repr, str, logs or pickles."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        scheme, _, rest = value.strip().partition(" ")
        bare = rest.strip() if scheme.lower() == "bearer" else value.strip()
        if not bare:
            raise ConfigurationError(
                problem="the API key is empty",
                advice="set NOVITA_API_KEY, or pass api_key=",
            )
        if not bare.isascii() or not bare.isprintable() or " " in bare:
            raise ConfigurationError(
                problem="the API key has characters that no HTTP header can carry",
                advice="copy it again",
            )
        self._value = bare

    def reveal(self) -> str:
        """The bare key, for the Authorization header alone."""
        return self._value

    @property
    def fingerprint(self) -> str:
        """Eight hex digits that tell keys apart without telling them."""
        return hashlib.sha256(self._value.encode()).hexdigest()[:8]

    def __repr__(self) -> str:
        return f"<ApiKey {self.fingerprint}>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ApiKey) and self._value == other._value

    def __hash__(self) -> int:
        return hash(self._value)

    def __reduce__(self) -> NoReturn:
        raise TypeError("an ApiKey is not pickled: read it from the environment again")


def _to_key(value: "ApiKey | str") -> ApiKey:
    return value if isinstance(value, ApiKey) else ApiKey(value)


@frozen(kw_only=True)
class Account:
    """A key and the quota that belongs to it.

    Args:
        api_key: The key, with or without a leading `Bearer `.
        images_per_minute: Images that may be asked for in any 60 s, per endpoint. None: unknown, found out
            from the server's answers. The documented default of img2img is 10 (API).
        host: The host that the key belongs to, and is sent to. None: that of the client's `base_url`.
        label: Names the account in tasks, events and journals. Default: made from the key's fingerprint.
    """

    api_key: ApiKey = field(converter=_to_key)
    """The key, with or without a leading `Bearer `."""
    images_per_minute: int | None = None
    """Images that may be asked for in any 60 s, per endpoint. None: unknown, found out from the
    server's answers. The documented default of img2img is 10 (API)."""
    host: Host | None = field(default=None, validator=validators.optional(validators.instance_of(Host)))
    """The host that the key belongs to, and is sent to. None: that of the client's `base_url`."""
    label: str = field(default=Factory(lambda self: f"key-{self.api_key.fingerprint}", takes_self=True))
    """Names the account in tasks, events and journals. Default: made from the key's fingerprint."""

    def __attrs_post_init__(self) -> None:
        message = rules.optional(rules.whole(1)).explain(self, self.images_per_minute)
        if message:
            raise ConfigurationError(
                problem=f"Account.images_per_minute: {message}",
                advice="use None where the quota is not known",
            )


@frozen(kw_only=True)
class Balance(Plain):
    """Money left, in dollars.

    Args:
        available: Money that can be spent now. May be negative.
        cash: Paid in and not yet spent.
        credit_limit: How far the balance may go below zero.
        pending_charges: Used and not yet charged.
        outstanding_invoices: Invoiced and not yet paid.
    """

    available: Decimal
    """Money that can be spent now. May be negative."""
    cash: Decimal | None = None
    """Paid in and not yet spent."""
    credit_limit: Decimal | None = None
    """How far the balance may go below zero."""
    pending_charges: Decimal | None = None
    """Used and not yet charged."""
    outstanding_invoices: Decimal | None = None
    """Invoiced and not yet paid."""

    @staticmethod
    def dollars(ten_thousandths: int) -> Decimal:
        """Turn the API's unit, 1/10000 USD, into dollars."""
        return ten_thousandths / _BALANCE_UNIT
