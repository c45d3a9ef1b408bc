"""Result URLs that look as if S3 had signed them, and stop working as if it had."""

import hashlib
import hmac
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlencode

from novita_async.testing._dice import digest
from novita_async.testing.wire import Reply, xml_error

_FORMAT: Final = "%Y%m%dT%H%M%SZ"
_REGION: Final = "ap-southeast-1"


def _signature(seed: int, path: str, date: str, expires: str) -> str:
    secret = digest(seed, "signing secret")
    return hmac.new(secret, f"{path}\n{date}\n{expires}".encode(), hashlib.sha256).hexdigest()


def sign(origin: str, path: str, *, seed: int, unix_time: float, ttl: int) -> str:
    """Make the URL of a file that can be fetched until `ttl` seconds after `unix_time`."""
    date = datetime.fromtimestamp(int(unix_time), UTC).strftime(_FORMAT)
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"SIMULATOR/{date[:8]}/{_REGION}/s3/aws4_request",
        "X-Amz-Date": date,
        "X-Amz-Expires": str(ttl),
        "X-Amz-SignedHeaders": "host",
        "x-id": "GetObject",
        "X-Amz-Signature": _signature(seed, path, date, str(ttl)),
    }
    return f"{origin}{quote(path)}?{urlencode(query)}"


def refusal(
    path: str, query: Mapping[str, str], *, seed: int, unix_time: float, authorized: bool
) -> Reply | None:
    """Judge a download; None where the file may be had.

    `authorized`: an Authorization header came along, which S3 does not accept beside a signature.
    """
    if authorized:
        return xml_error(400, "InvalidArgument", "Only one auth mechanism allowed")
    date, expires = query.get("X-Amz-Date", ""), query.get("X-Amz-Expires", "")
    if not hmac.compare_digest(_signature(seed, path, date, expires), query.get("X-Amz-Signature", "")):
        return xml_error(403, "SignatureDoesNotMatch", "The request signature we calculated does not match")
    signed = datetime.strptime(date, _FORMAT).replace(tzinfo=UTC).timestamp()
    if unix_time >= signed + int(expires):
        return xml_error(403, "AccessDenied", "Request has expired")
    return None
