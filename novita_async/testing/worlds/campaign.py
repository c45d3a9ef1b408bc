"""Many worlds, one after the other: what did not hold, with the seeds; and the map of what was reached."""

import gc
import time
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Final

from attrs import define, field

from novita_async.testing.worlds.drawing import plan_of
from novita_async.testing.worlds.world import Report, run

_BREATHER: Final = 50
"""Worlds between two collections of garbage; none is collected while a world runs."""
SHOWN: Final = 5


@define(eq=False)
class Campaign:
    """Sums of many worlds."""

    worlds: int = 0
    """How many there were."""
    seconds: float = 0.0
    """Of the processor."""
    broken: dict[str, list[tuple[int, str]]] = field(factory=dict[str, list[tuple[int, str]]])
    """By invariant: the seeds of the worlds in which it did not hold, and how."""
    reached: Counter[str] = field(factory=Counter[str])
    """The map."""

    def add(self, seed: int, report: Report) -> None:
        """Count one world."""
        self.worlds += 1
        self.reached.update(report.reached)
        for name in sorted(report.invariants):
            how = next(str(each) for each in report.violations if each.invariant == name)
            self.broken.setdefault(name, []).append((seed, how))

    def __str__(self) -> str:
        rate = 60 * self.worlds / self.seconds if self.seconds else 0.0
        lines = [f"{self.worlds} worlds, {rate:.0f} a minute of the processor"]
        for name, seeds in sorted(self.broken.items(), key=lambda item: -len(item[1])):
            lines.append(f"{name}: {len(seeds)} worlds")
            lines += [f"    seed {seed}: {how}" for seed, how in seeds[:SHOWN]]
        return "\n".join(lines)

    def map(self) -> str:
        """Say what was reached, and how often; what no seed has visited stands first."""
        rarest_first = sorted((count, name) for name, count in self.reached.items())
        return "\n".join(f"{count:8d}  {name}" for count, name in rarest_first)


def campaign(
    seeds: Iterable[int],
    *,
    minutes: float | None = None,
    watch: Callable[[int, Report], object] = lambda _, __: None,
) -> Campaign:
    """Run the worlds of these seeds, for so many minutes at most."""
    done = Campaign()
    gc.freeze()
    began, end = time.process_time(), time.monotonic() + 60 * (1e9 if minutes is None else minutes)
    for seed in seeds:
        try:
            report = run(plan_of(seed))
        except Exception as error:
            error.add_note(f"in the world of seed {seed}")
            raise
        done.add(seed, report)
        watch(seed, report)
        if done.worlds % _BREATHER == 0:
            gc.collect()
        if time.monotonic() > end:
            break
    gc.unfreeze()
    done.seconds = time.process_time() - began
    return done
