"""The simulated service without a shell: accounts, queue, quota, results, webhooks and books."""

import re
from datetime import UTC, datetime
from itertools import pairwise
from urllib.parse import parse_qs, urlsplit

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novita_async.testing import (
    Exchange,
    ExchangeKind,
    Fault,
    FaultPlan,
    FaultRule,
    Reply,
    Simulator,
    SimulatorConfig,
)
from novita_async.testing.catalogue import catalogue
from novita_async.testing.config import OTHER_TASKS
from novita_async.testing.inputs import InputStore
from novita_async.testing.mailbox import Mailbox
from novita_async.testing.quota import make_quota
from novita_async.testing.workers import WorkerQueue
from tests.helpers.simulator_bodies import (
    IMG2IMG,
    KEY,
    TXT2IMG,
    b64,
    content,
    get,
    img2img,
    png,
    poll,
    submit,
    task_id,
    txt2img,
)

TASK_RESULT = "/v3/async/task-result"
LONG = 10_000.0


def simulator(**config) -> Simulator:
    return Simulator(SimulatorConfig(**config))


def reason(reply: Reply) -> tuple[int, str]:
    return reply.status, content(reply)["reason"]


def open_url(service: Simulator, url: str, now: float, **headers: str) -> Reply:
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    return service.receive(Exchange(method="GET", path=parts.path, query=query, headers=headers), now)


# --- accounts and routes


def test_a_key_is_taken_with_and_without_bearer():
    service = simulator()
    for header in (f"Bearer {KEY}", KEY, f"bearer  {KEY} "):
        exchange = Exchange(method="GET", path="/v3/user", headers={"authorization": header})
        assert service.receive(exchange, 0).status == 200


def test_no_key_is_400_and_a_wrong_one_403():
    service = simulator()
    assert reason(submit(service, key=None)) == (400, "MISSING_API_KEY")
    assert reason(submit(service, key="")) == (400, "MISSING_API_KEY")
    assert reason(submit(service, key="sk_other")) == (403, "INVALID_API_KEY")
    assert reason(get(service, "/v3/nowhere", key=None)) == (400, "MISSING_API_KEY")


@pytest.mark.parametrize(
    ("method", "path"), [("GET", "/v3/models"), ("POST", "/v3/async/new"), ("POST", "/v3/user")]
)
def test_an_unknown_route_is_404(method, path):
    exchange = Exchange(method=method, path=path, headers={"authorization": KEY}, body=b"{}")
    assert reason(simulator().receive(exchange, 0)) == (404, "API_NOT_FOUND")


def test_a_retired_route_answers_plain_text_even_without_a_key():
    service = simulator(retired=IMG2IMG)
    reply = submit(service, key=None)
    assert (reply.status, reply.body, reply.content_type) == (
        404,
        b"route not found",
        "text/plain; charset=utf-8",
    )
    assert service.ledger.refused[0].status == 404


def test_an_empty_balance_is_403_and_each_account_has_its_own():
    service = simulator(api_keys=("a", "b"), balance=45, price=20)
    statuses = [submit(service, key=key).status for key in "aaabb"]
    assert statuses == [200, 200, 403, 200, 200]
    assert service.balance_of("a") == 5
    assert content(get(service, "/v3/user", key="a"))["credit_balance"] == 5
    detail = content(get(service, "/openapi/v1/billing/balance/detail", key="a"))
    assert detail["availableBalance"] == "5"
    assert detail == content(get(service, "/v3/user/balance", key="a"))


def test_nsfw_detection_is_billed_by_image():
    service = simulator(price=20, nsfw_price=15)
    submit(service, img2img({"enable_nsfw_detection": True}, image_num=3))
    assert service.ledger.billed == 105


@pytest.mark.parametrize("path", OTHER_TASKS)
def test_other_endpoints_take_any_object_and_answer_with_a_task(path):
    service = simulator()
    task = task_id(submit(service, {"prompt": "x", "size": "256*192", "num_images": 2}, path=path))
    result = poll(service, task, LONG)
    assert len(result["images"]) == 2
    assert result["task"]["task_type"] == path.rsplit("/", 1)[1].replace("-", "_").upper()
    painting = open_url(service, result["images"][0]["image_url"], LONG).painting
    assert (painting.width, painting.height) == (256, 192)


def test_another_endpoint_reads_the_wrapper_too():
    service = simulator()
    body = {
        "extra": {"webhook": {"url": "http://a.invalid"}},
        "request": {"width": 64, "height": 32, "seed": 7},
    }
    task = task_id(submit(service, body, path="/v3/async/upscale"))
    order = service.tasks[task].order
    assert (order.width, order.height, order.webhook, service.tasks[task].seed) == (
        64,
        32,
        "http://a.invalid",
        7,
    )


# --- submissions


def test_the_submit_answer_is_flat_or_enveloped():
    flat = content(submit(simulator()))
    enveloped = content(submit(simulator(envelope=True)))
    assert set(flat) == {"task_id"}
    assert enveloped == {"code": 0, "msg": "", "data": flat}
    assert re.fullmatch(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", flat["task_id"])


def test_equal_requests_to_equal_seeds_give_equal_answers():
    def life(seed: int) -> list[object]:
        service = simulator(seed=seed, failure_rate=0.3, fifo=False, workers=1)
        tasks = [task_id(submit(service, now=float(n))) for n in range(6)]
        return [poll(service, task, 20.0) for task in tasks]

    assert life(1) == life(1)
    assert life(1) != life(2)


def test_the_ledger_tells_what_was_accepted_by_request_without_the_pictures():
    service = simulator()
    submit(service, img2img(image_num=2), now=3.0)
    submit(service, img2img(steps=0), now=4.0)
    good, bad = service.ledger.entries
    assert (good.number, good.at, good.account, good.status, good.images, good.billed) == (
        1,
        3.0,
        KEY,
        200,
        2,
        40,
    )
    assert good.request["request"]["prompt"] == "a cute dog"
    assert good.request["request"]["image_base64"].endswith(" characters>")
    assert (bad.status, bad.reason, bad.accepted, bad.billed) == (400, "VALIDATOR", False, 0)
    assert service.ledger.reasons() == {"VALIDATOR": 1}
    assert service.ledger.images == 2
    assert repr(service.ledger) == "<Ledger 1 of 2 submissions accepted; 2 submits>"


# --- queue


def status(service: Simulator, task: str, now: float) -> str:
    return poll(service, task, now)["task"]["status"].removeprefix("TASK_STATUS_")


def test_workers_take_tasks_in_order_and_statuses_follow_the_time():
    service = simulator(workers=1, spread=0.0)
    first, second = (task_id(submit(service, img2img(width=512, height=512))) for _ in range(2))
    assert [status(service, first, t) for t in (0.0, 1.99, 2.0)] == ["PROCESSING", "PROCESSING", "SUCCEED"]
    assert [status(service, second, t) for t in (2.0, 3.99, 4.0)] == ["PROCESSING", "PROCESSING", "SUCCEED"]
    assert service.span(first).ended_at == service.span(second).started_at == 2.0


def test_a_task_that_waits_is_queued():
    service = simulator(workers=1)
    _, second = (task_id(submit(service)) for _ in range(2))
    assert status(service, second, 0.0) == "QUEUED"
    assert service.statistics().waiting == service.statistics().running == 1


@given(
    st.integers(1, 5), st.booleans(), st.lists(st.floats(0, 3), min_size=1, max_size=30), st.integers(0, 9)
)
@settings(max_examples=40, deadline=None)
def test_never_more_tasks_run_than_there_are_workers_and_none_idles_while_one_waits(
    workers, fifo, gaps, seed
):
    service = simulator(workers=workers, fifo=fifo, seed=seed)
    now, tasks = 0.0, []
    for gap in gaps:
        now += gap
        tasks.append(task_id(submit(service, txt2img(), now=now, path=TXT2IMG)))
    service.advance(now + LONG)
    spans = {task: service.span(task) for task in tasks}
    assert None not in spans.values()
    for task, span in spans.items():
        others = [o for t, o in spans.items() if t != task and o.started_at <= span.started_at < o.ended_at]
        earlier = [o for o in others if o.started_at < span.started_at]
        assert len(earlier) < workers
        submitted = service.tasks[task].submitted_at
        if span.started_at > submitted:
            assert any(o.ended_at == span.started_at for o in spans.values())
    if fifo:
        starts = [spans[task].started_at for task in tasks]
        assert starts == sorted(starts)


def test_an_order_drawn_from_the_seed_is_not_that_of_arrival():
    service = simulator(workers=1, fifo=False)
    tasks = [task_id(submit(service)) for _ in range(20)]
    service.advance(LONG)
    starts = [service.span(task).started_at for task in tasks]
    assert starts != sorted(starts)
    assert len(set(starts)) == 20


def test_work_grows_with_steps_pixels_and_images():
    service = simulator(spread=0.0, workers=100)

    def seconds(**request: int) -> float:
        return service.tasks[
            task_id(submit(service, img2img(**{"width": 512, "height": 512, **request})))
        ].seconds

    base = seconds()
    assert base == pytest.approx(2.0)
    for more in ({"steps": 40}, {"width": 1024}, {"image_num": 2}):
        assert seconds(**more) == pytest.approx(0.25 + 2 * 1.75)


def test_durations_spread_about_the_usual_and_speed_divides_them():
    body = img2img(width=512, height=512)

    def durations(**config) -> list[float]:
        service = simulator(**config)
        return sorted(service.tasks[task_id(submit(service, body))].seconds for _ in range(400))

    usual, quick = durations(), durations(speed=4)
    assert 1.9 < usual[200] < 2.1
    assert usual[0] < 1.4
    assert usual[-1] > 2.8
    assert quick == pytest.approx([x / 4 for x in usual])


def test_progress_moves_from_0_to_100_or_stays_silent():
    body = img2img(width=512, height=512)
    told, silent = simulator(spread=0.0), simulator(spread=0.0, progress=False)
    for service, expected in ((told, [(0, 2), (50, 1), (99, 1), (100, 0)]), (silent, [(0, 0)] * 4)):
        task = task_id(submit(service, body))
        seen = [poll(service, task, now)["task"] for now in (0.0, 1.0, 1.99, 2.0)]
        assert [(facts["progress_percent"], facts["eta"]) for facts in seen] == expected


def test_failures_are_told_by_status_or_by_an_error():
    told = simulator(failure_rate=1.0)
    result = poll(told, task_id(submit(told)), LONG)
    assert result["task"]["status"] == "TASK_STATUS_FAILED"
    assert result["task"]["reason"] == "failed to exec task"
    assert result["images"] == []
    assert result["extra"]["seed"] == ""
    error = simulator(failure_rate=1.0, failure_as_error=True)
    task = task_id(submit(error))
    assert poll(error, task, 0.0)["task"]["status"] == "TASK_STATUS_PROCESSING"
    assert reason(get(error, TASK_RESULT, now=LONG, task_id=task)) == (500, "TASK_FAILED")


def test_about_the_asked_share_of_tasks_fails():
    service = simulator(failure_rate=0.25)
    fails = sum(service.tasks[task_id(submit(service))].fails for _ in range(400))
    assert 70 < fails < 130


# --- results


def test_a_result_has_the_wire_s_odd_types():
    service = simulator(epoch=1_700_000_000.0, spread=0.0)
    task = task_id(submit(service, img2img(seed=123), now=1.0))
    running, done = poll(service, task, 1.0), poll(service, task, LONG)
    assert running["extra"]["seed"] == ""
    assert running["extra"]["debug_info"]["complete_time_ms"] == ""
    assert done["extra"]["seed"] == "123"
    assert done["extra"]["enable_nsfw_detection"] is False
    assert done["extra"]["debug_info"]["submit_time_ms"] == "1700000001000"
    assert int(done["extra"]["debug_info"]["complete_time_ms"]) > 1_700_000_001_000
    assert msgspec.json.decode(done["extra"]["debug_info"]["request_info"])["seeds"] == [123]
    assert done["task"]["task_type"] == "IMG_TO_IMG"
    image = done["images"][0]
    assert (image["image_url_ttl"], image["image_type"], image["nsfw_detection_result"]) == (
        "3600",
        "png",
        None,
    )
    assert (done["videos"], done["audios"]) == ([], [])


def test_times_are_kept_back_on_request():
    service = simulator(completion_times=False)
    info = poll(service, task_id(submit(service)), LONG)["extra"]["debug_info"]
    assert info == dict.fromkeys(
        ("request_info", "submit_time_ms", "execute_time_ms", "complete_time_ms"), ""
    )


def test_nsfw_fields_come_when_asked_for():
    service = simulator(nsfw_rate=0.5)
    task = task_id(submit(service, img2img({"enable_nsfw_detection": True}, image_num=8)))
    found = [image["nsfw_detection_result"] for image in poll(service, task, LONG)["images"]]
    assert all(result["valid"] is True for result in found)
    assert {result["confidence"] >= 80 for result in found} == {True, False}


def test_a_task_is_found_by_its_own_account_alone():
    service = simulator(api_keys=("a", "b"))
    task = task_id(submit(service, key="a"))
    assert reason(get(service, TASK_RESULT, key="b", task_id=task)) == (404, "TASK_NOT_FOUND")
    assert reason(get(service, TASK_RESULT, key="a", task_id="unknown")) == (404, "TASK_NOT_FOUND")
    assert reason(get(service, TASK_RESULT, key="a")) == (400, "VALIDATOR")


def test_a_task_may_appear_late_and_be_forgotten():
    service = simulator(visible_after=2.0, retention=60.0, spread=0.0)
    task = task_id(submit(service))
    end = service.span(task).ended_at
    found = [
        get(service, TASK_RESULT, now=now, task_id=task).status for now in (1.9, 2.0, end + 59.9, end + 60.0)
    ]
    assert found == [404, 200, 200, 404]


def result_url(service: Simulator, now: float, **extra: object) -> str:
    task = task_id(submit(service, img2img(extra), now=service.now))
    return poll(service, task, now)["images"][0]["image_url"]


def test_a_result_url_looks_presigned_and_hands_out_the_picture_without_a_key():
    service = simulator(epoch=datetime(2026, 3, 4, tzinfo=UTC).timestamp())
    url = result_url(service, 60.0, response_image_type="webp")
    assert re.search(r"/prod/[0-9a-f-]{36}/[0-9a-f]{32}\.webp\?", url)
    query = parse_qs(urlsplit(url).query)
    assert query["X-Amz-Date"] == ["20260304T000100Z"]
    assert query["X-Amz-Expires"] == ["3600"]
    assert {"X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-SignedHeaders", "X-Amz-Signature"} < set(query)
    reply = open_url(service, url, 60.0)
    assert (reply.status, reply.content_type, reply.painting.image_type) == (200, "image/webp", "webp")


def test_an_expired_url_is_403_with_xml_and_the_next_poll_signs_anew():
    service = simulator(url_ttl=10)
    task = task_id(submit(service))
    old = poll(service, task, 100.0)["images"][0]["image_url"]
    assert open_url(service, old, 109.9).status == 200
    expired = open_url(service, old, 110.0)
    assert (expired.status, expired.content_type) == (403, "application/xml")
    assert b"<Code>AccessDenied</Code>" in expired.body
    new = poll(service, task, 110.0)["images"][0]["image_url"]
    assert new != old
    assert open_url(service, new, 110.0).status == 200


@pytest.mark.parametrize("old", ["X-Amz-Expires=3600", "X-Amz-Signature=", "/prod/", ".png"])
def test_a_tampered_url_is_403(old):
    service = simulator()
    url = result_url(service, 60.0)
    new = {"X-Amz-Expires=3600": "X-Amz-Expires=9999", "/prod/": "/prod/x", ".png": ".jpeg"}.get(
        old, old + "0"
    )
    reply = open_url(service, url.replace(old, new), 60.0)
    assert reply.status == 403
    assert b"SignatureDoesNotMatch" in reply.body
    assert open_url(service, url.split("?")[0], 60.0).status == 403


def test_a_result_url_is_refused_when_a_key_comes_along():
    service = simulator()
    assert open_url(service, result_url(service, 60.0), 60.0, authorization=KEY).status == 400


def test_custom_storage_gets_plain_urls_that_only_public_buckets_hand_out():
    storage = {"region": "r", "bucket": "mine", "path": "/a/", "save_to_path_directly": True}
    for public, status_code in ((False, 403), (True, 200)):
        service = simulator(public_buckets=public)
        task = task_id(submit(service, img2img({"custom_storage": {"aws_s3": storage}})))
        image = poll(service, task, LONG)["images"][0]
        assert image["image_url_ttl"] == "0"
        assert "/s3/mine/a/" in image["image_url"]
        assert "?" not in image["image_url"]
        assert open_url(service, image["image_url"], LONG).status == status_code
        assert open_url(service, image["image_url"] + "x", LONG).status == (404 if public else 403)


def test_a_file_of_no_task_is_404_and_cannot_be_posted_to():
    service = simulator()
    url = result_url(service, LONG)
    parts = urlsplit(url)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    assert service.receive(Exchange(method="POST", path=parts.path, query=query), LONG).status == 405
    other = Simulator(SimulatorConfig())
    assert open_url(other, url, LONG).status == 404


@pytest.mark.parametrize(("asked", "used"), [({}, 0.6), ({"strength": None}, 0.6), ({"strength": 0}, 0)])
def test_a_picture_is_drawn_with_the_strength_asked_for_or_the_service_s_own(asked, used):
    service = simulator(default_strength=0.6)
    task = task_id(submit(service, img2img(**asked)))
    url = poll(service, task, LONG)["images"][0]["image_url"]
    recipe = open_url(service, url, LONG).painting
    assert (recipe.strength, recipe.source, recipe.plain) == (used, png(), False)


def test_inputs_beyond_the_limit_are_forgotten_oldest_first():
    pictures = [png(5, 5), png(6, 6), png(5, 5), png(7, 7)]
    bodies = [img2img(image_base64=b64(picture)) for picture in pictures]
    service = simulator(keep_input_bytes=len(png(5, 5)) + len(png(7, 7)))
    tasks = [task_id(submit(service, body)) for body in bodies]
    urls = [poll(service, task, LONG)["images"][0]["image_url"] for task in tasks]
    sources = [open_url(service, url, LONG).painting.source for url in urls]
    assert sources == [png(5, 5), None, png(5, 5), png(7, 7)]


# --- quota

ARRIVALS = st.lists(st.tuples(st.floats(0, 40), st.integers(1, 8)), min_size=1, max_size=60)


def admitted(kind: str, limit: int, arrivals: list[tuple[float, int]]) -> list[tuple[float, int]]:
    quota, now, hits = make_quota(kind, limit), 0.0, []
    for gap, images in arrivals:
        now += gap
        after = quota.admit(images, now)
        if after is None:
            assert quota.wait(images, now) > 0
        else:
            quota = after
            hits.append((now, images))
    return hits


def in_window(hits: list[tuple[float, int]], start: float) -> int:
    return sum(images for at, images in hits if start <= at < start + 60)


@given(ARRIVALS, st.integers(8, 20))
def test_a_sliding_window_never_admits_more_in_any_60_seconds(arrivals, limit):
    hits = admitted("sliding", limit, arrivals)
    assert hits
    assert all(in_window(hits, start) <= limit for start, _ in hits)


@given(ARRIVALS, st.integers(8, 20))
def test_a_fixed_window_never_admits_more_in_a_minute_of_the_clock(arrivals, limit):
    hits = admitted("fixed", limit, arrivals)
    assert all(in_window(hits, 60 * minute) <= limit for minute in range(int(hits[-1][0] // 60) + 1))


@given(ARRIVALS, st.integers(8, 20))
def test_a_leaky_bucket_never_admits_more_than_it_holds_and_has_drained(arrivals, limit):
    hits = admitted("leaky", limit, arrivals)
    for i, (start, _) in enumerate(hits):
        for j in range(i, len(hits)):
            total = sum(images for _, images in hits[i : j + 1])
            assert total <= limit + (hits[j][0] - start) * limit / 60 + 1e-6


def test_a_fixed_window_admits_twice_the_quota_about_a_full_minute_and_a_sliding_one_does_not():
    arrivals = [(59.0, 8), (0.5, 2), (0.5, 8), (0.5, 2)]
    assert len(admitted("fixed", 10, arrivals)) == 4
    assert len(admitted("sliding", 10, arrivals)) == 2


@given(st.sampled_from(["sliding", "fixed", "leaky"]), ARRIVALS, st.integers(8, 20))
def test_after_the_wait_that_a_quota_tells_it_admits(kind, arrivals, limit):
    quota, now = make_quota(kind, limit), 0.0
    for gap, images in arrivals:
        now += gap
        if (after := quota.admit(images, now)) is None:
            now += quota.wait(images, now) + 1e-6
            after = quota.admit(images, now)
        assert after is not None
        quota = after


@pytest.mark.parametrize("kind", ["sliding", "fixed", "leaky"])
def test_a_request_above_the_quota_is_never_admitted(kind):
    assert make_quota(kind, 4).admit(5, 1000.0) is None
    assert make_quota(kind, 4).wait(5, 1000.0) > 0


def test_the_quota_counts_images_by_account_and_endpoint():
    service = simulator(api_keys=("a", "b"), images_per_minute=10)
    assert submit(service, img2img(image_num=8), key="a").status == 200
    assert reason(submit(service, img2img(image_num=3), key="a")) == (429, "RATE_LIMIT_EXCEEDED")
    assert submit(service, img2img(image_num=2), key="a").status == 200
    assert submit(service, img2img(image_num=8), key="b").status == 200
    assert submit(service, txt2img(image_num=8), key="a", path=TXT2IMG).status == 200
    assert submit(service, img2img(image_num=8), key="a", now=60.0).status == 200
    assert service.ledger.most_images_in(60.0, account="a", endpoint=IMG2IMG) == 10
    assert service.ledger.billed == 20 * service.ledger.images


@given(ARRIVALS)
def test_the_ledger_finds_the_fullest_window(arrivals):
    service, now, hits = simulator(), 0.0, []
    for gap, images in arrivals:
        now += gap
        submit(service, txt2img(image_num=images), now=now, path=TXT2IMG)
        hits.append((now, images))
    ends = [sum(n for at, n in hits if at <= end < at + 60) for end, _ in hits]
    assert service.ledger.most_images_in(60.0) == max(ends)


def test_a_refusal_does_not_count_and_says_when_to_come_back_on_request():
    service = simulator(images_per_minute=1, retry_after=True)
    submit(service, now=10.0)
    refused = [submit(service, now=now) for now in (20.0, 69.5)]
    assert [reply.headers["retry-after"] for reply in refused] == ["50", "1"]
    assert submit(service, now=70.0).status == 200
    silent = simulator(images_per_minute=1)
    submit(silent)
    assert submit(silent).headers == {}


# --- models


def listed(service: Simulator, **query: str) -> list[dict]:
    return content(
        get(
            service,
            "/v3/model",
            **{f"filter.{k}": v for k, v in query.items()},
            **{"pagination.limit": "100"},
        )
    )["models"]


@pytest.mark.parametrize("limit", [7, 10, 100])
def test_cursor_pages_give_every_model_once_and_end_with_an_empty_cursor(limit):
    service, cursor, seen = simulator(), "", []
    for _ in range(100):
        page = content(
            get(service, "/v3/model", **{"pagination.cursor": cursor, "pagination.limit": str(limit)})
        )
        assert page["models"]
        seen += [model["id"] for model in page["models"]]
        cursor = page["pagination"]["next_cursor"]
        if not cursor:
            break
        assert re.fullmatch(r"c_[A-Za-z0-9+/]+=*", cursor)
    assert seen == [model["id"] for model in catalogue()]
    assert len(set(seen)) == len(seen) > 100


def test_cursors_may_be_the_start_or_an_offset_and_nonsense_is_refused():
    service = simulator()

    def first(cursor: str) -> int:
        return content(get(service, "/v3/model", **{"pagination.cursor": cursor}))["models"][0]["id"]

    assert first("") == first("c_0") == catalogue()[0]["id"]
    assert first("c_10") == first("c_c_10") == catalogue()[10]["id"]
    nested = b64(b"[" * 100_000)
    cursors = ("c_!", "c_" + "9" * 5000, f"c_{nested}", f"c_{b64(b'{}')}", f"c_{b64(b'[]')}")
    refused = [{"pagination.cursor": cursor} for cursor in cursors]
    for query in (*refused, {"pagination.limit": "0"}, {"pagination.limit": "101"}):
        assert reason(get(service, "/v3/model", **query)) == (400, "VALIDATOR")


def test_models_are_filtered():
    service = simulator()
    assert {model["type"]["name"] for model in listed(service, types="lora")} == {"lora"}
    assert {model["is_sdxl"] for model in listed(service, is_sdxl="true")} == {True}
    assert {model["is_sdxl"] for model in listed(service, is_sdxl="0")} == {False}
    assert {model["source"] for model in listed(service, source="training")} == {"training"}
    assert {model["source"] for model in listed(service, visibility="public")} == {"civitai"}
    assert {model["base_model_type"] for model in listed(service, is_inpainting="true")} == {"Inpainting"}
    assert "add_detail_44319" in [model["sd_name_in_api"] for model in listed(service, query="ADD_detail")]
    assert listed(service, is_nsfw="true") == []


# --- webhooks

HOOK = {"webhook": {"url": "https://hooks.invalid/x?token=1"}}


def test_an_event_is_due_when_its_task_ends():
    service = simulator(spread=0.0)
    task = task_id(submit(service, img2img(HOOK)))
    end = service.span(task).ended_at
    assert service.next_event_at() == end
    assert service.due_webhooks(end - 0.01) == []
    (call,) = service.due_webhooks(end)
    event = msgspec.json.decode(call.body)
    assert (call.url, call.attempt, event["event_type"]) == (HOOK["webhook"]["url"], 1, "ASYNC_TASK_RESULT")
    assert event["payload"]["task"]["status"] == "TASK_STATUS_SUCCEED"
    assert event["payload"]["extra"] == {"enable_nsfw_detection": False, "webhook": {"url": call.url}}
    assert open_url(service, event["payload"]["images"][0]["image_url"], end).status == 200
    service.settle_webhook(call, taken=True, now=end)
    assert service.next_event_at() is None
    assert service.ledger.webhooks == {task: [end]}


def test_an_event_that_nobody_takes_is_sent_six_times_in_all():
    service = simulator(webhook_retry=1.0)
    submit(service, img2img(HOOK))
    times, attempts = [], []
    while (at := service.next_event_at()) is not None:
        for call in service.due_webhooks(at):
            times.append(at)
            attempts.append(call.attempt)
            service.settle_webhook(call, taken=False, now=at)
    assert attempts == [1, 2, 3, 4, 5, 6]
    assert [later - sooner for sooner, later in pairwise(times)] == pytest.approx([1, 2, 4, 8, 16])
    assert service.ledger.webhooks == {}


@pytest.mark.parametrize(("fault", "calls"), [(Fault.lose_webhook(), 0), (Fault.duplicate_webhook(), 2)])
def test_events_get_lost_and_come_twice_as_planned(fault, calls):
    service = Simulator(faults=FaultPlan.listed("webhook", {1: fault}))
    for _ in range(2):
        submit(service, img2img(HOOK))
    due = service.due_webhooks(LONG)
    assert len(due) == calls + 1


@pytest.mark.parametrize("ending", ["TASK_STATUS_SUCCEED", "TASK_STATUS_FAILED"])
def test_a_webhook_s_test_mode_sends_a_mock_event_at_once_and_costs_nothing(ending):
    service = simulator(images_per_minute=1)
    extra = {"webhook": {**HOOK["webhook"], "test_mode": {"enabled": True, "return_task_status": ending}}}
    for _ in range(2):
        task = task_id(submit(service, img2img(extra)))
    calls = service.due_webhooks(0.0)
    assert len(calls) == 2
    assert msgspec.json.decode(calls[0].body)["payload"]["task"]["status"] == ending
    assert poll(service, task, 0.0)["task"]["status"] == ending
    assert (service.ledger.billed, service.ledger.images, service.statistics().running) == (0, 0, 0)


def test_listeners_hear_of_each_task_until_they_unsubscribe():
    service, heard = simulator(), []
    stop = service.subscribe(lambda: heard.append(service.next_event_at()))
    submit(service)
    stop()
    submit(service)
    assert len(heard) == 1
    assert heard[0] is not None


# --- faults as values


def test_a_fault_plan_hits_by_number_kind_and_chance_and_the_first_rule_counts():
    slow, cut = Fault.slow(1.0), Fault.truncate()
    plan = FaultPlan.of(
        FaultRule(fault=slow, on="poll", numbers=range(2, 4)),
        FaultRule(fault=cut, on={"poll", "submit"}, chance=0.5),
    )
    assert [plan.fault_for(ExchangeKind.POLL, n) is slow for n in range(1, 5)] == [False, True, True, False]
    hits = sum(plan.fault_for(ExchangeKind.SUBMIT, n) is cut for n in range(1000))
    assert 430 < hits < 570
    assert plan.fault_for(ExchangeKind.DOWNLOAD, 2) is None


def test_chaos_hits_about_its_rate_in_every_way_and_repeats_itself():
    plan = FaultPlan.chaos(0.3, seed=4)
    faults = [plan.fault_for(ExchangeKind.SUBMIT, n) for n in range(3000)]
    hit = [fault.kind for fault in faults if fault]
    assert 0.27 < len(hit) / 3000 < 0.33
    assert len(set(hit)) == 9
    assert faults == [FaultPlan.chaos(0.3, seed=4).fault_for(ExchangeKind.SUBMIT, n) for n in range(3000)]
    kinds = {fault.kind for n in range(300) if (fault := plan.fault_for(ExchangeKind.WEBHOOK, n))}
    assert kinds == {"lose_webhook", "duplicate_webhook"}


def test_a_fault_rate_in_the_configuration_makes_chaos():
    assert simulator(fault_rate=0.5, seed=3).faults == FaultPlan.chaos(0.5, seed=3)
    assert simulator().faults == FaultPlan()


def test_a_status_fault_has_the_api_s_body_unless_it_is_given_one():
    limited = Fault.answer(429, retry_after="Wed, 21 Oct 2026 07:28:00 GMT").reply
    assert content(limited)["reason"] == "RATE_LIMIT_EXCEEDED"
    assert limited.headers == {"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}
    assert content(Fault.answer(500).reply)["reason"] == "UNKNOWN"
    bare = Fault.answer(502, b"", content_type="text/html").reply
    assert (bare.body, bare.content_type) == (b"", "text/html")


# --- time


def test_time_never_goes_back():
    service = simulator()
    task = task_id(submit(service, now=100.0))
    assert service.tasks[task].submitted_at == 100.0
    later = task_id(submit(service, now=50.0))
    assert service.tasks[later].submitted_at == 100.0


def test_a_second_clock_goes_on_where_the_first_one_stopped():
    service = simulator()
    assert service.on_clock("first", 5.0) == 5.0
    service.advance(300.0)
    assert service.on_clock("second", 0.0) == 300.0
    assert service.on_clock("second", 2.0) == 302.0
    assert service.on_clock("first", 301.0) == 301.0


def test_it_tells_how_it_is():
    service = simulator(workers=1)
    task_id(submit(service))
    submit(service)
    assert repr(service) == "<Simulator at 0.0 s: 2 tasks, 1 waiting, 1 running, 0 done>"
    poll(service, "x", LONG)
    numbers = service.statistics()
    assert (numbers.submissions, numbers.accepted, numbers.images, numbers.done, numbers.polls) == (
        2,
        2,
        2,
        2,
        1,
    )


@pytest.mark.parametrize(
    "field", ["failure_rate", "nsfw_rate", "fault_rate", "latency_jitter", "default_strength"]
)
def test_shares_lie_between_0_and_1(field):
    for wrong in (-0.1, 1.1):
        with pytest.raises(ValueError, match=field):
            SimulatorConfig(**{field: wrong})


@pytest.mark.parametrize("field", ["workers", "speed", "images_per_minute", "url_ttl"])
def test_numbers_that_must_be_above_0_are(field):
    with pytest.raises(ValueError, match=field):
        SimulatorConfig(**{field: 0})


def test_its_parts_tell_how_they_are():
    queue = WorkerQueue(workers=1)
    queue.add("a", 1.0, 0.0)
    queue.add("b", 1.0, 0.0)
    assert repr(queue) == "<WorkerQueue 1 waiting, 1/1 running, 0 done>"
    mailbox = Mailbox(retry=1.0)
    mailbox.post("a", 0.0)
    assert (repr(mailbox), mailbox.statistics().waiting) == ("<Mailbox 1 waiting, 0 taken, 0 given up>", 1)
    inputs = InputStore(limit=10)
    inputs.keep(b"123")
    assert (repr(inputs), inputs.statistics().size) == ("<InputStore 1 pictures, 3/10 bytes>", 3)


def test_keys_stay_out_of_the_configuration_s_repr():
    assert "secret" not in repr(SimulatorConfig(api_keys="secret"))
