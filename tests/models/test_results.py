"""Results as plain values, in notebooks, and with the client that has handed them out."""

import gc
import io
import json
import pickle
from base64 import b64encode
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

import cattrs
import pydantic
import pytest
from PIL import Image as Pillow

from novita_async import (
    Artifact,
    Balance,
    ConfigurationError,
    Failed,
    GeneratedImage,
    ImageSource,
    InvalidRequest,
    ModelRecord,
    NsfwDetection,
    Processing,
    Queued,
    Snapshot,
    Succeeded,
    Task,
    TaskFailed,
    TaskResult,
    Timings,
    Uncertain,
    Unfinished,
    register_results,
)
from novita_async.testing import sample_picture
from tests.helpers.service import client_of, request, requests, service

PNG = sample_picture("dog", (64, 48))
TASK = Task(task_id="t-1", account="a", endpoint="/e", image_num=2, submitted_at=12.5)
RESULT = TaskResult(
    task=TASK,
    images=(
        GeneratedImage(url="https://r.example/1.png?X=secret", url_ttl=3600, type="png", task=TASK),
        GeneratedImage(data=PNG, type="png", nsfw=NsfwDetection(checked=True, confidence=3.5), task=TASK),
        GeneratedImage(file=Path("out/2.png"), task=TASK),
    ),
    videos=(Artifact(url="https://r.example/f.mp4", type="mp4", task=TASK),),
    seed=7,
    timings=Timings.of(submit_time=datetime(2026, 11, 27, 1, 2, 3, tzinfo=UTC)),
    extra={"a": [1, None, {"b": "ü"}]},
)


def test_a_result_goes_through_json_and_back():
    again = TaskResult.from_json(RESULT.to_json())
    assert again == RESULT
    assert [each.task for each in again.artifacts] == [TASK] * 4
    assert json.loads(RESULT.to_json()) == RESULT.to_dict()


def test_times_are_those_of_the_wall_clock_alone():
    told = RESULT.to_dict()
    assert told["timings"]["submit_time"] == "2026-11-27T01:02:03+00:00"
    assert "submitted_at" not in RESULT.to_json()
    assert TaskResult.from_dict(told).task.submitted_at is None


def test_names_of_another_version_are_passed_over_and_missing_ones_are_defaults():
    told = RESULT.to_dict() | {"new": 1}
    told["images"][0]["new"] = 2
    assert TaskResult.from_dict(told) == RESULT
    assert TaskResult.from_dict({}) == TaskResult()


def test_a_converter_of_cattrs_takes_results():
    converter = cattrs.Converter()
    register_results(converter)
    told = converter.unstructure({"result": RESULT, "outcome": Succeeded(result=RESULT)})
    assert told["result"] == told["outcome"]["result"] == RESULT.to_dict()
    assert converter.structure(told["result"], TaskResult) == RESULT


def test_each_outcome_is_a_dictionary_of_the_same_names():
    asked = request().tagged("sku-1", {"shop": 7})
    succeeded = Succeeded(result=RESULT, request=asked, paths=(Path("out/1.png"),)).to_dict()
    failed = Failed(error=TaskFailed(task=TASK, explanation="no"), task=TASK, request=asked).to_dict()
    assert list(succeeded) == list(failed)
    assert (succeeded["outcome"], succeeded["tag"], succeeded["metadata"]) == (
        "succeeded",
        "sku-1",
        {"shop": 7},
    )
    assert (succeeded["task_id"], succeeded["paths"], succeeded["error"]) == ("t-1", ["out/1.png"], None)
    assert (failed["result"], failed["error"]["type"], failed["error"]["task_id"]) == (
        None,
        "TaskFailed",
        "t-1",
    )
    assert "no" in failed["error"]["message"]
    assert json.dumps([succeeded, failed])


VALUES = (
    RESULT,
    *RESULT.artifacts,
    TASK,
    Succeeded(result=RESULT),
    Failed(error=TaskFailed(task=TASK, explanation="no")),
    Snapshot(task=TASK, status="TASK_STATUS_SUCCEED", result=RESULT),
    Queued(task=TASK),
    Processing(task=TASK, progress_percent=3.5),
    Balance(available=Decimal("1.5")),
    ModelRecord(id=1, tags=("a", "b")),
)


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_a_web_framework_gives_out_whatever_a_call_returns(value):
    told = value.to_dict()
    assert json.loads(value.to_json()) == told
    assert dict(value) == told
    adapter = pydantic.TypeAdapter(type(value))
    assert adapter.validate_python(value) is value
    assert json.loads(adapter.dump_json(value)) == told
    assert adapter.json_schema()["title"] == type(value).__name__
    assert not isinstance(value, Iterable | Mapping)
    with pytest.raises(TypeError):
        iter(value)


def test_pydantic_reads_results_and_refuses_what_is_none():
    adapter = pydantic.TypeAdapter(Succeeded | Failed)
    with pytest.raises(pydantic.ValidationError):
        adapter.validate_python({"outcome": "succeeded"})
    assert pydantic.TypeAdapter(TaskResult).validate_python(RESULT.to_dict()) == RESULT


# --- Notebooks ----------------------------------------------------------------------------------------------


def test_a_notebook_shows_a_picture(tmp_path):
    here = GeneratedImage(data=PNG, type="png")
    there = GeneratedImage(url="https://r.example/1.png?a=1&b=2")
    assert here._repr_png_() == PNG
    assert here._repr_html_() is None
    assert there._repr_png_() is None
    assert 'src="https://r.example/1.png?a=1&amp;b=2"' in there._repr_html_()
    (tmp_path / "a.png").write_bytes(PNG)
    assert GeneratedImage(file=tmp_path / "a.png")._repr_png_() == PNG
    assert GeneratedImage(file=tmp_path / "gone.png")._repr_html_() is None


def test_a_notebook_shows_all_pictures_of_a_result_in_a_strip():
    shown = RESULT._repr_html_()
    assert shown.count("<img") == 2
    assert f"base64,{b64encode(PNG).decode()}" in shown
    assert TaskResult()._repr_html_() is None


class Printer:
    """The part of IPython's printer that is used."""

    def __init__(self):
        self.told = ""

    def text(self, words):
        self.told += words


def in_a_terminal(value):
    printer = Printer()
    vars(type(value))["_repr_pretty_"](value, printer, False)  # where IPython looks
    return printer.told


def test_ipython_tells_a_result_and_an_outcome_in_a_line():
    task = Task(task_id="t-1")
    result = TaskResult(task=task, images=(GeneratedImage(data=PNG),), seed=7)
    assert in_a_terminal(result) == "<TaskResult images: 1, seed 7, task t-1>"
    assert in_a_terminal(TaskResult()) == "<TaskResult no files>"
    saved = Succeeded(result=result, tag="sku-1", paths=(Path("a.png"),), objects=("s3://b/a.png",))
    told = "<Succeeded id sku-1, images: 1, seed 7, task t-1, saved as a.png s3://b/a.png>"
    assert in_a_terminal(saved) == told
    assert in_a_terminal(Succeeded(result=TaskResult(seed=1))) == "<Succeeded no files, seed 1>"
    error = InvalidRequest(faults=("no prompt",))
    for kind, more in ((Failed, {}), (Uncertain, {}), (Unfinished, {"task": task})):
        assert in_a_terminal(kind(error=error, **more)) == f"<{kind.__name__} {error}>"


# --- With a client ------------------------------------------------------------------------------------------


@pytest.mark.anyio
async def test_files_are_had_from_the_result_itself_wherever_it_was_handed_out(tmp_path):
    async with client_of(service()) as (client, _):
        results = [await client.run(request(seed=100)), await client.wait(await client.submit(request()))]
        async with client.stream(requests(2)) as outcomes:
            results += [outcome.unwrap() async for outcome in outcomes]
        results.append((await client.poll(results[0].task)).result)
        for number, result in enumerate(results):
            (image,) = result.images
            data = await image.bytes()
            assert data == await client.fetch(image)
            assert (await image.pil()).size == (256, 256)
            path = await image.save(tmp_path / f"my picture {number}.png")
            assert (path.name, path.read_bytes()) == (f"my picture {number}.png", data)


@pytest.mark.anyio
async def test_a_file_is_never_saved_over_another_and_gets_a_suffix_where_it_has_none(tmp_path):
    async with client_of(service()) as (client, _):
        (image,) = (await client.run(request())).images
        names = [(await image.save(tmp_path / "new" / name)).name for name in ("a.png", "a.png", "b")]
        assert names == ["a.png", "a.2.png", "b.png"]
        (tmp_path / "c").write_bytes(b"a file")
        with pytest.raises(Exception, match="cannot be written"):
            await image.save(tmp_path / "c" / "d.png")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["a.2.png", "a.png", "b.png"]


@pytest.mark.anyio
async def test_a_result_keeps_no_client_alive_and_pickles_without_one(tmp_path):
    async with client_of(service()) as (client, _):
        result = await client.run(request())
        again = pickle.loads(pickle.dumps(result))
        assert again == result
        with pytest.raises(ConfigurationError, match="there was none: paid"):
            await again.images[0].bytes()
    del client, _
    gc.collect()
    for image in (result.images[0], GeneratedImage(url="https://r.example/1.png")):
        with pytest.raises(ConfigurationError, match=r"client\.fetch"):
            await image.save(tmp_path / "never.png")


@pytest.mark.anyio
async def test_updates_tell_the_task_at_once_and_then_its_progress():
    seen = []
    async with client_of(service()) as (client, _):
        result = await client.run(request(steps=50), on_update=seen.append)
    assert type(seen[0]).__name__ == "Queued"
    assert {update.task_id for update in seen} == {result.task_id}
    assert any(getattr(update, "progress_percent", None) for update in seen)
    assert all(one != other for one, other in pairwise(seen))


@pytest.mark.anyio
async def test_a_callback_that_raises_loses_no_picture(caplog):
    async with client_of(service()) as (client, _):
        assert (await client.run(request(), on_update=lambda _: 1 / 0)).images
    assert "on_update failed" in caplog.text


# --- Pictures that come from elsewhere ----------------------------------------------------------------------


class Pixels:
    """An array as numpy has them, in two rows of three."""

    def __init__(self, channels: int, kind: str = "|u1") -> None:
        self.shape, self.ndim, self.dtype = (2, 3, channels), 3, self
        self.kind, self.data = kind[1], bytes(range(6 * channels))
        strides = (3 * channels, channels, 1)
        self.__array_interface__ = {"shape": self.shape, "typestr": kind, "version": 3, "strides": strides}

    def tobytes(self) -> bytes:
        return self.data


def test_an_array_is_taken_as_png_without_loss():
    source = ImageSource.of(Pixels(3))
    assert (source.format, source.width, source.height) == ("png", 3, 2)
    assert Pillow.open(io.BytesIO(source.read())).tobytes() == bytes(range(18))
    for wrong in (Pixels(7), Pixels(3, "<c8")):
        with pytest.raises(InvalidRequest, match="is no picture: give uint8"):
            ImageSource.of(wrong)
