"""Answers that hold pictures on the wire: files while they come, and whatever goes wrong."""

import asyncio
import gzip
import json
import os
import socket
import threading
from contextlib import suppress

import pytest

from novita_async._api.protocol import read_submission
from novita_async._http import HTTPRequest
from novita_async._transport import pictures as pictures_room
from novita_async._transport import slow_path
from novita_async._transport.connections import keep_alive
from novita_async._transport.pictures import PictureAnswer
from novita_async._transport.transport import AiohttpTransport
from tests.helpers.exchanges import UNKNOWN, exchange
from tests.helpers.picture_answers import images_answer, picture
from tests.helpers.wire import OK, answer, serve, settled

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]

LARGE = picture(700_000)
SMALL = picture(3000, seed=1)


def request(folder=None, **more):
    body = (b'{"prompt":"a dog"}',)
    return HTTPRequest(method="POST", path="/edits", body=body, answer="pictures", folder=folder, **more)


def kept(part):
    return part.path.read_bytes() if part.path else part.data


def files_in(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


class Answered:
    """What became of one exchange, with the pictures read before the transport is closed."""

    def __init__(self, sent):
        self.sent = sent
        self.response = sent.response
        self.body = json.loads(sent.response.body) if sent.response and sent.response.parts else None
        self.pictures = [kept(part) for part in sent.response.parts] if sent.response else []


async def answered(raw, folder=None, end=None, **options):
    """What becomes of a request that is answered with these bytes."""

    async def script(peer):
        await peer.request()
        await peer.send(raw)
        if end:
            end(peer)
        await peer.rest()

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url, **options)
        try:
            return Answered(await exchange(transport, request(folder)))
        finally:
            await transport.aclose()


async def test_pictures_come_as_files_and_the_rest_as_json(tmp_path):
    result = await answered(answer(200, images_answer(LARGE, SMALL, usage={"total": 1})), tmp_path)
    assert result.pictures == [LARGE, SMALL]
    assert result.body["usage"] == {"total": 1}
    assert [item["b64_json"] for item in result.body["data"]] == [part.mark for part in result.response.parts]
    parts = result.response.parts
    assert [(part.size, part.kind, part.lost) for part in parts] == [
        (700_000, "png", None),
        (3000, "png", None),
    ]
    assert files_in(tmp_path) == sorted(part.path.name for part in parts)
    assert (result.response.cut, result.sent.handovers) == (None, 1)


async def test_without_a_folder_a_large_picture_lies_in_a_temporary_one_until_the_transport_closes():
    result = await answered(answer(200, images_answer(LARGE, SMALL)))
    large, small = result.response.parts
    assert result.pictures == [LARGE, SMALL]
    assert (large.data, small.path) == (None, None)
    assert not large.path.parent.exists()


async def test_pictures_in_a_folder_are_on_the_disk_with_their_names_when_the_answer_is_told(
    tmp_path, monkeypatch
):
    synced, usual = [], os.fsync

    def fsync(handle):
        usual(handle)
        synced.append(os.fstat(handle).st_ino)

    monkeypatch.setattr(os, "fsync", fsync)
    result = await answered(answer(200, images_answer(SMALL, LARGE)), tmp_path)
    places = [*(part.path for part in result.response.parts), tmp_path]
    assert synced == [place.stat().st_ino for place in places]
    synced.clear()
    await answered(answer(200, images_answer(LARGE)))
    assert synced == []


async def test_a_missing_folder_is_made(tmp_path):
    result = await answered(answer(200, images_answer(SMALL)), tmp_path / "new" / "folder")
    assert files_in(tmp_path / "new" / "folder") == [result.response.parts[0].path.name]


async def test_an_answer_in_chunks_and_compressed_is_the_same(tmp_path):
    text = gzip.compress(images_answer(LARGE))
    pieces = [text[n : n + 5000] for n in range(0, len(text), 5000)]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    result = await answered(head + body, tmp_path)
    assert (result.pictures, result.response.cut) == ([LARGE], None)


@pytest.mark.parametrize(
    "raw", [answer(200, b'{"task_id": "a"}'), answer(200, b""), answer(400, b'{"reason": "BAD"}')]
)
async def test_an_answer_without_pictures_is_told_as_it_is(raw, tmp_path):
    result = await answered(raw, tmp_path)
    assert result.response.body == raw.partition(b"\r\n\r\n")[2]
    assert (result.response.parts, result.response.cut, files_in(tmp_path)) == ((), None, [])


@pytest.mark.parametrize("picture", [LARGE, SMALL], ids=["large", "small"])
async def test_an_answer_that_is_a_picture_itself_comes_as_a_file_too(picture, tmp_path):
    result = await answered(answer(200, picture), tmp_path)
    assert result.pictures == [picture]
    assert result.body == {"image": result.response.parts[0].mark}
    assert read_submission(result.response, "/v3/x", 1).images[0].type == "png"


async def test_an_answer_that_is_a_picture_and_breaks_off_is_lost_and_leaves_no_file(tmp_path):
    raw = answer(200, LARGE)
    places = [len(raw) - len(LARGE) + come for come in (1, 7, 63, 64, 3000, len(LARGE) - 1)]
    results = await cut_results(LARGE, places, tmp_path, lambda peer: peer.close())
    assert {result.sent.delivery for result in results} == {UNKNOWN}
    assert [files_in(tmp_path / str(place)) for place in places] == [[]] * len(places)


@pytest.mark.parametrize("raw", [b"\x89PNG", b"\xff\xfe no picture" + b"x" * 200, b"x" * 63, b"word"])
async def test_an_answer_that_only_may_have_been_a_picture_is_told_as_it_is(raw, tmp_path):
    result = await answered(answer(200, raw), tmp_path)
    assert (result.response.body, result.response.parts, files_in(tmp_path)) == (raw, (), [])


async def test_a_refusal_that_holds_a_picture_is_told_whole_and_makes_no_file(tmp_path):
    result = await answered(answer(500, images_answer(SMALL)), tmp_path)
    assert (result.response.body, files_in(tmp_path)) == (images_answer(SMALL), [])


async def cut_results(body, places, folder, end):
    """What becomes of one request after the other whose answer breaks off at one place after the other."""
    left = iter(places)

    async def script(peer):
        while await peer.request():
            await peer.send(answer(200, body)[: next(left)])
            end(peer)

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        results = [Answered(await exchange(transport, request(folder / str(place)))) for place in places]
        await transport.aclose()
    return results


@pytest.mark.parametrize("way", ["close", "reset"])
async def test_an_answer_that_breaks_off_anywhere_keeps_every_whole_picture_and_no_other(way, tmp_path):
    body = images_answer(picture(900, 1), picture(900, 2))
    whole = answer(200, body)
    head = len(whole) - len(body)
    first, second = (whole.index(b'"', whole.index(digits)) + 1 for digits in (b"iVBOR", b"iVBOR"))
    second = whole.index(b'"', whole.rindex(b"iVBOR")) + 1
    places = [*range(head, len(whole), 211), *range(first - 3, first + 4), *range(second - 3, second + 4)]
    places = sorted({place for place in places if place < len(whole)})
    results = await cut_results(body, places, tmp_path, lambda peer: getattr(peer, way)())
    for place, result in zip(places, results, strict=True):
        expected = [picture(900, 1)] * (place >= first) + [picture(900, 2)] * (place >= second)
        assert result.pictures == expected, place
        assert result.sent.handovers == 1
        assert len(files_in(tmp_path / str(place))) == len(expected)
        if expected:
            assert result.response.cut
            marks = [item["b64_json"] for item in result.body["data"] if "b64_json" in item]
            assert marks == [part.mark for part in result.response.parts[: len(expected)]]
        else:
            assert (result.sent.delivery, result.sent.error.status) == (UNKNOWN, 200)


async def test_what_comes_while_a_piece_is_worked_on_is_kept_where_the_connection_breaks(
    tmp_path, monkeypatch
):
    raw = answer(200, images_answer(SMALL, LARGE))
    begun, goes_on, usual = threading.Event(), threading.Event(), PictureAnswer._carry_out

    def carry_out(answer, piece):
        begun.set()
        goes_on.wait(10)
        usual(answer, piece)

    async def script(peer):
        await peer.request()
        await peer.send(raw[:1000])
        await settled(begun.is_set)
        await peer.send(raw[1000:6000])
        await asyncio.sleep(0.05)
        peer.reset()
        await asyncio.sleep(0.05)
        goes_on.set()

    monkeypatch.setattr(PictureAnswer, "_carry_out", carry_out)
    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        result = Answered(await exchange(transport, request(tmp_path)))
        await transport.aclose()
    assert result.pictures == [SMALL]
    assert "broke" in result.response.cut


async def test_json_that_ends_too_early_in_a_whole_answer_is_told_as_cut(tmp_path):
    body = images_answer(SMALL)
    result = await answered(answer(200, body[:-5]), tmp_path)
    assert (result.pictures, result.response.cut) == ([SMALL], "the answer ends too early")


async def test_an_answer_that_stops_coming_keeps_the_whole_picture(tmp_path):
    raw = answer(200, images_answer(SMALL, LARGE))
    result = await answered(raw[:90_000], tmp_path, stall_timeout=0.1)
    assert result.pictures == [SMALL]
    assert "made no progress" in result.response.cut
    assert len(files_in(tmp_path)) == 1


async def test_an_answer_of_which_nothing_comes_has_the_time_of_the_request(tmp_path):
    async def script(peer):
        await peer.request()
        await peer.send(OK)
        await peer.request()
        await peer.rest()

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        await exchange(transport)  # the connection is there
        sent = await exchange(transport, request(tmp_path, timeout=0.4))
        await transport.aclose()
    assert (sent.delivery, sent.error.cause) == (UNKNOWN, "no whole answer within 0.4 s")


async def test_an_answer_that_comes_slowly_may_take_longer_than_the_time_of_the_request(tmp_path):
    raw = answer(200, images_answer(picture(6000)))

    async def script(peer):
        await peer.request()
        await peer.send(OK)
        await peer.request()
        for n in range(0, len(raw), 400):
            await peer.send(raw[n : n + 400])
            await asyncio.sleep(0.04)
        await peer.rest()

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        await exchange(transport)  # the connection is there
        result = Answered(await exchange(transport, request(tmp_path, timeout=0.5)))
        await transport.aclose()
    assert (result.pictures, result.response.cut) == ([picture(6000)], None)


async def test_an_answer_may_not_drip_for_ever(tmp_path, monkeypatch):
    monkeypatch.setattr(slow_path, "_LONGEST", 0.1)

    async def script(peer):
        await peer.request()
        await peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        while True:
            await peer.send(b" ")
            await asyncio.sleep(0.01)

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url, stall_timeout=0.5)
        sent = await exchange(transport, request(tmp_path))
        await transport.aclose()
    assert (sent.delivery, sent.error.status) == (UNKNOWN, 200)


@pytest.mark.parametrize("limit", ["MAX_TEXT", "MAX_PICTURES"])
async def test_an_answer_that_is_too_large_keeps_what_was_whole(limit, tmp_path, monkeypatch):
    monkeypatch.setattr(pictures_room, limit, 50_000)
    body = (
        images_answer(SMALL, LARGE) if limit == "MAX_PICTURES" else images_answer(SMALL, other="é" * 60_000)
    )
    result = await answered(answer(200, body), tmp_path)
    assert result.pictures == [SMALL]
    assert result.response.cut == "the answer is larger than 50,000 bytes"
    assert len(files_in(tmp_path)) == 1


async def test_a_cancellation_keeps_the_whole_picture_that_has_come(tmp_path):
    raw = answer(200, images_answer(SMALL, LARGE))

    async def script(peer):
        await peer.request()
        await peer.send(raw[:900_000])
        await peer.rest()

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        task = asyncio.ensure_future(exchange(transport, request(tmp_path)))
        await settled(lambda: len(files_in(tmp_path)) == 2)
        task.cancel()
        result = Answered(await task)
        assert task.cancelling() == 1
        await transport.aclose()
    assert result.pictures == [SMALL]
    assert result.response.cut == "cancelled before the rest came"
    assert len(files_in(tmp_path)) == 1


async def test_a_cancellation_before_anything_is_whole_leaves_no_file(tmp_path):
    raw = answer(200, images_answer(LARGE))

    async def script(peer):
        await peer.request()
        await peer.send(raw[:900_000])
        await peer.rest()

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        task = asyncio.ensure_future(exchange(transport, request(tmp_path)))
        await settled(lambda: len(files_in(tmp_path)) == 1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert transport.statistics().in_flight == 0
        await transport.aclose()
    assert files_in(tmp_path) == []


async def test_a_cancellation_while_the_last_picture_is_made_durable_keeps_it(tmp_path, monkeypatch):
    task = None
    usual = PictureAnswer._finish

    def finish(answer):
        usual(answer)
        task.get_loop().call_soon_threadsafe(task.cancel)

    monkeypatch.setattr(PictureAnswer, "_finish", finish)
    task = asyncio.ensure_future(answered(answer(200, images_answer(SMALL)), tmp_path))
    with suppress(asyncio.CancelledError):
        await task
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [SMALL]


async def test_an_answer_that_is_cancelled_again_and_again_leaves_no_file(tmp_path, monkeypatch):
    usual = PictureAnswer._carry_out

    def carried_out(answer, piece):
        task.get_loop().call_soon_threadsafe(task.cancel)
        usual(answer, piece)

    monkeypatch.setattr(PictureAnswer, "_carry_out", carried_out)
    task = asyncio.ensure_future(answered(answer(200, images_answer(LARGE))[:-100], tmp_path))
    with suppress(asyncio.CancelledError):
        await task
    assert files_in(tmp_path) == []


async def test_a_folder_that_cannot_be_made_loses_the_picture_and_not_the_answer(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = await answered(answer(200, images_answer(LARGE, SMALL)), tmp_path / "file" / "folder")
    assert [item["b64_json"] for item in result.body["data"]] == [part.mark for part in result.response.parts]
    for part, size in zip(result.response.parts, (700_000, 3000), strict=True):
        assert (part.path, part.data, part.size) == (None, None, size)
        assert part.lost == os.strerror(20)


class FullFile:
    """A file on a disk that has no more room."""

    def __init__(self, file, method):
        self.file, self.method = file, method

    def __getattr__(self, name):
        return self._fail if name == self.method else getattr(self.file, name)

    def _fail(self, *_):
        raise OSError(28, os.strerror(28))


@pytest.mark.parametrize("method", ["write", "flush"])
async def test_a_full_disk_loses_the_picture_and_not_the_answer(method, tmp_path, monkeypatch):
    usual = type(tmp_path).open

    def opened(path, mode="r", *args, **options):
        file = usual(path, mode, *args, **options)
        return FullFile(file, method) if path.suffix == ".part" else file

    monkeypatch.setattr(type(tmp_path), "open", opened)
    result = await answered(answer(200, images_answer(LARGE)), tmp_path)
    (part,) = result.response.parts
    assert (part.path, part.lost, part.size) == (None, "No space left on device", 700_000)
    assert (result.response.cut, files_in(tmp_path)) == (None, [])


async def test_a_connection_that_waits_for_pictures_asks_its_peer_for_signs_of_life(tmp_path, monkeypatch):
    seen = []

    def noted(connection):
        keep_alive(connection)
        sock = connection.get_extra_info("socket")
        seen.append(sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE))
        seen.append(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE))

    monkeypatch.setattr(slow_path, "keep_alive", noted)
    await answered(answer(200, images_answer(SMALL)), tmp_path)
    assert seen == [1, 30]


async def test_many_answers_at_once_wait_for_their_turns_and_all_come(tmp_path):
    raw = answer(200, images_answer(LARGE))

    async def script(peer):
        await peer.request()
        await peer.send(raw)
        await peer.rest()

    async with serve(script) as wire:
        transport = AiohttpTransport(wire.url)
        sent = await asyncio.gather(*[exchange(transport, request(tmp_path)) for _ in range(8)])
        await transport.aclose()
    assert [kept(part) for each in sent for part in each.response.parts] == [LARGE] * 8


async def test_an_intake_counts_its_answers():
    intake = pictures_room.PictureIntake()
    answers = [intake.begin(request()) for _ in range(2)]
    assert repr(intake) == "<PictureIntake, 2 answers under way>"
    assert repr(answers[0]) == "<PictureAnswer, 0 parts, <AnswerScanner between strings, 0 parts>>"
    for each in answers:
        await each.discard()
    assert intake.under_way == 0
