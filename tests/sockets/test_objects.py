"""Objects of a bucket, through sockets: what the store answers, and what has become of it."""

import os
import sys
from itertools import count

import pytest
from attrs import evolve

from novita_async import ConfigurationError, DownloadFailed, EditImage
from novita_async._files import objects
from novita_async.storage import Content, ObjectStorage
from novita_async.testing.storages import CHECKS
from tests.helpers.gcs import google_bucket
from tests.helpers.hosts import Host, Saving, result_of
from tests.helpers.objects import gateway
from tests.helpers.service import client_of, picture, requests, service

pytestmark = [pytest.mark.anyio, pytest.mark.real_loop]
PLAIN = {"client_options": {"allow_http": True}}
QUICK = {"retry_config": {"max_retries": 0}}
WHOLE = picture()


@pytest.fixture
def no_credentials(monkeypatch):
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)


@pytest.fixture
def bucket(s3):
    return s3.new_bucket()


async def test_results_lie_in_the_bucket_with_their_kind_and_the_probe_beside_them(s3, bucket):
    storage = s3.storage(bucket)
    await storage.check()
    await storage.check()
    await Saving(Host.of(WHOLE)).saver.put(result_of("png"), storage, "00000-42")
    assert s3.names_in(bucket) == ["spring/.novita-async", "spring/00000-42-1.png"]
    assert s3.read(bucket, "spring/00000-42-1.png") == WHOLE
    assert s3.media_type(bucket, "spring/00000-42-1.png") == "image/png"
    assert repr(storage) == f"<ObjectStorage s3://{bucket}/spring>"


async def test_a_batch_is_told_its_bucket_by_a_url_and_the_rest_by_the_environment(
    s3, bucket, tmp_path, monkeypatch
):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    simulation, got = service(), []
    async with client_of(simulation) as (client, _):
        for _ in range(2):
            async with client.batch(
                requests(2), journal=tmp_path / "run.db", save_to=f"s3://{bucket}/a/b/"
            ) as outcomes:
                got += [outcome async for outcome in outcomes]
            s3.delete(bucket, "a/b/00001-1-1.png")
    assert sorted({each.objects[0] for each in got}) == [
        f"s3://{bucket}/a/b/0000{n}-{n}-1.png" for n in range(2)
    ]
    assert len(simulation.ledger.accepted) == 2


async def test_a_put_whose_answer_is_lost_is_found_to_have_succeeded(s3, bucket):
    answers = iter(["drop"])
    with gateway(s3, lambda method, _: next(answers, None) if method == "PUT" else None) as between:
        storage = between.at.storage(bucket, **QUICK)
        (address,) = await Saving(Host.of(WHOLE)).saver.put(result_of("png"), storage, "a")
    assert address == f"s3://{bucket}/spring/a-1.png"
    assert s3.names_in(bucket) == ["spring/a-1.png"]


async def test_a_conflict_with_another_put_is_no_reason_for_another_name(s3, bucket):
    answers = iter([409])
    with gateway(s3, lambda method, _: next(answers, None) if method == "PUT" else None) as between:
        (address,) = await Saving(Host.of(WHOLE)).saver.put(
            result_of("png"), between.at.storage(bucket, **QUICK), "a"
        )
    assert address == f"s3://{bucket}/spring/a-1.png"
    assert s3.names_in(bucket) == ["spring/a-1.png"]


@pytest.mark.parametrize("status", [500, 503])
async def test_a_store_that_is_busy_for_a_moment_is_asked_again(s3, bucket, status):
    numbers = count()
    with gateway(s3, lambda *_: status if next(numbers) < 2 else None) as between:
        assert await between.at.storage(bucket).put_new("a.png", Content.of(WHOLE))
    assert between.count("PUT") == 3
    assert s3.read(bucket, "spring/a.png") == WHOLE


async def test_a_long_file_goes_up_in_parts_and_leaves_none(s3, bucket, monkeypatch):
    monkeypatch.setattr(objects, "IN_ONE", 1 << 20)
    data = bytes(range(256)) * (2 << 12)
    with gateway(s3) as between:
        storage = between.at.storage(bucket)
        assert await storage.put_new("a.mp4", Content.of(data, "mp4"))
        assert not await storage.put_new("a.mp4", Content.of(data[::-1], "mp4"))
    assert between.count("POST", "a.mp4") == 4  # begun and completed, twice
    assert s3.read(bucket, "spring/a.mp4") == data
    assert s3.names_in(bucket) == ["spring/a.mp4"]


async def test_a_store_that_cannot_copy_with_a_condition_gets_long_files_at_once(s3, bucket, monkeypatch):
    monkeypatch.setattr(objects, "IN_ONE", 1 << 20)
    storage = s3.storage(bucket)
    real, broken = storage._obstore, storage._obstore.exceptions.NotSupportedError

    class Other:
        exceptions, put_async, delete_async = real.exceptions, real.put_async, real.delete_async

        async def copy_async(self, *_, **__):
            raise broken("no")

    storage._obstore = Other()
    assert await storage.put_new("a.mp4", Content.of(bytes(2 << 20), "mp4"))
    assert s3.names_in(bucket) == ["spring/a.mp4"]


# --- Before anything is bought ------------------------------------------------------------------------------


async def refusal(storage) -> str:
    with pytest.raises(ConfigurationError) as caught:
        await storage.check()
    return str(caught.value)


async def test_a_missing_bucket_is_told(s3):
    assert await refusal(s3.storage("nobody-has-this")) == (
        "files cannot be put into s3://nobody-has-this/spring: there is no such bucket: nothing was bought; "
        "mend that, or choose another place"
    )


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (403, "access was denied (Code403)"),
        (401, "the credentials were not accepted (Code401)"),
        (500, "500 Internal Server Error"),
        (400, "400 Bad Request"),
    ],
)
async def test_a_refusal_is_told_in_one_line(s3, bucket, status, words):
    with gateway(s3, lambda *_: status) as between:
        told = await refusal(between.at.storage(bucket, **QUICK))
    assert words in told
    assert "\n" not in told


async def test_who_may_write_and_not_read_is_told(s3, bucket):
    with gateway(s3, lambda method, _: 403 if method == "HEAD" else None) as between:
        assert "access was denied" in await refusal(between.at.storage(bucket))


async def test_a_store_that_would_overwrite_is_refused(s3, bucket):
    with gateway(s3, lambda *_: "unconditional") as between:
        assert "this store puts objects over others" in await refusal(between.at.storage(bucket))


async def test_missing_credentials_are_told_with_what_to_set(no_credentials):
    told = await refusal(ObjectStorage("s3://bucket/spring", region="us-east-1", **QUICK))
    assert "no credentials were found; set AWS_ACCESS_KEY_ID" in told


async def test_a_store_that_is_not_there_is_told(bucket):
    storage = ObjectStorage(
        "s3://bucket/spring",
        endpoint="http://127.0.0.1:9",
        access_key_id="a",
        secret_access_key="b",
        client_options={"allow_http": True},
        **QUICK,
    )
    assert "127.0.0.1:9" in await refusal(storage)


@pytest.mark.parametrize(
    ("status", "passes"), [(500, True), (429, True), (408, True), (400, False), (411, False)]
)
async def test_trouble_passes_where_the_store_may_answer_otherwise_the_next_time(s3, bucket, status, passes):
    with gateway(s3, lambda *_: status) as between:
        storage = between.at.storage(bucket, prefix="our-region", **QUICK)
        with pytest.raises(OSError, match=str(status)) as caught:
            await storage.put_new("a.png", Content.of(b"a"))
    assert isinstance(caught.value, ConnectionError) is passes
    assert not isinstance(caught.value, PermissionError)


async def test_trouble_while_looking_is_an_error_of_the_network_and_not_a_missing_file(s3, bucket):
    with gateway(s3, lambda *_: 500) as between:
        storage = between.at.storage(bucket, **QUICK)
        for asking in (storage.has("a.png"), anext(storage.open("a.png"))):
            with pytest.raises(ConnectionError, match="500"):
                await asking


def test_a_bucket_in_another_region_is_told_as_that(s3, bucket):
    storage = s3.storage(bucket)
    error = storage._obstore.exceptions.GenericError("Received redirect: incorrectly configured region")
    assert "set AWS_REGION" in str(storage._trouble(error))
    assert type(storage._trouble(storage._obstore.exceptions.InvalidPathError("a//b\nmore"))) is OSError


def test_without_the_extra_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "obstore", None)
    with pytest.raises(ConfigurationError, match=r'pip install "novita-async\[objects\]"'):
        ObjectStorage("s3://bucket/spring")


@pytest.mark.parametrize("options", [{"nonsense": "x"}, {"region": None}])
def test_an_option_that_is_none_is_told(options):
    with pytest.raises(ConfigurationError, match="s3://bucket/spring cannot be used"):
        ObjectStorage("s3://bucket/spring", **options)


async def test_objects_that_an_earlier_run_put_elsewhere_are_found_there(s3, bucket, tmp_path, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    simulation = service()

    async def run(client, place):
        options = {"journal": tmp_path / "run.db", "save_to": place}
        async with client.batch(requests(2), **options) as outcomes:
            return sorted([outcome.objects[0] async for outcome in outcomes])

    async with client_of(simulation) as (client, _):
        first = await run(client, f"s3://{bucket}/a")
        assert await run(client, f"s3://{bucket}/b") == first
        s3.delete(bucket, "a/00001-1-1.png")
        s3.put(bucket, "b/00000-0-1.png", b"somebody else's")
        assert await run(client, f"s3://{bucket}/b") == [first[0], f"s3://{bucket}/b/00001-1-1.png"]
    assert len(simulation.ledger.accepted) == 2


async def test_files_of_an_answer_are_read_from_the_store_again(s3, bucket, tmp_path, monkeypatch):
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    edit = EditImage(model="gpt-image-2", image=picture(), prompt="p")
    async with client_of(service()) as (client, _):
        options = {"journal": tmp_path / "run.db", "save_to": f"s3://{bucket}/a"}
        async with client.batch([edit], **options) as outcomes:
            (done,) = [outcome async for outcome in outcomes]
        (image,) = done.result.images
        bare = evolve(image, data=None)
        assert image.url == done.objects[0]
        assert await client.fetch(bare) == s3.read(bucket, "a/00000-1.png")
        s3.delete(bucket, "a/00000-1.png")
        with pytest.raises(DownloadFailed, match="is there no more") as caught:
            await client.fetch(bare)
    assert not caught.value.retryable


# --- Google Cloud Storage -----------------------------------------------------------------------------------


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
async def test_google_cloud_storage_keeps_the_promises_of_a_storage(check):
    with google_bucket() as bucket:
        await check(lambda: ObjectStorage("gs://studio/spring", service_account_key=bucket.key, **PLAIN))


async def test_a_long_file_reaches_google_cloud_storage_in_parts_and_never_over_another(monkeypatch):
    monkeypatch.setattr(objects, "IN_ONE", 1000)
    with google_bucket() as bucket:
        storage = ObjectStorage("gs://studio/spring", service_account_key=bucket.key, **PLAIN)
        assert await storage.put_new("long", Content.of(b"a" * 5000))
        assert not await storage.put_new("long", Content.of(b"b" * 5000))
        assert bucket.objects == {"spring/long": b"a" * 5000}
