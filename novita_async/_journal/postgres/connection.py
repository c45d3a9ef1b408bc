"""A connection to a shared journal's database, and what its errors mean. No other module knows asyncpg."""

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar, cast

import asyncpg
from asyncpg import exceptions as pg
from attrs import define, field

from novita_async._journal.postgres.address import typed
from novita_async._journal.postgres.lost import lease_lost
from novita_async._journal.postgres.works import Connection
from novita_async._util.clock import loop_time
from novita_async.errors import ConfigurationError, JournalError

T = TypeVar("T")

_log: Final = logging.getLogger(__name__)
TELL_AFTER: Final = 2.0
"""Seconds after which a log is told of a database that cannot be reached."""
_CACHED: Final = 100
"""Statements that stay prepared."""
_PASSES: Final = (
    OSError,
    asyncio.TimeoutError,
    pg.PostgresConnectionError,
    pg.OperatorInterventionError,
    pg.InterfaceError,
    pg.InsufficientResourcesError,  # connections, room on its disk, memory
    pg.PostgresSystemError,  # its disk
    pg.LockNotAvailableError,  # a lock that lasts longer than the database's own setting allows
    pg.InvalidTransactionStateError,  # of a standby that is to take over; or as long as that
    pg.InternalClientError,  # there is none yet that may be written; or the protocol broke off
)
"""Errors that pass, by themselves or with another connection. Facts about purchases wait meanwhile."""
_PLANNER: Final = "SET enable_bitmapscan = off"
"""How rows are looked for. All that is asked goes along an index; of a batch's rows, in their order, the
first few hundred are wanted, and a bitmap reads and sorts all of them."""
_AGAIN: Final = (pg.SerializationError, pg.DeadlockDetectedError)

ADVICE: Final = "nothing more is bought; look after the database, then run the same again"
_REFUSALS: Final[Sequence[tuple[type[pg.PostgresError], str]]] = (
    (
        pg.InvalidAuthorizationSpecificationError,
        "nothing more is bought; the URL names the user, PGPASSWORD or ~/.pgpass tells the password",
    ),
    (pg.InvalidCatalogNameError, "nothing was bought; look at the URL, or make the database (createdb)"),
    (
        pg.InsufficientPrivilegeError,
        (
            "nothing more is bought; the tables' owner grants USAGE ON SCHEMA novita and SELECT, INSERT, "
            "UPDATE, DELETE ON ALL TABLES IN SCHEMA novita; `db init`, `db upgrade` need CREATE ON DATABASE"
        ),
    ),
)
"""Advice about refusals of the database that no waiting mends."""
_A_URL: Final = (
    "nothing was bought; give postgresql://user@host:port/database#batch; the password may come from "
    "PGPASSWORD; in the URL its special characters are %XX (# is %23)"
)


def is_outage(error: Exception) -> bool:
    """Whether the database could not be reached. Else the error is of what was asked."""
    return isinstance(error.__cause__, _PASSES)


async def _nothing(_: Connection) -> None: ...


@define(eq=False, kw_only=True)
class Link:
    """A connection that is made when something is to be done, and again where it breaks."""

    url: str
    """Where the database is; may hold a password."""
    label: str
    """The same without it."""
    outage_timeout: float
    """Seconds for which a database that cannot be reached is waited for."""
    pooled: bool | None = None
    """Whether a pooler such as PgBouncer gives each transaction another server. None: not asked yet."""
    come_back: Callable[[Connection], Awaitable[None]] = field(default=_nothing, init=False)
    """Done first after a connection broke: this may be another server, which has forgotten something."""
    confirm: Callable[[Connection], Awaitable[None]] = field(default=_nothing, init=False)
    """Done then, after the rest: what is confirmed later confirms what was before it."""
    listeners: dict[str, Callable[[str], None]] = field(factory=dict[str, Callable[[str], None]], init=False)
    """Told what the database tells, by channel."""
    _connection: Connection = None
    _in_doubt: bool = field(default=False, init=False)
    """Whether a connection broke, so that a commit may not be where it should be."""

    async def once(self, do: Callable[[Connection], Awaitable[T]]) -> T:
        """Do something, again where the connection breaks: the work must bear being done twice."""
        outage = _DatabaseOutage(self)
        while True:
            try:
                if self._connection is None or self._connection.is_closed():
                    self._in_doubt |= self._connection is not None
                    self._connection = await self._connect()
                if self._in_doubt:
                    await self.come_back(self._connection)
                done = await do(self._connection)
                if self._in_doubt:
                    await self.confirm(self._connection)
            except _PASSES as error:
                self._in_doubt = True
                self.hang_up()
                await outage.ride_out(error)
            except pg.PostgresError as error:
                if isinstance(error, _AGAIN):
                    continue
                raise self._refused(error) from error
            else:
                self._in_doubt = False
                outage.is_over()
                return done

    async def attempt(self, do: Callable[[Connection], Awaitable[T]]) -> T | Exception:
        """Do something; give the error in place of the answer."""
        try:
            return await self.once(do)
        except Exception as error:  # noqa: BLE001 - told to who waits
            return error

    async def _connect(self) -> Connection:
        """Connect. Behind a pooler in transaction mode nothing stays prepared."""
        if self.pooled is None:
            first = await self._connected(0)
            try:
                there = await first.fetchval("SELECT pg_backend_pid()")
                self.pooled = bool(there != first.get_server_pid())
            finally:
                first.terminate()
        connection = await self._connected(0 if self.pooled else _CACHED)
        if not self.pooled:
            await connection.execute(_PLANNER)
            for channel, heard in self.listeners.items():
                await connection.add_listener(channel, partial(_heard, heard))
        return connection

    async def _connected(self, cached: int) -> Connection:
        options: Any = {"timeout": 10, "command_timeout": 60.0, "statement_cache_size": cached}
        try:
            return cast("Any", await asyncpg.connect(self.url, **options))
        except ValueError as error:  # its words may be a part of the password
            why = (
                str(error)
                if isinstance(error, pg.ClientConfigurationError)
                else "this is no URL of a database"
            )
            raise ConfigurationError(problem=f"journal {self.label}: {why}", advice=_A_URL) from None

    async def listen(self, connection: Connection, channel: str, heard: Callable[[str], None]) -> None:
        """Hear what the database tells on a channel. Behind a pooler that cannot be."""
        self.listeners[channel] = heard
        if not self.pooled:
            await connection.add_listener(channel, partial(_heard, heard))

    def hang_up(self) -> None:
        """Leave the connection as a process does that ends."""
        if self._connection is not None:
            self._connection.terminate()
            self._connection = None

    def unreachable(self, error: BaseException) -> JournalError:
        """The error of an outage."""
        why = str(error) or type(error).__name__
        what = "it does not serve now" if isinstance(error, pg.PostgresError) else "it cannot be reached"
        return JournalError(problem=f"journal {self.label}: {what} ({why})", advice=ADVICE)

    def _refused(self, error: pg.PostgresError) -> JournalError:
        if getattr(error, "sqlstate", None) in ("NV001", "NV002"):
            return lease_lost(self.label)
        if getattr(error, "sqlstate", None) == "NV003":
            return JournalError(
                problem=f"journal {self.label}: the database was restarted while the batch was planned",
                advice="nothing is lost; plan the same input again, which finds what is planned already",
            )
        if isinstance(error, pg.UndefinedTableError | pg.UndefinedFunctionError | pg.InvalidSchemaNameError):
            return JournalError(
                problem=f"journal {self.label}: the database has no tables for journals, or older ones",
                advice=f"nothing was bought; run: novita-async db upgrade {typed(self.label)}",
            )
        advice = next((advice for kind, advice in _REFUSALS if isinstance(error, kind)), ADVICE)
        return JournalError(problem=f"journal {self.label}: {error}", advice=advice)


@define(eq=False)
class _DatabaseOutage:
    """Time for which a database cannot be reached."""

    link: Link
    _began: float = field(factory=loop_time, init=False)
    _pause: float = field(default=0.05, init=False)
    _is_told: bool = field(default=False, init=False)

    async def ride_out(self, error: BaseException) -> None:
        """Wait before another attempt. Raises `JournalError`: that was long enough."""
        unreachable, lasted = self.link.unreachable(error), loop_time() - self._began
        if lasted > self.link.outage_timeout:
            raise unreachable from error
        if lasted > TELL_AFTER and not self._is_told:
            self._is_told = True
            _log.warning("%s; nothing is bought until it is back", unreachable.problem)
        await asyncio.sleep(self._pause * (0.5 + random.random()))
        self._pause = min(2 * self._pause, 2.0)

    def is_over(self) -> None:
        """Tell that the database is back, where it was told that it was not."""
        if self._is_told:
            _log.warning("journal %s: it is back", self.link.label)


def _heard(heard: Callable[[str], None], *told: Any) -> None:
    heard(told[-1])
