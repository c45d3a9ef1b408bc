"""What processes know of a window goes from one to the other as text, and nothing is lost on the way."""

import math

from hypothesis import given
from hypothesis import strategies as st

from novita_async._policy.sharing import MOST_OFFERED, Offers, SharedWindow

PATH = "/v3/async/img2img"
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["take", "answered", "lost", "released", "rejected"]),
        st.integers(1, 8),
        st.floats(0, 20),
    ),
    max_size=60,
)


@given(STEPS)
def test_a_window_that_is_written_and_read_at_each_step_decides_like_the_one_that_is_kept(steps):
    kept, text, now = SharedWindow.read(PATH, None), None, 1_700_000_000.0
    slots = []
    for what, images, seconds in steps:
        now += round(seconds * 20) / 20  # so that nothing is rounded
        read = SharedWindow.read(PATH, text)
        if what == "take":
            here, there = kept.take(images, now), read.take(images, now)
            if isinstance(here, float):
                assert math.isinf(here) == math.isinf(there)
                assert math.isinf(here) or abs(here - there) < 0.2
            else:
                assert here == there
                slots.append((here, images))
        elif slots:
            slot, count = slots.pop(images % len(slots))
            for each in (kept, read):
                if what == "rejected":
                    each.rejected(slot, count, now, 0.5)
                elif what == "released":
                    each.released(slot, count)
                else:
                    getattr(each, what)(slot, count, now)
        text = read.text()
        assert read.window.statistics(PATH) == kept.window.statistics(PATH)
        kept = SharedWindow.read(PATH, kept.text())


def test_what_is_kept_of_a_busy_minute_is_small():
    shared = SharedWindow.read(PATH, None)
    for step in range(20_000):
        shared.window.burst = 1e9
        now = 1.7e9 + step * 0.003
        shared.answered(shared.take(1, now), 1, now)
    assert len(shared.text()) < 10_000


def test_a_slot_of_nobody_teaches_nothing_and_counts():
    shared = SharedWindow.read(PATH, None)
    shared.take(3, 0.0)
    shared.lost(None, 3, 5.0)
    assert (shared.window.taken, shared.window.unanswered, shared.window.rejections) == (3, 0, 0)


def test_as_many_are_offered_after_a_refusal_as_there_may_be_places_for():
    offers = Offers()
    offers.offer()
    offers.deferred(7.0, places=3)
    for _ in range(3):
        assert offers.start_at(7.0) == 7.0
        offers.offer()
    assert offers.start_at(7.0) == math.inf


def test_little_is_offered_after_a_refusal_and_twice_as_much_after_each_admission():
    offers = Offers()
    for _ in range(MOST_OFFERED):
        assert offers.start_at(1.0) == 1.0
        offers.offer()
    assert offers.start_at(1.0) == math.inf
    for _ in range(MOST_OFFERED):
        offers.deferred(7.0)
    assert offers.start_at(1.0) == 7.0
    offered = []
    for _ in range(10):
        count = 0
        while offers.start_at(9.0) == 9.0:
            offers.offer()
            count += 1
        offered.append(count)
        offers.admitted()
        for _ in range(count - 1):
            offers.withdrawn()
    assert offered == [1, 2, 4, 8, 16, 32, 64, 128, 256, 256]
