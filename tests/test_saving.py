"""Result files on hosts that misbehave: whole and right, or not there at all."""

from contextlib import asynccontextmanager

import anyio
import pytest
from attrs import define, field
from service import client_of, picture, request, service

from novita_async import DownloadFailed, NovitaClient, Succeeded, _download
from novita_async._download import _Target

pytestmark = pytest.mark.anyio


@define
class Host:
    """Hands out one file, in any way."""

    data: bytes = field(factory=picture)
    status: int = 200
    headers: dict[str, str] = field(factory=dict)
    step: int = 1 << 16
    pause: float = 0.0
    asked: int = 0
    given: int = 0

    @asynccontextmanager
    async def open(self, url):
        assert "X-Amz-Signature" in url
        self.asked += 1
        yield self

    async def chunks(self):
        for start in range(0, len(self.data), self.step):
            await anyio.sleep(self.pause)
            piece = self.data[start : start + self.step]
            self.given += len(piece)
            yield piece

    async def aclose(self):
        pass


@asynccontextmanager
async def result_at(host):
    """A client that fetches from this host, and a result to fetch."""
    simulation = service()
    transport = simulation.transport()
    async with NovitaClient(simulation.api_key, transport=transport, downloader=host) as client:
        yield client, await client.run(request())


@pytest.mark.parametrize("stated", [True, False])
async def test_a_file_that_is_too_long_fails_once_and_is_not_fetched_whole(tmp_path, monkeypatch, stated):
    monkeypatch.setattr(_download, "MAX_FILE", 1000)
    host = Host(data=picture() * 100, step=400)
    if stated:
        host.headers["content-length"] = str(len(host.data))
    async with result_at(host) as (client, result):
        with pytest.raises(DownloadFailed, match="longer than 1,000 bytes"):
            await client.save(result, tmp_path)
    assert host.asked == 1
    assert host.given <= (0 if stated else 1200)
    assert list(tmp_path.iterdir()) == []


async def test_a_host_that_sends_a_byte_a_minute_does_not_keep_a_lane_for_ever(tmp_path):
    host = Host(step=1, pause=50.0)
    async with result_at(host) as (client, result):
        with pytest.raises(DownloadFailed, match="not whole after 900 s"):
            await client.save(result, tmp_path)
    assert anyio.current_time() < 2000
    assert list(tmp_path.iterdir()) == []


async def test_what_a_dead_process_left_is_taken_away_though_the_line_has_another_place_now(tmp_path):
    """The file's name tells the place; that of its part must not."""
    simulation, journal, out = service(workers=1), tmp_path / "run.db", tmp_path / "out"
    async with client_of(simulation) as (client, _):
        async with client.batch([request(seed=7)], journal=journal) as outcomes:
            (outcome,) = [outcome async for outcome in outcomes]
    target = _Target(artifact=outcome.result.images[0], result=outcome.result, owned=True)
    out.mkdir()
    target.part_of(out).write_bytes(b"half of it")
    async with client_of(simulation) as (client, _):
        async with client.batch([request(seed=1), request(seed=7)], journal=journal, save_to=out) as outcomes:
            assert all([isinstance(outcome, Succeeded) async for outcome in outcomes])
    assert not target.part_of(out).exists()
