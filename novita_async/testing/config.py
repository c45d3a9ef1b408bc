"""Settings of the simulator: the kind of service that is simulated."""

from typing import Any, Final, Literal, Self

from attrs import field, validators

from novita_async._util.values import frozen
from novita_async.models.routes import ROUTES, Route

DEFAULT_API_KEY: Final = "sk_simulator"
"""The key that a simulator knows unless it is told others."""

OTHER_TASKS: Final = tuple(
    f"/v3/async/{name}"
    for name in """
        inpainting upscale replace-background flux-1-kontext-pro flux-1-kontext-max flux-2-dev flux-2-flex
        flux-2-pro qwen-image-txt2img hunyuan-image-3 glm-image z-image-turbo-lora
    """.split()  # noqa: SIM905 one word is one route
)
"""Routes beside those of the table that answer with a task id."""

_SHARE: Final[Any] = validators.and_(validators.ge(0), validators.le(1))
_POSITIVE: Final[Any] = validators.gt(0)
_NOT_NEGATIVE: Final[Any] = validators.ge(0)


def _to_tuple(value: Any) -> tuple[Any, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


@frozen(kw_only=True)
class SimulatorConfig:
    """The service to simulate. The defaults are a quick, healthy service without a quota.

    Args:
        api_keys: Keys that are accepted, each an account of its own. Default: `sk_simulator`. Invented: never
            put a real key here.
        images_per_minute: Images that each account may ask for in 60 s, per endpoint. None: as many as it
            likes.
        quota: How images are counted: any 60 s, each minute of the clock, or a bucket that drains evenly.
        retry_after: Whether a 429 says in `Retry-After` when to come back. The live service was not seen to
            do so.
        workers: Tasks that are worked on at the same time.
        fifo: Whether tasks start in the order they came. False: in an order drawn from the seed.
        speed: How many times faster than usual, which is about 2 s for one picture of 512x512 in 20 steps.
        spread: How much durations vary: the standard deviation of their logarithm.
        latency: Seconds that a request is on its way, and again its answer.
        latency_jitter: How much each of these ways varies, as a share of `latency`.
        progress: Whether a running task tells its progress and the time left. False: 0 all the time.
        completion_times: Whether a finished task tells when it was submitted, started and completed.
        visible_after: Seconds for which a new task is not found yet, as behind a lagging replica.
        envelope: Whether a submission is answered with `{"code": 0, "msg": "", "data": {"task_id": ...}}`.
        failure_rate: Share of the tasks that fail.
        failure_as_error: Whether a failed task is told by HTTP 500 TASK_FAILED. False: by its status.
        fault_rate: Share of all exchanges that go wrong on the wire, in ways drawn from the seed.
        nsfw_rate: Share of the images that the NSFW detection is confident about, where it is asked for.
        illegal_words: Words in a prompt that are answered with ILLEGAL_PROMPT.
        strict_names: Whether unknown samplers, preprocessors, ControlNets and IP-Adapters are refused. Models
            never are.
        dedicated_endpoints: Whether the accounts may use dedicated endpoints. False: 403 API_NOT_ALLOWED.
        balance: Money of each account at the start, in 1/10000 USD.
        price: Price of an image, in 1/10000 USD. Invented.
        nsfw_price: Price of an NSFW detection, in 1/10000 USD.
        url_ttl: Seconds for which a result URL works.
        retention: Seconds after its end for which a task is still found. None: for ever.
        default_strength: The strength of an img2img request that names none.
        plain_pictures: Whether results are of one colour, with nothing of the input: many times quicker to
            make.
        routes: Rows of the table of routes that are served, also those that the table calls retired.
        other_tasks: Further paths that take any JSON object and answer with a task id.
        retired: Paths that answer 404 with the plain text `route not found`.
        public_buckets: Whether files in custom storage can be read without credentials.
        webhook_timeout: Seconds that the receiver of a webhook has for its answer.
        webhook_retry: Seconds before the first of up to five retries of a webhook; doubled for each further
            one.
        max_body_bytes: Bytes of a request body above which the answer is a plain 413.
        keep_input_bytes: Bytes of input pictures that are kept; beyond, the oldest tasks are drawn without
            theirs.
        seed: Source of all chance. The same seed and the same requests make the same service.
        epoch: Unix seconds at time 0. None: the wall clock of the HTTP server, 2026-01-01 in memory.
    """

    api_keys: tuple[str, ...] = field(
        default=(DEFAULT_API_KEY,), converter=_to_tuple, repr=lambda keys: f"<{len(keys)} keys>"
    )
    """Keys that are accepted, each an account of its own. Default: `sk_simulator`. Invented: never
    put a real key here."""
    images_per_minute: int | None = field(default=None, validator=validators.optional(_POSITIVE))
    """Images that each account may ask for in 60 s, per endpoint. None: as many as it likes."""
    quota: Literal["sliding", "fixed", "leaky"] = "sliding"
    """How images are counted: any 60 s, each minute of the clock, or a bucket that drains evenly."""
    retry_after: bool = False
    """Whether a 429 says in `Retry-After` when to come back. The live service was not seen to do so."""
    workers: int = field(default=4, validator=_POSITIVE)
    """Tasks that are worked on at the same time."""
    fifo: bool = True
    """Whether tasks start in the order they came. False: in an order drawn from the seed."""
    speed: float = field(default=1.0, validator=_POSITIVE)
    """How many times faster than usual, which is about 2 s for one picture of 512x512 in 20 steps."""
    spread: float = field(default=0.2, validator=_NOT_NEGATIVE)
    """How much durations vary: the standard deviation of their logarithm."""
    latency: float = field(default=0.05, validator=_NOT_NEGATIVE)
    """Seconds that a request is on its way, and again its answer."""
    latency_jitter: float = field(default=0.5, validator=_SHARE)
    """How much each of these ways varies, as a share of `latency`."""
    progress: bool = True
    """Whether a running task tells its progress and the time left. False: 0 all the time."""
    completion_times: bool = True
    """Whether a finished task tells when it was submitted, started and completed."""
    visible_after: float = field(default=0.0, validator=_NOT_NEGATIVE)
    """Seconds for which a new task is not found yet, as behind a lagging replica."""
    envelope: bool = False
    """Whether a submission is answered with `{"code": 0, "msg": "", "data": {"task_id": ...}}`."""
    failure_rate: float = field(default=0.0, validator=_SHARE)
    """Share of the tasks that fail."""
    failure_as_error: bool = False
    """Whether a failed task is told by HTTP 500 TASK_FAILED. False: by its status."""
    fault_rate: float = field(default=0.0, validator=_SHARE)
    """Share of all exchanges that go wrong on the wire, in ways drawn from the seed."""
    nsfw_rate: float = field(default=0.0, validator=_SHARE)
    """Share of the images that the NSFW detection is confident about, where it is asked for."""
    illegal_words: tuple[str, ...] = field(default=(), converter=_to_tuple)
    """Words in a prompt that are answered with ILLEGAL_PROMPT."""
    strict_names: bool = True
    """Whether unknown samplers, preprocessors, ControlNets and IP-Adapters are refused. Models never are."""
    dedicated_endpoints: bool = True
    """Whether the accounts may use dedicated endpoints. False: 403 API_NOT_ALLOWED."""
    balance: int = 1_000_000
    """Money of each account at the start, in 1/10000 USD."""
    price: int = field(default=20, validator=_NOT_NEGATIVE)
    """Price of an image, in 1/10000 USD. Invented."""
    nsfw_price: int = field(default=15, validator=_NOT_NEGATIVE)
    """Price of an NSFW detection, in 1/10000 USD."""
    url_ttl: int = field(default=3600, validator=_POSITIVE)
    """Seconds for which a result URL works."""
    retention: float | None = field(default=None, validator=validators.optional(_POSITIVE))
    """Seconds after its end for which a task is still found. None: for ever."""
    default_strength: float = field(default=0.7, validator=_SHARE)
    """The strength of an img2img request that names none."""
    plain_pictures: bool = False
    """Whether results are of one colour, with nothing of the input: many times quicker to make."""
    routes: tuple[Route, ...] = field(
        default=ROUTES, converter=_to_tuple, repr=lambda rows: f"<{len(rows)} routes>"
    )
    """Rows of the table of routes that are served, also those that the table calls retired."""
    other_tasks: tuple[str, ...] = field(default=OTHER_TASKS, converter=_to_tuple)
    """Further paths that take any JSON object and answer with a task id."""
    retired: tuple[str, ...] = field(default=(), converter=_to_tuple)
    """Paths that answer 404 with the plain text `route not found`."""
    public_buckets: bool = False
    """Whether files in custom storage can be read without credentials."""
    webhook_timeout: float = field(default=5.0, validator=_POSITIVE)
    """Seconds that the receiver of a webhook has for its answer."""
    webhook_retry: float = field(default=1.0, validator=_POSITIVE)
    """Seconds before the first of up to five retries of a webhook; doubled for each further one."""
    max_body_bytes: int = field(default=256 * 1024 * 1024, validator=_POSITIVE)
    """Bytes of a request body above which the answer is a plain 413."""
    keep_input_bytes: int = field(default=1024 * 1024 * 1024, validator=_POSITIVE)
    """Bytes of input pictures that are kept; beyond, the oldest tasks are drawn without theirs."""
    seed: int = 0
    """Source of all chance. The same seed and the same requests make the same service."""
    epoch: float | None = None
    """Unix seconds at time 0. None: the wall clock of the HTTP server, 2026-01-01 in memory."""

    @classmethod
    def quick(cls, **others: Any) -> Self:
        """A service whose tasks end in milliseconds, for tests in real time."""
        quick: dict[str, Any] = {"speed": 1000.0, "latency": 0.0}
        return cls(**(quick | others))
