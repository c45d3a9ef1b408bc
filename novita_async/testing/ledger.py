"""Books of the service, for tests to read: each submission, each poll, each download."""

from collections import Counter, deque
from collections.abc import Mapping

from attrs import define, field

from novita_async._util.values import frozen
from novita_async.testing.faults import ExchangeKind, Fault
from novita_async.testing.wire import JSONObject


@frozen(kw_only=True)
class Entry:
    """A submission, as the service sees it. A submission that never arrived whole stands here as well.

    Args:
        number: Which submission, counted from 1, in the order of arrival.
        at: Service time of its arrival.
        endpoint: Its path.
        account: The key that sent it, where it is a known one.
        status: Decision of the service, whether or not the answer got through. None: the request never
            arrived whole.
        reason: Why it was refused.
        task_id: The task that was made. None: nothing was accepted.
        images: Images that were accepted.
        billed: 1/10000 USD that were charged.
        fault: Fault that was made to happen.
        request: The body, each picture in it replaced by its number of characters.
    """

    number: int
    """Which submission, counted from 1, in the order of arrival."""
    at: float
    """Service time of its arrival."""
    endpoint: str
    """Its path."""
    account: str | None = None
    """The key that sent it, where it is a known one."""
    status: int | None = None
    """Decision of the service, whether or not the answer got through. None: the request never arrived
    whole."""
    reason: str | None = None
    """Why it was refused."""
    task_id: str | None = None
    """The task that was made. None: nothing was accepted."""
    images: int = 0
    """Images that were accepted."""
    billed: int = 0
    """1/10000 USD that were charged."""
    fault: Fault | None = None
    """Fault that was made to happen."""
    request: JSONObject = field(factory=dict, repr=False)
    """The body, each picture in it replaced by its number of characters."""

    @property
    def accepted(self) -> bool:
        """Whether it made a task."""
        return self.task_id is not None


@define(eq=False)
class Ledger:
    """The service's own books.

    Args:
        entries: Every submission in the order of its arrival.
        exchanges: How many exchanges of each kind began.
        polls: By task id, when it was asked for.
        downloads: By task id, how many files of it were handed out.
        webhooks: By task id, when its event was received.
    """

    entries: list[Entry] = field(factory=list)
    """Every submission in the order of its arrival."""
    exchanges: Counter[ExchangeKind] = field(factory=Counter)
    """How many exchanges of each kind began."""
    polls: dict[str, list[float]] = field(factory=dict)
    """By task id, when it was asked for."""
    downloads: Counter[str] = field(factory=Counter)
    """By task id, how many files of it were handed out."""
    webhooks: dict[str, list[float]] = field(factory=dict)
    """By task id, when its event was received."""

    @property
    def accepted(self) -> list[Entry]:
        """The submissions that made a task."""
        return [entry for entry in self.entries if entry.accepted]

    @property
    def refused(self) -> list[Entry]:
        """The submissions that arrived whole and were refused."""
        return [entry for entry in self.entries if entry.status is not None and not entry.accepted]

    @property
    def images(self) -> int:
        """Images that were accepted."""
        return sum(entry.images for entry in self.entries)

    @property
    def billed(self) -> int:
        """1/10000 USD that were charged, over all accounts."""
        return sum(entry.billed for entry in self.entries)

    def reasons(self) -> Mapping[str, int]:
        """Counts of the reasons for which submissions were refused."""
        return Counter(entry.reason for entry in self.entries if entry.reason)

    def most_images_in(
        self, seconds: float = 60.0, *, account: str | None = None, endpoint: str | None = None
    ) -> int:
        """The most images that were accepted within any so many seconds, the later end excluded."""
        inside: deque[Entry] = deque()
        most = images = 0
        for entry in self.accepted:
            if account not in (None, entry.account) or endpoint not in (None, entry.endpoint):
                continue
            inside.append(entry)
            images += entry.images
            while inside[0].at + seconds <= entry.at:
                images -= inside.popleft().images
            most = max(most, images)
        return most

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {kind.value}s" for kind, n in sorted(self.exchanges.items()))
        return f"<Ledger {len(self.accepted)} of {len(self.entries)} submissions accepted; {counts}>"
