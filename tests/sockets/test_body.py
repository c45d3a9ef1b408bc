"""Bodies that are made while they go out, and the turns that they share."""

import asyncio
import base64
import json
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novita_async._http import BOUNDARY_LENGTH, FormPart, HTTPRequest
from novita_async._transport import body as _body
from novita_async._transport.body import RAW_SLICE, TEXT_SLICE, WriteScheduler, whole
from novita_async._transport.body import pieces as pieces_of
from novita_async.errors import InvalidRequest
from novita_async.models.images import ImageSource
from tests.helpers.forms import fields_of

PICTURES = st.one_of(
    st.binary(min_size=1, max_size=300),
    st.sampled_from([RAW_SLICE - 1, RAW_SLICE, RAW_SLICE + 1, 2 * RAW_SLICE, 3 * RAW_SLICE + 2]).map(
        lambda size: bytes(range(256)) * (size // 256) + b"x" * (size % 256)
    ),
)


def pieces(request):
    return pieces_of(request, request.content_length)


def submission(*parts):
    return HTTPRequest(method="POST", path="/v3/async/img2img", body=parts)


def made_until_refused(request):
    made = []
    with pytest.raises(InvalidRequest, match="has changed"):
        made.extend(map(len, pieces(request)))
    with pytest.raises(InvalidRequest, match="has changed"):
        whole(request, request.content_length)
    return sum(made)


def recipe(texts, pictures):
    """A JSON array of texts and pictures in turn."""
    parts, head = [], "["
    for text, picture in zip(texts, pictures, strict=True):
        parts += [f'{head}{json.dumps(text)},"'.encode(), ImageSource.from_bytes(picture)]
        head = '",'
    return submission(*parts, b'"]')


@given(st.lists(st.tuples(st.text(), PICTURES), min_size=1, max_size=4))
def test_a_body_is_the_json_with_its_pictures_in_base64(items):
    request = recipe(*zip(*items, strict=True))
    body = b"".join(pieces(request))
    expected = [x for text, picture in items for x in (text, base64.b64encode(picture).decode())]
    assert json.loads(body) == expected
    assert len(body) == request.content_length


@given(st.lists(PICTURES, min_size=1, max_size=3), st.integers(0, 3 * TEXT_SLICE))
def test_no_piece_is_larger_than_a_slice_and_a_whole_body_is_the_same(pictures, text_length):
    request = recipe(["x" * text_length, *[""] * (len(pictures) - 1)], pictures)
    assert max(map(len, pieces(request))) <= TEXT_SLICE
    assert whole(request, request.content_length) == b"".join(pieces(request))


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="%"), min_size=1, max_size=12)
FIELDS = st.builds(
    FormPart,
    name=NAMES,
    content=st.one_of(st.binary(max_size=300), PICTURES.map(ImageSource.from_bytes)),
    filename=st.none() | NAMES,
    content_type=st.sampled_from([None, "image/png"]),
)


def content_of(part):
    return part.content if isinstance(part.content, bytes) else part.content.read()


@given(st.lists(FIELDS, max_size=4))
def test_a_form_is_read_by_others_as_it_was_meant_and_has_its_length(parts):
    request = HTTPRequest(method="POST", path="/edits", parts=tuple(parts))
    boundary = "b" * BOUNDARY_LENGTH
    body = b"".join(pieces_of(request, request.content_length, boundary))
    assert len(body) == request.content_length
    assert body == whole(request, request.content_length, boundary=boundary)
    read = fields_of(body, boundary)
    assert [(name, content) for name, _, _, content in read] == [(p.name, content_of(p)) for p in parts]
    assert [file for _, file, _, _ in read] == [part.filename for part in parts]
    assert [kind for _, _, kind, _ in read] == [part.content_type for part in parts]


@given(st.lists(FIELDS, min_size=1, max_size=3))
def test_no_piece_of_a_form_is_larger_than_a_slice(parts):
    request = HTTPRequest(method="POST", path="/edits", parts=tuple(parts))
    made = pieces_of(request, request.content_length, "b" * BOUNDARY_LENGTH)
    assert max(map(len, made)) <= TEXT_SLICE


def test_a_picture_that_has_changed_makes_no_form(tmp_path):
    (tmp_path / "a.png").write_bytes(b"x" * 100)
    part = FormPart(name="image[]", content=ImageSource.from_path(tmp_path / "a.png"), filename="a.png")
    (tmp_path / "a.png").write_bytes(b"y" * 101)
    request = HTTPRequest(method="POST", path="/edits", parts=(part,))
    with pytest.raises(InvalidRequest, match="has changed"):
        whole(request, request.content_length, boundary="b" * BOUNDARY_LENGTH)


def test_an_empty_body_is_empty():
    assert whole(submission(), 0) == b""


def test_each_attempt_starts_at_the_beginning_of_the_file(tmp_path):
    (tmp_path / "a.png").write_bytes(os.urandom(3 * RAW_SLICE))
    request = submission(b'"', ImageSource.from_path(tmp_path / "a.png"), b'"')
    next(abandoned := pieces(request))
    next(abandoned)
    assert b"".join(pieces(request)) == b"".join(pieces(request))
    abandoned.close()


@pytest.mark.parametrize("size", [30, 3 * RAW_SLICE])
def test_a_file_that_changed_is_an_error_before_the_last_piece(tmp_path, size):
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * size)
    request = submission(b'"', ImageSource.from_path(path), b'"')
    path.write_bytes(b"x" * (size + 1))
    assert made_until_refused(request) < request.content_length


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(tmp_path):
    path = tmp_path / "a.png"
    path.write_bytes(b"x" * (3 * RAW_SLICE))
    request = submission(b'"', ImageSource.from_path(path), b'"')
    made = pieces(request)
    next(made)
    next(made)
    os.truncate(path, 100)
    with pytest.raises(InvalidRequest, match="has changed"):
        list(made)


@pytest.mark.parametrize("length", [100, 3 * RAW_SLICE, 5 * RAW_SLICE])
def test_a_source_that_is_not_as_long_as_it_says_never_makes_a_whole_body(monkeypatch, length):
    request = submission(b'"', ImageSource.from_bytes(b"x" * (4 * RAW_SLICE)), b'"')
    monkeypatch.setattr(ImageSource, "slices", lambda *_: iter([b"x" * length]))
    monkeypatch.setattr(ImageSource, "read", lambda _: b"x" * length)
    assert made_until_refused(request) < request.content_length


# --- The fair write scheduler -----------------------------------------------------------------------------


async def in_turn(turns, size, log, name):
    await turns.later(size)
    log.append(name)


def run_turns(turns, *sizes):
    """Which of several wait until which turn."""

    async def main():
        log = []
        tasks = [asyncio.create_task(in_turn(turns, size, log, i)) for i, size in enumerate(sizes)]
        history = []
        while not all(task.done() for task in tasks):
            await asyncio.sleep(0)
            history.append(tuple(log))
        return [x for x in dict.fromkeys(history) if x]

    return asyncio.run(main())


def test_a_turn_takes_no_more_than_its_budget_first_come_first_served():
    assert run_turns(WriteScheduler(budget=100), 60, 50, 10, 95, 5) == [
        (0, 1),
        (0, 1, 2, 3),
        (0, 1, 2, 3, 4),
    ]


def test_one_piece_larger_than_the_budget_still_goes_out():
    assert run_turns(WriteScheduler(budget=100), 1000, 1) == [(0,), (0, 1)]


def test_entering_a_turn_needs_no_wait_until_it_is_full():
    async def main():
        turns = WriteScheduler(budget=100)
        entered = [turns.enter(60), turns.enter(60), turns.enter(1)]
        await asyncio.sleep(0)
        return entered, turns.enter(1)

    assert asyncio.run(main()) == ([True, True, False], True)


def test_nobody_overtakes_those_who_wait():
    async def main():
        turns = WriteScheduler(budget=100)
        waiting = asyncio.create_task(turns.later(10))
        await asyncio.sleep(0)
        overtaken = turns.enter(1)
        statistics = turns.statistics()
        await waiting
        return overtaken, statistics.waiting, turns.statistics().waiting

    assert asyncio.run(main()) == (False, 1, 0)


def test_who_gave_up_takes_no_room():
    async def main():
        turns = WriteScheduler(budget=100)
        log = []
        first, second = [asyncio.create_task(in_turn(turns, 100, log, i)) for i in range(2)]
        await asyncio.sleep(0)
        first.cancel()
        for _ in range(3):
            await asyncio.sleep(0)
        assert second.done()
        return log

    assert asyncio.run(main()) == [1]


def test_turns_show_what_waits():
    async def main():
        turns = WriteScheduler(budget=100)
        turns.enter(30)
        return repr(turns)

    assert asyncio.run(main()) == "<WriteScheduler of 100 bytes, 70 left, 0 waiting>"


def test_nothing_stays_scheduled_when_nothing_waits():
    async def main():
        turns = WriteScheduler(budget=100)
        await turns.later(10)
        for _ in range(3):
            await asyncio.sleep(0)
        return turns._turning

    assert asyncio.run(main()) is False


def test_a_slice_is_a_multiple_of_three_so_that_padding_comes_last():
    assert RAW_SLICE % 3 == 0
    assert 48 * 1024 <= _body.TEXT_SLICE <= 192 * 1024
