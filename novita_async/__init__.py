"""Asyncio client for the Novita AI image API: exact with money and careful with results.

```python
async with NovitaClient() as client:
    result = await client.run(Img2Img(model_name="…", image="dog.png", prompt="a cute dog"))
```

Names are imported when they are first used, so that importing the package costs next to nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

from novita_async._version import __version__

if TYPE_CHECKING:
    from novita_async._api.codec import request_from_json, request_to_json
    from novita_async._client import NovitaClient
    from novita_async._journal.sqlite.journal import SqliteJournal
    from novita_async._policy.polling.planner import Backoff
    from novita_async._policy.polling.schedule import Polling
    from novita_async._policy.retrying import RetryPolicy
    from novita_async._policy.spending import Budget
    from novita_async._stream.batch import Batch
    from novita_async._stream.handle import Outcomes, Updates
    from novita_async.errors import (
        AnsweredAtOnce,
        APIError,
        AuthenticationFailed,
        BadRequest,
        BalanceExhausted,
        BudgetExhausted,
        ConfigurationError,
        ContentRejected,
        DownloadFailed,
        EndpointNotFound,
        FailedEarlier,
        Flaw,
        ImageRejected,
        InvalidRequest,
        JournalError,
        MalformedAnswer,
        NoAnswer,
        NoImages,
        NotPlanned,
        NotSent,
        NovitaError,
        NovitaWarning,
        PermissionDenied,
        RateLimited,
        ResultError,
        ServerError,
        StorageRejected,
        SubmissionUncertain,
        TaskFailed,
        TaskNotFound,
        TaskTimeout,
    )
    from novita_async.models.accounts import Account, ApiKey, Balance
    from novita_async.models.catalogue import ModelRecord
    from novita_async.models.choices import (
        ControlNetModel,
        ImageType,
        IPAdapterModel,
        ModelType,
        Preprocessor,
        Sampler,
        TaskStatus,
        Upscaler,
    )
    from novita_async.models.endpoints import Endpoints
    from novita_async.models.faces import AnimateImage, EditImage, GenerateImage
    from novita_async.models.hosts import Host
    from novita_async.models.images import Array, DataURL, ImageSource, Picture, Saveable
    from novita_async.models.requests import (
        AWSS3,
        AnyTask,
        ControlNet,
        ControlNetUnit,
        CustomStorage,
        Embedding,
        EnterprisePlan,
        Extra,
        HiresFix,
        Img2Img,
        IPAdapter,
        Lora,
        NovitaRequest,
        Refiner,
        TestMode,
        Txt2Img,
        Webhook,
    )
    from novita_async.models.results import (
        Artifact,
        Failed,
        GeneratedImage,
        NsfwDetection,
        Outcome,
        Processing,
        Queued,
        Snapshot,
        Succeeded,
        TaskResult,
        Timings,
        Uncertain,
        Unfinished,
        Update,
        register_results,
    )
    from novita_async.models.routes import Route, RouteField, RoutePictures, SizeRange
    from novita_async.tasks import Task

ROOMS: Final = {
    "_stream.batch": "Batch",
    "_stream.handle": "Outcomes Updates",
    "_client": "NovitaClient",
    "_api.codec": "request_from_json request_to_json",
    "_journal.sqlite.journal": "SqliteJournal",
    "_policy.polling.planner": "Backoff",
    "_policy.polling.schedule": "Polling",
    "_policy.retrying": "RetryPolicy",
    "_policy.spending": "Budget",
    "errors": """
        AnsweredAtOnce APIError AuthenticationFailed BadRequest BalanceExhausted BudgetExhausted
        ConfigurationError
        ContentRejected DownloadFailed EndpointNotFound FailedEarlier Flaw ImageRejected InvalidRequest
        JournalError MalformedAnswer NoAnswer NoImages NotPlanned NotSent NovitaError NovitaWarning
        PermissionDenied RateLimited ResultError ServerError StorageRejected SubmissionUncertain TaskFailed
        TaskNotFound TaskTimeout
    """,
    "models.accounts": "Account ApiKey Balance",
    "models.catalogue": "ModelRecord",
    "models.choices": """
        ControlNetModel ImageType IPAdapterModel ModelType Preprocessor Sampler TaskStatus Upscaler
    """,
    "models.endpoints": "Endpoints",
    "models.faces": "AnimateImage EditImage GenerateImage",
    "models.hosts": "Host",
    "models.images": "Array DataURL ImageSource Picture Saveable",
    "models.requests": """
        AWSS3 AnyTask ControlNet ControlNetUnit CustomStorage Embedding EnterprisePlan Extra HiresFix Img2Img
        IPAdapter Lora Refiner NovitaRequest TestMode Txt2Img Webhook
    """,
    "models.results": """
        Artifact Failed GeneratedImage TaskResult NsfwDetection Outcome Processing Queued Snapshot Succeeded
        Timings Uncertain Unfinished Update register_results
    """,
    "models.routes": "Route RouteField RoutePictures SizeRange",
    "tasks": "Task",
}
"""In which room each public name lives."""

_HOMES: Final = {name: room for room, names in ROOMS.items() for name in names.split()}

__all__ = [  # noqa: RUF022 - as `sorted` has it
    "APIError",
    "AWSS3",
    "Account",
    "AnimateImage",
    "AnsweredAtOnce",
    "AnyTask",
    "ApiKey",
    "Array",
    "Artifact",
    "AuthenticationFailed",
    "Backoff",
    "BadRequest",
    "Balance",
    "BalanceExhausted",
    "Batch",
    "Budget",
    "BudgetExhausted",
    "ConfigurationError",
    "ContentRejected",
    "ControlNet",
    "ControlNetModel",
    "ControlNetUnit",
    "CustomStorage",
    "DataURL",
    "DownloadFailed",
    "EditImage",
    "Embedding",
    "EndpointNotFound",
    "Endpoints",
    "EnterprisePlan",
    "Extra",
    "Failed",
    "FailedEarlier",
    "Flaw",
    "GenerateImage",
    "GeneratedImage",
    "HiresFix",
    "Host",
    "IPAdapter",
    "IPAdapterModel",
    "ImageRejected",
    "ImageSource",
    "ImageType",
    "Img2Img",
    "InvalidRequest",
    "JournalError",
    "Lora",
    "MalformedAnswer",
    "ModelRecord",
    "ModelType",
    "NoAnswer",
    "NoImages",
    "NotPlanned",
    "NotSent",
    "NovitaClient",
    "NovitaError",
    "NovitaRequest",
    "NovitaWarning",
    "NsfwDetection",
    "Outcome",
    "Outcomes",
    "PermissionDenied",
    "Picture",
    "Polling",
    "Preprocessor",
    "Processing",
    "Queued",
    "RateLimited",
    "Refiner",
    "ResultError",
    "RetryPolicy",
    "Route",
    "RouteField",
    "RoutePictures",
    "Sampler",
    "Saveable",
    "ServerError",
    "SizeRange",
    "Snapshot",
    "SqliteJournal",
    "StorageRejected",
    "SubmissionUncertain",
    "Succeeded",
    "Task",
    "TaskFailed",
    "TaskNotFound",
    "TaskResult",
    "TaskStatus",
    "TaskTimeout",
    "TestMode",
    "Timings",
    "Txt2Img",
    "Uncertain",
    "Unfinished",
    "Update",
    "Updates",
    "Upscaler",
    "Webhook",
    "__version__",
    "register_results",
    "request_from_json",
    "request_to_json",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
