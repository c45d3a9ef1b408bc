"""Requests. Each class mirrors the wire, name by name; only pictures are called `image` here.

A kind of request is one class below `NovitaRequest`, which says all that others need to know of it: the
endpoint, the form of its body, what it takes of a quota, its pictures. A new kind is a new class, and a new
name in the package's public list.

Ranges marked (API) are documented by the service, (live) were seen on it, (ours) are this library's choice. A
field that is None is left out, and the service's own default holds. Names of models, samplers and the like
are never refused: the service's lists grow.
"""

import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from itertools import product
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self, cast

import attrs
from attrs import field

from novita_async._util.values import frozen
from novita_async.errors import Flaw, InvalidRequest, NovitaWarning
from novita_async.models import _rules as rules
from novita_async.models.choices import (
    ControlNetModel,
    ImageType,
    IPAdapterModel,
    Preprocessor,
    Sampler,
    Upscaler,
)
from novita_async.models.images import (
    DataURL,
    ImageSource,
    Picture,
    objection,
    warn_of_size,
    why_refused,
)
from novita_async.models.routes import IMG2IMG, TXT2IMG, Route, first_at, rule_of

DEFAULT_LONGER_SIDE: Final = 1024
_GRID: Final = 8
_LIMITS: Final = IMG2IMG.pictures[0]
_SMALLEST: Final = int(IMG2IMG["width"].low or 0)
_LARGEST: Final = int(IMG2IMG["width"].high or 0)


@frozen
class Unmeasured:
    """Stands for a picture that could not be measured, until the rules of its request report it."""

    why: str


def measured(value: Picture) -> ImageSource:
    """Measure a picture, or leave it to the rules of its request to say why that cannot be."""
    try:
        return ImageSource.of(value)
    except InvalidRequest as refusal:
        return cast("ImageSource", Unmeasured(why_refused(refusal)))


def _explain_image(_: Any, value: Any) -> str | None:
    if isinstance(value, ImageSource):
        return objection(value, _LIMITS)
    return value.why if isinstance(value, Unmeasured) else f"{rules.shown(value)} is not a picture"


_PICTURE: Final = rules.Rule(_explain_image)
_FRACTION: Final = rules.number(0, 1)
_SIDE: Final = rules.whole(_SMALLEST, _LARGEST)


@frozen(kw_only=True)
class TestMode:
    """Asks for a mock event instead of work.

    Args:
        enabled: Whether the mock event is sent. Always sent, because the service requires it (API).
        return_task_status: Status that the mock event reports: `TASK_STATUS_SUCCEED` or `TASK_STATUS_FAILED`
            (API).
    """

    __test__: ClassVar[bool] = False  # the name looks like a test class to pytest

    enabled: bool = field(default=True, validator=rules.flag())
    """Whether the mock event is sent. Always sent, because the service requires it (API)."""
    return_task_status: str = field(default="TASK_STATUS_SUCCEED", validator=rules.text())
    """Status that the mock event reports: `TASK_STATUS_SUCCEED` or `TASK_STATUS_FAILED` (API)."""


@frozen(kw_only=True)
class Webhook:
    """Address at which the service tells that a task has ended.

    Args:
        url: Absolute URL, HTTPS advised; with an unguessable path, because events are not signed (API).
        test_mode: A mock event is sent and no real work is done.
    """

    url: str = field(validator=rules.url())
    """Absolute URL, HTTPS advised; with an unguessable path, because events are not signed (API)."""
    test_mode: TestMode | None = field(default=None, validator=rules.optional(rules.part(TestMode)))
    """A mock event is sent and no real work is done."""


@frozen(kw_only=True)
class AWSS3:
    """A bucket of one's own for the results.

    Args:
        region: AWS region code, such as `us-east-2` (API).
        bucket: Name of the bucket, whose policy lets the service put objects (API).
        path: Folder in the bucket (API).
        save_to_path_directly: True: no further directory is made below `path`. Service default: False (API).
    """

    region: str = field(validator=rules.text())
    """AWS region code, such as `us-east-2` (API)."""
    bucket: str = field(validator=rules.text())
    """Name of the bucket, whose policy lets the service put objects (API)."""
    path: str = field(default="/", validator=rules.text())
    """Folder in the bucket (API)."""
    save_to_path_directly: bool | None = field(default=None, validator=rules.optional(rules.flag()))
    """True: no further directory is made below `path`. Service default: False (API)."""


@frozen(kw_only=True)
class CustomStorage:
    """Storage for results in place of the service's own.

    Args:
        aws_s3: An S3 bucket. Its URLs may need your own AWS credentials (live effect not documented).
    """

    aws_s3: AWSS3 | None = field(default=None, validator=rules.optional(rules.part(AWSS3)))
    """An S3 bucket. Its URLs may need your own AWS credentials (live effect not documented)."""


@frozen(kw_only=True)
class EnterprisePlan:
    """Dedicated endpoints.

    Args:
        enabled: Use capacity reserved by subscription (API).
    """

    enabled: bool = field(default=True, validator=rules.flag())
    """Use capacity reserved by subscription (API)."""


@frozen(kw_only=True)
class Extra:
    """Options of the answer rather than the picture.

    Args:
        response_image_type: Format of the results: `png`, `webp` or `jpeg`. Service default: `png` (API).
        enable_nsfw_detection: Check each result; adds USD 0.0015 an image (API).
        nsfw_detection_level: 0: explicit content; 1: also nudity that is hidden, and kissing; 2: also
            swimwear and underwear. Range 0 to 2, no effect unless detection is enabled (API).
        webhook: Where to report the end of the task.
        custom_storage: Where to store the results.
        enterprise_plan: Which capacity to use.
    """

    response_image_type: ImageType | str | None = field(default=None, validator=rules.optional(rules.text()))
    """Format of the results: `png`, `webp` or `jpeg`. Service default: `png` (API)."""
    enable_nsfw_detection: bool | None = field(default=None, validator=rules.optional(rules.flag()))
    """Check each result; adds USD 0.0015 an image (API)."""
    nsfw_detection_level: int | None = field(default=None, validator=rules.optional(rules.whole(0, 2)))
    """0: explicit content; 1: also nudity that is hidden, and kissing; 2: also swimwear and underwear. Range
    0 to 2, no effect unless detection is enabled (API)."""
    webhook: Webhook | None = field(default=None, validator=rules.optional(rules.part(Webhook)))
    """Where to report the end of the task."""
    custom_storage: CustomStorage | None = field(
        default=None, validator=rules.optional(rules.part(CustomStorage))
    )
    """Where to store the results."""
    enterprise_plan: EnterprisePlan | None = field(
        default=None, validator=rules.optional(rules.part(EnterprisePlan))
    )
    """Which capacity to use."""


@frozen(kw_only=True)
class Lora:
    """A small model that bends the checkpoint.

    Args:
        model_name: `api_name` of a record of the model listing with type `lora` (API).
        strength: How strongly. Range 0 to 1 (API); default 1 (the official SDK's).
    """

    model_name: str = field(validator=rules.text())
    """`api_name` of a record of the model listing with type `lora` (API)."""
    strength: float = field(default=1.0, validator=_FRACTION)
    """How strongly. Range 0 to 1 (API); default 1 (the official SDK's)."""


@frozen(kw_only=True)
class Embedding:
    """A textual inversion.

    Args:
        model_name: `api_name` of a record of the model listing with type `textualinversion` (API).
    """

    model_name: str = field(validator=rules.text())
    """`api_name` of a record of the model listing with type `textualinversion` (API)."""


def _explain_end(unit: Any, end: float) -> str | None:
    start = getattr(unit, "guidance_start", None)
    if not isinstance(start, int | float) or start <= end:
        return None
    return f"{rules.shown(end)} is before guidance_start {rules.shown(start)}"


@frozen(kw_only=True)
class ControlNetUnit:
    """A picture that guides by its edges, depth, pose and so on.

    Args:
        model_name: Name of the ControlNet, which must suit the checkpoint's base model (API).
        image: The picture that guides: a path, bytes, a binary file or an `ImageSource`. Limits as for the
            main picture (ours).
        strength: How strongly. Range 0 to 1, default 1, always sent (API).
        preprocessor: Treatment of the picture before it guides. None: none is named (API).
        guidance_start: Where in the run it begins, as a fraction. Range 0 to 1 (API).
        guidance_end: Where in the run it ends, as a fraction. Range 0 to 1 (API), not before `guidance_start`
            (ours).
    """

    model_name: ControlNetModel | str = field(validator=rules.text())
    """Name of the ControlNet, which must suit the checkpoint's base model (API)."""
    image: ImageSource = field(converter=measured, validator=_PICTURE)
    """The picture that guides: a path, bytes, a binary file or an `ImageSource`. Limits as for the main
    picture (ours)."""
    strength: float = field(default=1, validator=_FRACTION)
    """How strongly. Range 0 to 1, default 1, always sent (API)."""
    preprocessor: Preprocessor | str | None = field(default=None, validator=rules.optional(rules.text()))
    """Treatment of the picture before it guides. None: none is named (API)."""
    guidance_start: float | None = field(default=None, validator=rules.optional(_FRACTION))
    """Where in the run it begins, as a fraction. Range 0 to 1 (API)."""
    guidance_end: float | None = field(
        default=None, validator=rules.optional(rules.both(_FRACTION, rules.Rule(_explain_end)))
    )
    """Where in the run it ends, as a fraction. Range 0 to 1 (API), not before `guidance_start` (ours)."""


def _units(value: Iterable[ControlNetUnit]) -> tuple[ControlNetUnit, ...]:
    return rules.listed(value)


@frozen(kw_only=True)
class ControlNet:
    """The ControlNet units of a request.

    Args:
        units: At least one; an upper limit is not documented.
    """

    units: tuple[ControlNetUnit, ...] = field(
        converter=_units, validator=rules.parts(ControlNetUnit, at_least=1)
    )
    """At least one; an upper limit is not documented."""


@frozen(kw_only=True)
class IPAdapter:
    """A picture used as a prompt.

    Args:
        model_name: `ip-adapter_sd15.bin` for SD 1.x checkpoints, `ip-adapter_sdxl.bin` for SDXL (API).
        image: The picture: a path, bytes, a binary file or an `ImageSource`. Limits as for the main picture
            (ours).
        strength: How strongly. Range 0 to 1 (API); default 1 (ours).
    """

    model_name: IPAdapterModel | str = field(validator=rules.text())
    """`ip-adapter_sd15.bin` for SD 1.x checkpoints, `ip-adapter_sdxl.bin` for SDXL (API)."""
    image: ImageSource = field(converter=measured, validator=_PICTURE)
    """The picture: a path, bytes, a binary file or an `ImageSource`. Limits as for the main picture
    (ours)."""
    strength: float = field(default=1.0, validator=_FRACTION)
    """How strongly. Range 0 to 1 (API); default 1 (ours)."""


def _loras(value: Iterable[Lora]) -> tuple[Lora, ...]:
    return rules.listed(value)


def _embeddings(value: Iterable[Embedding]) -> tuple[Embedding, ...]:
    return rules.listed(value)


def _ip_adapters(value: Iterable[IPAdapter]) -> tuple[IPAdapter, ...]:
    return rules.listed(value)


def _copied(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request keeps its own copy; what is no mapping is left for the rule to explain."""
    copied = value.__class__ is dict or isinstance(cast("object", value), Mapping)
    return dict(value) if copied else value


def _explain_extra_fields(request: Any, value: Any) -> str | None:
    if not isinstance(value, Mapping):
        return f"{rules.shown(value)} is not a mapping"
    taken = {*(attribute.name for attribute in rules.fields_of(request)), "image_base64"} - _WIRELESS
    known = sorted(taken.intersection(cast("Mapping[str, Any]", value)))
    return f"{', '.join(known)} has a field of its own" if known else None


def _explain_axis(values: Any) -> str | None:
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        return f"{rules.shown(values)} is one value; give a list of values"
    return None


Write = Callable[[Any], Any]
"""Turns values (requests, their parts, mappings) into JSON objects, in which pictures stay what they are."""


_WIRELESS: Final = frozenset({"tag", "metadata"})
"""Fields that are the user's own, and never sent."""


def _tag(value: Any) -> Any:
    """Make text of a number; leave the rest for the rule to explain."""
    if value is None or value.__class__ is str:
        return value
    if isinstance(value, float) and value.is_integer():  # spreadsheets write 7 as 7.0
        value = int(value)
    return str(value) if rules.is_number(value) and abs(value) < _LARGEST_TAG else value


_LARGEST_TAG: Final = 10**200


def _own_metadata(value: Mapping[str, Any]) -> Mapping[str, Any]:
    """A request keeps its own copy, all the way down."""
    if value.__class__ is dict and not value:
        return value
    text = rules.json_text(value) if isinstance(cast("object", value), Mapping) else None
    return value if text is None else cast("dict[str, Any]", json.loads(text))


@frozen(kw_only=True)
class Tagged:
    """The user's own words for a request. These words go with the request wherever that is told of, and are
    neither
    sent nor part of its identity: requests that differ in nothing else are equal, and a journal tells them
    apart by counting.
    """

    tag: str | None = field(default=None, converter=_tag, validator=rules.optional(rules.tag()), eq=False)
    """The user's own id, such as `sku-1`: text of 1 to 256 characters on one line, or a number (ours)."""
    metadata: Mapping[str, Any] = field(
        factory=rules.new_dict, converter=_own_metadata, validator=rules.json_object(), eq=False, repr=False
    )
    """Notes that the user wants to find beside the result: a JSON object of at most 16 KiB (ours)."""

    def tagged(self, tag: str | float | None, metadata: Mapping[str, Any] | None = None) -> Self:
        """Give the request an id of the user's own, and metadata where there are any to give.

        Args:
            tag: Text or a number; need not be unique. None: no id.
            metadata: A JSON object. None: as it was.
        """
        changes: dict[str, Any] = {"tag": tag} if metadata is None else {"tag": tag, "metadata": metadata}
        return attrs.evolve(self, **changes)


class NovitaRequest(Tagged):
    """Everything that can be submitted. A subclass with a `kind` is known by it to manifests and journals.

    The wire calls fields as they are called here, unless they say otherwise: `field(metadata={"wire": …})`.

    Args:
        tag: The user's own id, such as `sku-1`: text of 1 to 256 characters on one line, or a number (ours).
        metadata: Notes that the user wants to find beside the result: a JSON object of at most 16 KiB (ours).
    """

    __slots__ = ()

    kind: ClassVar[str]
    """Name of this kind of request, such as `img2img`."""
    endpoint: ClassVar[str] = ""
    """Path that requests of this kind are submitted to, unless `Endpoints` says otherwise. Empty: each has a
    path of its own."""
    wrapped: ClassVar[bool] = True
    """Form of the body: `{"extra": …, "request": {fields}}`. False: the fields, with `extra` beside them."""
    takes_extra: ClassVar[bool] = False
    """Whether the body has a place for `extra`, and so for a webhook."""
    is_face: ClassVar[bool] = False
    """Whether requests of this kind find their route in the table."""
    others: ClassVar[str] = ""
    """Field that takes what JSON has beside the fields of this kind. Empty: that is refused."""

    path: str = ""
    """A path of its own. Empty: that of its kind."""
    image_num: int = 1
    """How many images of the endpoint's quota this takes."""
    is_form: bool = False
    """Whether the body is a multipart form."""
    extra: Extra | None = None
    """Options of the answer rather than the picture."""
    extra_fields: Mapping[str, Any] = MappingProxyType[str, Any]({})
    """Fields that this library does not know yet, sent as they are."""

    def __attrs_post_init__(self) -> None:
        rules.check(self)

    def __init_subclass__(cls) -> None:
        """Note the kind. A class with slots is made twice; the second is the one that is used."""
        super().__init_subclass__()
        if "kind" in vars(cls):
            _KINDS[cls.kind] = cls

    @property
    def row(self) -> Route | None:
        """The route, as the table of routes has it. None: the table does not know the path."""
        return first_at(self.path or self.endpoint)

    @property
    def pictures(self) -> tuple[ImageSource, ...]:
        """Pictures that are sent: those that fields of this class hold, alone or in a sequence."""
        held = (getattr(self, each.name) for each in attrs.fields(type(self)))
        return tuple(_pictures_in(list(held)))

    @property
    def work(self) -> float | None:
        """Work that is asked for, in proportion to the time that a task takes. None: not known."""
        return None

    @property
    def has_own_storage(self) -> bool:
        """Whether the service puts the results into a bucket of the user's own, where nobody else reads."""
        storage = self.extra.custom_storage if self.extra else None
        return storage is not None and storage.aws_s3 is not None

    @property
    def takes_callback(self) -> bool:
        """Whether a callback URL can be added: there is a place for one, and none of the user's own there."""
        return self.takes_extra and (self.extra is None or self.extra.webhook is None)

    def kept(self, write: Write) -> dict[str, Any]:
        """Give the JSON object from which the request can be made again, and is told from others."""
        return self.document(write)

    def document(self, write: Write, callback_url: str | None = None) -> dict[str, Any]:
        """The JSON object that is sent. A callback URL takes the place of the request's webhook."""
        extra: dict[str, Any] = write(self.extra) if self.extra else {}
        if callback_url is not None:
            extra["webhook"] = {"url": callback_url}
        fields: dict[str, Any] = write(self)
        if self.extra_fields:
            fields |= write(dict(self.extra_fields))
        return self.arranged(fields, extra)

    @classmethod
    def arranged(cls, fields: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
        """Put the parts of a body together, in the form of this kind."""
        beside = {"extra": extra} if extra else {}
        return {**beside, "request": fields} if cls.wrapped else {**fields, **beside}


_KINDS: Final[dict[str, type[NovitaRequest]]] = {}


def kinds() -> Mapping[str, type[NovitaRequest]]:
    """All kinds with an endpoint, by name. Modules of the package's public list that are not loaded, are."""
    package: Any = import_module(__name__.partition(".")[0])
    for room in package.ROOMS:
        if room.startswith("models."):
            import_module(f"{package.__name__}.{room}")
    return {name: cls for name, cls in _KINDS.items() if cls.endpoint or cls.is_face}


class Sweepable:
    """A request of which many can be made, each with other values."""

    __slots__ = ()

    def sweep(self, **axes: Iterable[Any]) -> Iterator[Self]:
        """Make a request of every combination, lazily; the last axis varies fastest.

        Args:
            axes: Field names and the values they take. The first axis may be endless. Where `image` varies,
                a size that is what the request's own picture gives is worked out anew for each picture.

        Raises:
            InvalidRequest: no such field; or, when its turn comes, a value that its field refuses.
        """
        names = attrs.fields_dict(cast("Any", type(self)))
        faults = tuple(
            Flaw(f"{type(self).__name__}.{name}", message)
            for name, values in axes.items()
            if (message := _explain_axis(values) if name in names else "no such field")
        )
        if faults:
            raise InvalidRequest(faults=faults)
        return self._swept(axes)

    def _swept(self, axes: Mapping[str, Iterable[Any]]) -> Iterator[Self]:
        if not axes:
            yield self
            return
        first, *rest = axes.values()
        inner = tuple(product(*rest))
        cls = cast("Any", type(self))
        same = {name: getattr(self, name) for name in attrs.fields_dict(cls) if name not in axes}
        same |= self._worked_out_anew(axes)
        for value in first if inner else ():  # no combinations: do not run through an endless first axis
            for others in inner:  # made here: `attrs.evolve` would read all fields again for each
                yield cls(**same, **dict(zip(axes, (value, *others), strict=True)))

    def _worked_out_anew(self, axes: Iterable[str]) -> dict[str, Any]:  # noqa: ARG002 - for Img2Img
        """Fields that each combination of a sweep works out for itself."""
        return {}


@frozen(kw_only=True, field_transformer=rules.apart)
class _Diffusion(NovitaRequest, Sweepable):
    """Fields that all requests to Stable Diffusion have."""

    takes_extra: ClassVar[bool] = True

    model_name: str = field(validator=rules.text())
    """The checkpoint: `api_name` of a record of the model listing with type `checkpoint` (API)."""
    prompt: str = field(validator=rule_of(IMG2IMG["prompt"]))
    """The wished picture. Length 1 to 1024 Unicode code points (API, live)."""
    negative_prompt: str | None = field(
        default=None, validator=rules.optional(rule_of(IMG2IMG["negative_prompt"]))
    )
    """Things to avoid. Length up to 1024 code points; empty is accepted (live)."""
    image_num: int = field(default=1, validator=rule_of(IMG2IMG["image_num"]))
    """How many pictures; each counts against the quota. Range 1 to 8 (API)."""
    steps: int = field(default=20, validator=rule_of(IMG2IMG["steps"]))
    """Denoising steps: more is slower and often better. Range 1 to 100 (API)."""
    guidance_scale: float = field(default=7.5, validator=rule_of(IMG2IMG["guidance_scale"]))
    """How closely the prompt is followed. Range 1 to 30 (API)."""
    sampler_name: Sampler | str = field(default=Sampler.EULER_A, validator=rules.text())
    """The denoising algorithm (API)."""
    seed: int | None = field(default=None, validator=rules.optional(rule_of(IMG2IMG["seed"])))
    """The same seed gives the same picture. -1 or None: random. At least -1 (API); results report the seed
    used."""
    clip_skip: int | None = field(default=None, validator=rules.optional(rule_of(IMG2IMG["clip_skip"])))
    """Layers of CLIP left out at its end. Range 1 to 12 (API)."""
    sd_vae: str | None = field(default=None, validator=rules.optional(rules.text()))
    """`api_name` of a record of the model listing with type `vae` (API)."""
    loras: tuple[Lora, ...] = field(default=(), converter=_loras, validator=rules.parts(Lora, at_most=5))
    """At most 5 (API)."""
    embeddings: tuple[Embedding, ...] = field(
        default=(), converter=_embeddings, validator=rules.parts(Embedding, at_most=5)
    )
    """Textual inversions, at most 5 (API)."""
    extra: Extra | None = field(default=None, validator=rules.optional(rules.part(Extra)))
    """Format of the results, NSFW detection, webhook, storage, dedicated capacity."""
    extra_fields: Mapping[str, Any] = field(
        factory=rules.new_dict,
        converter=_copied,
        validator=rules.Rule(_explain_extra_fields, usual=rules.EMPTY),
        hash=False,
    )
    """Fields of `request` that this library does not know yet, sent as they are."""

    @property
    def work(self) -> float | None:
        """How much is asked for, and the time it takes: steps x pixels x images. None: not known."""
        width, height = getattr(self, "width", None), getattr(self, "height", None)
        return self.steps * width * height * self.image_num if width and height else None

    def with_lora(self, model_name: str, strength: float = 1.0) -> Self:
        """Add a LoRA; `strength` in [0, 1]."""
        return attrs.evolve(self, loras=(*self.loras, Lora(model_name=model_name, strength=strength)))

    def with_embedding(self, model_name: str) -> Self:
        """Add a textual inversion."""
        return attrs.evolve(self, embeddings=(*self.embeddings, Embedding(model_name=model_name)))

    def with_extra(self, **changes: Any) -> Self:
        """Set fields of `extra`, keeping the others."""
        return attrs.evolve(self, extra=attrs.evolve(self.extra or Extra(), **changes))


class _FromImage(int):
    """A side that was not given, until the picture tells it. As a number it is 0, and false."""


_FROM_IMAGE: Final = _FromImage()


def _pixels(value: int | None) -> int:
    return _FROM_IMAGE if value is None else value


def _explain_pixels(request: Any, value: Any) -> str | None:
    if value is not _FROM_IMAGE:
        return _SIDE.explain(request, value)
    image: Any = request.image
    given = [side for side in (request.width, request.height) if side is not _FROM_IMAGE]
    if (
        not isinstance(image, ImageSource)
        or objection(image, _LIMITS)
        or any(_SIDE.explain(request, side) for side in given)
    ):
        return None  # that fault is enough
    if _fitted(image, request.width, request.height):
        return None
    size = f"{image.width}x{image.height}" if image.width else "of unknown size"
    return f"must be given: the picture is {size}, which gives no size in [{_SMALLEST}, {_LARGEST}]"


_PIXELS: Final = rules.Rule(_explain_pixels, usual=_SIDE.usual)


def _fitted(
    image: ImageSource, width: int = _FROM_IMAGE, height: int = _FROM_IMAGE
) -> tuple[int, int] | None:
    """The size of the result; sides not given follow the picture. None where that leaves the range."""
    if not image.width or not image.height:
        return None
    if width or height:
        scale = width / image.width if width else height / image.height
    else:
        scale = min(1.0, DEFAULT_LONGER_SIDE / max(image.width, image.height))
    size = width or _on_grid(image.width * scale), height or _on_grid(image.height * scale)
    return size if all(_SMALLEST <= side <= _LARGEST for side in size) else None


def _on_grid(pixels: float) -> int:
    return int(pixels / _GRID + 0.5) * _GRID


@frozen(kw_only=True, field_transformer=rules.apart)
class Img2Img(_Diffusion):
    """A picture and a prompt that become pictures: `POST /v3/async/img2img`.

    Args:
        image: The picture to start from: a path, bytes, a binary file or an `ImageSource`. At most 10 MiB and
            16 megapixels (API).
        width: Pixels of the result. Range 128 to 2048 (API). Default: the picture's shape, longer side at
            most 1024, multiples of 8; follows `height` where only that is given (ours).
        height: Pixels of the result. Range 128 to 2048 (API). Default: as for `width` (ours).
        strength: How far from the picture: 0 keeps it, 1 ignores it. Range 0 to 1. None: the service's own
            default, which is not documented (API).
        controlnet: Pictures that guide.
        ip_adapters: Pictures used as prompts, at most 1 (API).
        tag: The user's own id, such as `sku-1`: text of 1 to 256 characters on one line, or a number (ours).
        metadata: Notes that the user wants to find beside the result: a JSON object of at most 16 KiB (ours).
        model_name: The checkpoint: `api_name` of a record of the model listing with type `checkpoint` (API).
        prompt: The wished picture. Length 1 to 1024 Unicode code points (API, live).
        negative_prompt: Things to avoid. Length up to 1024 code points; empty is accepted (live).
        image_num: How many pictures; each counts against the quota. Range 1 to 8 (API).
        steps: Denoising steps: more is slower and often better. Range 1 to 100 (API).
        guidance_scale: How closely the prompt is followed. Range 1 to 30 (API).
        sampler_name: The denoising algorithm (API).
        seed: The same seed gives the same picture. -1 or None: random. At least -1 (API); results report the
            seed used.
        clip_skip: Layers of CLIP left out at its end. Range 1 to 12 (API).
        sd_vae: `api_name` of a record of the model listing with type `vae` (API).
        loras: At most 5 (API).
        embeddings: Textual inversions, at most 5 (API).
        extra: Format of the results, NSFW detection, webhook, storage, dedicated capacity.
        extra_fields: Fields of `request` that this library does not know yet, sent as they are.
    """

    kind: ClassVar[str] = "img2img"
    endpoint: ClassVar[str] = IMG2IMG.path

    image: ImageSource = field(converter=measured, validator=_PICTURE)
    """The picture to start from: a path, bytes, a binary file or an `ImageSource`. At most 10 MiB and 16
    megapixels (API)."""
    width: int = field(default=None, converter=_pixels, validator=_PIXELS)
    """Pixels of the result. Range 128 to 2048 (API). Default: the picture's shape, longer side at most 1024,
    multiples of 8; follows `height` where only that is given (ours)."""
    height: int = field(default=None, converter=_pixels, validator=_PIXELS)
    """Pixels of the result. Range 128 to 2048 (API). Default: as for `width` (ours)."""
    strength: float | None = field(default=None, validator=rules.optional(_FRACTION))
    """How far from the picture: 0 keeps it, 1 ignores it. Range 0 to 1. None: the service's own default,
    which is not documented (API)."""
    controlnet: ControlNet | None = field(default=None, validator=rules.optional(rules.part(ControlNet)))
    """Pictures that guide."""
    ip_adapters: tuple[IPAdapter, ...] = field(
        default=(), converter=_ip_adapters, validator=rules.parts(IPAdapter, at_most=1)
    )
    """Pictures used as prompts, at most 1 (API)."""

    def __attrs_post_init__(self) -> None:
        rules.check(self)
        if self.width is _FROM_IMAGE or self.height is _FROM_IMAGE:
            width, height = cast("tuple[int, int]", _fitted(self.image, self.width, self.height))
            object.__setattr__(self, "width", width)
            object.__setattr__(self, "height", height)
        for picture in self.pictures:
            warn_of_size(picture, _LIMITS, stacklevel=3)
        if self.controlnet is not None or self.ip_adapters:
            units = self.controlnet.units if self.controlnet else ()
            names = [unit.model_name for unit in units] + [each.model_name for each in self.ip_adapters]
            if any("sdxl" in name for name in names) and any("sd15" in name for name in names):
                text = f"Img2Img: {', '.join(names)} are for different base models (SD 1.5 and SDXL)"
                warnings.warn(text, NovitaWarning, stacklevel=3)  # that can never be right

    @property
    def pictures(self) -> tuple[ImageSource, ...]:
        """Pictures that are sent."""
        if self.controlnet is None and not self.ip_adapters:
            return (self.image,)
        units = self.controlnet.units if self.controlnet else ()
        return (self.image, *(unit.image for unit in units), *(adapter.image for adapter in self.ip_adapters))

    def with_controlnet(
        self,
        model_name: ControlNetModel | str,
        image: Picture | None = None,
        strength: float = 1,
        *,
        preprocessor: Preprocessor | str | None = None,
        guidance_start: float | None = None,
        guidance_end: float | None = None,
    ) -> Self:
        """Add a ControlNet unit; without `image` the request's own picture guides."""
        unit = ControlNetUnit(
            model_name=model_name,
            image=self.image if image is None else image,
            strength=strength,
            preprocessor=preprocessor,
            guidance_start=guidance_start,
            guidance_end=guidance_end,
        )
        units = self.controlnet.units if self.controlnet else ()
        return attrs.evolve(self, controlnet=ControlNet(units=(*units, unit)))

    def with_ip_adapter(
        self, model_name: IPAdapterModel | str, image: Picture | None = None, strength: float = 1.0
    ) -> Self:
        """Add an IP-Adapter; without `image` the request's own picture is the prompt."""
        adapter = IPAdapter(
            model_name=model_name, image=self.image if image is None else image, strength=strength
        )
        return attrs.evolve(self, ip_adapters=(*self.ip_adapters, adapter))

    def _worked_out_anew(self, axes: Iterable[str]) -> dict[str, Any]:
        if "image" not in axes or _fitted(self.image) != (self.width, self.height):
            return {}
        return {side: None for side in ("width", "height") if side not in axes}


@frozen(kw_only=True)
class HiresFix:
    """A second pass at a larger size.

    Args:
        target_width: Pixels. Range 128 to 4096 (API).
        target_height: Pixels. Range 128 to 4096 (API).
        strength: How far from the first pass. Range 0 to 1 (API).
        upscaler: Upscaler of the first pass (API).
    """

    target_width: int = field(validator=rules.whole(128, 4096))
    """Pixels. Range 128 to 4096 (API)."""
    target_height: int = field(validator=rules.whole(128, 4096))
    """Pixels. Range 128 to 4096 (API)."""
    strength: float = field(validator=_FRACTION)
    """How far from the first pass. Range 0 to 1 (API)."""
    upscaler: Upscaler | str | None = field(default=None, validator=rules.optional(rules.text()))
    """Upscaler of the first pass (API)."""


@frozen(kw_only=True)
class Refiner:
    """Hands over to the SDXL refiner during the run.

    Args:
        switch_at: Where in the run, as a fraction. Range 0 to 1 (API).
    """

    switch_at: float = field(validator=_FRACTION)
    """Where in the run, as a fraction. Range 0 to 1 (API)."""


@frozen(kw_only=True, field_transformer=rules.apart)
class Txt2Img(_Diffusion):
    """A prompt that becomes pictures: `POST /v3/async/txt2img`.

    Args:
        width: Pixels of the result. Range 128 to 2048 (API).
        height: Pixels of the result. Range 128 to 2048 (API).
        clip_skip: Layers of CLIP left out at its end. Range 0 to 12 (the API's own examples send 0 here).
        hires_fix: A second pass at a larger size.
        refiner: The SDXL refiner.
        enable_transparent_background: A transparent background; SDXL and png only (API).
        restore_faces: Repair faces (API).
        tag: The user's own id, such as `sku-1`: text of 1 to 256 characters on one line, or a number (ours).
        metadata: Notes that the user wants to find beside the result: a JSON object of at most 16 KiB (ours).
        model_name: The checkpoint: `api_name` of a record of the model listing with type `checkpoint` (API).
        prompt: The wished picture. Length 1 to 1024 Unicode code points (API, live).
        negative_prompt: Things to avoid. Length up to 1024 code points; empty is accepted (live).
        image_num: How many pictures; each counts against the quota. Range 1 to 8 (API).
        steps: Denoising steps: more is slower and often better. Range 1 to 100 (API).
        guidance_scale: How closely the prompt is followed. Range 1 to 30 (API).
        sampler_name: The denoising algorithm (API).
        seed: The same seed gives the same picture. -1 or None: random. At least -1 (API); results report the
            seed used.
        sd_vae: `api_name` of a record of the model listing with type `vae` (API).
        loras: At most 5 (API).
        embeddings: Textual inversions, at most 5 (API).
        extra: Format of the results, NSFW detection, webhook, storage, dedicated capacity.
        extra_fields: Fields of `request` that this library does not know yet, sent as they are.
    """

    kind: ClassVar[str] = "txt2img"
    endpoint: ClassVar[str] = TXT2IMG.path

    width: int = field(validator=_SIDE)
    """Pixels of the result. Range 128 to 2048 (API)."""
    height: int = field(validator=_SIDE)
    """Pixels of the result. Range 128 to 2048 (API)."""
    clip_skip: int | None = field(default=None, validator=rules.optional(rule_of(TXT2IMG["clip_skip"])))
    """Layers of CLIP left out at its end. Range 0 to 12 (the API's own examples send 0 here)."""
    hires_fix: HiresFix | None = field(default=None, validator=rules.optional(rules.part(HiresFix)))
    """A second pass at a larger size."""
    refiner: Refiner | None = field(default=None, validator=rules.optional(rules.part(Refiner)))
    """The SDXL refiner."""
    enable_transparent_background: bool | None = field(default=None, validator=rules.optional(rules.flag()))
    """A transparent background; SDXL and png only (API)."""
    restore_faces: bool | None = field(default=None, validator=rules.optional(rules.flag()))
    """Repair faces (API)."""

    @property
    def pictures(self) -> tuple[ImageSource, ...]:
        """Pictures: none is sent."""
        return ()


@frozen(kw_only=True, field_transformer=rules.apart)
class AnyTask(NovitaRequest):
    """A request to any other endpoint, whether it answers with a task or with the results.

    Args:
        path: Absolute path, such as `/v3/async/upscale`.
        body: The whole body. An `ImageSource` anywhere in it is sent as base64, a `DataURL` as that; in a
            form a picture is a file of its own.
        image_num: How many images of the endpoint's quota this takes.
        is_form: Whether the body goes out as a multipart form, a field for each name, and not as JSON.
        webhook: Place in the body for the address of a webhook, with dots between the names, such as
            `callback`. None: as the table of routes has it for this path; empty: there is none.
        tag: The user's own id, such as `sku-1`: text of 1 to 256 characters on one line, or a number (ours).
        metadata: Notes that the user wants to find beside the result: a JSON object of at most 16 KiB (ours).
    """

    kind: ClassVar[str] = "task"

    path: str = field(validator=rules.path())
    """Absolute path, such as `/v3/async/upscale`."""
    body: Mapping[str, Any] = field(converter=_copied, validator=rules.part(Mapping), hash=False)
    """The whole body. An `ImageSource` anywhere in it is sent as base64, a `DataURL` as that; in a form a
    picture is a file of its own."""
    image_num: int = field(default=1, validator=rules.whole(1))
    """How many images of the endpoint's quota this takes."""
    is_form: bool = field(default=False, validator=rules.flag())
    """Whether the body goes out as a multipart form, a field for each name, and not as JSON."""
    webhook: str | None = field(default=None, validator=rules.optional(rules.text(0)), eq=False)
    """Place in the body for the address of a webhook, with dots between the names, such as `callback`. None:
    as the table of routes has it for this path; empty: there is none."""

    @property
    def takes_callback(self) -> bool:
        """Whether a callback URL can be added: there is a place for one, and none of the user's own there."""
        place = self._webhook
        return bool(place) and not self.is_form and place.partition(".")[0] not in self.body

    @property
    def _webhook(self) -> str:
        if self.webhook is not None:
            return self.webhook
        return "" if self.row is None else self.row.webhook

    @property
    def pictures(self) -> tuple[ImageSource, ...]:
        """Pictures that are sent."""
        return tuple(_pictures_in(self.body))

    @property
    def has_own_storage(self) -> bool:
        """Whether the service puts the results into a bucket of the user's own, as the body says."""
        return own_storage_in(self.body)

    def kept(self, write: Write) -> dict[str, Any]:
        """The body, marked where it is a form, and where a picture goes as a data URL."""
        body = write(_marked(self.body))
        return {FORM: body} if self.is_form else body

    def document(self, write: Write, callback_url: str | None = None) -> dict[str, Any]:
        """The body as it is, and a callback URL in its place, where it has one."""
        body: dict[str, Any] = write(dict(self.body))
        if callback_url is not None and self._webhook:
            put(body, self._webhook, callback_url)
        return body


FORM: Final = "$form"
"""Mark of a body that is a form, in what a request is made again from."""
DATA_URL: Final = "$data_url"
"""Mark of a picture that goes as a data URL."""


def _marked(value: Any) -> Any:
    """A body in which a mark says which pictures are data URLs. Raises `InvalidRequest`: it has marks."""
    if isinstance(value, DataURL):
        return {DATA_URL: value.image}
    if isinstance(value, Mapping):
        named = cast("Mapping[str, Any]", value)
        if FORM in named or DATA_URL in named:
            raise InvalidRequest(
                faults=(Flaw("body", f"{FORM} and {DATA_URL} are names that a journal uses"),)
            )
        return {name: _marked(item) for name, item in named.items()}
    if isinstance(value, list | tuple):
        return [_marked(item) for item in cast("Iterable[Any]", value)]
    return value


def put(body: dict[str, Any], place: str, value: Any) -> None:
    """Set a value at a place with dots between its names."""
    *outer, last = place.split(".")
    for name in outer:
        body = body.setdefault(name, {})
    body[last] = value


def own_storage_in(body: Any) -> bool:
    """Whether a body asks the service to put the results into a bucket of the user's own."""
    part = body
    for name in ("extra", "custom_storage", "aws_s3"):
        part = cast("Mapping[str, Any]", part).get(name) if isinstance(part, Mapping) else None
    return bool(part)


def _pictures_in(value: Any) -> Iterator[ImageSource]:
    if isinstance(value, ImageSource):
        yield value
    elif isinstance(value, DataURL):
        yield value.image
    elif isinstance(value, Mapping):
        for item in cast("Mapping[str, Any]", value).values():
            yield from _pictures_in(item)
    elif isinstance(value, list | tuple):
        for item in cast("Iterable[Any]", value):
            yield from _pictures_in(item)
