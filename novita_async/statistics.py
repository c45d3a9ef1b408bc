"""Public names for what `statistics()` of clients, streams and watches gives: counts, at one moment."""

from novita_async._client import ClientStatistics
from novita_async._files.saver import SaverStatistics
from novita_async._policy.breaker import BreakerState
from novita_async._policy.pacing import PacerStatistics, Phase, WindowStatistics
from novita_async._policy.polling.schedule import PollStatistics
from novita_async._policy.spending import SpendingStatistics
from novita_async._stream.handle import StreamStatistics
from novita_async._submit.callbacks import WebhookStatistics
from novita_async._submit.pool import AccountStatistics, PoolStatistics
from novita_async._watch.watcher import WatchStatistics

__all__ = [
    "AccountStatistics",
    "BreakerState",
    "ClientStatistics",
    "PacerStatistics",
    "Phase",
    "PollStatistics",
    "PoolStatistics",
    "SaverStatistics",
    "SpendingStatistics",
    "StreamStatistics",
    "WatchStatistics",
    "WebhookStatistics",
    "WindowStatistics",
]
