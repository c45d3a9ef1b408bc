"""Command line options made from models: one source for names, types, defaults and help.

Every scalar field of an attrs class becomes an option, whose help is the field's docstring. Fields that are
attrs classes themselves give options with a dot: `--webhook.url`. All are optional here; what is missing is
for the model to say, because a file may hold the rest. For the same reason a number that is none stays text:
then the model names it together with all other faults.
"""

import ast
import inspect
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from enum import Enum
from functools import cache
from itertools import pairwise
from types import NoneType, UnionType
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import attrs
from attrs import evolve
from cyclopts import Group, Parameter

from novita_async._util.values import frozen

_SCALARS: Final = (bool, int, float, str)
Path = tuple[str, ...]


@frozen(kw_only=True)
class Option:
    """A scalar of a model."""

    prefix: Path = ()
    """Where the model is in the document that holds it."""
    path: Path
    """Where the scalar is in the model: names of fields, from the outside in."""
    kind: Any = str
    """`bool`, `int`, `float` or `str`."""
    many: bool = False
    """Whether it may be given several times."""
    required: bool = False
    """Whether there is no model without it."""
    default: Any = None
    """Value that the model takes where nothing is given."""
    help: str = ""
    """The field's docstring, and what is known of its values."""

    @property
    def place(self) -> Path:
        """Where it is in the document."""
        return (*self.prefix, *self.path)

    @property
    def attribute(self) -> str:
        """Its name in the class of all options."""
        return "_".join(self.path)

    @property
    def dotted(self) -> str:
        """Its name without the leading dashes."""
        return ".".join(self.path).replace("_", "-")


@cache
def field_docs(model: type) -> Mapping[str, str]:
    """The docstring of every field of a class, those that it inherits included."""
    docs: dict[str, str] = {}
    for cls in reversed(model.__mro__[:-1]):
        docs.update(_docs_in(cls.__module__).get(cls.__name__, {}))
    return docs


@cache
def _docs_in(module: str) -> Mapping[str, Mapping[str, str]]:
    """The docstrings of all fields of a module, by class. The source is read once for all of them."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: dict(_docs_of(node)) for node in tree.body if isinstance(node, ast.ClassDef)}


def _docs_of(definition: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for node, below in pairwise(definition.body):
        match node, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                yield name, " ".join(words.split())
            case _:
                pass


def options_of(
    model: type, *, prefix: Path = (), leave_out: Collection[str] = (), within: Path = ()
) -> Iterator[Option]:
    """Every scalar of an attrs class and of the classes in it, without the fields that are to be left out."""
    attrs.resolve_types(model)
    for attribute in attrs.fields(model):
        if attribute.name in leave_out:
            continue
        several = get_origin(attribute.type) in (Union, UnionType, Literal)
        alternatives: tuple[Any, ...] = get_args(attribute.type) if several else (attribute.type,)
        kinds = [kind for kind in alternatives if kind is not NoneType]
        path = (*within, attribute.name)
        many = get_origin(kinds[0]) is tuple
        # Literals are text.
        plain = [
            str if isinstance(kind, str) else kind for kind in (get_args(kinds[0])[:1] if many else kinds)
        ]
        scalar = next((kind for kind in plain if kind in _SCALARS), None)
        if scalar is not None:
            option = _option(model, attribute, kinds)
            yield evolve(option, prefix=prefix, path=path, kind=scalar, many=many)
        elif attrs.has(kinds[0]) and not many:
            yield from options_of(kinds[0], prefix=prefix, within=path)


def _option(model: type, attribute: "attrs.Attribute[Any]", kinds: Sequence[Any]) -> Option:
    required = attribute.default is attrs.NOTHING
    enums = [kind for kind in kinds if isinstance(kind, type) and issubclass(kind, Enum)]
    known = [str(member.value) for kind in enums for member in kind]
    known += [kind for kind in kinds if isinstance(kind, str)]
    sentences = (field_docs(model).get(attribute.name, ""), f"Known: {', '.join(known)}." if known else "")
    return Option(
        path=(attribute.name,),
        required=required,
        default=None if required else attribute.default,
        help=" ".join(filter(None, sentences)),
    )


def options_class(
    name: str, groups: Mapping[Group, Sequence[Option]], names: Mapping[Path, str | tuple[str, ...]]
) -> Any:
    """Make the class that holds the values of options: give it to cyclopts under `Parameter(name="*")`.

    Args:
        name: Of the class.
        groups: The options, by the heading under which the help lists them.
        names: Names of the options that are not to be called after their path.
    """
    fields = {
        option.attribute: attrs.field(default=None, type=_annotated(option, group, names.get(option.path)))
        for group, options in groups.items()
        for option in options
    }
    return attrs.make_class(name, fields, frozen=True, kw_only=True)


def _annotated(option: Option, group: Group, name: str | tuple[str, ...] | None) -> Any:
    kind = list[str] if option.many else option.kind
    if option.kind in (int, float):  # for the model to say; where pydantic is loaded, cyclopts asks that, too
        kind = int | float | str
    parameter = Parameter(
        name=name or option.dotted,
        help=f"{option.help} Required." if option.required and len(option.path) == 1 else option.help,
        group=group,
        converter=number if option.kind in (int, float) else None,
        negative_iterable=(),
        show_default=_shown(option),
    )
    return Annotated[kind | None, parameter]


def _shown(option: Option) -> Any:
    """Say the default in the form that cyclopts takes for the help: text, or False for nothing."""
    own = (
        len(option.path) == 1 and not option.many
    )  # those of a part only hold once another option has made it
    return str(option.default) if own and option.default is not None else False


def number(_: Any, tokens: Sequence[Any]) -> float | int | str:
    """Read a number; what is none is left as text, for the model to name."""
    text = str(tokens[0].value)
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def given(options: Sequence[Option], values: Any) -> dict[Path, Any]:
    """The values of options that were given, by their place in the document. `values` may be None."""
    found = {option.place: getattr(values, option.attribute, None) for option in options}
    return {path: value for path, value in found.items() if value is not None}
