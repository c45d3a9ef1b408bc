"""The file of a SQLite journal: whose it is, whether it is whole, and of which form.

**One process.** Who writes holds a lock on a file of its own beside the journal (`….db-lock`, empty). SQLite
itself takes that lock, so it works wherever SQLite does, ends with the process however that ends, and leaves
the journal open to readers. The file is taken away while the lock is held; so a lock counts only where the
file has stayed the same while the lock was being taken.

**Little beside it.** After a clean end only the journal itself is left; a reader that was the first to open
it takes away the files that SQLite made for that. The log is cut after each checkpoint; where the disk is
full, a checkpoint makes room once before anything is refused.

**Room for the end.** Who writes also keeps some room on the disk (`….db-spare`), which is given up when the
disk is full: what is paid by then can still be recorded, while nothing new is begun.

**Never misread.** A journal comes into being whole, by a rename; so an empty file is never one. What a
killed process had written last lies in `….db-wal`, and SQLite would silently do without that file. Therefore
a journal notes that it is open; found open without its `-wal`, it is refused. A closed one must be as long
as it says; one that was not closed is checked page by page, indexes included. And every row has a checksum.

**Its form.** `MIGRATIONS` is a list: each entry makes the next version of the one before, all in one
transaction. New journals go the same way from version 0. A journal of a newer version is refused.
"""

import errno
import sqlite3
from collections.abc import Callable, Generator, Mapping
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from novita_async._util.disk import share_of, sync_folder
from novita_async._util.values import frozen
from novita_async.errors import JournalError

APPLICATION_ID: Final = 0x4E6F764A
"""Tells a journal from other SQLite files."""
_MAGIC: Final = b"SQLite format 3\x00"
_HEADER: Final = 100
_WAL_HEADER: Final = 32
_LOCK_TIMEOUT: Final = 0.5
"""Seconds to wait for a process that is just ending."""
ROOM: Final = 2 * 1024 * 1024
"""Bytes to keep: enough for all that may become of the purchases under way."""
_SETTINGS: Final = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "fullfsync=1",  # what macOS calls being on the disk
    "cache_size=-32768",  # KiB
    "wal_autocheckpoint=16384",  # pages: planning touches the same ones again and again
    "journal_size_limit=1048576",  # bytes that the log keeps after a checkpoint
)

_VERSION_0: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID",
    "INSERT INTO meta VALUES ('version', 0), ('run', 0), ('open', 0)",
    """CREATE TABLE requests (
        serial INTEGER PRIMARY KEY,
        key BLOB NOT NULL, occurrence INTEGER NOT NULL, run INTEGER NOT NULL, position INTEGER NOT NULL,
        kind TEXT NOT NULL, endpoint TEXT NOT NULL, image_num INTEGER NOT NULL, request BLOB NOT NULL,
        state TEXT NOT NULL, account TEXT, task_id TEXT, attempts INTEGER NOT NULL,
        announced_time REAL, answered_time REAL, finished_time REAL, saved_time REAL,
        seed, error TEXT, paths TEXT, result TEXT,
        bought INTEGER NOT NULL, perhaps INTEGER NOT NULL, slot_time REAL, checksum INTEGER NOT NULL
    )""",
    "CREATE UNIQUE INDEX requests_by_key ON requests (key, occurrence)",
    "CREATE INDEX requests_by_state ON requests (state, serial, image_num, bought, perhaps)",
    "CREATE INDEX requests_by_slot ON requests (slot_time) WHERE slot_time IS NOT NULL",
    "CREATE INDEX requests_by_task ON requests (task_id) WHERE task_id IS NOT NULL",
)

MIGRATIONS: Final[tuple[tuple[str, ...], ...]] = (
    ("ALTER TABLE requests ADD COLUMN earlier TEXT",),  # attempts before the present one
    (
        "ALTER TABLE requests ADD COLUMN token TEXT",  # what the callback of the latest attempt is known by
        "ALTER TABLE requests ADD COLUMN tag TEXT",  # the user's own id
        "ALTER TABLE requests ADD COLUMN number INTEGER",  # of the present attempt, where not the latest
        "CREATE INDEX requests_by_token ON requests (token) WHERE token IS NOT NULL",
        "DROP INDEX requests_by_task",
    ),
    ("ALTER TABLE requests ADD COLUMN host TEXT",),  # of the latest attempt
    ("ALTER TABLE requests ADD COLUMN metadata TEXT",),  # the user's own, as JSON
)
"""Statements that make version n + 1 of version n."""
VERSION: Final = len(MIGRATIONS)


# --- What goes wrong --------------------------------------------------------------------------------------

_DISK_FULL: Final = ("the disk is full", "free some space, then run the same again")
_DAMAGED: Final = (
    "it is damaged",
    "restore it from a copy; without one, compare the account's bill before sending anything again",
)
_LOCKED: Final = (
    "another process, or another journal of this one, has it open",
    "wait for that to end, then run the same again",
)
_UNREACHABLE: Final = ("it cannot be opened", "check the path, the folder and their permissions")
_READ_ONLY: Final = ("it can only be read", "open it to write, or check the permissions")
_BROKEN: Final = ("the disk cannot be read or written", "look after the disk, then run the same again")
_NO_JOURNAL: Final = ("it is no journal", "name another file")

_PROBLEMS: Final[Mapping[int, tuple[str, str]]] = {
    sqlite3.SQLITE_FULL: _DISK_FULL,
    sqlite3.SQLITE_CORRUPT: _DAMAGED,
    sqlite3.SQLITE_NOTADB: _DAMAGED,
    sqlite3.SQLITE_SCHEMA: _DAMAGED,
    sqlite3.SQLITE_BUSY: _LOCKED,
    sqlite3.SQLITE_LOCKED: _LOCKED,
    sqlite3.SQLITE_PERM: _UNREACHABLE,
    sqlite3.SQLITE_READONLY: _READ_ONLY,
    sqlite3.SQLITE_CANTOPEN: _UNREACHABLE,
    sqlite3.SQLITE_AUTH: _UNREACHABLE,
    sqlite3.SQLITE_IOERR: _BROKEN,
    sqlite3.SQLITE_NOLFS: _BROKEN,
}
"""SQLite's primary result codes, and what to say of them."""
_SEALED: Final = frozenset({sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN})
"""SQLite's codes for a folder where nothing can be written."""
_NO_ROOM: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_full(error: BaseException) -> bool:
    """Whether this is SQLite's way to say that there is no room."""
    code = getattr(error.__cause__, "sqlite_errorcode", None)
    return code is not None and code & 0xFF == sqlite3.SQLITE_FULL


def trouble(path: Path, told: tuple[str, str], detail: object = "") -> JournalError:
    """Make an error about a journal."""
    problem, advice = told
    why = f" ({detail})" if detail else ""
    return JournalError(problem=f"journal {path}: {problem}{why}", advice=advice)


def damaged(path: Path, detail: object) -> JournalError:
    """Make the error that a journal cannot be trusted."""
    return trouble(path, _DAMAGED, detail)


@contextmanager
def translated(path: Path) -> Generator[None]:
    """Raise what SQLite and the file system raise as `JournalError`."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", None)
        # Without a code it is Python's own reading that failed: text that is no UTF-8, say.
        told = _DAMAGED if code is None else _PROBLEMS.get(code & 0xFF, _DAMAGED)
        raise trouble(path, told, error) from error
    except OSError as error:
        told = _DISK_FULL if error.errno in _NO_ROOM else _UNREACHABLE
        raise trouble(path, told, error.strerror or error) from error


# --- Opening ----------------------------------------------------------------------------------------------

Connect = Callable[[Path, str], sqlite3.Connection]


def connect(path: Path, mode: str) -> sqlite3.Connection:
    """Open a SQLite file without making one; transactions are begun by hand."""
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        timeout=_LOCK_TIMEOUT,
        check_same_thread=False,
        cached_statements=64,
    )


@frozen
class OpenFile:
    """A journal's file, opened and found whole."""

    path: Path
    connection: sqlite3.Connection
    lock: sqlite3.Connection | None
    """None: only read."""
    run: int
    """The number of this run."""
    made_files: bool = False
    """Whether SQLite's files beside it were made for this reader."""
    share: str | None = None
    """Kind of the network share that it lies on. None: it is on a disk, as far as is known."""

    def keep_room(self) -> None:
        """Keep room on the disk for what is paid when it is full. Raises `OSError` where there is none."""
        spare = _beside(self.path, "-spare")
        try:
            with spare.open("ab") as file:
                file.write(bytes(max(0, ROOM - file.tell())))
        except OSError:
            spare.unlink(missing_ok=True)
            raise

    def reuse_log(self) -> bool:
        """Move what the log holds into the journal, so that its room is used again. Tells whether it is.

        The log keeps its length until then: without one, a journal that is open counts as incomplete.
        """
        with suppress(sqlite3.Error):
            busy, length, moved = self.connection.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()
            return not busy and length == moved > 0
        return False

    def give_room(self) -> bool:
        """Give that room up. Tells whether there was any."""
        try:
            _beside(self.path, "-spare").unlink()
        except OSError:
            return False
        return True

    def close(self) -> None:
        """Close the file, and let others have it. Commits stay, whatever goes wrong here."""
        if self.lock is None:
            self.connection.close()
            if self.made_files:
                _take_away_files(self.path)
            return
        try:
            set_meta(self.connection, "open", 0)
            self.connection.close()
        except sqlite3.Error:
            # The journal still says that it is open, so its `-wal` must stay: the last connection to close
            # merges and deletes that, unless it only reads.
            with suppress(sqlite3.Error), closing(connect(self.path, "ro")) as reader:
                meta(reader, "open")
                self.connection.close()
        self.give_room()
        _unlock(self.path, self.lock)


def open_to_write(path: Path, *, connect: Connect = connect, without_wal: bool = False) -> OpenFile:
    """Open a journal for this process alone; make it where there is none. Blocks. Raises `JournalError`."""
    place = path.resolve()
    with translated(place):
        lock = _locked(place)
        try:
            if not place.exists():
                _create(place, connect)
            sync_folder(place.parent)  # its name is durable from here on, also where its maker got no further
            file = _opened(place, connect, lock, "rw", without_wal=without_wal)
        except BaseException:
            _unlock(place, lock)
            raise
        try:
            file.keep_room()
        except BaseException:
            file.close()
            raise
        return file


def open_to_read(path: Path, *, connect: Connect = connect) -> OpenFile:
    """Open a journal that others may be writing. Blocks. Raises `JournalError`."""
    place = path.resolve()
    with translated(place):
        try:
            return _opened(place, connect, None, "ro")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _SEALED or _size(_beside(place, "-wal")):
                raise
        # Where nothing can be written, SQLite cannot make the `-shm` through which it hears of a writer.
        return _opened(place, connect, None, "ro&immutable=1")


def _opened(
    place: Path,
    connect: Connect,
    lock: sqlite3.Connection | None,
    mode: str,
    *,
    without_wal: bool = False,
) -> OpenFile:
    log = _beside(place, "-wal")
    wal, made_files = _size(log), lock is None and not log.exists()
    _look_from_outside(place, closed=not wal)
    connection = connect(place, mode)
    try:
        has_wal = wal >= _WAL_HEADER or without_wal
        _look_inside(place, connection, has_wal=has_wal, only_reads=lock is None)
        if lock is not None:
            _prepare(place, connection, check=wal > 0)
        return OpenFile(place, connection, lock, meta(connection, "run"), made_files, share_of(place))
    except BaseException:
        connection.close()
        raise


def _locked(place: Path, timeout: float = _LOCK_TIMEOUT) -> sqlite3.Connection:
    """Take the lock. Raises `sqlite3.OperationalError` where another has it.

    SQLite alone opens that file: with any other descriptor that this process closes, its locks would be gone.
    """
    path = _beside(place, "-lock")
    while True:
        before = _identity(path)
        lock = sqlite3.connect(path, isolation_level=None, timeout=timeout, check_same_thread=False)
        try:
            lock.execute("PRAGMA journal_mode=OFF")  # nothing is ever written there
            lock.execute("BEGIN EXCLUSIVE")
        except BaseException:
            lock.close()
            raise
        if before is not None and _identity(path) == before:
            return lock
        lock.close()  # whoever had it has just taken the file away, or there was none


def _identity(path: Path) -> tuple[int, int] | None:
    """Tell files of one name apart; a number is given again, but not at the same time."""
    try:
        facts = path.stat()
    except FileNotFoundError:
        return None
    return facts.st_ino, facts.st_ctime_ns


def _unlock(place: Path, lock: sqlite3.Connection) -> None:
    """Take the lock's file away, and then let others have the lock. Windows keeps files that are open."""
    with suppress(OSError):
        _beside(place, "-lock").unlink()
    lock.close()


def _take_away_files(place: Path) -> None:
    """Take away the files that SQLite made for a reader, unless somebody else uses them by now.

    The last connection that may write does so by closing.
    """
    with suppress(sqlite3.Error, OSError):
        lock = _locked(place, 0.0)
        try:
            with closing(connect(place, "rw")) as last:
                meta(last, "open")
        finally:
            _unlock(place, lock)


def _beside(place: Path, suffix: str) -> Path:
    return place.with_name(place.name + suffix)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _look_from_outside(place: Path, *, closed: bool) -> None:
    with place.open("rb") as file:
        head = file.read(_HEADER)
    if not head:
        raise trouble(place, ("it is empty, as no journal ever is", "if nothing was in it, delete it"))
    if not _MAGIC.startswith(head[: len(_MAGIC)]):
        raise trouble(place, _NO_JOURNAL)
    # Bytes of a closed file, as its header says: https://sqlite.org/fileformat.html
    page, pages = int.from_bytes(head[16:18], "big"), int.from_bytes(head[28:32], "big")
    length = (65_536 if page == 1 else page) * pages
    # A part of a last page would do for SQLite, which takes the rest for zeros.
    if len(head) < _HEADER or (closed and _size(place) != length):
        raise damaged(place, "cut short")


def _look_inside(place: Path, connection: sqlite3.Connection, *, has_wal: bool, only_reads: bool) -> None:
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise trouble(place, _NO_JOURNAL, "some other SQLite file")
    version = meta(connection, "version")
    if version > VERSION:
        newer = f"a newer release wrote it (its version {version}, here {VERSION})"
        raise trouble(place, (newer, "update novita-async"))
    if meta(connection, "open") and not has_wal:
        lost = f"what was written last is missing: {place.name}-wal, which lay beside it"
        advice = (
            "bring that file along; if another SQLite program has merged it, open once with without_wal=True"
        )
        raise trouble(place, (lost, advice))
    if only_reads and version < VERSION:
        raise trouble(place, ("an older release wrote it", "run the batch again, which brings it up to date"))


def _prepare(place: Path, connection: sqlite3.Connection, *, check: bool) -> None:
    for setting in _SETTINGS:
        connection.execute(f"PRAGMA {setting}").fetchall()
    if check and (found := connection.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
        raise damaged(place, found)
    migrate(connection)
    with transaction(connection):
        set_meta(connection, "open", 1)
        set_meta(connection, "run", meta(connection, "run") + 1)
    with suppress(sqlite3.Error):  # the file itself shall say that it is open; readers may delay that
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()


def _create(place: Path, connect: Connect) -> None:
    """Make a journal elsewhere, whole, then put it in its place."""
    if _size(_beside(place, "-wal")):
        left = f"it is gone, but {place.name}-wal, which belongs to it, is there"
        raise trouble(place, (left, "put the journal back beside it, or delete that file"))
    draft = _beside(place, "-new")
    draft.unlink(missing_ok=True)
    connection = connect(draft, "rwc")
    try:
        with transaction(connection):
            for statement in _VERSION_0:
                connection.execute(statement)
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        migrate(connection)
        connection.execute("PRAGMA journal_mode=WAL").fetchall()
    finally:
        connection.close()
    draft.replace(place)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring a journal to the present version."""
    with transaction(connection):
        for version in range(meta(connection, "version"), VERSION):
            for statement in MIGRATIONS[version]:
                connection.execute(statement)
            set_meta(connection, "version", version + 1)


@contextmanager
def transaction(connection: sqlite3.Connection) -> Generator[None]:
    """All or nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # SQLite has rolled back already, or does when the file is opened next
            connection.execute("ROLLBACK")
        raise


def meta(connection: sqlite3.Connection, name: str) -> int:
    """Read one number about the journal."""
    found = connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
    if found is None:
        raise sqlite3.DatabaseError(f"meta has no {name}")
    return int(found[0])


def set_meta(connection: sqlite3.Connection, name: str, value: int) -> None:
    """Note one number about the journal."""
    connection.execute("UPDATE meta SET value = ? WHERE name = ?", (value, name))
