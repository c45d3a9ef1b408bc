"""Docstrings of classes repeat the words of their fields: written by `tools.args`, never by hand."""

import importlib.util
import inspect
import sys

import pytest

from novita_async import Img2Img, Polling, Succeeded
from tools import args


def test_every_class_says_what_its_fields_say():
    """Else: `python -m tools.args` writes it."""
    assert [cls.__name__ for cls in args.stale()] == []


@pytest.mark.parametrize(
    ("cls", "words"),
    [
        (Img2Img, "strength: "),
        (Img2Img, "tag: "),
        (Polling, "deadline: "),
        (Succeeded, "paths: Where the result"),
    ],
)
def test_help_and_editors_show_fields_also_inherited_ones(cls, words):
    assert f"\n    {words}" in inspect.getdoc(cls)


SOURCE = '''
from attrs import frozen


@frozen
class Sample:
    """A sample.

    More of it.

    Raises:
        ValueError: never.
    """

    told: int = 1
    """Words of a field, in seconds, so many that no line of a hundred and ten characters can hold them."""
    _hidden: int = 2
    """Not told."""


@frozen
class Heir(Sample):
    """An heir."""

    own: int = 3
    """Its own."""
'''


@pytest.fixture
def sample(tmp_path, monkeypatch):
    def load():
        spec = importlib.util.spec_from_file_location("sample_of_args", path)
        module = importlib.util.module_from_spec(spec)
        monkeypatch.setitem(sys.modules, "sample_of_args", module)
        spec.loader.exec_module(module)
        args.field_docs.cache_clear()
        sys.modules["novita_async.cli._options"]._docs_in.cache_clear()
        return module

    path = tmp_path / "sample_of_args.py"
    path.write_text(SOURCE, encoding="utf-8")
    sys.dont_write_bytecode, before = True, sys.dont_write_bytecode
    yield load
    sys.dont_write_bytecode = before


def test_a_section_is_written_before_other_sections_and_writing_again_changes_nothing(sample):
    module = sample()
    args.write([module.Sample, module.Heir])
    again = sample()
    section = """More of it.

    Args:
        told: Words of a field, in seconds, so many that no line of a hundred and ten characters can hold
            them.

    Raises:
        ValueError: never.
    """
    assert inspect.getdoc(again.Sample).endswith(inspect.cleandoc(section))
    heir = """An heir.

    Args:
        own: Its own.
        told: Words of a field, in seconds"""
    assert inspect.getdoc(again.Heir).startswith(inspect.cleandoc(heir))
    for cls in (again.Sample, again.Heir):
        assert inspect.cleandoc(cls.__doc__) == args.docstring_of(cls)
