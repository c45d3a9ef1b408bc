"""The promises of a storage, at Azurite: Microsoft's own emulator of Azure Blob Storage. Needs its program.

npm install azurite
python -m benchmarks.soak_objects node_modules/.bin/azurite-blob
"""

import asyncio
import base64
import hashlib
import hmac
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from datetime import UTC, datetime
from functools import partial

from novita_async.storage import ObjectStorage
from novita_async.testing.storages import CHECKS

ACCOUNT, CONTAINER = "devstoreaccount1", "studio"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Of the emulator, in its documentation."""


def make_container(url: str) -> None:
    date = datetime.now(UTC).strftime("%a, %d %b %Y %H:%M:%S GMT")
    headers = {"x-ms-date": date, "x-ms-version": "2021-08-06"}
    told = "\n".join(f"{name}:{value}" for name, value in sorted(headers.items()))
    signed = f"PUT{12 * chr(10)}{told}\n/{ACCOUNT}/{ACCOUNT}/{CONTAINER}\nrestype:container".encode()
    signature = base64.b64encode(hmac.new(base64.b64decode(KEY), signed, hashlib.sha256).digest()).decode()
    headers |= {"Authorization": f"SharedKey {ACCOUNT}:{signature}", "Content-Length": "0"}
    asked = urllib.request.Request(  # noqa: S310
        f"{url}/{CONTAINER}?restype=container", method="PUT", headers=headers
    )
    urllib.request.urlopen(asked).close()  # noqa: S310


async def check_all(url: str) -> None:
    for number, check in enumerate(CHECKS):
        options = {"account_name": ACCOUNT, "account_key": KEY, "endpoint": url}
        make = partial(
            ObjectStorage, f"az://{CONTAINER}/{number}", client_options={"allow_http": True}, **options
        )
        await check(make)
        print(f"azure: {check.__name__}", flush=True)


def main(program: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/{ACCOUNT}"
    with tempfile.TemporaryDirectory() as folder:
        options = ["--silent", "--skipApiVersionCheck", "--disableTelemetry", "--inMemoryPersistence"]
        running = subprocess.Popen([program, *options, "--blobPort", str(port)], cwd=folder)  # noqa: S603
        try:
            until = time.monotonic() + 60
            while True:
                try:
                    make_container(url)
                    break
                except OSError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(0.2)
            asyncio.run(check_all(url))
        finally:
            running.terminate()
            running.wait()


if __name__ == "__main__":
    main(sys.argv[1])
