"""Files as objects of a bucket, through obstore, which is imported late.

* A small file is put with one request that fails where the name is taken. A large one goes up in parts under
  a name of its own, is copied by the store to the name that is wanted, where that is free, and removed.
* What passes is tried again by obstore for some seconds, and then by the saver, as for downloads.
* Obstore's errors are translated here, and only here.
"""

import errno
import os
import re
import uuid
from collections.abc import AsyncGenerator, Mapping
from contextlib import suppress
from datetime import timedelta
from types import ModuleType
from typing import Any, Final
from urllib.parse import urlsplit

import anyio
from attrs import define

from novita_async._files.storage import Content, words_of
from novita_async._http import MIB
from novita_async.errors import ConfigurationError

SCHEMES: Final = ("s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "adl")
_WITH_CONTAINER: Final = ("abfs", "abfss")
"""Schemes that write container@account."""
IN_ONE: Final = 16 * MIB
"""Bytes of a file up to which it is held in memory and put at once."""
_PIECE: Final = 8 * MIB
_AT_ONCE: Final = 2
"""Parts of one large file that are on their way at once."""
_PARTS: Final = ".parts"
PROBE: Final = ".novita-async"
"""Name of the empty object that shows whether files can be put; put again, the same object stays."""
_RETRIES: Final[Mapping[str, Any]] = {
    "max_retries": 6,
    "retry_timeout": timedelta(seconds=60),
    "backoff": {"init_backoff": timedelta(milliseconds=100), "max_backoff": timedelta(seconds=4), "base": 2},
}
_CLIENT: Final[Mapping[str, Any]] = {
    "timeout": timedelta(minutes=5),
    "connect_timeout": timedelta(seconds=10),
}
_FROM_ENVIRONMENT: Final = (
    "allow_http", "allow_invalid_certificates", "connect_timeout", "proxy_url", "timeout", "user_agent",
)  # fmt: skip
_CODE: Final = re.compile(r"<Code>(\w{1,60})</Code>")
_STATUS: Final = re.compile(r"status code: (\d{3})")
_PASSING: Final = ("408", "409", "429")
"""Statuses of a client's fault that pass by themselves: too slow, at the same time as another, too much."""
_ELSEWHERE: Final = re.compile(
    "incorrectly configured region|AuthorizationHeaderMalformed|IllegalLocationConstraint|PermanentRedirect"
)
"""Words of a store whose bucket is in another region."""
_IN_ANOTHER_REGION: Final = "the bucket is in another region: set AWS_REGION, or give region="
_METADATA_SERVERS: Final = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
"""Where credentials are asked for when nothing else has them."""
_NO_CREDENTIALS: Final = (
    "no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY (for gs: "
    "GOOGLE_APPLICATION_CREDENTIALS, for az: AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY), "
    "or give ObjectStorage(url, credential_provider=…)"
)


def _obstore() -> ModuleType:
    try:
        import obstore  # noqa: PLC0415 - optional
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            problem="object stores need an extra of this package",
            advice='nothing was bought; pip install "novita-async[objects]"',
        ) from error
    return obstore


@define(eq=False, repr=False, init=False)
class ObjectStorage:
    """Objects of a bucket: in S3 and what speaks as S3 does, Google Cloud Storage, Azure Blob Storage.

    Credentials, region and endpoint come from the environment, as the providers' own tools read it, or from
    the options.

    Args:
        address: The bucket, and the beginning of all names.

    Raises:
        ConfigurationError: obstore is not installed, the URL names no bucket, an option is unknown.
    """

    address: str
    """The bucket, and the beginning of all names."""
    _store: Any
    _obstore: Any

    def __init__(self, url: str, **options: Any) -> None:
        self.address = _checked(url)
        self._obstore = _obstore()
        options.setdefault("retry_config", _RETRIES)
        # Options of connections that the environment has: obstore reads them only where none are given.
        prefix = {"s3": "AWS", "s3a": "AWS", "gs": "GOOGLE"}.get(self.address.partition(":")[0], "AZURE")
        found = {name: os.environ.get(f"{prefix}_{name.upper()}") for name in _FROM_ENVIRONMENT}
        options["client_options"] = {
            **_CLIENT,
            **{name: value for name, value in found.items() if value},
            **options.get("client_options", {}),
        }
        if self.address.startswith(("s3://", "s3a://")):
            options.setdefault("copy_if_not_exists", "multipart")
        try:
            self._store = self._obstore.store.from_url(self.address, **options)
        except (self._obstore.exceptions.BaseError, TypeError, ValueError) as error:
            raise ConfigurationError(
                problem=f"{self.address} cannot be used: {_line(error)}",
                advice="nothing was bought; the options are those of obstore.store.from_url",
            ) from error

    def __repr__(self) -> str:
        return f"<ObjectStorage {self.address}>"

    async def check(self) -> None:
        """See whether files can be put there, and never over others.

        Raises:
            ConfigurationError: no bucket, no credentials, no permission; a store that would overwrite.
        """
        nothing = Content.of(b"")
        try:
            overwrites = await self.put_new(PROBE, nothing) and await self.put_new(PROBE, nothing)
            await self.has(PROBE)
        except OSError as error:
            raise ConfigurationError(
                problem=f"files cannot be put into {self.address}: {words_of(error)}",
                advice="nothing was bought; mend that, or choose another place",
            ) from error
        if overwrites:
            raise ConfigurationError(
                problem=f"{self.address}: this store puts objects over others (it ignores If-None-Match)",
                advice="nothing was bought; choose a store that knows conditional writes",
            )

    async def put_new(self, name: str, content: Content, /) -> bool:
        """Put an object under a name that is free. Raises `OSError`."""
        try:
            if content.size <= IN_ONE or not await self._put_in_parts(name, content):
                await self._obstore.put_async(
                    self._store,
                    name,
                    await content.read(),
                    mode="create",
                    attributes={"Content-Type": content.media_type},
                )
        except self._obstore.exceptions.AlreadyExistsError:
            return False
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, "there is no such bucket") from error
        except self._obstore.exceptions.BaseError as error:
            raise self._trouble(error) from error
        return True

    async def _put_in_parts(self, name: str, content: Content) -> bool:
        """Put a large object. Returns False where the store cannot copy to a name that must be free."""
        part = f"{_PARTS}/{uuid.uuid4().hex}"
        try:
            await self._obstore.put_async(
                self._store,
                part,
                content.chunks(_PIECE),
                use_multipart=True,
                chunk_size=_PIECE,
                max_concurrency=_AT_ONCE,
                attributes={"Content-Type": content.media_type},
            )
            await self._obstore.copy_async(self._store, part, name, overwrite=False)
        except self._obstore.exceptions.NotSupportedError:
            return False
        finally:
            with anyio.CancelScope(shield=True), suppress(OSError, self._obstore.exceptions.BaseError):
                await self._obstore.delete_async(self._store, part)
        return True

    async def has(self, name: str, /) -> bool:
        """Whether there is an object of this name. Raises `OSError`."""
        try:
            await self._obstore.head_async(self._store, name)
        except FileNotFoundError:
            return False
        except self._obstore.exceptions.BaseError as error:
            raise self._trouble(error) from error
        return True

    async def open(self, name: str, /) -> AsyncGenerator[bytes]:
        """Read an object, piece by piece. Raises `OSError`."""
        try:
            found = await self._obstore.get_async(self._store, name)
            async for piece in found.stream(min_chunk_size=MIB):
                yield bytes(piece)
        except FileNotFoundError as error:
            raise FileNotFoundError(errno.ENOENT, f"there is no {name}") from error
        except self._obstore.exceptions.BaseError as error:
            raise self._trouble(error) from error

    def _trouble(self, error: Exception) -> OSError:
        """Translate an error of obstore's."""
        known, text = self._obstore.exceptions, str(error)
        code = _CODE.search(text)
        told = f" ({code[1]})" if code else ""
        if isinstance(error, known.PermissionDeniedError):
            return PermissionError(errno.EACCES, f"access was denied{told}")
        if isinstance(error, known.UnauthenticatedError):
            return PermissionError(errno.EACCES, f"the credentials were not accepted{told}")
        if any(server in text for server in _METADATA_SERVERS):
            return PermissionError(errno.EACCES, _NO_CREDENTIALS)
        if _ELSEWHERE.search(text):
            return PermissionError(errno.EACCES, _IN_ANOTHER_REGION)
        status = _STATUS.search(text)
        refused = status is not None and status[1].startswith("4") and status[1] not in _PASSING
        if refused or not isinstance(error, known.GenericError):
            return OSError(errno.EINVAL, f"{_line(error)}{told}")
        return ConnectionError(errno.ECONNABORTED, _line(error))


def _checked(url: str) -> str:
    """A URL that names a bucket, without a slash at its end."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES or not parts.netloc:
        known = "s3://bucket/prefix, gs://bucket/prefix or az://account/container/prefix"
        raise ConfigurationError(problem=f"{url!r} names no bucket", advice=f"nothing was bought; {known}")
    has_key = "@" in parts.netloc and parts.scheme not in _WITH_CONTAINER
    if has_key or parts.query or parts.fragment:
        raise ConfigurationError(
            problem=f"{parts.scheme}://…: a bucket's URL holds no credentials, no query and no fragment",
            advice="nothing was bought; give credentials in the environment",
        )
    return url.rstrip("/")


def _line(error: Exception) -> str:
    """The first line of an error, which tells enough."""
    return str(error).strip().partition("\n")[0]
