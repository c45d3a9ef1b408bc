"""The folder of a batch: its journal, its report, and a note of what was typed, so that it can go on.

The note holds paths, options and counts. The key is not among them: it always comes from the environment.
"""

import json
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, Final, Self, cast

import attrs
from attrs import field
from attrs.validators import deep_iterable, deep_mapping, instance_of, optional

from novita_async._files.names import NameTemplate
from novita_async._journal.postgres.address import SCHEMES
from novita_async._policy.spending import Budget
from novita_async._util.values import frozen
from novita_async.cli._terminal import command_line
from novita_async.errors import ConfigurationError, Flaw

NOTE: Final = "batch.json"
JOURNAL: Final = "batch.db"
REPORT: Final = "report.html"
ROWS: Final = "report-rows"
"""Folder beside a report in which the rows of a large one lie."""
_VERSION: Final = 1

_TEXT: Final = instance_of(str)
_TEXTS: Final = cast("Any", deep_iterable(_TEXT))
_NUMBER: Final[Any] = optional(instance_of(int))


def _texts(values: Iterable[str]) -> tuple[str, ...]:
    return tuple(values)


Marks = tuple[tuple[int, int], ...]
"""Size and time of change of each input."""


def _marks(values: Iterable[Sequence[int]]) -> Marks:
    return tuple((size, changed) for size, changed in values)


def marks_of(inputs: Sequence[Path]) -> Marks:
    """Note size and time of inputs; empty where one is not there. Blocks."""
    try:
        return tuple((facts.st_size, facts.st_mtime_ns) for facts in map(os.stat, inputs))
    except OSError:
        return ()


@frozen(kw_only=True)
class Setup:
    """Settings that were typed, and what came of checking them."""

    inputs: tuple[str, ...] = field(converter=_texts, validator=_TEXTS)
    """Manifests, folders, pictures: absolute paths."""
    nearby: tuple[str, ...] = field(default=(), converter=_texts, validator=_TEXTS)
    """The same as seen from the batch's folder, for when both have moved."""
    journal: str = field(default=JOURNAL, validator=_TEXT)
    """Seen from the batch's folder, or absolute."""
    shared: dict[str, Any] = field(factory=dict[str, Any], validator=instance_of(dict))
    """Values that lines may leave out, in the form of a line."""
    sweep: tuple[str, ...] = field(default=(), converter=_texts, validator=_TEXTS)
    """As it was typed."""
    in_flight: int | None = field(default=None, validator=_NUMBER)
    """How many requests may be under way at once."""
    images_per_minute: int | None = field(default=None, validator=_NUMBER)
    """The account's quota, as it was typed."""
    found: dict[str, int] = field(factory=dict[str, int], validator=deep_mapping(_TEXT, instance_of(int)))
    """Images a minute that endpoints were found to take, by refusals."""
    budget: str | None = field(default=None, validator=optional(_TEXT))
    """The most that may be spent."""
    price: str | None = field(default=None, validator=optional(_TEXT))
    """Price of an image."""
    name: str | None = field(default=None, validator=optional(_TEXT))
    """Name of files."""
    save_to: str | None = field(default=None, validator=optional(_TEXT))
    """Where files go instead of into the batch's folder: the URL of a place in an object store."""
    no_save: bool = field(default=False, validator=instance_of(bool))
    """Whether files stay with the service."""
    copies: dict[str, str] = field(factory=dict[str, str], validator=deep_mapping(_TEXT, _TEXT))
    """Copies of inputs that could be read once, in the batch's folder, and what the inputs were called."""
    typed_in: tuple[str, ...] = field(default=(), converter=_texts, validator=_TEXTS)
    """Folder in which the batch was typed, absolute and as seen from the batch's folder: paths in copies are
    seen from there."""
    requests: int = field(default=0, validator=instance_of(int))
    """How many there are."""
    images: dict[str, int] = field(factory=dict[str, int], validator=deep_mapping(_TEXT, instance_of(int)))
    """How many images they ask for, by endpoint."""

    marks: Marks = field(default=(), converter=_marks)
    """Marks of the inputs when they were checked."""
    plan: int = field(default=0, validator=instance_of(int))
    """The journal's run that planned all of the input. 0: none has come to its end."""

    @classmethod
    def of(cls, inputs: Sequence[str], folder: Path, **options: Any) -> Self:
        """Note down what was typed, with inputs that are found again from anywhere."""
        absolute = [Path(place).absolute() for place in inputs]
        nearby = [seen for path in absolute if (seen := _seen_from(folder, path)) is not None]
        here = Path.cwd()
        typed_in = [str(here), _seen_from(folder, here) or str(here)]
        return cls(inputs=[str(path) for path in absolute], nearby=nearby, typed_in=typed_in, **options)

    def found_from(self, folder: Path) -> list[Path]:
        """Where the inputs are, also when they have moved together with the batch's folder."""
        nearby = self.nearby if len(self.nearby) == len(self.inputs) else self.inputs
        pairs = zip(map(Path, self.inputs), (folder / place for place in nearby), strict=True)
        return [path if path.exists() or not other.exists() else _plain(other) for path, other in pairs]

    def home_of_copies(self, folder: Path) -> Path:
        """From where the paths in copies of inputs are seen."""
        home, near = self.typed_in or (".", ".")
        return Path(home) if Path(home).exists() else _plain(folder / near)

    def spending(self, faults: list[Flaw]) -> Budget | None:
        """The budget. None: there is none."""
        price, limit = _money("--price", self.price, faults), _money("--budget", self.budget, faults)
        if self.budget is not None and self.price is None:
            faults.append(Flaw("--budget", "needs --price: the API tells no prices"))
        return None if price is None or limit is None else Budget(limit=limit, price=price)

    def check_name(self, faults: list[Flaw]) -> None:
        """See whether files can be called like that."""
        try:
            NameTemplate(self.name or "{n}.{ext}")
        except ConfigurationError as error:
            faults.append(Flaw("--name", str(error)))

    def limit(self) -> Decimal | None:
        """Dollars that may be spent."""
        return _money("--budget", self.budget, [])

    def price_each(self) -> Decimal | None:
        """Dollars an image."""
        return _money("--price", self.price, [])

    def journal_in(self, folder: Path) -> Path:
        """Where the journal is."""
        return folder / self.journal

    def quota_of(self, endpoint: str) -> int | None:
        """Images a minute that an endpoint takes. None: not known."""
        known = [quota for quota in (self.images_per_minute, self.found.get(endpoint)) if quota is not None]
        return min(known, default=None)

    @property
    def quota(self) -> int | None:
        """Images a minute that the endpoint takes which takes most. None: not known."""
        quotas = (self.quota_of(endpoint) for endpoint in self.images or self.found)
        return max(filter(None, quotas), default=self.images_per_minute)

    def write(self, folder: Path) -> None:
        """Note it down. Blocks."""
        text = json.dumps({"version": _VERSION, **attrs.asdict(self)}, indent=2, ensure_ascii=False)
        part = folder / f".{NOTE}.{os.getpid()}.part"
        part.write_text(f"{text}\n", encoding="utf-8", errors="surrogatepass")
        part.replace(folder / NOTE)

    @classmethod
    def read(cls, folder: Path) -> Self:
        """Read what was noted down. Blocks.

        Raises:
            ConfigurationError: there is no batch here, or none that can be read.
        """
        try:
            noted = json.loads((folder / NOTE).read_text(encoding="utf-8", errors="surrogatepass"))
            return cls(**_known(noted))
        except FileNotFoundError:
            problem = f"{folder}: there is no batch here ({NOTE} is missing)"
        except NotADirectoryError:
            problem = f"{folder}: not a folder"
        except (OSError, ValueError, TypeError) as error:
            problem = f"{folder / NOTE}: cannot be read: {error}"
        advice = "run the batch as at first: nothing that is in its journal is bought again"
        raise ConfigurationError(problem=problem, advice=advice)


def found_before(folder: Path) -> dict[str, int]:
    """The quotas that earlier runs of a batch have found out. Blocks."""
    with suppress(ConfigurationError):
        return Setup.read(folder).found
    return {}


def is_noted(folder: Path) -> bool:
    """Whether there is a batch in a folder already. Blocks."""
    return (folder / NOTE).exists()


def _known(noted: Any) -> dict[str, Any]:
    """The fields of a note. Raises `ValueError`."""
    if not isinstance(noted, dict) or cast("dict[str, Any]", noted).get("version") != _VERSION:
        raise ValueError("it is of another version")
    document = cast("dict[str, Any]", noted)
    return {name: document[name] for name in attrs.fields_dict(Setup) if name in document}


def _seen_from(folder: Path, path: Path) -> str | None:
    try:
        return os.path.relpath(path, folder.absolute())
    except ValueError:  # on another drive
        return None


def _plain(path: Path) -> Path:
    return Path(os.path.normpath(path.absolute()))


def _money(option: str, text: str | None, faults: list[Flaw]) -> Decimal | None:
    if text is None:
        return None
    try:
        amount = Decimal(text.removeprefix("$"))
    except InvalidOperation:
        amount = Decimal("NaN")
    if amount.is_finite() and amount >= 0:
        return amount
    faults.append(Flaw(option, f"{text!r} is not an amount of money"))
    return None


def command(name: str, folder: str, *options: str) -> str:
    """A command about a batch, as it is typed."""
    if name == "resume" and folder.startswith(SCHEMES):
        return command_line(("novita-async", "worker", "--journal", folder, *options))
    return command_line(("novita-async", name, folder, *options))
