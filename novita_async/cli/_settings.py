"""Options of requests, for every command that makes some: one for each field of the models."""

from typing import TYPE_CHECKING, Annotated, Any, Final

from cyclopts import Group, Parameter

from novita_async.cli._options import options_class, options_of
from novita_async.models.requests import Extra, Img2Img

REQUEST: Final = tuple(
    options_of(Img2Img, prefix=("request",), leave_out=("image", "extra", "extra_fields", "tag", "metadata"))
)
EXTRA: Final = tuple(options_of(Extra, prefix=("extra",)))
_GROUPS: Final = {
    Group("What to make", sort_key=2): REQUEST,
    Group("How to hand it over", sort_key=4): EXTRA,
}
_NAMES: Final = {
    ("model_name",): ("model-name", "model", "-m"),
    ("prompt",): ("prompt", "-p"),
    ("seed",): ("seed", "-s"),
}
_PARTS: Final = Group("Models and pictures that take part", sort_key=3)
SENDING: Final = Group("Sending and saving", sort_key=1)

if TYPE_CHECKING:
    Settings = Any
else:
    Settings = options_class("Settings", _GROUPS, _NAMES)

Out = Annotated[str, Parameter(name=("--out", "-o"), group=SENDING)]
DryRun = Annotated[bool, Parameter(name=("--dry-run", "-n"), group=SENDING, negative=(), show_default=False)]
Parts = Annotated[list[str] | None, Parameter(group=_PARTS, negative_iterable=())]
