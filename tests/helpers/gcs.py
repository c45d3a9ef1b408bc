"""An object store of the tests' own that speaks as Google Cloud Storage does.

Of the XML API, as its documentation tells it, what results need: a put with `x-goog-if-generation-match: 0`
fails where the name is taken, a long file goes up in parts, an object is copied by the store itself.
"""

import json
import re
import threading
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote, urlsplit

from attrs import define, field

BEGUN = "<InitiateMultipartUploadResult><UploadId>{}</UploadId></InitiateMultipartUploadResult>"
DONE = b'<CompleteMultipartUploadResult><ETag>"1"</ETag></CompleteMultipartUploadResult>'


@define(eq=False)
class Bucket:
    """Objects, by name."""

    url: str = ""
    objects: dict[str, bytes] = field(factory=dict)
    parts: dict[str, dict[int, bytes]] = field(factory=dict)
    """Files that go up, by the numbers of their uploads."""
    lock: threading.Lock = field(factory=threading.Lock)

    def put(self, name, data, *, only_new):
        """Put an object. Returns the status of the answer."""
        with self.lock:
            if only_new and name in self.objects:
                return 412
            self.objects[name] = data
            return 200

    @property
    def key(self):
        """The text of a service account's key that leads here."""
        known = {"gcs_base_url": self.url, "disable_oauth": True}
        return json.dumps(known | dict.fromkeys(("client_email", "private_key", "private_key_id"), ""))


class Handler(BaseHTTPRequestHandler):
    """Answers requests about the bucket of its server."""

    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def log_message(self, *_):
        pass

    def asked(self):
        """The name of an object, the query, and the body."""
        parts = urlsplit(self.path)
        query = {name: first for name, (first, *_) in parse_qs(parts.query, keep_blank_values=True).items()}
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return unquote(parts.path).removeprefix("/studio/"), query, body

    def answer(self, status, body=b""):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Last-Modified", formatdate(0, usegmt=True))
        self.send_header("ETag", '"1"')
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_PUT(self):
        bucket, (name, query, body) = self.server.bucket, self.asked()
        if "uploadId" in query:
            bucket.parts[query["uploadId"]][int(query["partNumber"])] = body
            self.answer(200)
            return
        source = self.headers.get("x-goog-copy-source")
        if source is not None:
            body = bucket.objects[unquote(source).removeprefix("/").removeprefix("studio/")]
        only_new = self.headers.get("x-goog-if-generation-match") == "0"
        self.answer(bucket.put(name, body, only_new=only_new))

    def do_POST(self):
        bucket, (name, query, body) = self.server.bucket, self.asked()
        if "uploads" in query:
            number = str(len(bucket.parts) + 1)
            bucket.parts[number] = {}
            self.answer(200, BEGUN.format(number).encode())
            return
        parts = bucket.parts[query["uploadId"]]
        order = [int(number) for number in re.findall(rb"<PartNumber>(\d+)<", body)]
        bucket.put(name, b"".join(parts[number] for number in order), only_new=False)
        self.answer(200, DONE)

    def do_GET(self):
        found = self.server.bucket.objects.get(self.asked()[0])
        self.answer(404 if found is None else 200, found or b"")

    do_HEAD = do_GET  # noqa: N815

    def do_DELETE(self):
        self.server.bucket.objects.pop(self.asked()[0], None)
        self.answer(204)


@contextmanager
def google_bucket():
    """A server with the empty bucket `studio`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.bucket = bucket = Bucket(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield bucket
        finally:
            server.shutdown()
            thread.join()
