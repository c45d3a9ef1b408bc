"""Rounds A B A B …, so that a busy moment of the machine hits all contenders, and what is said of them."""

import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence

from attrs import frozen

Figures = Mapping[str, float]


@frozen
class Rounds:
    """Every figure of every contender, round by round."""

    of: Mapping[str, Sequence[Figures]]

    def values(self, name: str, figure: str) -> list[float]:
        return [one[figure] for one in self.of[name] if figure in one]

    def median(self, name: str, figure: str) -> float:
        return statistics.median(self.values(name, figure))

    def ratios(self, name: str, base: str, figure: str) -> list[float]:
        """One contender over another, within each round."""
        pairs = zip(self.of[name], self.of[base], strict=True)
        return [ours[figure] / theirs[figure] for ours, theirs in pairs]

    def block(self, name: str) -> float:
        """The longest that the loop was kept from its sockets, early or late, of those who measure that."""
        return max(self.median(name, "first_cpu"), self.median(name, "later_cpu"))

    def ratio(self, name: str, base: str, figure: str) -> float:
        return statistics.median(self.ratios(name, base, figure))


def interleaved(names: Sequence[str], measure: Callable[[str], Figures], rounds: int) -> Rounds:
    """Measure each contender once a round, beginning with another one each time."""
    results: dict[str, list[Figures]] = {name: [] for name in names}
    for number in range(rounds):
        start = number % len(names)
        for name in (*names[start:], *names[:start]):
            results[name].append(measure(name))
    return Rounds(results)


def in_process(module: str, *arguments: str) -> dict[str, float]:
    """Run one contender in a process of its own; the last line that it prints is its figures as JSON."""
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    figures: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return figures
