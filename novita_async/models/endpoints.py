"""Where the API lives. Routes come and go: every one can be set."""

from typing import Final

import attrs
from attrs import frozen

from novita_async.errors import ConfigurationError
from novita_async.models import _rules as rules
from novita_async.models.requests import AnyTask, Request

DEFAULT_BASE_URL: Final = "https://api.novita.ai"


@frozen(kw_only=True)
class Endpoints:
    """Paths below the base URL."""

    img2img: str = "/v3/async/img2img"
    """Takes `Img2Img` submissions."""
    txt2img: str = "/v3/async/txt2img"
    """Takes `Txt2Img` submissions."""
    task_result: str = "/v3/async/task-result"
    """Tells how a task is doing."""
    models: str = "/v3/model"
    """Lists models."""
    balance: str = "/openapi/v1/billing/balance/detail"
    """Tells what is left to spend."""

    def __attrs_post_init__(self) -> None:
        for name, path in attrs.asdict(self).items():
            message = rules.path().explain(self, path)
            if message:
                raise ConfigurationError(
                    problem=f"Endpoints.{name}: {message}", advice="give a path such as /v3/async/img2img"
                )

    def path_of(self, request: Request) -> str:
        """Where a request is submitted."""
        return request.path if isinstance(request, AnyTask) else str(getattr(self, request.kind))
