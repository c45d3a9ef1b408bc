"""Paths of the API below its base URL. Routes come and go: every one can be set."""

from collections.abc import Mapping
from typing import Final

import attrs
from attrs import field

from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError
from novita_async.models import _rules as rules
from novita_async.models.hosts import Host
from novita_async.models.requests import Img2Img, NovitaRequest, Txt2Img

DEFAULT_BASE_URL: Final = Host.NOVITA.base_url


@frozen(kw_only=True)
class Endpoints:
    """Paths below the base URL.

    Args:
        img2img: Takes `Img2Img` submissions.
        txt2img: Takes `Txt2Img` submissions.
        task_result: Tells how a task is doing.
        models: Lists models.
        balance: Tells what is left to spend.
        others: Takes submissions of other kinds of requests, by `kind`, where that is not the kind's own
            endpoint.
    """

    img2img: str = Img2Img.endpoint
    """Takes `Img2Img` submissions."""
    txt2img: str = Txt2Img.endpoint
    """Takes `Txt2Img` submissions."""
    task_result: str = "/v3/async/task-result"
    """Tells how a task is doing."""
    models: str = "/v3/model"
    """Lists models."""
    balance: str = "/openapi/v1/billing/balance/detail"
    """Tells what is left to spend."""
    others: Mapping[str, str] = field(factory=dict[str, str], converter=dict, hash=False)
    """Takes submissions of other kinds of requests, by `kind`, where that is not the kind's own endpoint."""

    def __attrs_post_init__(self) -> None:
        paths = attrs.asdict(self)
        others = {f"others[{kind!r}]": path for kind, path in paths.pop("others").items()}
        for name, path in {**paths, **others}.items():
            message = rules.path().explain(self, path)
            if message:
                raise ConfigurationError(
                    problem=f"Endpoints.{name}: {message}", advice="give a path such as /v3/async/img2img"
                )

    def path_of(self, request: NovitaRequest) -> str:
        """Path to which a request is submitted."""
        kind = request.kind
        usual = getattr(self, kind) if kind in _SUBMISSIONS else request.endpoint
        return request.path or self.others.get(kind) or usual


_SUBMISSIONS: Final = frozenset((Img2Img.kind, Txt2Img.kind))
"""Kinds of requests whose paths have fields of their own."""
