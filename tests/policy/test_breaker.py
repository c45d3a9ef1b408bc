"""A circuit breaker: pauses that double, one probe, a ramp, and polls that probe for nothing."""

import math
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from novita_async._policy.breaker import Breaker, BreakerState, Trip

UNCERTAIN, UNREACHABLE, RATE_LIMITED = Trip.UNCERTAIN, Trip.UNREACHABLE, Trip.RATE_LIMITED


def lose(breaker, now, cause=UNCERTAIN, jitter=1.0):
    """Send one image and learn that its end is bad; tell the pause."""
    breaker.send(1, now)
    return trip(breaker, breaker.generation, now, cause, jitter)


def trip(breaker, generation, now, cause=UNCERTAIN, jitter=1.0):
    breaker.trip(generation, cause, now, breaker.backoff(cause, now, jitter))
    return breaker.pause


def opened(under_way=1, cause=UNCERTAIN):
    """A breaker that opened at 0 with so many images under way."""
    breaker = Breaker()
    breaker.send(under_way, 0.0)
    trip(breaker, breaker.generation, 0.0, cause)
    return breaker


# --- trips


def test_the_pause_doubles_with_each_trip_in_a_row():
    """Half a second, then twice as long each time, until probes are nine seconds apart."""
    breaker, now, pauses = Breaker(), 0.0, []
    for _ in range(7):
        pauses.append(lose(breaker, now))
        now = breaker.start_at(1, now)
    assert pauses == [0.5, 1.0, 2.0, 4.0, 8.0, 9.0, 9.0]


@given(st.floats(0, 1, exclude_max=True))
def test_a_pause_is_jittered(jitter):
    """Between three quarters and all of the bound."""
    assert lose(Breaker(), 0.0, jitter=jitter) == pytest.approx(0.375 + 0.125 * jitter)


def probes_in(seconds, cause, jitter=1.0):
    breaker, now, probes = Breaker(), 0.0, []
    while now < seconds:
        probes.append(now)
        lose(breaker, now, cause, jitter)
        now = breaker.start_at(1, now)
    return probes, now - seconds


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.999])
def test_a_minute_costs_a_dozen_probes_and_its_end_is_seen_within_nine_seconds(jitter):
    """The one that tripped first not counted."""
    probes, late = probes_in(60.0, UNCERTAIN, jitter)
    assert len(probes) - 1 <= 12
    assert late <= 10.0


def test_the_pause_grows_with_a_long_outage_and_is_bounded_by_what_a_probe_may_cost():
    """A sixth of the outage so far; a minute where probes are free, five where each may be paid."""
    free, late = probes_in(1800.0, UNREACHABLE)
    assert len(free) <= 60
    assert late <= 60
    assert max(later - sooner for sooner, later in pairwise(free)) == 60
    dear, late = probes_in(36_000.0, UNCERTAIN)
    assert max(later - sooner for sooner, later in pairwise(dear)) == 300
    assert late <= 300


def test_what_was_sent_before_the_last_trip_tells_nothing_new():
    """Sixty purchases lost together are one trip; only a pause that was asked for makes it longer."""
    breaker = Breaker()
    breaker.send(60, 0.0)
    trip(breaker, 0, 0.0)
    breaker.trip(0, UNCERTAIN, 0.1, 0.0)
    assert (breaker.trips, breaker.until) == (1, 0.5)
    breaker.trip(0, UNCERTAIN, 0.2, 20.0)
    assert (breaker.trips, breaker.until) == (1, 20.2)
    breaker.answered(0, 1, 0.3)
    breaker.withdrawn(0, 1, 0.3)
    assert breaker.state is BreakerState.OPEN
    assert breaker.under_way == 0


def test_a_late_loss_does_not_disturb_a_probe():
    """Its pause is over once the probe is under way."""
    breaker = opened(2)
    breaker.send(1, 0.5)
    breaker.trip(0, UNCERTAIN, 0.6, 5.0)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.answered(1, 1, 0.7)
    assert breaker.state is BreakerState.CLOSED


# --- the probe


def test_one_probe_goes_and_the_others_wait_for_it():
    """Until it is answered, or overdue; the next is overdue twice as late."""
    breaker = opened(cause=UNREACHABLE)
    assert breaker.start_at(1, 0.0) == 0.5
    breaker.send(1, 0.5)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.start_at(1, 0.6) == 10.5
    breaker.send(1, 10.5)
    assert breaker.start_at(1, 10.6) == 30.5


def test_a_probe_that_may_be_paid_is_waited_for_longer():
    """A minute, because each further one may be paid as well."""
    breaker = opened(cause=UNCERTAIN)
    breaker.send(1, 0.5)
    assert breaker.start_at(1, 0.6) == 60.5


def test_a_probe_that_was_never_sent_lets_the_next_go_at_once():
    """Nothing was learned; while another probe is under way that one is still waited for."""
    breaker = opened()
    breaker.send(1, 0.5)
    breaker.withdrawn(1, 1, 0.6)
    assert breaker.state is BreakerState.OPEN
    assert breaker.start_at(1, 0.6) == 0.6
    breaker.send(1, 0.6)
    breaker.send(1, 60.6)
    breaker.withdrawn(1, 1, 61.0)
    assert breaker.state is BreakerState.HALF_OPEN


# --- the ramp


@pytest.mark.parametrize(
    ("under_way", "bursts"),
    [(1, []), (2, []), (3, [2]), (10, [4, 8]), (64, [8, 16, 32]), (100, [10, 20, 40, 80])],
)
def test_the_ramp_begins_at_the_root_of_what_was_under_way_and_doubles(under_way, bursts):
    """Each answered burst makes room for one of twice the width, until that is what was under way."""
    breaker = opened(under_way)
    breaker.send(1, 0.5)
    breaker.answered(breaker.generation, 1, 0.6)
    widths = []
    while breaker.state is BreakerState.RAMPING:
        width = 0
        while breaker.start_at(1, 0.6) == 0.6:
            breaker.send(1, 0.6)
            width += 1
        assert breaker.start_at(1, 0.6) == math.inf
        widths.append(width)
        for _ in range(width):
            breaker.answered(breaker.generation, 1, 0.6)
    assert widths == bursts
    assert breaker.state is BreakerState.CLOSED


def test_a_request_heavier_than_the_ramp_goes_alone():
    """Else it would wait for ever where nothing lighter is sent."""
    breaker = opened(9)
    breaker.send(1, 0.5)
    breaker.answered(1, 1, 0.6)
    assert breaker.start_at(8, 0.6) == 0.6


def test_an_outage_that_comes_back_while_ramping_is_a_new_one_with_the_same_ramp():
    """The pause begins anew, and the width at which the breaker closes stays."""
    breaker = opened(64)
    lose(breaker, 0.5)
    breaker.send(1, 1.5)
    breaker.answered(breaker.generation, 1, 2.0)
    assert lose(breaker, 2.0) == 0.5
    assert (breaker.opened_at, breaker.target, breaker.trips) == (2.0, 64, 1)


def test_a_429_while_ramping_halves_the_width_at_which_the_breaker_closes():
    """So much was too much already, and nothing is lost by finding out."""
    breaker = opened(64)
    breaker.send(1, 0.5)
    breaker.answered(1, 1, 0.6)
    lose(breaker, 0.6)
    assert breaker.target == 64
    breaker.send(1, 1.2)
    breaker.answered(2, 1, 1.3)
    breaker.send(1, 1.3)
    breaker.trip(2, RATE_LIMITED, 1.3, 1.0)
    assert breaker.target == 32


# --- polls


def test_polls_wait_with_the_breaker_and_one_of_them_probes_first():
    """A little before a purchase would: no money is risked for what a poll can find out."""
    breaker = opened()
    lose(breaker, 0.5)
    assert breaker.start_at(1, 0.5) == 1.5
    assert breaker.poll_at(0.5) == 1.0
    generation = breaker.poll(1.0)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.poll_at(1.1) == 2.1  # asked again each second
    breaker.poll_unanswered(generation, 1.1, 1.0)
    assert (breaker.cause, breaker.trips, breaker.until) == (UNCERTAIN, 3, 3.1)


def test_a_poll_that_is_answered_lets_polls_go_on_and_a_purchase_be_the_next_probe():
    """Polls that are served do not say that purchases are."""
    breaker = opened()
    generation = breaker.poll(0.25)
    breaker.poll_answered(generation, 0.3)
    assert breaker.state is BreakerState.OPEN
    assert breaker.start_at(1, 0.3) == 0.5
    assert breaker.poll_at(0.3) == 0.3
    breaker.poll_answered(breaker.poll(0.3), 0.4)
    lose(breaker, 0.5)
    assert breaker.poll_at(0.5) == 0.5
    for _ in range(5):
        breaker.poll_unanswered(breaker.generation, 0.6, 1.0)
    assert breaker.poll_at(0.6) > 0.6


def test_after_three_polls_that_failed_as_the_probe_a_purchase_goes_first():
    """Where polls alone are away, purchases are not held up for ever."""
    breaker, probes = opened(), ""
    for _ in range(9):
        poll_at, start_at = breaker.poll_at(0.0), breaker.start_at(1, 0.0)
        if poll_at < start_at:
            breaker.poll_unanswered(breaker.poll(poll_at), poll_at, 1.0)
        else:
            assert poll_at == start_at + 1.0
            lose(breaker, start_at)
        probes += "s" if poll_at > start_at else "p"
    assert probes == "pppspppsp"


def test_a_question_is_due_when_a_poll_would_be_the_probe_and_a_purchase_may_be_paid():
    breaker = opened()
    assert breaker.question_at(0.1) == breaker.poll_at(0.1) == 0.25
    breaker.poll_answered(breaker.poll(0.25), 0.3)
    assert breaker.question_at(0.3) == math.inf  # what would it say
    assert opened(cause=UNREACHABLE).question_at(0.1) == math.inf  # there a purchase costs nothing
    assert Breaker().question_at(0.1) == math.inf


def test_after_three_questions_that_failed_a_purchase_goes_first():
    breaker = opened()
    for _ in range(3):
        now = breaker.question_at(0.0)
        breaker.poll_unanswered(breaker.poll(now), now, 1.0)
    assert breaker.question_at(0.0) == math.inf


def test_a_429_does_not_stop_polls():
    """They are no part of the quota."""
    breaker = Breaker()
    breaker.trip(0, RATE_LIMITED, 0.0, 30.0)
    assert breaker.poll_at(0.0) == 0.0
    assert breaker.poll(0.0) == 1
    assert breaker.state is BreakerState.OPEN
    assert not breaker.in_outage()


def test_five_polls_in_a_row_without_an_answer_trip_the_breaker():
    """One that is answered between begins the count anew."""
    breaker = Breaker()
    for answered in (False, False, False, False, True, False, False, False, False):
        generation = breaker.poll(1.0)
        if answered:
            breaker.poll_answered(generation, 1.0)
        else:
            breaker.poll_unanswered(generation, 1.0, 1.0)
    assert breaker.state is BreakerState.CLOSED
    breaker.poll_unanswered(0, 1.0, 1.0)
    assert breaker.state is BreakerState.OPEN
    assert breaker.cause is UNREACHABLE


def test_polls_from_before_the_last_trip_tell_nothing_new():
    """Neither that the server is well, nor that it is not, nor that a probe was broken off."""
    breaker = opened()
    breaker.poll(0.4)
    breaker.poll_answered(0, 0.5)
    breaker.poll_unanswered(0, 0.5, 1.0)
    breaker.poll_withdrawn(0, 0.5)
    assert breaker.state is BreakerState.HALF_OPEN
    assert breaker.trips == 1


def test_a_poll_that_is_broken_off_as_the_probe_lets_the_next_go():
    """And changes nothing where the breaker is closed."""
    breaker = opened()
    breaker.poll_withdrawn(breaker.poll(0.4), 0.45)
    assert breaker.state is BreakerState.OPEN
    assert breaker.poll_at(0.45) == 0.45
    closed = Breaker()
    closed.poll_withdrawn(closed.poll(0.0), 0.0)
    assert closed.state is BreakerState.CLOSED


def test_a_poll_leaves_a_purchase_that_probes_alone():
    """Two probes are under way where the first is overdue: the purchase is still waited for."""
    breaker = opened()
    breaker.send(1, 0.5)
    breaker.poll_answered(breaker.poll(60.5), 60.6)
    assert breaker.state is BreakerState.HALF_OPEN
    breaker.answered(1, 1, 61.0)
    assert breaker.state is BreakerState.CLOSED


def test_failed_polls_say_nothing_about_their_tasks_until_an_outage_is_over():
    """Doubts count from the first answer on."""
    breaker = Breaker()
    assert breaker.doubts_count_from(5.0) == -math.inf
    lose(breaker, 5.0)
    assert breaker.doubts_count_from(7.0) == 7.0
    breaker.send(1, 8.0)
    breaker.answered(1, 1, 9.0)
    assert breaker.doubts_count_from(10.0) == 9.0


# --- any interleaving


class AnyInterleaving(RuleBasedStateMachine):
    """Purchases and polls of any end, in any order and at any time."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.breaker = Breaker()
        self.purchases = []  # generation, images
        self.polls = []

    @rule(seconds=st.floats(0, 2) | st.floats(0, 400))
    def wait(self, seconds):
        self.now += seconds

    @rule(images=st.integers(1, 8))
    def send(self, images):
        start_at = self.breaker.start_at(images, self.now)
        if start_at > self.now:
            self.now = start_at if start_at < math.inf else self.now
            return
        probing = self.breaker.state is BreakerState.OPEN
        self.purchases.append((self.breaker.generation, images))
        self.breaker.send(images, self.now)
        if probing:
            assert self.breaker.state is BreakerState.HALF_OPEN
            assert self.breaker.start_at(1, self.now) >= self.now + 10

    @precondition(lambda self: self.purchases)
    @rule(
        index=st.integers(0, 50),
        end=st.sampled_from(["answered", "withdrawn", *Trip]),
        jitter=st.floats(0, 1, exclude_max=True),
    )
    def end_purchase(self, index, end, jitter):
        generation, images = self.purchases.pop(index % len(self.purchases))
        before = self.breaker.generation
        if end == "answered":
            self.breaker.answered(generation, images, self.now)
        elif end == "withdrawn":
            self.breaker.withdrawn(generation, images, self.now)
        else:
            pause = 3.0 if end is RATE_LIMITED else self.breaker.backoff(end, self.now, jitter)
            self.breaker.trip(generation, end, self.now, pause)
            assert self.breaker.generation == before + (generation == before)

    @rule()
    def poll(self):
        at = self.breaker.poll_at(self.now)
        assert at >= self.now
        if at == self.now:
            self.polls.append(self.breaker.poll(self.now))

    @precondition(lambda self: self.polls)
    @rule(index=st.integers(0, 50), end=st.sampled_from(["answered", "unanswered", "withdrawn"]))
    def end_poll(self, index, end):
        generation = self.polls.pop(index % len(self.polls))
        if end == "answered":
            self.breaker.poll_answered(generation, self.now)
        elif end == "unanswered":
            self.breaker.poll_unanswered(generation, self.now, 0.5)
        else:
            self.breaker.poll_withdrawn(generation, self.now)

    @invariant()
    def what_is_under_way_is_known(self):
        mine = [images for generation, images in self.purchases if generation == self.breaker.generation]
        assert self.breaker.under_way == sum(mine)

    @invariant()
    def something_is_always_to_come(self):
        """With nothing under way there is a time at which the next may go, and it is bounded."""
        if not self.purchases and not self.polls:
            assert self.breaker.start_at(8, self.now) <= self.now + 600
            assert self.breaker.poll_at(self.now) <= self.now + 600

    @invariant()
    def polls_are_hardly_later_than_purchases(self):
        if self.breaker.state is not BreakerState.RAMPING:
            assert self.breaker.poll_at(self.now) <= self.breaker.start_at(1, self.now) + 1


AnyInterleaving.TestCase.settings = settings(max_examples=50, stateful_step_count=60, deadline=None)
TestAnyInterleaving = AnyInterleaving.TestCase
