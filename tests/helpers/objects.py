"""An S3 of the tests' own: moto's server, in a process of its own, started once a session."""

import itertools
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from xml.etree import ElementTree

import pytest
from attrs import frozen

from novita_async.storage import ObjectStorage

_SERVER = """
import sys
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server
server = make_server("127.0.0.1", 0, DomainDispatcherApplication(create_backend_app), threaded=True)
print(server.port, flush=True)
server.serve_forever()
"""
CREDENTIALS = {"AWS_ACCESS_KEY_ID": "AKIA-OURS", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_REGION": "us-east-1"}
_numbers = itertools.count(1)


@frozen
class S3:
    """A server that speaks as S3 does."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What a program is told, so that it finds this server."""
        return {"AWS_ENDPOINT": self.url, "AWS_ALLOW_HTTP": "true", **CREDENTIALS}

    @property
    def options(self) -> dict[str, object]:
        return {
            "endpoint": self.url,
            "access_key_id": CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "secret_access_key": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            "client_options": {"allow_http": True},
        }

    def new_bucket(self) -> str:
        """The name of a bucket that nobody has used."""
        name = f"bucket-{os.getpid()}-{next(_numbers)}"
        self._ask(name, "PUT")
        return name

    def storage(self, bucket: str, prefix: str = "spring", **options: object) -> ObjectStorage:
        return ObjectStorage(f"s3://{bucket}/{prefix}", **{**self.options, **options})

    def names_in(self, bucket: str) -> list[str]:
        """Names of all objects, as the server has them."""
        found = ElementTree.fromstring(self._ask(f"{bucket}?list-type=2", "GET"))  # noqa: S314 - moto's own
        return sorted(each.text for each in found.iter() if each.tag.endswith("Key"))

    def read(self, bucket: str, name: str) -> bytes:
        return self._ask(f"{bucket}/{name}", "GET")

    def media_type(self, bucket: str, name: str) -> str:
        with urllib.request.urlopen(f"{self.url}/{bucket}/{name}") as answer:
            return answer.headers["content-type"]

    def put(self, bucket: str, name: str, data: bytes) -> None:
        self._ask(f"{bucket}/{name}", "PUT", data)

    def delete(self, bucket: str, name: str) -> None:
        self._ask(f"{bucket}/{name}", "DELETE")

    def _ask(self, path: str, method: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.url}/{path}", data, method=method)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.read()


@contextmanager
def object_store(log: Path) -> Iterator[S3]:
    """Serve until the block is left."""
    with log.open("wb") as errors:
        server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], stdout=subprocess.PIPE, stderr=errors, stdin=subprocess.DEVNULL
        )
    try:
        port = server.stdout.readline().decode().strip()
        assert port, log.read_text()
        yield S3(f"http://127.0.0.1:{port}")
    finally:
        server.terminate()
        server.wait(20)
        server.stdout.close()
