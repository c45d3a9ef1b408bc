"""Values compare, hash and show themselves as those of attrs do."""

import attrs
import pytest
from attrs import field

from novita_async._util.values import frozen


def classes(make):
    """The same classes, made by this decorator."""

    @make
    class Point:
        x: int
        y: int = field(default=0, repr=lambda value: f"<{value}>")

    @make(kw_only=True)
    class Named(Point):
        name: str = field(default="", eq=False)
        secret: str = field(default="s", repr=False)
        listed: list[int] = field(factory=list, hash=False)

    @make
    class Keyed:
        text: str = field(eq=str.lower)
        x: int = 0

    @make
    class Empty:
        pass

    @make(eq=False, repr=False)
    class Bare:
        x: int = 0

    @make
    class Own:
        x: int

        def __repr__(self):
            return "own"

        def __hash__(self):
            return 7

    return Point, Named, Keyed, Empty, Bare, Own


@pytest.mark.parametrize("make", [attrs.frozen, frozen])
def test_a_value_is_like_one_of_attrs(make):
    point, named, keyed, empty, bare, own = classes(make)
    assert point(1, 2) == point(1, 2) != point(1, 3)
    assert hash(point(1, 2)) == hash(point(1, 2)) != hash(point(2, 1))
    assert point(1) != named(x=1)
    assert named(x=1, name="a") == named(x=1, name="b") != named(x=1, secret="t")
    assert named(x=1, listed=[1]) != named(x=1, listed=[2])
    assert hash(named(x=1, listed=[1])) == hash(named(x=1, listed=[2]))
    assert keyed("A") == keyed("a") != keyed("b")
    assert keyed("A") != keyed("a", 1)
    assert hash(keyed("A")) == hash(keyed("a"))
    assert empty() == empty()
    assert hash(empty()) == hash(empty())
    assert bare() != bare()
    assert (repr(own(1)), hash(own(1)), own(1) == own(1)) == ("own", 7, True)
    assert point(1).__eq__(1) is NotImplemented
    assert repr(named(x=1, y=2, name="a")).endswith("Named(x=1, y=<2>, name='a', listed=[])")
    assert "Bare(" not in repr(bare())
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        point(1).x = 2


@pytest.mark.parametrize("make", [attrs.frozen, frozen])
def test_a_value_that_holds_itself_can_be_shown(make):
    _, named, *_ = classes(make)
    value = named(x=1)
    value.listed.append(value)
    assert "listed=[...]" in repr(value)
