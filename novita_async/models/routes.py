"""The table of routes: each route of the API, what it takes, how it answers, and how sure that is.

Routes of this API are born and retired by the month, so a route is a row of data here, and nothing else in
the package knows a route by its name. A row says how a request is written, what its fields may hold, how
pictures travel, how the answer comes, and which hosts serve it. `status` is `served` (seen at work),
`documented` (the provider describes it) or `retired` (announced as gone, or seen answering 404); `checked_on`
and `source` say when and where that was looked up.

A new route of a known shape is a new row. `tools/routes.py` proposes changes from the provider's pages.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache, lru_cache
from types import MappingProxyType
from typing import Any, Final, Literal

from attrs import field

from novita_async._util.values import frozen
from novita_async.models import _rules as rules
from novita_async.models.hosts import Host

RouteKind = Literal["edit", "generate", "upscale", "erase", "remove_background", "animate"]
"""Kinds of routes, by what they make: pictures of pictures, pictures of text, videos of pictures."""
RouteBody = Literal["wrapped", "flat", "multipart", "gemini"]
"""Form of a body: fields inside `request`, fields right in the object, multipart, Google's nested one."""
PictureForm = Literal["base64", "data_url", "multipart"]
"""How a picture travels: as bare base64, as a data URL, as a part of its own."""
PictureRole = Literal["image", "mask", "end_image"]
"""Role of a picture in a request."""
FieldType = Literal["text", "integer", "number", "flag", "size", "object", "list"]
"""Type of a field."""
RouteAnswer = Literal["task", "at_once", "either"]
"""How a route answers: with a task to be watched, with the results, or sometimes so and sometimes so."""
RouteStatus = Literal["served", "documented", "retired"]
"""Whether a route lives."""

TASK_TIMEOUT: Final = 120.0
"""Seconds for the answer that names a task: long, because giving up leaves a purchase uncertain."""
PICTURES_TIMEOUT: Final = 600.0
"""Seconds for an answer that holds pictures, which are made while the connection waits."""
_MB: Final = 1024 * 1024


def _tuple(value: Iterable[Any]) -> tuple[Any, ...]:
    return rules.listed(value)


@frozen(kw_only=True)
class SizeRange:
    """Sizes that a route takes, as `WIDTHxHEIGHT`.

    Args:
        separator: Text between the two numbers.
        multiple_of: Both sides are multiples of this.
        low_side: Smallest side, in pixels.
        high_side: Largest side, in pixels.
        low_pixels: Smallest area, in pixels.
        high_pixels: Largest area, in pixels.
        ratio: How many times longer than the shorter side the longer one may be.
    """

    separator: str = "x"
    """Text between the two numbers."""
    multiple_of: int = 1
    """Both sides are multiples of this."""
    low_side: int = 1
    """Smallest side, in pixels."""
    high_side: int | None = None
    """Largest side, in pixels."""
    low_pixels: int | None = None
    """Smallest area, in pixels."""
    high_pixels: int | None = None
    """Largest area, in pixels."""
    ratio: float | None = None
    """How many times longer than the shorter side the longer one may be."""

    def explain(self, value: Any) -> str | None:
        """The fault of a size; None where there is none."""
        match = _SIZE.fullmatch(value) if isinstance(value, str) else None
        if match is None or match[2] != self.separator:
            return f"{rules.shown(value)} is not a size such as 1024{self.separator}1024"
        width, height = int(match[1]), int(match[3])
        return next((f"{value}: {words}" for wrong, words in self._objections(width, height) if wrong), None)

    def _objections(self, width: int, height: int) -> Iterable[tuple[bool, str]]:
        area, shorter, longer = width * height, min(width, height), max(width, height)
        yield shorter < self.low_side, f"a side is below {self.low_side}"
        yield longer > (self.high_side or longer), f"a side is above {self.high_side}"
        multiple = self.multiple_of
        yield width % multiple + height % multiple > 0, f"both sides must be multiples of {multiple}"
        yield area < (self.low_pixels or 0), f"{area:,} pixels are below {self.low_pixels or 0:,}"
        yield area > (self.high_pixels or area), f"{area:,} pixels are above {self.high_pixels or 0:,}"
        yield (
            longer > shorter * (self.ratio or longer),
            f"the longer side is more than {self.ratio or 0:g} times the shorter one",
        )

    def __str__(self) -> str:
        limits = [f"multiples of {self.multiple_of}"] if self.multiple_of > 1 else []
        limits += [f"sides {self.low_side} to {self.high_side}"] if self.high_side else []
        if self.high_pixels:
            limits.append(f"{self.low_pixels or 1:,} to {self.high_pixels:,} pixels")
        limits += [f"ratio up to {self.ratio:g}"] if self.ratio else []
        return f"W{self.separator}H" + (f" ({', '.join(limits)})" if limits else "")


_SIZE: Final = re.compile(r"(\d{1,5})([x*])(\d{1,5})")


@frozen(kw_only=True)
class RouteField:
    """A field of a route.

    Args:
        name: Name on the wire.
        type: Type of the field.
        required: Whether a request must have the field.
        low: Smallest number, or length of a text or list.
        high: Largest number, or length of a text or list.
        choices: The only values; beside them a size may be in `size`.
        size: Sizes that are taken.
        default: The service's own value where the field is left out. None: not known.
        place: Where in the body the field stands, with dots between the names. Empty: under its name.
    """

    name: str
    """Name on the wire."""
    type: FieldType = "text"
    """Type of the field."""
    required: bool = False
    """Whether a request must have the field."""
    low: float | None = None
    """Smallest number, or length of a text or list."""
    high: float | None = None
    """Largest number, or length of a text or list."""
    choices: tuple[str | int, ...] = field(default=(), converter=_tuple)
    """The only values; beside them a size may be in `size`."""
    size: SizeRange | None = None
    """Sizes that are taken."""
    default: str | float | None = None
    """The service's own value where the field is left out. None: not known."""
    place: str = ""
    """Where in the body the field stands, with dots between the names. Empty: under its name."""

    def explain(self, value: Any) -> str | None:
        """The fault of a value; None where there is none."""
        if self.size is not None:
            message = None if value in self.choices else self.size.explain(value)
            named = f"; or one of {', '.join(map(str, self.choices))}" if self.choices else ""
            return f"{message}{named}" if message else None
        if self.choices and (isinstance(value, bool) or value not in self.choices):
            return f"{rules.shown(value)} is none of {', '.join(map(str, self.choices))}"
        return _RULES[self.type](self).explain(None, value)

    @property
    def range(self) -> str:
        """Range of the field, in words."""
        if self.size is not None:
            return " ".join([*map(str, self.choices), str(self.size)])
        if self.choices:
            return " ".join(map(str, self.choices))
        if self.low is None and self.high is None:
            return ""
        low, high = ("" if end is None else f"{end:.15g}" for end in (self.low, self.high))
        return f"{low}..{high}"


def rule_of(row: RouteField) -> rules.Rule:
    """The rule of a field, for a class of requests to ask."""
    return _RULES[row.type](row)


def _whole_ends(row: RouteField) -> tuple[int, int | None]:
    return int(row.low or 0), None if row.high is None else int(row.high)


def _flexible(explain: Callable[[Any], bool], words: str) -> Callable[[RouteField], rules.Rule]:
    rule = rules.Rule(lambda _, value: None if explain(value) else f"{rules.shown(value)} is not {words}")
    return lambda _: rule


_RULES: Final[Mapping[FieldType, Callable[[RouteField], rules.Rule]]] = {
    "text": lambda row: rules.text(*_whole_ends(row)),
    "integer": lambda row: rules.whole(*_whole_ends(row)),
    "number": lambda row: rules.number(row.low or 0, float("inf") if row.high is None else row.high),
    "flag": lambda _: rules.flag(),
    "size": lambda _: rules.text(),
    "object": _flexible(lambda value: isinstance(value, Mapping), "an object"),
    "list": _flexible(lambda value: isinstance(value, list | tuple), "a list"),
}


@frozen(kw_only=True)
class RoutePictures:
    """Pictures of a route: where they stand in its body, how they travel, how large they may be.

    Args:
        name: Name on the wire.
        role: Role of these pictures in the request.
        form: How they travel.
        is_list: Whether the field holds a list, also of one picture.
        required: Whether there must be one.
        most: How many there may be.
        takes_urls: Whether an address of a picture will do in its place.
        formats: Formats that are taken.
        max_bytes: Most bytes of one picture.
        safe_bytes: Bytes that every reading of an unclear limit allows. None: the limit is clear.
        max_pixels: Most pixels of one picture. None: not documented.
    """

    name: str
    """Name on the wire."""
    role: PictureRole = "image"
    """Role of these pictures in the request."""
    form: PictureForm = "base64"
    """How they travel."""
    is_list: bool = False
    """Whether the field holds a list, also of one picture."""
    required: bool = True
    """Whether there must be one."""
    most: int = 1
    """How many there may be."""
    takes_urls: bool = False
    """Whether an address of a picture will do in its place."""
    formats: tuple[str, ...] = field(default=("png", "jpeg", "webp"), converter=_tuple)
    """Formats that are taken."""
    max_bytes: int = 10 * _MB
    """Most bytes of one picture."""
    safe_bytes: int | None = None
    """Bytes that every reading of an unclear limit allows. None: the limit is clear."""
    max_pixels: int | None = None
    """Most pixels of one picture. None: not documented."""


@frozen(kw_only=True)
class Route:
    """A route of the API.

    A route that is not in the table can be written by hand and given to a request: `route=Route(…)`.

    Args:
        name: Name of the row.
        kind: Kind of the route.
        path: Path of submissions; `{model}` stands for the request's model.
        hosts: Names of the hosts that serve the route. Empty: any host.
        models: Models by which the route is found.
        body: Form of the body.
        model_field: Field that names the model on the wire. Empty: the path says it.
        pictures: Pictures that the route takes.
        fields: All other fields.
        is_open: Whether fields that are not listed are sent as they are.
        counts: Field that says how many results are asked for. Empty: each request counts once.
        answer: How the route answers.
        webhook: Where the body takes the address of a webhook, with dots between the names. Empty: nowhere.
        answer_timeout: Seconds for the answer.
        status: Whether the route lives.
        checked_on: Day of the latest look at its sources.
        source: Where its facts are from.
    """

    name: str
    """Name of the row."""
    kind: RouteKind
    """Kind of the route."""
    path: str = field(validator=rules.path())
    """Path of submissions; `{model}` stands for the request's model."""
    hosts: tuple[str, ...] = field(default=(), converter=_tuple)
    """Names of the hosts that serve the route. Empty: any host."""
    models: tuple[str, ...] = field(default=(), converter=_tuple)
    """Models by which the route is found."""
    body: RouteBody = "flat"
    """Form of the body."""
    model_field: str = ""
    """Field that names the model on the wire. Empty: the path says it."""
    pictures: tuple[RoutePictures, ...] = field(default=(), converter=_tuple)
    """Pictures that the route takes."""
    fields: tuple[RouteField, ...] = field(default=(), converter=_tuple)
    """All other fields."""
    is_open: bool = False
    """Whether fields that are not listed are sent as they are."""
    counts: str = ""
    """Field that says how many results are asked for. Empty: each request counts once."""
    answer: RouteAnswer = "task"
    """How the route answers."""
    webhook: str = ""
    """Where the body takes the address of a webhook, with dots between the names. Empty: nowhere."""
    answer_timeout: float = TASK_TIMEOUT
    """Seconds for the answer."""
    status: RouteStatus = "documented"
    """Whether the route lives."""
    checked_on: str = ""
    """Day of the latest look at its sources."""
    source: str = ""
    """Where its facts are from."""

    def path_for(self, model: str) -> str:
        """Path of submissions for a model."""
        return self.path.replace("{model}", model)

    def field_named(self, name: str) -> RouteField | None:
        """The field of a name. None: there is none."""
        return next((each for each in self.fields if each.name == name), None)

    def pictures_for(self, role: PictureRole) -> RoutePictures | None:
        """The pictures of a role. None: the route takes none."""
        return next((each for each in self.pictures if each.role == role), None)

    def __getitem__(self, name: str) -> RouteField:
        return next(each for each in self.fields if each.name == name)


# --- Rows that share what they say --------------------------------------------------------------------------

_NOVITA: Final = (Host.NOVITA.name,)
_SISTERS: Final = (Host.PPIO.name, Host.JIEKOU.name, Host.MYROUTER.name)
_LOOKED: Final = "2026-11-26"
_PROMPT: Final = RouteField(name="prompt", required=True, low=1)
_FILE_TYPES: Final = ("png", "jpeg", "webp")
_SEED_31: Final = RouteField(name="seed", type="integer", low=-1, high=2_147_483_647, default=-1)
_WATERMARK: Final = RouteField(name="watermark", type="flag")

_DIFFUSION: Final = (
    RouteField(name="model_name", required=True),
    RouteField(name="prompt", required=True, low=1, high=1024),
    RouteField(name="negative_prompt", low=0, high=1024),
    RouteField(name="width", type="integer", required=True, low=128, high=2048),
    RouteField(name="height", type="integer", required=True, low=128, high=2048),
    RouteField(name="image_num", type="integer", required=True, low=1, high=8),
    RouteField(name="steps", type="integer", required=True, low=1, high=100),
    RouteField(name="guidance_scale", type="number", required=True, low=1, high=30),
    RouteField(name="sampler_name", required=True),
    RouteField(name="seed", type="integer", low=-1, default=-1),
    RouteField(name="sd_vae"),
    RouteField(name="loras", type="list", high=5),
    RouteField(name="embeddings", type="list", high=5),
)

_OPENAI_SIZE: Final = RouteField(
    name="size",
    type="size",
    choices=("auto",),
    size=SizeRange(multiple_of=16, high_side=3840, high_pixels=3840 * 2160, ratio=3),
    default="auto",
)
_OPENAI: Final = (
    RouteField(name="prompt", required=True, low=1),
    _OPENAI_SIZE,
    RouteField(name="quality", choices=("low", "medium", "high")),
    RouteField(name="n", type="integer", low=1, high=10, default=1),
    RouteField(name="output_format", choices=_FILE_TYPES, default="png"),
    RouteField(name="response_format", choices=("b64_json", "url")),
    RouteField(name="background", choices=("auto", "transparent", "opaque")),
    RouteField(name="output_compression", type="integer", low=0, high=100),
    RouteField(name="moderation", choices=("auto", "low")),
)
_INPUT_FIDELITY: Final = RouteField(name="input_fidelity", choices=("low", "high"))
_MING: Final = (
    RouteField(name="prompt", required=True, low=1),
    RouteField(name="size", type="size", choices=("auto",), size=SizeRange()),
    RouteField(name="output_format", choices=_FILE_TYPES, default="png"),
    RouteField(name="response_format", choices=("b64_json", "url")),
    RouteField(name="watermark", type="flag", default=0),
)
_UPLOAD: Final = RoutePictures(name="image[]", form="multipart", is_list=True, most=16, max_bytes=50 * _MB)

_GEMINI_MODELS: Final = (
    "gemini-3.1-flash-image",
    "gemini-3.1-flash-lite-image",
    "gemini-3-pro-image",
    "gemini-2.5-flash-image",
)
_GEMINI: Final = (
    RouteField(name="prompt", required=True, low=1),
    RouteField(
        name="aspect_ratio",
        choices=("1:1", "2:3", "3:2", "3:4", "4:3", "4:5", "5:4", "9:16", "16:9", "21:9"),
        place="generationConfig.imageConfig.aspectRatio",
    ),
    RouteField(name="size", choices=("1K", "2K", "4K"), place="generationConfig.imageConfig.imageSize"),
    RouteField(name="temperature", type="number", low=0, high=2, place="generationConfig.temperature"),
)


def _seedream(size: RouteField) -> tuple[RouteField, ...]:
    return (
        RouteField(name="prompt", required=True, low=1),
        size,
        RouteField(name="watermark", type="flag", default=1),
        RouteField(name="sequential_image_generation", choices=("auto", "disabled"), default="disabled"),
        RouteField(
            name="max_images",
            type="integer",
            low=1,
            high=15,
            place="sequential_image_generation_options.max_images",
        ),
        RouteField(name="optimize_prompt_options", type="object"),
    )


_SEEDREAM_45: Final = _seedream(
    RouteField(
        name="size",
        type="size",
        choices=("2K", "4K"),
        size=SizeRange(low_pixels=3_686_400, high_pixels=16_777_216, ratio=16),
    )
)
_SEEDREAM_5: Final = _seedream(
    RouteField(
        name="size",
        type="size",
        choices=("2K", "3K"),
        size=SizeRange(low_pixels=3_686_400, high_pixels=10_404_496, ratio=16),
    )
)
_SEEDREAM_PICTURES: Final = RoutePictures(
    name="image",
    form="data_url",
    is_list=True,
    most=14,
    takes_urls=True,
    formats=("jpeg", "png", "webp", "bmp", "tiff", "gif"),
)
_ONE_PICTURE: Final = RoutePictures(name="image", takes_urls=True, max_bytes=30 * _MB)
_SMALL_SIZE: Final = RouteField(
    name="size", type="size", size=SizeRange(separator="*", low_side=256, high_side=1536), default="1024*1024"
)
_PROVIDER: Final = "docs.novita.ai"
_PROVIDER_OPENAI: Final = "calls in public repositories, September and October 2026"
_SISTER_DOCS: Final = "docs.myrouter.ai, ppio.com/docs, docs.jiekou.ai, February and March 2026"


# --- The table ----------------------------------------------------------------------------------------------

IMG2IMG: Final = Route(
    name="img2img",
    kind="edit",
    path="/v3/async/img2img",
    hosts=_NOVITA,
    body="wrapped",
    pictures=(
        RoutePictures(name="image_base64", max_bytes=10 * _MB, safe_bytes=7_500_000, max_pixels=16_777_216),
    ),
    fields=(
        *_DIFFUSION,
        RouteField(name="clip_skip", type="integer", low=1, high=12),
        RouteField(name="strength", type="number", low=0, high=1),
        RouteField(name="controlnet", type="object"),
        RouteField(name="ip_adapters", type="list", high=1),
    ),
    counts="image_num",
    webhook="extra.webhook.url",
    status="documented",
    checked_on=_LOOKED,
    source="the provider's page Image to Image; named in no notice of retirement, in no index since August",
)
TXT2IMG: Final = Route(
    name="txt2img",
    kind="generate",
    path="/v3/async/txt2img",
    hosts=_NOVITA,
    body="wrapped",
    fields=(
        *_DIFFUSION,
        RouteField(name="clip_skip", type="integer", low=0, high=12),
        RouteField(name="hires_fix", type="object"),
        RouteField(name="refiner", type="object"),
        RouteField(name="enable_transparent_background", type="flag"),
        RouteField(name="restore_faces", type="flag"),
    ),
    counts="image_num",
    webhook="extra.webhook.url",
    status="retired",
    checked_on=_LOOKED,
    source="404 'route not found' seen by a public project, 9 October 2026",
)

ROUTES: Final = (
    IMG2IMG,
    TXT2IMG,
    Route(
        name="openai-images-edits",
        kind="edit",
        path="/openai/v1/images/edits",
        hosts=_NOVITA,
        models=("gpt-image-2", "gpt-image-2-oai"),
        body="multipart",
        model_field="model",
        pictures=(
            _UPLOAD,
            RoutePictures(
                name="mask",
                role="mask",
                form="multipart",
                required=False,
                formats=("png",),
                max_bytes=50 * _MB,
            ),
        ),
        fields=(*_OPENAI, _INPUT_FIDELITY),
        counts="n",
        answer="at_once",
        answer_timeout=PICTURES_TIMEOUT,
        status="served",
        checked_on=_LOOKED,
        source=_PROVIDER_OPENAI,
    ),
    Route(
        name="openai-images-generations",
        kind="generate",
        path="/openai/v1/images/generations",
        hosts=_NOVITA,
        models=("gpt-image-2", "gpt-image-2-oai"),
        model_field="model",
        fields=_OPENAI,
        counts="n",
        answer="at_once",
        answer_timeout=PICTURES_TIMEOUT,
        status="served",
        checked_on=_LOOKED,
        source=_PROVIDER_OPENAI,
    ),
    Route(
        name="ming-image-layers",
        kind="edit",
        path="/openai/v1/images/edits",
        hosts=_NOVITA,
        models=("ming-image-0.1-design-layer",),
        body="multipart",
        model_field="model",
        pictures=(_UPLOAD,),
        fields=_MING,
        answer="at_once",
        answer_timeout=PICTURES_TIMEOUT,
        status="served",
        checked_on=_LOOKED,
        source=_PROVIDER_OPENAI,
    ),
    Route(
        name="ming-image",
        kind="generate",
        path="/openai/v1/images/generations",
        hosts=_NOVITA,
        models=("ming-image-0.1-design",),
        model_field="model",
        fields=_MING,
        answer="at_once",
        answer_timeout=PICTURES_TIMEOUT,
        status="served",
        checked_on=_LOOKED,
        source=_PROVIDER_OPENAI,
    ),
    Route(
        name="gemini-edit",
        kind="edit",
        path="/gemini/v1/models/{model}:generateContent",
        hosts=_NOVITA,
        models=_GEMINI_MODELS,
        body="gemini",
        pictures=(RoutePictures(name="inlineData", is_list=True, most=14, max_bytes=20 * _MB),),
        fields=_GEMINI,
        answer="at_once",
        answer_timeout=PICTURES_TIMEOUT,
        status="documented",
        checked_on=_LOOKED,
        source=_PROVIDER,
    ),
    Route(
        name="gemini-generate",
        kind="generate",
        path="/gemini/v1/models/{model}:generateContent",
        hosts=_NOVITA,
        models=_GEMINI_MODELS,
        body="gemini",
        fields=_GEMINI,
        answer="at_once",
        answer_timeout=PICTURES_TIMEOUT,
        status="documented",
        checked_on=_LOOKED,
        source=_PROVIDER,
    ),
    Route(
        name="seedream-4.5-edit",
        kind="edit",
        path="/v3/seedream-4.5",
        hosts=_NOVITA,
        models=("seedream-4.5",),
        pictures=(_SEEDREAM_PICTURES,),
        fields=_SEEDREAM_45,
        counts="max_images",
        answer="at_once",
        answer_timeout=PICTURES_TIMEOUT,
        status="documented",
        checked_on=_LOOKED,
        source="docs.novita.ai, May 2026; not in its index of August",
    ),
    Route(
        name="seedream-4.5",
        kind="generate",
        path="/v3/seedream-4.5",
        hosts=_NOVITA,
        models=("seedream-4.5",),
        fields=_SEEDREAM_45,
        counts="max_images",
        answer="at_once",
        answer_timeout=PICTURES_TIMEOUT,
        status="documented",
        checked_on=_LOOKED,
        source="docs.novita.ai, May 2026; not in its index of August",
    ),
    Route(
        name="seedream-5.0-lite-edit",
        kind="edit",
        path="/v3/seedream-5.0-lite",
        hosts=_NOVITA,
        models=("seedream-5.0-lite",),
        pictures=(_SEEDREAM_PICTURES,),
        fields=_SEEDREAM_5,
        counts="max_images",
        answer="at_once",
        answer_timeout=PICTURES_TIMEOUT,
        status="documented",
        checked_on=_LOOKED,
        source="docs.novita.ai, May 2026; not in its index of August",
    ),
    Route(
        name="seedream-5.0-lite",
        kind="generate",
        path="/v3/seedream-5.0-lite",
        hosts=_NOVITA,
        models=("seedream-5.0-lite",),
        fields=_SEEDREAM_5,
        counts="max_images",
        answer="at_once",
        answer_timeout=PICTURES_TIMEOUT,
        status="documented",
        checked_on=_LOOKED,
        source="docs.novita.ai, May 2026; not in its index of August",
    ),
    Route(
        name="qwen-image-edit",
        kind="edit",
        path="/v3/async/qwen-image-edit",
        hosts=_SISTERS,
        models=("qwen-image-edit",),
        pictures=(RoutePictures(name="image", takes_urls=True),),
        fields=(
            _PROMPT,
            _SEED_31,
            RouteField(name="output_format", choices=_FILE_TYPES, default="jpeg"),
            _WATERMARK,
        ),
        status="documented",
        checked_on=_LOOKED,
        source=f"{_SISTER_DOCS}; gone at the provider itself since 30 September 2026",
    ),
    Route(
        name="grok-imagine-image-edit",
        kind="edit",
        path="/v3/async/grok-imagine-image-edit",
        hosts=_SISTERS,
        models=("grok-imagine-image-edit",),
        pictures=(RoutePictures(name="image", form="data_url", takes_urls=True),),
        fields=(
            _PROMPT,
            RouteField(name="n", type="integer", low=1, high=4, default=1),
            RouteField(name="output_format", choices=("jpeg", "png")),
        ),
        counts="n",
        status="documented",
        checked_on=_LOOKED,
        source=_SISTER_DOCS,
    ),
    Route(
        name="image-upscaler",
        kind="upscale",
        path="/v3/async/image-upscaler",
        hosts=_SISTERS,
        models=("image-upscaler",),
        pictures=(_ONE_PICTURE,),
        fields=(
            RouteField(name="resolution", choices=("2k", "4k", "8k")),
            RouteField(name="output_format", choices=_FILE_TYPES),
        ),
        status="documented",
        checked_on=_LOOKED,
        source=f"{_SISTER_DOCS}; gone at the provider itself since 19 August 2026",
    ),
    Route(
        name="image-eraser",
        kind="erase",
        path="/v3/async/image-eraser",
        hosts=_SISTERS,
        models=("image-eraser",),
        pictures=(
            _ONE_PICTURE,
            RoutePictures(name="mask", role="mask", required=False, takes_urls=True, max_bytes=30 * _MB),
        ),
        fields=(RouteField(name="prompt", low=1), RouteField(name="output_format", choices=_FILE_TYPES)),
        status="documented",
        checked_on=_LOOKED,
        source=f"{_SISTER_DOCS}; gone at the provider itself since 19 August 2026",
    ),
    Route(
        name="image-remove-background",
        kind="remove_background",
        path="/v3/async/image-remove-background",
        hosts=_SISTERS,
        models=("image-remove-background",),
        pictures=(_ONE_PICTURE,),
        fields=(RouteField(name="output_format", choices=_FILE_TYPES),),
        status="documented",
        checked_on=_LOOKED,
        source=f"{_SISTER_DOCS}; gone at the provider itself since 19 August 2026",
    ),
    Route(
        name="z-image-turbo",
        kind="generate",
        path="/v3/async/z-image-turbo",
        hosts=_SISTERS,
        models=("z-image-turbo",),
        fields=(_PROMPT, _SMALL_SIZE, _SEED_31),
        status="documented",
        checked_on=_LOOKED,
        source=f"{_SISTER_DOCS}; gone at the provider itself since 19 August 2026",
    ),
    Route(
        name="kling-v3.0-i2v",
        kind="animate",
        path="/v3/async/{model}",
        hosts=_NOVITA,
        models=("kling-v3.0-std-i2v", "kling-v3.0-pro-i2v", "kling-v3.0-4k-i2v"),
        pictures=(
            RoutePictures(name="image", takes_urls=True, formats=("jpeg", "png")),
            RoutePictures(
                name="end_image", role="end_image", required=False, takes_urls=True, formats=("jpeg", "png")
            ),
        ),
        fields=(
            RouteField(name="prompt", low=1),
            RouteField(name="duration", type="integer", low=3, high=15),
            RouteField(name="cfg_scale", type="number", low=0, high=1),
            RouteField(name="sound", type="flag"),
            RouteField(name="negative_prompt", low=0, high=2500),
            RouteField(name="aspect_ratio", choices=("16:9", "9:16", "1:1")),
        ),
        status="documented",
        checked_on=_LOOKED,
        source=_PROVIDER,
    ),
    Route(
        name="video-create",
        kind="animate",
        path="/v3/video/create",
        hosts=_NOVITA,
        model_field="model",
        pictures=(RoutePictures(name="image", takes_urls=True, required=False),),
        fields=(RouteField(name="prompt", low=1),),
        is_open=True,
        webhook="callback",
        status="documented",
        checked_on=_LOOKED,
        source=f"{_PROVIDER}; the fields follow the model",
    ),
    Route(
        name="remove-background",
        kind="remove_background",
        path="/v3/remove-background",
        hosts=_NOVITA,
        models=("remove-background",),
        pictures=(RoutePictures(name="image_file", max_bytes=30 * _MB),),
        answer="at_once",
        status="retired",
        checked_on=_LOOKED,
        source="the provider's notice of 7 July 2026: gone on 22 July",
    ),
    Route(
        name="flux-1-kontext-dev",
        kind="edit",
        path="/v3/async/flux-1-kontext-dev",
        hosts=_NOVITA,
        models=("flux-1-kontext-dev",),
        pictures=(RoutePictures(name="images", is_list=True, most=4, takes_urls=True),),
        fields=(
            _PROMPT,
            _SMALL_SIZE,
            _SEED_31,
            RouteField(name="num_inference_steps", type="integer", low=1, high=50, default=28),
            RouteField(name="guidance_scale", type="number", low=1, high=20, default=2.5),
            RouteField(name="num_images", type="integer", low=1, high=4, default=1),
            RouteField(name="output_format", choices=_FILE_TYPES),
        ),
        counts="num_images",
        status="retired",
        checked_on=_LOOKED,
        source="the provider's notice of 3 August 2026: gone on 19 August",
    ),
)
"""All routes, in the order in which a model is looked for."""


# --- Looking routes up --------------------------------------------------------------------------------------


@cache
def _by_path() -> Mapping[str, tuple[Route, ...]]:
    found: dict[str, tuple[Route, ...]] = {}
    for route in ROUTES:
        for path in dict.fromkeys(map(route.path_for, route.models or ("",))):
            found[path] = (*found.get(path, ()), route)
    return MappingProxyType(found)


def routes_at(path: str) -> tuple[Route, ...]:
    """The rows of a path, most often one."""
    return _by_path().get(path, ())


@lru_cache(maxsize=256)
def first_at(path: str) -> Route | None:
    """The first row of a path. None: there is none."""
    return next(iter(routes_at(path)), None)


def route_called(name: str) -> Route | None:
    """The row of a name. None: there is none."""
    return next((route for route in ROUTES if route.name == name), None)


def route_of(model: str, kinds: Iterable[str]) -> Route | None:
    """The row of these kinds that knows a model. None: there is none."""
    wanted = frozenset(kinds)
    return next((route for route in ROUTES if model in route.models and route.kind in wanted), None)


def models_of(kinds: Iterable[str]) -> tuple[str, ...]:
    """All models that routes of these kinds know, those of living routes first."""
    wanted = frozenset(kinds)
    rows = sorted(
        (route for route in ROUTES if route.kind in wanted), key=lambda row: row.status == "retired"
    )
    return tuple(dict.fromkeys(model for route in rows for model in route.models))


def meant(name: str, names: Iterable[str]) -> str:
    """A question after the name that was meant, whatever its case; empty where none is close."""
    from difflib import get_close_matches  # noqa: PLC0415 - needed for faults alone

    by_lower = {each.lower(): each for each in names}
    close = get_close_matches(name.lower(), by_lower, 1)
    return f"; did you mean {by_lower[close[0]]}?" if close else ""


def living_like(path: str) -> tuple[Route, ...]:
    """Routes of the same kind that live, for whoever finds this path gone."""
    gone = routes_at(path)
    kinds = {route.kind for route in gone}
    return tuple(
        route for route in ROUTES if route.kind in kinds and route.status != "retired" and route not in gone
    )
