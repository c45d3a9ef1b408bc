"""Worlds of trouble from a seed, in virtual time, with what must always hold.

```python
from novita_async.testing.worlds import plan_of, run

report = run(plan_of(7))
print(report.trace)
assert not report.violations
```

A world has processes (each a client, its tasks and its open files), a service with a quota, a queue,
replicas that lag and money that runs out, users who wait, break off, fail and are cancelled, and troubles of
every kind. The same seed gives the same world to the byte. When it has ended, what the client says is
compared with the service's books.

`python -m novita_async.testing.worlds SEED` replays one with its trace; `--shrink` makes it as small as it
can be while it still fails; `--seeds 10000` runs many.
"""

from novita_async.testing.worlds.campaign import Campaign, campaign
from novita_async.testing.worlds.checks import INVARIANTS
from novita_async.testing.worlds.drawing import plan_of
from novita_async.testing.worlds.plan import (
    ClientPlan,
    Moment,
    Plan,
    ProcessPlan,
    ServicePlan,
    Trouble,
    UserPlan,
)
from novita_async.testing.worlds.shrinking import shrink
from novita_async.testing.worlds.troubles import KINDS
from novita_async.testing.worlds.world import Report, Violation, run

__all__ = [
    "INVARIANTS",
    "KINDS",
    "Campaign",
    "ClientPlan",
    "Moment",
    "Plan",
    "ProcessPlan",
    "Report",
    "ServicePlan",
    "Trouble",
    "UserPlan",
    "Violation",
    "campaign",
    "plan_of",
    "run",
    "shrink",
]
