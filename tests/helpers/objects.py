"""An S3 of the tests' own: moto's server, in a process of its own, started once a session."""

import itertools
import os
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from xml.etree import ElementTree as ET

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
_SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=k/20260101/us-east-1/s3/aws4_request, Signature=s"}
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
        return self.put_bucket(f"bucket-{os.getpid()}-{next(_numbers)}")

    def put_bucket(self, name: str) -> str:
        self._ask(name, "PUT")
        return name

    def storage(self, bucket: str, prefix: str = "spring", **options: object) -> ObjectStorage:
        return ObjectStorage(f"s3://{bucket}/{prefix}", **{**self.options, **options})

    def names_in(self, bucket: str) -> list[str]:
        """Names of all objects, as the server has them."""
        found = ET.fromstring(self._ask(f"{bucket}?list-type=2", "GET"))  # noqa: S314 - moto's own
        return sorted(each.text for each in found.iter() if each.tag.endswith("Key"))

    def read(self, bucket: str, name: str) -> bytes:
        return self._ask(f"{bucket}/{name}", "GET")

    def media_type(self, bucket: str, name: str) -> str:
        request = urllib.request.Request(f"{self.url}/{bucket}/{name}", None, _SIGNED)
        with urllib.request.urlopen(request) as answer:
            return answer.headers["content-type"]

    def put(self, bucket: str, name: str, data: bytes) -> None:
        self._ask(f"{bucket}/{name}", "PUT", data)

    def delete(self, bucket: str, name: str) -> None:
        self._ask(f"{bucket}/{name}", "DELETE")

    def _ask(self, path: str, method: str, data: bytes | None = None) -> bytes:
        request = urllib.request.Request(f"{self.url}/{path}", data, _SIGNED, method=method)
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


class Gateway(ThreadingHTTPServer):
    """Stands before an object store, and lets some requests go wrong.

    `trouble` is asked for each request: None lets it pass; a number is answered in the store's place; "drop"
    lets it pass and closes the connection without the answer; "hold" lets it pass and answers nothing until
    the gateway is closed, "withhold" does not even let it pass; "unconditional" takes its condition out.
    """

    daemon_threads = True

    def __init__(self, s3: S3, trouble=lambda *_: None):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.s3 = s3
        self.trouble = trouble
        self.seen: list[tuple[str, str]] = []
        self.over = threading.Event()

    @property
    def at(self) -> S3:
        """The store, as it is seen through this."""
        return S3(f"http://127.0.0.1:{self.server_port}")

    def count(self, method: str, end: str = "") -> int:
        """How many such requests have come."""
        return sum(each == method and name.endswith(end) for each, name in self.seen)

    def handle_error(self, request, client_address):
        """Say nothing: a client that is killed breaks its connection."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Gateway

    def _serve(self):
        length = int(self.headers.get("content-length") or 0)
        body = self.rfile.read(length)
        name = self.path.partition("?")[0]
        self.server.seen.append((self.command, name))
        trouble = self.server.trouble(self.command, name)
        if isinstance(trouble, int):
            return self._answer(trouble, {}, f"<Error><Code>Code{trouble}</Code></Error>".encode())
        if trouble == "withhold":
            self.server.over.wait(120)
            self.close_connection = True
            return None
        headers = dict(self.headers.items())
        if trouble == "unconditional":
            headers = {key: value for key, value in headers.items() if key.lower() != "if-none-match"}
        connection = HTTPConnection(self.server.s3.url.removeprefix("http://"), timeout=60)
        with closing(connection):
            connection.request(self.command, self.path, body, headers)
            answer = connection.getresponse()
            data, told = answer.read(), dict(answer.getheaders())
        if trouble == "hold":
            self.server.over.wait(120)
        if trouble in ("drop", "hold"):
            self.close_connection = True
            return None
        return self._answer(answer.status, told, data)

    do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815

    def _answer(self, status, headers, data):
        self.send_response_only(status)
        length = headers.get("Content-Length", str(len(data)))
        for name, value in headers.items():
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *_):
        """Say nothing."""


@contextmanager
def gateway(s3: S3, trouble=lambda *_: None) -> Iterator[Gateway]:
    """Serve until the block is left."""
    with Gateway(s3, trouble) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.over.set()
            server.shutdown()
            thread.join()
