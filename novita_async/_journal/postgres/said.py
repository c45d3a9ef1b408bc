"""Quotas of accounts as a database has them, for those who look, and for those who say them for all."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

from novita_async._journal.postgres.journal import once_at
from novita_async._journal.postgres.texts import escaped, unescaped
from novita_async._journal.postgres.upgrading import check_version
from novita_async._journal.postgres.windows import SAY_QUOTA
from novita_async._journal.postgres.works import Connection
from novita_async._util.values import frozen

T = TypeVar("T")
_QUOTAS: Final = (
    "SELECT label, account, endpoint, coalesce(a.quota, w.quota) quota, a.quota IS NOT NULL said,"
    " coalesce(held, 0) held"
    ' FROM novita.account a FULL JOIN novita."window" w ON w.account = a.label'
    " WHERE a.quota IS NOT NULL OR w.id IS NOT NULL ORDER BY coalesce(label, account), endpoint"
)


@frozen(kw_only=True)
class QuotaThere:
    """A quota in a database."""

    account: str
    """Label of the account."""
    endpoint: str | None
    """Path of the submissions. None: nothing was bought with this account yet."""
    images_per_minute: int | None
    """Images in a window. None: found out."""
    is_said: bool
    """Whether that was said for all, whatever a process is told."""
    taken: int
    """Images that count now, or did when somebody looked last."""


async def quotas_there(url: str) -> Sequence[QuotaThere]:
    """Read the quotas in a database."""
    return await _checked(url, _read)


async def say_quota(url: str, account: str, images: int | None) -> None:
    """Say the quota of an account for all, at once. None: what processes are told counts again."""
    await _checked(url, lambda connection: connection.execute(SAY_QUOTA, escaped(account), images, None))


async def _read(connection: Connection) -> Sequence[QuotaThere]:
    return [
        QuotaThere(
            account=unescaped(each["label"] or each["account"]),
            endpoint=each["endpoint"] and unescaped(each["endpoint"]),
            images_per_minute=each["quota"],
            is_said=each["said"],
            taken=each["held"],
        )
        for each in await connection.fetch(_QUOTAS)
    ]


async def _checked(url: str, do: Callable[[Connection], Awaitable[T]]) -> T:
    async def checked(connection: Connection, label: str) -> T:
        await check_version(connection, label)
        return await do(connection)

    return await once_at(url, checked)
