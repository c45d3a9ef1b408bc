"""The best that can be done when the distribution is known: a dynamic programme over a grid of time."""

import bisect


def optimum(durations, cost, grid=600):
    """Times of polls, mean polls and mean delay of the best plan, for a large sample of the true distribution."""
    sample = sorted(durations)
    n = len(sample)
    top = sample[-1]
    times = sorted(
        {
            0.0,
            top,
            *(sample[min(n - 1, i * n // grid)] for i in range(grid)),
            *(top * i / grid for i in range(1, grid)),
        }
    )
    prefix = [0.0]
    for x in sample:
        prefix.append(prefix[-1] + x)
    ranks = [bisect.bisect_right(sample, t) for t in times]
    m = len(times)
    value, nexts = [0.0] * m, [m - 1] * m
    for i in range(m - 2, -1, -1):
        low = ranks[i]
        best = float("inf")
        for j in range(i + 1, m):
            high = ranks[j]
            here = times[j] * (high - low) - (prefix[high] - prefix[low])
            if here > best:
                break
            total = cost * (n - low) + here + value[j]
            if total < best:
                best, nexts[i] = total, j
        value[i] = best
    polls_at, i = [], 0
    while i < m - 1:
        i = nexts[i]
        polls_at.append(times[i])
    polls = sum(n - bisect.bisect_right(sample, t) for t in [0.0, *polls_at[:-1]]) / n
    return {"polls_at": polls_at, "polls": polls, "J": value[0] / n, "delay": value[0] / n - cost * polls}
