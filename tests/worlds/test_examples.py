"""Faults that worlds have found, each as the smallest world that has it.

An example that is not mended yet is an expected failure that names its fault: once it is mended, the mark
goes and the example stays.
"""

import pytest
from attrs import evolve

from novita_async.testing.worlds import (
    ClientPlan,
    Moment,
    Plan,
    ProcessPlan,
    ServicePlan,
    Trouble,
    UserPlan,
    run,
)


def world(*users, entrance="transport", service=None, client=None, troubles=(), seed=1, **process):
    return Plan(
        seed=seed,
        entrance=entrance,
        service=service or ServicePlan(),
        client=client or ClientPlan(),
        processes=(ProcessPlan(users=users, **process),),
        troubles=troubles,
    )


def user(kind, requests=3, name="u1", **moods):
    return UserPlan(kind=kind, name=name, requests=requests, **moods)


def trouble(kind, rate=0.6, **times):
    return (Trouble(kind=kind, rate=0.0 if times else rate, **times),)


EXAMPLES = {
    "results behind URLs are forgotten where their download is cancelled": (
        "ids kept",
        world(
            user("batch", 2, in_flight=4, routes=("seedream-5.0-lite-edit",), leaves_after=1),
            seed=1858,
            service=ServicePlan(latency=0.5),
            client=ClientPlan(drain=0.0),
        ),
    ),
    "a file that came in an answer loses its name where its stream is left": (
        "ids kept",
        world(
            user(
                "stream", name="u3", in_flight=4, save=True, routes=("openai-images-edits",), leaves_after=2
            ),
            seed=3011,
            service=ServicePlan(seconds=0.25, latency=1 / 64),
        ),
    ),
    "a paid answer does not come out where its journal fails": (
        "ids kept",
        world(
            user("batch", 1, in_flight=1, routes=("gemini-generate",)),
            seed=1522,
            troubles=trouble("folder read-only", at=0.25, length=1000.0),
        ),
    ),
    "a journal names files that came in an answer as they are called no more": (
        "true successes",
        evolve(
            world(user("batch", 1, in_flight=1, save=True, routes=("remove-background",)), seed=446),
            processes=2 * (ProcessPlan(users=(user("batch", 1, save=True, routes=("remove-background",)),)),),
        ),
    ),
    "a minute of gateway pages makes the rest of a batch uncertain": (
        "few doubts",
        world(user("stream", 24), troubles=trouble("outage of pages", length=60.0)),
    ),
    "a cancelled anext loses an outcome": (
        "one outcome",
        world(user("stream", 6, impatient="task")),
    ),
    "another request's answer is believed": (
        "own tasks",
        world(
            user("submit", 6, in_flight=1, timeout=0.0, pause=0.25),
            entrance="bytes",
            client=ClientPlan(session=True),
            troubles=trouble("another's answer late"),
        ),
    ),
    "another task's failure is believed where its answer names no task": (
        "true failures",
        world(
            user("stream", 4),
            service=ServicePlan(failure_rate=0.3, failure_as_error=True),
            troubles=trouble("answer of another"),
        ),
    ),
    "another task's result is believed": (
        "true successes",
        world(user("stream", 4), troubles=trouble("answer of another")),
    ),
    "SIGTERM in a group never ends": (
        "ends",
        world(user("batch", 2), together="group", ending="sigterm", ends=Moment("poll", 1)),
    ),
    "one page of a gateway ends a paid task": (
        "true failures",
        world(user("run"), service=ServicePlan(seconds=16.0), troubles=trouble("poll 403", rate=1.0)),
    ),
    "one no such task ends a paid task": (
        "true failures",
        world(user("run"), service=ServicePlan(seconds=16.0), troubles=trouble("no such task", rate=1.0)),
    ),
    "a long name in another script stops a batch for ever": (
        "ends for a reason",
        world(user("batch", 6, save=True, names="long")),
    ),
    "buying again with a journal is an illegal transition": (
        "ends for a reason",
        world(user("batch"), client=ClientPlan(resubmits=True), troubles=trouble("reset unacted")),
    ),
    "purchases after a cancellation": (
        "nothing sent late",
        world(user("batch", 4, in_flight=4, stopped=Moment("commit", 6)), service=ServicePlan(latency=0.0)),
    ),
    "no drain when the loop ends": (
        "drained",
        world(user("batch"), together="left", leaves=Moment("handover", 2)),
    ),
    "SIGTERM at the moment when the main task returns: bought, and nobody knows": (
        "nothing lost",
        world(
            user("submit", 2),
            user("run", 1, name="u2", in_flight=4),
            user("batch", 1, name="u3", in_flight=1),
            together="left",
            ending="sigterm",
            ends=Moment("event", 1, turns=2),
            leaves=Moment("event", 1, turns=1),
        ),
    ),
    "a success without pictures is believed": (
        "true successes",
        world(user("run"), troubles=trouble("no pictures yet")),
    ),
    "money that is only reserved is called spent": (
        "budget used",
        world(user("stream", 6, in_flight=4, raises="body"), client=ClientPlan(budget=3)),
    ),
    "watch() in a stream breaks the bound": (
        "bound kept",
        world(user("stream", 6, in_flight=1, watches=4, pause=10.0)),
    ),
    "save_as that raises takes the others along": (
        "paid comes out",
        world(user("batch", 6, in_flight=4, save=True, names="raises")),
    ),
    "one client in two loops loses what the second has bought": (
        "drained",
        world(user("run"), user("run", name="u2"), entrance="bytes", together="loops"),
    ),
    "an id in an odd answer is not read": (
        "ids kept",
        world(user("run", 6), troubles=trouble("odd yes")),
    ),
    "a page of a gateway is taken for a refusal": (
        "pages not believed",
        world(user("run"), troubles=trouble("page 403")),
    ),
    "paid rows do not come out once the budget is used up": (
        "paid comes out",
        Plan(
            seed=1,
            service=ServicePlan(seconds=8.0),
            client=ClientPlan(budget=2),
            processes=(
                ProcessPlan(users=(user("batch", 3),), ending="crash", ends=Moment("poll", 2)),
                ProcessPlan(users=(user("batch", 3, in_flight=1, backwards=True),)),
            ),
        ),
    ),
    "a whole answer is lost because of the junk behind it": (
        "true doubts",
        world(user("stream", 6), entrance="bytes", troubles=trouble("junk behind an answer")),
    ),
    "after SIGTERM a stream beside a batch tries another account": (
        "nothing sent late",
        world(
            user("batch", 1, in_flight=1),
            user("stream", 3, name="u3", in_flight=4, save=True),
            seed=616,
            service=ServicePlan(latency=1 / 64, balance=2),
            client=ClientPlan(accounts=2, learned=True),
            ending="sigterm",
            ends=Moment("handover", 1),
        ),
    ),
    "SIGTERM ends a loop while a purchase is drained": (
        "nothing lost",
        world(
            user("stream", 1),
            user("batch", 1, name="u2"),
            user("batch", 1, name="u3"),
            seed=9184,
            ending="sigterm",
            ends=Moment("file", 3, 5),
        ),
    ),
    "SIGTERM ends a loop at the moment when a drain is over": (
        "nothing lost",
        world(
            user("batch", 1, in_flight=1),
            user("run", 1, name="u2", in_flight=1),
            seed=42038,
            ending="sigterm",
            ends=Moment("take", 1),
            troubles=trouble("stall", rate=0.3),
        ),
    ),
    "after SIGTERM a call beside a batch sends what waited for a connection": (
        "nothing sent late",
        world(
            user("batch", 1, in_flight=1),
            user("run", name="u2"),
            seed=44922,
            entrance="bytes",
            client=ClientPlan(session=True),
            ending="sigterm",
            ends=Moment("answer", 1),
        ),
    ),
    "a paid row whose line does not come has no files": (
        "files whole",
        Plan(
            seed=919,
            client=ClientPlan(budget=4),
            processes=(
                ProcessPlan(
                    users=(user("batch", 2, images=2, save=True, in_flight=2),),
                    ending="sigterm",
                    ends=Moment("take", 1),
                ),
                ProcessPlan(
                    users=(
                        user("batch", images=2, in_flight=1, save=True, names="function", backwards=True),
                    ),
                ),
            ),
        ),
    ),
    "one no such task ends a row that was seen finished": (
        "true failures",
        Plan(
            seed=8101,
            service=ServicePlan(seconds=8.0),
            processes=(ProcessPlan(users=(user("batch", 1),)), ProcessPlan(users=(user("batch", 1),))),
            troubles=trouble("no such task"),
        ),
    ),
    "after a laptop's sleep the next process sends too much": (
        "window kept",
        Plan(
            seed=2379,
            service=ServicePlan(failure_rate=0.3),
            client=ClientPlan(images_per_minute=2),
            processes=(
                ProcessPlan(users=(user("batch", 2, images=2, in_flight=1),)),
                ProcessPlan(users=(user("batch", 2, images=2, in_flight=1, retries_failed=True),)),
            ),
            troubles=trouble("laptop sleeps", at=10.0, length=3600.0),
        ),
    ),
    "a row that ends while the paid ones are read is taken up twice": (
        "ends for a reason",
        Plan(
            seed=10819,
            service=ServicePlan(seconds=0.25, latency=1 / 64),
            processes=(
                ProcessPlan(
                    users=(
                        user("batch", 4, in_flight=4, save=True, raises="body"),
                        user("batch", 1, name="u2", in_flight=1),
                    ),
                    ending="crash",
                    ends=Moment("finished", 3),
                ),
                ProcessPlan(
                    users=(
                        user("batch", 1, in_flight=1, save=True),
                        user("batch", 1, name="u2", in_flight=1),
                    ),
                ),
            ),
        ),
    ),
    "a purchase that its event finds does not come out of the run whose budget is used up": (
        "paid comes out",
        Plan(
            seed=656154,
            entrance="bytes",
            service=ServicePlan(latency=0.5),
            client=ClientPlan(budget=4, webhooks=True),
            processes=(
                ProcessPlan(
                    users=(user("batch", 2, in_flight=1),), ending="crash", ends=Moment("handover", 2)
                ),
                ProcessPlan(users=(user("batch", 5, in_flight=1, backwards=True),)),
            ),
        ),
    ),
    "a cancellation while a journal is closed hits what follows its scope": (
        "true failures",
        world(
            user("stream", 2, routes=("txt2img", "remove-background")),
            user("batch", 1, name="u3", in_flight=1, stopped=Moment("answer", 1), stop="anyio"),
            entrance="bytes",
            seed=5368,
        ),
    ),
    "a cancellation while a journal is closed breaks off a neighbour in its task group": (
        "drained",
        world(
            user("poll", 1, in_flight=4),
            user("batch", 1, name="u2", in_flight=1, stopped=Moment("post", 1), stop="anyio"),
            entrance="bytes",
            seed=694655,
            together="anyio",
        ),
    ),
    "the lines of an input that is left are closed only after the client": (
        "nothing runs on",
        world(user("stream", 1, in_flight=1, leaves_after=1), seed=431, together="main"),
    ),
    "a loop in a thread sleeps through the cancellation of its user": (
        "nothing sent late",
        world(
            user("batch", 2, in_flight=1),
            user("batch", name="u2", in_flight=4, stopped=Moment("take", 3)),
            user("batch", 1, name="u3", in_flight=1, save=True),
            entrance="bytes",
            seed=678535,
            together="threads",
        ),
    ),
    "an answer that a termination cuts is in doubt for the next run, not paid": (
        "paid comes out",
        Plan(
            seed=1209950,
            entrance="bytes",
            service=ServicePlan(balance=2),
            client=ClientPlan(drain=0.0),
            processes=(
                ProcessPlan(
                    users=(user("batch", 1, in_flight=1, routes=("seedream-5.0-lite",)),),
                    ending="sigterm",
                    ends=Moment(mark="answer", number=1),
                ),
                ProcessPlan(
                    users=(user("batch", 3, in_flight=1, routes=("seedream-5.0-lite",), backwards=True),)
                ),
            ),
        ),
    ),
    "a request that waits to be bought again is taken for a paid one that did not come out": (
        "paid comes out",
        Plan(
            seed=1353479,
            entrance="bytes",
            service=ServicePlan(failure_rate=0.3, retired_at=0.5),
            processes=(
                ProcessPlan(
                    users=(user("batch", 1, in_flight=1),),
                    ending="crash",
                    ends=Moment(mark="finished", number=1, turns=5),
                ),
                ProcessPlan(users=(user("batch", 1, in_flight=1, retries_failed=True),)),
            ),
        ),
    ),
    "a lost purchase whose event came while another attempt waited for money is called not bought": (
        "doubts told",
        world(
            user("submit", 2, in_flight=4),
            user("submit", 2, name="u2"),
            seed=1314991,
            client=ClientPlan(images_per_minute=3, resubmits=True, budget=4, webhooks=True),
            troubles=trouble("reset after"),
        ),
    ),
    "an answer with a picture that SIGTERM cut, where nothing is drained, is no doubt": (
        "true doubts",
        Plan(
            seed=1314943,
            entrance="bytes",
            client=ClientPlan(drain=0.0),
            processes=(
                ProcessPlan(
                    users=(user("batch", 1, in_flight=1, routes=("seedream-4.5-edit",)),),
                    ending="sigterm",
                    ends=Moment(mark="answer", number=1),
                ),
                ProcessPlan(users=(user("batch", 1, in_flight=1, routes=("seedream-4.5-edit",)),)),
            ),
        ),
    ),
    "a stream that is left sends on while its input is closed": (
        "nothing sent late",
        Plan(
            seed=1320847,
            entrance="bytes",
            processes=(
                ProcessPlan(
                    users=(user("batch", 4, in_flight=4, save=True, routes=("seedream-4.5-edit",)),),
                    ending="crash",
                    ends=Moment(mark="handover", number=1),
                ),
                ProcessPlan(
                    users=(
                        user(
                            "batch",
                            5,
                            in_flight=4,
                            save=True,
                            routes=("seedream-4.5-edit",),
                            impatient="task",
                            raises="consumer",
                        ),
                    ),
                ),
            ),
        ),
    ),
    "the beginning of an answer that a cancelled task has read is lost, and the paid id with it": (
        "ids kept",
        world(
            user("stream", 1, in_flight=1, watches=1, stopped=Moment(mark="answer", number=1)),
            entrance="bytes",
            seed=1370777,
            troubles=trouble("chopped", 0.3),
        ),
    ),
    "a task that is denied twice, and between only with passing refusals, is called failed for no reason": (
        "true failures",
        world(
            user("submit", 2, in_flight=1),
            service=ServicePlan(seconds=8.0),
            troubles=(Trouble(kind="no such task", rate=0.3), Trouble(kind="poll limited", rate=0.6)),
            seed=1560678,
        ),
    ),
    "a file that an earlier run kept in the end, of another kind than stated, is not the right one": (
        "files whole",
        Plan(
            seed=1567732,
            processes=(ProcessPlan(users=(user("batch", 1, in_flight=1, save=True),)),) * 2,
            troubles=(Trouble(kind="file of another kind", rate=0.6), Trouble(kind="file stalls", rate=0.15)),
        ),
    ),
    "what a journal could not record is not told with what follows, which has no sense without": (
        "ends for a reason",
        Plan(
            seed=1540343,
            client=ClientPlan(images_per_minute=5, resubmits=True, webhooks=True),
            processes=(
                ProcessPlan(users=(user("stream", 2),), ending="crash", ends=Moment(mark="answer", number=3)),
                ProcessPlan(users=(user("batch", 3, "u3", images=2, backwards=True),)),
            ),
            troubles=(
                Trouble(kind="busy", rate=0.15),
                Trouble(kind="folder read-only", at=3.0, length=1.0),
                Trouble(kind="cut", rate=0.05),
            ),
        ),
    ),
    "one request with a timeout of 0 keeps its transport busy for as long as another is under way": (
        "ends",
        world(
            user("run", 1, in_flight=1, timeout=0.0, routes=("openai-images-edits",)),
            user("poll", 1, name="u3", in_flight=1),
            entrance="bytes",
            seed=1320145,
            troubles=trouble("stall unacted", 0.15),
        ),
    ),
    "the turns of two loops are counted as those of the loop in which something was cancelled": (
        "nothing sent late",
        world(
            user("run", 1, in_flight=4),
            user("stream", name="u2", in_flight=4, stopped=Moment(mark="event", number=1), stop="timeout"),
            user("run", 1, name="u3", in_flight=4),
            together="threads",
            leaves=Moment(mark="post", number=1, turns=5),
            seed=1628862,
        ),
    ),
}
"""What goes wrong, the invariant that tells it, and the world."""


WIRES = ("one answer too many", "junk behind an answer", "odd headers", "another's answer late", "chopped")


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop():
    """Let files be touched: what a thread would do is done between the turns of a world's loops."""


@pytest.mark.parametrize("fault", EXAMPLES)
def test_this_does_not_happen(fault):
    invariant, plan = EXAMPLES[fault]
    report = run(plan)
    assert invariant not in report.invariants, report.trace


@pytest.mark.parametrize("session", [False, True], ids=["its own session", "the user's session"])
@pytest.mark.parametrize("kind", WIRES)
def test_whatever_a_connection_does_everything_holds(kind, session):
    plan = world(
        user("stream", 12),
        entrance="bytes",
        client=ClientPlan(session=session),
        troubles=trouble(kind),
    )
    report = run(plan)
    assert report.reached[f"trouble: {kind}"]
    assert not report.violations, report.trace


def test_connections_are_refused_and_reset_as_others_are():
    kinds = ("refuse", "reset before", "reset after", "cut", "early", "stall unacted")
    plan = world(
        user("stream", 24, in_flight=4),
        entrance="bytes",
        troubles=tuple(Trouble(kind=kind, rate=0.6 if kind == "refuse" else 0.15) for kind in kinds),
    )
    report = run(plan)
    assert report.reached["trouble: connection refused"]
    assert not report.violations, report.trace
