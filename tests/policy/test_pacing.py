"""When an account may send: exact windows, learned quotas, the breaker."""

import math
from itertools import pairwise

import attrs
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from benchmarks import _window_world as bench
from novita_async._policy.breaker import BreakerState
from novita_async._policy.pacing import LATE, MINUTE, WINDOW, AccountPacer, Phase

IMG2IMG = "/v3/async/img2img"
TXT2IMG = "/v3/async/txt2img"


def window_of(pacer, endpoint=IMG2IMG):
    return next(w for w in pacer.statistics().windows if w.endpoint == endpoint)


def take(pacer, count, now, *, images=1, endpoint=IMG2IMG):
    return [pacer.announce(endpoint, images, now) for _ in range(count)]


def answer(pacer, slots, now):
    for slot in slots:
        pacer.answered(slot, now)


def refuse(pacer, slot, now, *, retry_after=None, jitter=0.0):
    pacer.rejected(slot, now, retry_after, jitter)


def saturate(pacer, quota, now=0.0):
    """Search until a sliding server with this quota says 429; all of it at one moment."""
    accepted = 0
    while accepted < quota:
        wave = []
        while pacer.start_at(IMG2IMG, 1, now) <= now and accepted + len(wave) < quota:
            wave += take(pacer, 1, now)
        answer(pacer, wave, now)
        accepted += len(wave)
    refuse(pacer, *take(pacer, 1, now), now)


# --- the window, quota known


def test_a_slot_is_held_until_a_minute_after_the_answer():
    """Not the announcement but the answer starts the minute, because the server may have counted then."""
    pacer = AccountPacer(images_per_minute=2)
    first, second = take(pacer, 2, 0.0)
    assert pacer.start_at(IMG2IMG, 1, 0.0) == math.inf
    pacer.answered(second, 5.0)
    assert pacer.start_at(IMG2IMG, 1, 5.0) == 5.0 + WINDOW
    pacer.answered(first, 30.0)
    assert pacer.start_at(IMG2IMG, 2, 30.0) == 30.0 + WINDOW
    assert pacer.start_at(IMG2IMG, 1, 5.0 + WINDOW) == 5.0 + WINDOW


def test_images_count_not_requests():
    """Two requests of four images fill a quota of eight."""
    pacer = AccountPacer(images_per_minute=8)
    answer(pacer, take(pacer, 2, 0.0, images=4), 1.0)
    assert pacer.start_at(IMG2IMG, 1, 2.0) == 1.0 + WINDOW


def test_a_request_heavier_than_the_quota_goes_alone():
    """It waits for an empty window, and the next waits for all of it."""
    pacer = AccountPacer(images_per_minute=5)
    answer(pacer, take(pacer, 1, 0.0), 0.0)
    assert pacer.start_at(IMG2IMG, 8, 1.0) == WINDOW
    heavy = pacer.announce(IMG2IMG, 8, WINDOW)
    pacer.answered(heavy, 70.0)
    assert pacer.start_at(IMG2IMG, 1, 71.0) == 70.0 + WINDOW


def test_endpoints_have_windows_of_their_own():
    """What img2img used up leaves txt2img free."""
    pacer = AccountPacer(images_per_minute=1)
    take(pacer, 1, 0.0)
    assert pacer.start_at(IMG2IMG, 1, 0.0) == math.inf
    assert pacer.start_at(TXT2IMG, 1, 0.0) == 0.0


def test_an_announcement_before_its_time_is_an_error():
    """The pacer is asked first; whoever does not ask is told so."""
    pacer = AccountPacer(images_per_minute=1)
    take(pacer, 1, 0.0)
    with pytest.raises(ValueError, match="may not be announced"):
        pacer.announce(IMG2IMG, 1, 0.0)


def test_what_was_never_sent_is_free_at_once():
    """Nothing was bought, so nothing is held."""
    pacer = AccountPacer(images_per_minute=1)
    (slot,) = take(pacer, 1, 0.0)
    pacer.released(slot, 0.0)
    assert pacer.start_at(IMG2IMG, 1, 0.0) == 0.0
    assert window_of(pacer).taken == 0


@pytest.mark.parametrize("end", ["answered", "released", "rejected"])
def test_a_slot_ends_once(end):
    """A second end would free what another purchase holds."""
    pacer = AccountPacer(images_per_minute=5)
    ends = {
        "answered": lambda slot: pacer.answered(slot, 1.0),
        "released": lambda slot: pacer.released(slot, 1.0),
        "rejected": lambda slot: refuse(pacer, slot, 1.0),
    }
    (slot,) = take(pacer, 1, 0.0)
    ends[end](slot)
    with pytest.raises(ValueError, match="settled before"):
        ends[end](slot)


def test_the_first_burst_of_a_known_quota_is_a_part_of_it():
    """A server that takes no bursts refuses a sixth, not all; each answer lets two more go."""
    pacer = AccountPacer(images_per_minute=600)
    slots = take(pacer, 100, 0.0)
    assert pacer.start_at(IMG2IMG, 1, 0.0) == math.inf
    answer(pacer, slots, 0.1)
    take(pacer, 200, 0.1)
    assert pacer.start_at(IMG2IMG, 1, 0.1) == math.inf


def test_what_earlier_runs_sent_counts():
    """What has no answer may have been seen until now, and nothing later than what may still arrive."""
    pacer = AccountPacer(images_per_minute=10)
    rows = [(0.0, 1.0, 3), (90.0, None, 2), (50.0, 51.0, 4), (80.0, 500.0, 1), (0.0, 39.0, 5)]
    pacer.restore(IMG2IMG, rows, 100.0)
    assert window_of(pacer).taken == 7
    assert pacer.start_at(IMG2IMG, 3, 100.0) == 100.0
    assert pacer.start_at(IMG2IMG, 4, 100.0) == 51.0 + WINDOW
    assert pacer.start_at(IMG2IMG, 8, 100.0) == 100.0 + WINDOW
    assert pacer.start_at(IMG2IMG, 10, 100.0) == 100.0 + LATE + WINDOW


def test_what_was_given_up_on_its_way_counts_from_when_it_may_arrive():
    pacer = AccountPacer(images_per_minute=10)
    (slot,) = take(pacer, 1, 0.0)
    pacer.lost(slot, 0.5, None, 0.0)
    assert window_of(pacer).taken == 1
    pacer.start_at(IMG2IMG, 1, 0.5 + WINDOW)
    assert window_of(pacer).taken == 1
    pacer.start_at(IMG2IMG, 1, 0.5 + LATE + WINDOW)
    assert window_of(pacer).taken == 0


# --- quota unknown


@pytest.mark.parametrize(
    ("endpoint", "burst"),
    [(IMG2IMG, 10), (TXT2IMG, 20), ("/v3/async/upscale", 20), ("/v3/async/txt2video", 2), ("/any", 10)],
)
def test_the_first_burst_is_the_documented_quota(endpoint, burst):
    """With an unknown quota as much goes at first as the documentation promises."""
    pacer = AccountPacer()
    slots = take(pacer, burst, 0.0, endpoint=endpoint)
    assert pacer.start_at(endpoint, 1, 0.0) == math.inf
    answer(pacer, slots, 0.1)
    take(pacer, min(2 * burst, 32), 0.1, endpoint=endpoint)
    assert pacer.start_at(endpoint, 1, 0.1) == math.inf


def test_the_search_is_no_wider_than_can_be_borne():
    """Bursts double up to 32 images, or a twentieth of what was accepted, so that few are refused."""
    pacer = AccountPacer()
    for burst in (10, 20, *[32] * 20):
        wave = take(pacer, burst, 0.0)
        assert pacer.start_at(IMG2IMG, 1, 0.0) == math.inf
        answer(pacer, wave, 0.0)
    assert len(take(pacer, 33, 0.0)) == 33


def test_a_search_widens_on_a_slow_service():
    """At four seconds a round trip 32 images at a time would be 480 a minute for ever."""
    pacer, now, widths = AccountPacer(), 0.0, []
    while now < 90:
        wave = []
        while len(wave) < 10_000 and pacer.start_at(IMG2IMG, 1, now) <= now:
            wave += take(pacer, 1, now)
        widths.append(len(wave))
        now += 4.0
        answer(pacer, wave, now)
    assert widths[:5] == [10, 20, 32, 32, 33]
    assert all(before <= after <= 2 * before for before, after in pairwise(widths))
    assert widths[-1] > 500


def test_a_lone_request_heavier_than_the_first_burst_may_go():
    """Two images for an endpoint with one at a time would otherwise wait for ever."""
    pacer = AccountPacer()
    (slot,) = take(pacer, 1, 0.0, images=8, endpoint="/v3/async/img2video")
    pacer.answered(slot, 0.1)
    assert window_of(pacer, "/v3/async/img2video").unanswered == 0


def test_the_first_429_tells_the_quota():
    """What was accepted is the quota, late answers included."""
    pacer = AccountPacer()
    answer(pacer, take(pacer, 10, 0.0), 0.1)
    slots = take(pacer, 20, 0.1)
    answer(pacer, slots[:12], 0.2)
    refuse(pacer, slots[19], 0.2)
    assert window_of(pacer).phase is Phase.GUESSED
    assert window_of(pacer).images_per_minute == 22
    answer(pacer, slots[12:15], 0.3)
    for slot in slots[15:19]:
        refuse(pacer, slot, 0.3)
    assert window_of(pacer).images_per_minute == 25
    assert window_of(pacer).rejections == 5
    assert pacer.statistics().rejections == 5


def test_a_429_to_what_a_shared_window_let_go_teaches_the_window_here_nothing():
    pacer = AccountPacer()
    slot = pacer.take(IMG2IMG, 3, 0.0, elsewhere=True)
    pacer.rejected(slot, 1.0, 30.0, 0.5)
    (window,) = pacer.statistics().windows
    assert (window.taken, window.unanswered, window.rejections) == (0, 0, 0)
    assert pacer.start_at(IMG2IMG, 1, 1.0) == 31.0


def test_a_429_before_any_acceptance_tells_nothing():
    """Somebody else may use the quota: the search goes on, from the start."""
    pacer = AccountPacer()
    refuse(pacer, *take(pacer, 1, 0.0), 0.1)
    assert window_of(pacer).phase is Phase.SEARCHING
    assert window_of(pacer).images_per_minute is None


def test_a_429_before_any_acceptance_makes_the_search_careful():
    """Even with a known quota the next burst is the documented one."""
    pacer = AccountPacer(images_per_minute=600)
    refuse(pacer, *take(pacer, 1, 0.0), 0.0)
    ramp_up(pacer, 1.0)
    wave = 0
    while pacer.start_at(IMG2IMG, 1, 1.0) == 1.0:
        take(pacer, 1, 1.0)
        wave += 1
    assert 10 <= wave <= 14


def test_a_guess_is_confirmed_by_a_minute():
    """Single looks beyond the limit, ever rarer, and none once a whole minute went as guessed."""
    pacer = AccountPacer()
    saturate(pacer, 40)
    now, looks = 0.0, []
    while (now := pacer.start_at(IMG2IMG, 1, now)) < WINDOW:
        looks.append(now)
        (slot,) = take(pacer, 1, now)
        assert slot.beyond
        refuse(pacer, slot, now, jitter=0.99)
    gaps = [later - sooner for sooner, later in pairwise(looks)]
    assert gaps[:4] == pytest.approx([0.995, 1.99, 3.98, 7.96])
    assert max(gaps) < 8
    assert now == WINDOW
    answer(pacer, take(pacer, 1, now), now)
    assert window_of(pacer).phase is Phase.CONFIRMED
    assert window_of(pacer).images_per_minute == 40
    answered = 1
    while pacer.start_at(IMG2IMG, 1, now) == now:
        answer(pacer, take(pacer, 1, now), now)
        answered += 1
    assert answered == 40
    assert pacer.start_at(IMG2IMG, 1, now) == now + WINDOW


def confirmed(quota):
    pacer = AccountPacer()
    saturate(pacer, quota)
    for _ in range(quota):
        answer(pacer, take(pacer, 1, WINDOW), WINDOW)
    assert window_of(pacer).phase is Phase.CONFIRMED
    return pacer


def test_a_confirmed_limit_is_doubted_every_ten_minutes():
    """One request looks beyond; while they succeed the limit rises, one refusal ends it."""
    pacer = confirmed(10)
    for _ in range(10):
        answer(pacer, take(pacer, 1, 599.0), 599.0)
    assert pacer.start_at(IMG2IMG, 1, 599.5) == 600.0
    for limit in (11, 12):
        (slot,) = take(pacer, 1, 600.0)
        assert pacer.start_at(IMG2IMG, 1, 600.0) == 599.0 + WINDOW
        pacer.answered(slot, 600.0)
        assert window_of(pacer).images_per_minute == limit
    refuse(pacer, *take(pacer, 1, 600.0), 600.0)
    assert window_of(pacer).images_per_minute == 12
    assert pacer.start_at(IMG2IMG, 1, 601.0) == 599.0 + WINDOW


def test_a_request_heavier_than_the_limit_goes_alone():
    """It waits until all that counts is let go, and not for the next doubt."""
    pacer = confirmed(5)
    assert pacer.start_at(IMG2IMG, 8, WINDOW) == 2 * WINDOW


def test_a_look_never_exceeds_the_configured_quota():
    """Only what was learned is doubted, not what the user said."""
    pacer = AccountPacer(images_per_minute=10)
    answer(pacer, take(pacer, 9, 0.0), 0.0)
    refuse(pacer, *take(pacer, 1, 0.0), 0.0)
    assert window_of(pacer).images_per_minute == 9
    assert pacer.start_at(IMG2IMG, 1, 0.0) == 0.25
    assert pacer.start_at(IMG2IMG, 2, 0.0) == WINDOW


def test_a_limit_below_the_ceiling_is_refined():
    """A heavy refusal leaves open whether a lighter request fits: it is tried."""
    pacer = AccountPacer()
    answer(pacer, take(pacer, 1, 0.0, images=8), 0.0)
    refuse(pacer, *take(pacer, 1, 0.0, images=4), 0.0)
    assert window_of(pacer).images_per_minute == 8
    now = pacer.start_at(IMG2IMG, 1, 0.0)
    pacer.answered(pacer.announce(IMG2IMG, 1, now), now)
    assert window_of(pacer).images_per_minute == 9
    assert window_of(pacer).phase is Phase.GUESSED


def test_a_confirmed_limit_below_the_ceiling_is_refined():
    """What no 429 has refuted is tried, ten minutes or not."""
    pacer = AccountPacer()
    answer(pacer, take(pacer, 1, 0.0, images=8), 0.0)
    refuse(pacer, *take(pacer, 1, 0.0, images=4), 0.0)
    answer(pacer, take(pacer, 1, WINDOW, images=8), WINDOW)
    assert window_of(pacer).phase is Phase.CONFIRMED
    assert pacer.start_at(IMG2IMG, 3, WINDOW) == WINDOW
    assert pacer.start_at(IMG2IMG, 4, WINDOW) == 2 * WINDOW


def test_a_late_acceptance_of_a_look_refines_nothing():
    """What was let go meanwhile may have made the room."""
    pacer = AccountPacer()
    answer(pacer, take(pacer, 1, 0.0, images=8), 0.0)
    refuse(pacer, *take(pacer, 1, 0.0, images=4), 0.0)
    look = take(pacer, 1, 59.9, images=2)
    answer(pacer, look, 60.5)
    assert window_of(pacer).images_per_minute == 8


def test_a_look_accepted_after_a_minute_proves_nothing():
    """The server may have let go what is still held here, because the answers were slow."""
    pacer = AccountPacer()
    answer(pacer, take(pacer, 10, 0.0), 20.0)
    refuse(pacer, *take(pacer, 1, 20.0), 20.0)
    answer(pacer, take(pacer, 1, 65.0), 65.0)
    take(pacer, 1, 66.0)
    assert pacer.start_at(IMG2IMG, 1, 66.0) == 20.0 + WINDOW


def test_a_late_429_delays_the_look_of_its_endpoint_only():
    """The breaker has been tested since; the endpoint that was refused still waits."""
    pacer = AccountPacer()
    answer(pacer, take(pacer, 10, 0.0), 0.0)
    (late,) = take(pacer, 1, 0.0)
    refuse(pacer, *take(pacer, 1, 0.0, endpoint=TXT2IMG), 0.0)
    while pacer.statistics().breaker is not BreakerState.CLOSED:
        answer(pacer, take(pacer, 1, 1.0, endpoint=TXT2IMG), 1.0)
    refuse(pacer, late, 2.0, retry_after=30.0)
    assert pacer.start_at(TXT2IMG, 1, 2.0) == 2.0
    assert pacer.start_at(IMG2IMG, 1, 2.0) == 32.0


def test_what_was_let_go_since_the_announcement_may_have_been_seen():
    """A 429 that an older image explains does not lower the limit."""
    pacer = confirmed(10)
    start = 2 * WINDOW
    answer(pacer, take(pacer, 5, start), start)
    slots = take(pacer, 5, start + 59)
    take(pacer, 1, start + WINDOW)
    answer(pacer, slots[1:], start + WINDOW)
    refuse(pacer, slots[0], start + 61)
    assert window_of(pacer).images_per_minute == 10


def test_a_quota_that_shrank_is_learned():
    """A 429 for what used to fit lowers the limit to what was accepted."""
    pacer = confirmed(20)
    later = 2 * WINDOW
    answer(pacer, take(pacer, 7, later), later)
    refuse(pacer, *take(pacer, 1, later), later)
    assert window_of(pacer).images_per_minute == 7


def test_a_place_taken_by_a_look_is_no_contradiction():
    """A look that overtakes a regular request takes its place: the limit stays."""
    pacer = AccountPacer()
    saturate(pacer, 10)
    slots = take(pacer, 1, WINDOW)
    answer(pacer, slots, WINDOW)
    (regular,) = take(pacer, 1, WINDOW)
    answer(pacer, take(pacer, 8, WINDOW), WINDOW)
    assert window_of(pacer).images_per_minute == 10
    refuse(pacer, regular, WINDOW)
    assert window_of(pacer).images_per_minute == 9


def test_a_fixed_minute_is_recognised_and_followed():
    """An early acceptance begins a new minute; the next look is due when the next begins."""
    outcome = bench.run(bench.Fixed(600), [1] * 6000, seed=1)
    window = window_of(outcome.policy.pacer)
    assert window.images_per_minute == 600
    assert outcome.ratio < 1.03
    assert outcome.rejections < 0.02


def looks_of_a_minute(pacer, server, until):
    """Send all that may go to a server at no distance; tell when looks beyond the limit were refused."""
    now, refused = 0.0, []
    while (now := pacer.start_at(IMG2IMG, 1, now)) < until:
        (slot,) = take(pacer, 1, now)
        if server.admit(1, now):
            pacer.answered(slot, now)
        else:
            refused.append(now)
            refuse(pacer, slot, now, jitter=0.99)
    return refused


def test_looks_are_rare_once_a_fixed_minute_is_known():
    """In the first new minute they double without bound; then they come when the next minute is due."""
    refused = looks_of_a_minute(AccountPacer(), bench.Fixed(40, phase=30.0), 400.0)
    first = [at for at in refused if 30 <= at < 88]
    assert len(first) >= 5
    assert max(later - sooner for sooner, later in pairwise(first)) > 10
    for begin in (90, 150, 210, 270):
        minute = [at for at in refused if begin + 1 <= at < begin + 55]
        assert len(minute) <= 2
        assert sum(begin <= at < begin + 60 for at in refused) <= 8


def test_a_shallow_bucket_is_recognised():
    """Room that came back twice in a minute is a bucket, even where all that fits was accepted."""
    pacer = AccountPacer()
    saturate(pacer, 10)
    for _ in range(2):
        answer(pacer, take(pacer, 1, 5.0), 5.0)
        while window_of(pacer).taken % 10:
            answer(pacer, take(pacer, 1, 5.0), 5.0)
    refuse(pacer, *take(pacer, 1, 5.0), 5.0)
    assert window_of(pacer).phase is Phase.PACED
    now = 5.0
    while window_of(pacer).phase is Phase.PACED:
        now = pacer.start_at(IMG2IMG, 1, now)
        refuse(pacer, *take(pacer, 1, now), now)
    assert now < 60
    now = pacer.start_at(IMG2IMG, 1, now)
    refuse(pacer, *take(pacer, 1, now), now)
    assert window_of(pacer).phase is Phase.GUESSED


def test_a_slow_bucket_is_given_time_to_drain():
    """The pause after a 429 is at least what an image takes to leak, however long that is."""
    pacer = AccountPacer()
    saturate(pacer, 20)
    answer(pacer, take(pacer, 1, 40.0), 40.0)
    refuse(pacer, *take(pacer, 1, 41.0), 41.0)
    assert window_of(pacer).phase is Phase.PACED
    now = max(100.0, pacer.start_at(IMG2IMG, 1, 41.0))
    answer(pacer, take(pacer, 1, now), now)
    now = pacer.start_at(IMG2IMG, 1, now)
    refuse(pacer, *take(pacer, 1, now), now, jitter=0.99)
    assert pacer.start_at(IMG2IMG, 1, now) - now > 10


def test_a_leaky_bucket_is_recognised_and_paced():
    """Room that comes back steadily is used evenly, at the rate at which it comes."""
    outcome = bench.run(bench.Leaky(600, depth=60), [1] * 6000, seed=1)
    window = window_of(outcome.policy.pacer)
    assert window.phase is Phase.PACED
    assert window.images_per_minute == pytest.approx(600, rel=0.2)
    assert outcome.ratio < 1.01
    assert outcome.rejections < 0.03


def test_pacing_on_a_mistaken_belief_ends():
    """429s that no bucket of nearly this rate would give lead back to a guess."""
    pacer = AccountPacer()
    saturate(pacer, 20)
    now = 5.0
    for _ in range(4):  # room for four images, five seconds after: a bucket
        now = max(now, pacer.start_at(IMG2IMG, 1, now))
        answer(pacer, take(pacer, 1, now), now)
    now = max(now, pacer.start_at(IMG2IMG, 1, now))
    refuse(pacer, *take(pacer, 1, now), now)
    assert window_of(pacer).phase is Phase.PACED
    for _ in range(5):
        now = pacer.start_at(IMG2IMG, 1, now)
        refuse(pacer, *take(pacer, 1, now), now)
    assert window_of(pacer).phase is Phase.GUESSED


def paced(quota=None):
    """A pacer that has met a bucket of 60 images and found its rate too high."""
    pacer = AccountPacer(images_per_minute=quota)
    saturate(pacer, 60)
    now = pacer.start_at(IMG2IMG, 1, 0.0)
    for _ in range(20):
        answer(pacer, take(pacer, 1, now), now)
    refuse(pacer, *take(pacer, 1, now), now)
    assert window_of(pacer).phase is Phase.PACED
    return pacer, pacer.start_at(IMG2IMG, 1, now)


def test_a_paced_rate_rises_and_falls():
    """Acceptances raise the rate a little, and a 429 takes at most a fifth."""
    pacer, now = paced()
    slow = window_of(pacer).images_per_minute
    for _ in range(200):
        now = pacer.start_at(IMG2IMG, 1, now)
        answer(pacer, take(pacer, 1, now), now)
    fast = window_of(pacer).images_per_minute
    assert fast == pytest.approx(slow + 200 * 0.02 * 60, abs=1)
    now = pacer.start_at(IMG2IMG, 1, now)
    refuse(pacer, *take(pacer, 1, now), now)
    assert 0.79 * fast <= window_of(pacer).images_per_minute < fast


def test_a_paced_rate_keeps_to_the_configured_quota():
    """A little below it at first, and at it in the end, whatever was measured."""
    pacer, now = paced(600)
    assert window_of(pacer).images_per_minute == 570
    times = []
    for _ in range(300):
        times.append(now := pacer.start_at(IMG2IMG, 1, now))
        answer(pacer, take(pacer, 1, now), now)
    gaps = [later - sooner for sooner, later in pairwise(times)]
    assert max(gaps[20:40]) < 0.11
    assert min(gaps[2:]) == pytest.approx(0.1)


def test_a_late_timer_does_not_slow_the_pace():
    """A few milliseconds are made good, more is not."""
    pacer, now = paced()
    for _ in range(10):
        now = pacer.start_at(IMG2IMG, 1, now)
        answer(pacer, take(pacer, 1, now), now)
    due = pacer.start_at(IMG2IMG, 1, now)
    take(pacer, 1, due + 0.005)
    after_little = pacer.start_at(IMG2IMG, 1, due + 0.005) - due
    due = pacer.start_at(IMG2IMG, 1, due + 0.005)
    take(pacer, 1, due + 5.0)
    after_much = pacer.start_at(IMG2IMG, 1, due + 5.0) - due
    assert after_little == pytest.approx(60 / window_of(pacer).images_per_minute, abs=0.001)
    assert after_much >= 5.0


# --- the breaker


def test_a_429_opens_the_breaker_for_the_whole_account():
    """Another endpoint waits too, for as long as the service asked."""
    pacer = AccountPacer(images_per_minute=10)
    refuse(pacer, *take(pacer, 1, 0.0), 1.0, retry_after=20.0)
    assert pacer.start_at(IMG2IMG, 1, 1.0) == 21.0
    assert pacer.start_at(TXT2IMG, 1, 1.0) == 21.0
    assert pacer.statistics().breaker is BreakerState.OPEN
    assert pacer.statistics().open_until == 21.0


@given(st.floats(0, 1, exclude_max=True))
def test_a_pause_without_a_hint_is_jittered(jitter):
    """Between half and all of the bound, at any value of the jitter."""
    pacer = AccountPacer(images_per_minute=10)
    refuse(pacer, *take(pacer, 1, 0.0), 0.0, jitter=jitter)
    assert pacer.start_at(IMG2IMG, 1, 0.0) == pytest.approx(0.25 + jitter / 4)


def test_a_hint_of_nothing_is_no_busy_loop():
    """Retry-After: 0 again and again still backs off; a believable hint is believed."""
    pacer = AccountPacer(images_per_minute=10)
    now, probes = 0.0, 0
    while now < 60:
        refuse(pacer, *take(pacer, 1, now), now, retry_after=0.0)
        now, probes = pacer.start_at(IMG2IMG, 1, now), probes + 1
    assert probes < 25
    refuse(pacer, *take(pacer, 1, now), now, retry_after=1.0)
    assert pacer.start_at(IMG2IMG, 1, now) == now + 1.0


def test_one_probe_then_a_ramp():
    """One request tests the account; the ramp begins at the root of what was under way, and bursts double."""
    pacer = AccountPacer(images_per_minute=60)
    slots = take(pacer, 10, 0.0)
    refuse(pacer, slots[0], 0.1, retry_after=5.0)
    answer(pacer, slots[1:], 0.2)
    (probe,) = take(pacer, 1, 5.1)
    assert pacer.statistics().breaker is BreakerState.HALF_OPEN
    assert pacer.statistics().open_until is None
    assert pacer.start_at(TXT2IMG, 1, 5.1) == 15.1
    pacer.answered(probe, 5.2)
    assert pacer.statistics().breaker is BreakerState.RAMPING
    widths = []
    for _ in range(2):
        width = 0
        wave = []
        while pacer.statistics().breaker is BreakerState.RAMPING and pacer.start_at(IMG2IMG, 1, 5.2) == 5.2:
            wave += take(pacer, 1, 5.2)
            width += 1
        widths.append(width)
        answer(pacer, wave, 5.2)
    assert widths == [4, 8]
    assert pacer.statistics().breaker is BreakerState.CLOSED


def ramp_up(pacer, now):
    """Answer one at a time until the breaker is closed; tell how many answers that took."""
    answers = 0
    while pacer.statistics().breaker is not BreakerState.CLOSED:
        answer(pacer, take(pacer, 1, now), now)
        answers += 1
    return answers


def test_a_breaker_that_opens_for_a_429_while_ramping_closes_sooner_at_half_the_width():
    """Multiplicative decrease: the width at which the breaker closes halves."""
    pacer = AccountPacer(images_per_minute=1000)
    slots = take(pacer, 40, 0.0)
    refuse(pacer, slots[0], 0.0, retry_after=1.0)
    for slot in slots[1:]:
        pacer.released(slot, 0.0)
    (probe, *_) = take(pacer, 1, 1.0)
    pacer.answered(probe, 1.0)
    first = ramp_up(pacer, 1.0)
    twice = AccountPacer(images_per_minute=1000)
    slots = take(twice, 40, 0.0)
    refuse(twice, slots[0], 0.0, retry_after=1.0)
    for slot in slots[1:]:
        twice.released(slot, 0.0)
    twice.answered(twice.announce(IMG2IMG, 1, 1.0), 1.0)
    refuse(twice, twice.announce(IMG2IMG, 1, 1.0), 1.0, retry_after=1.0)
    assert ramp_up(twice, 2.0) < first


def test_a_failed_probe_opens_the_breaker_for_longer():
    """Each refused probe doubles the pause; the width to reach stays."""
    pacer = AccountPacer(images_per_minute=1000)
    now, pauses = 0.0, []
    for _ in range(6):
        refuse(pacer, *take(pacer, 1, now), now)
        now, before = pacer.start_at(IMG2IMG, 1, now), now
        pauses.append(now - before)
    assert pauses == pytest.approx([0.25, 0.5, 1.0, 2.0, 4.0, 4.0])


def test_a_probe_that_was_never_sent_lets_the_next_probe():
    """Nothing was learned from it, so the next may go at once."""
    pacer = AccountPacer(images_per_minute=10)
    refuse(pacer, *take(pacer, 1, 0.0), 0.0, retry_after=5.0)
    pacer.released(*take(pacer, 1, 5.0), 5.0)
    assert pacer.statistics().breaker is BreakerState.OPEN
    assert pacer.start_at(IMG2IMG, 1, 5.0) == 5.0


def test_an_overdue_probe_does_not_hold_up_the_account():
    """After ten seconds without an answer another probe goes; either answer counts."""
    pacer = AccountPacer(images_per_minute=10)
    refuse(pacer, *take(pacer, 1, 0.0), 0.0, retry_after=5.0)
    (first,) = take(pacer, 1, 5.0)
    (second,) = take(pacer, 1, 15.0)
    pacer.released(first, 15.0)
    assert pacer.statistics().breaker is BreakerState.HALF_OPEN
    pacer.answered(second, 15.5)
    assert pacer.statistics().breaker is BreakerState.CLOSED


def test_late_429s_of_one_burst_open_the_breaker_once():
    """They tell nothing new: no doubled pause, only a longer wait where the service asks for it."""
    pacer = AccountPacer(images_per_minute=20)
    slots = take(pacer, 4, 0.0)
    refuse(pacer, slots[0], 1.0, retry_after=5.0)
    refuse(pacer, slots[1], 1.5, retry_after=2.0)
    assert pacer.statistics().open_until == 6.0
    refuse(pacer, slots[2], 2.0, retry_after=9.0)
    assert pacer.statistics().open_until == 11.0
    pacer.answered(pacer.announce(IMG2IMG, 1, 11.0), 11.5)
    refuse(pacer, slots[3], 12.0, retry_after=9.0)
    assert pacer.statistics().breaker is not BreakerState.OPEN
    assert window_of(pacer).rejections == 4


def test_late_ends_of_an_earlier_burst_do_not_close_the_breaker():
    """Only a request sent after the opening can tell that the server takes requests again."""
    pacer = AccountPacer(images_per_minute=20)
    refused, accepted, unsent = take(pacer, 3, 0.0)
    refuse(pacer, refused, 1.0, retry_after=5.0)
    pacer.answered(accepted, 1.1)
    pacer.released(unsent, 1.1)
    assert pacer.statistics().breaker is BreakerState.OPEN
    assert pacer.start_at(IMG2IMG, 1, 2.0) == 6.0


# --- what is told


def test_statistics_are_values():
    """Frozen, and equal when the same is known."""
    pacer = AccountPacer(images_per_minute=7)
    take(pacer, 2, 0.0)
    statistics = pacer.statistics()
    assert statistics == pacer.statistics()
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        statistics.breaker = BreakerState.OPEN
    assert window_of(pacer).images_per_minute == 7
    assert (window_of(pacer).taken, window_of(pacer).unanswered) == (2, 2)


def test_the_repr_tells_the_state():
    """Breaker, and per endpoint the phase, what is held and what is the quota."""
    pacer = AccountPacer()
    assert repr(pacer) == "<AccountPacer breaker closed; unused>"
    take(pacer, 3, 0.0)
    assert repr(pacer) == "<AccountPacer breaker closed; img2img searching 3/?>"
    known = AccountPacer(images_per_minute=9)
    take(known, 1, 0.0, endpoint=TXT2IMG)
    assert repr(known) == "<AccountPacer breaker closed; txt2img searching 1/9>"


# --- whole runs against servers in virtual time


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("make_server", "quota", "ratio", "rejections"),
    [
        (lambda: bench.Sliding(600), 600, 1.01, 0.0),
        (lambda: bench.Fixed(600), 600, 1.15, 0.0),
        (lambda: bench.Leaky(600, depth=60), 600, 1.05, 0.10),
        (lambda: bench.Sliding(600), None, 1.03, 0.03),
        (lambda: bench.Fixed(600), None, 1.08, 0.03),
        (lambda: bench.Leaky(600, depth=60), None, 1.03, 0.16),
        (lambda: bench.Leaky(600, depth=600), None, 1.03, 0.16),
    ],
)
def test_2000_images_at_600_a_minute(make_server, quota, ratio, rejections, seed):
    """Near the least possible time, with few refusals, whatever kind of limiter the server has."""
    outcome = bench.run(make_server(), [1] * 2000, seed=seed, quota=quota)
    assert outcome.ratio <= ratio
    assert outcome.rejections <= rejections


@settings(max_examples=30, deadline=None)
@given(
    quota=st.integers(8, 80),
    requests=st.lists(st.integers(1, 8), min_size=1, max_size=60),
    known=st.booleans(),
    kind=st.sampled_from(["sliding", "fixed", "leaky, a tenth deep", "leaky, a minute deep"]),
    hints=st.booleans(),
    jitter=st.sampled_from([0.0, 0.3, 5.0]),
    seed=st.integers(0, 99),
)
def test_every_image_gets_through(*, quota, requests, known, kind, hints, jitter, seed):
    """Any mix of requests is accepted in the end; a known quota is never exceeded at a counting server."""
    server = bench.servers(quota)[kind]()
    outcome = bench.run(
        server, requests, seed=seed, quota=quota if known else None, hints=hints, jitter=jitter, back=jitter
    )
    if known:
        assert outcome.most_in_a_minute <= quota
    if known and "leaky" not in kind:
        assert outcome.rejections == 0
    assert outcome.makespan < 60 * 60


# --- any interleaving


class AnyInterleaving(RuleBasedStateMachine):
    """Purchases announced, seen, answered, refused and lost in any order and at any time."""

    def __init__(self):
        super().__init__()
        self.now = 0.0
        self.under_way = {}  # slot -> whether the server saw it
        self.seen = []  # (at, images) as counted by the server
        self.lost = []

    @initialize(quota=st.none() | st.integers(1, 12))
    def start(self, quota):
        self.quota = quota
        self.pacer = AccountPacer(images_per_minute=quota)
        self.open_until = -math.inf

    def one_under_way(self, index):
        assume(self.under_way)
        return sorted(self.under_way, key=lambda slot: slot.announced_at)[index % len(self.under_way)]

    @rule(images=st.integers(1, 8), endpoint=st.sampled_from([IMG2IMG, IMG2IMG, IMG2IMG, TXT2IMG]))
    def offer(self, images, endpoint):
        start_at = self.pacer.start_at(endpoint, images, self.now)
        assert start_at >= self.now
        assert self.pacer.start_at(endpoint, images, self.now) == start_at
        if start_at > self.now:
            with pytest.raises(ValueError, match="may not be announced"):
                self.pacer.announce(endpoint, images, self.now)
            return
        assert self.now >= self.open_until
        self.under_way[self.pacer.announce(endpoint, images, self.now)] = False

    @rule(seconds=st.floats(0, 5) | st.floats(50, 70) | st.sampled_from([0.0, MINUTE, WINDOW]))
    def wait(self, seconds):
        self.now += seconds

    @rule(images=st.integers(1, 8))
    def wait_for_room(self, images):
        start_at = self.pacer.start_at(IMG2IMG, images, self.now)
        if start_at < math.inf:
            self.now = max(self.now, start_at)
            self.offer(images, IMG2IMG)

    @rule(index=st.integers(0, 50))
    def server_sees(self, index):
        slot = self.one_under_way(index)
        if not self.under_way[slot]:
            self.under_way[slot] = True
            self.seen.append((self.now, slot))

    @rule(index=st.integers(0, 50))
    def answers(self, index):
        slot = self.one_under_way(index)
        self.server_sees(index)
        del self.under_way[slot]
        self.pacer.answered(slot, self.now)

    @rule(index=st.integers(0, 50))
    def never_sent(self, index):
        slot = self.one_under_way(index)
        assume(not self.under_way[slot])
        del self.under_way[slot]
        self.pacer.released(slot, self.now)

    @precondition(lambda self: self.under_way)
    @rule(
        index=st.integers(0, 50),
        retry_after=st.none() | st.floats(0, 60),
        jitter=st.floats(0, 1, exclude_max=True),
    )
    def refuses(self, index, retry_after, jitter):
        slot = self.one_under_way(index)
        assume(not self.under_way[slot])
        del self.under_way[slot]
        self.pacer.rejected(slot, self.now, retry_after, jitter)
        if self.pacer.statistics().breaker is BreakerState.OPEN:
            self.open_until = self.pacer.statistics().open_until
            assert self.open_until <= self.now + 61

    @invariant()
    def the_server_never_sees_more_than_the_quota(self):
        if not self.quota:
            return
        for endpoint in (IMG2IMG, TXT2IMG):
            seen = [(at, slot.images) for at, slot in self.seen if slot.endpoint == endpoint]
            heaviest = max((images for _, images in seen), default=0)
            assert bench.most_in_a_minute(seen) <= max(self.quota, heaviest)

    @invariant()
    def the_books_balance(self):
        for window in self.pacer.statistics().windows:
            under_way = sum(s.images for s in self.under_way if s.endpoint == window.endpoint)
            assert window.unanswered == under_way
            assert window.taken >= under_way
        assert self.pacer.breaker.under_way >= 0

    @invariant()
    def something_is_always_to_come(self):
        """Never a deadlock: with nothing under way there is a time at which to go."""
        if not self.under_way:
            assert self.pacer.start_at(IMG2IMG, 8, self.now) <= self.now + 10 * MINUTE


AnyInterleaving.TestCase.settings = settings(max_examples=30, stateful_step_count=60, deadline=None)
TestAnyInterleaving = AnyInterleaving.TestCase
