"""Values of answers, taken for what they mean."""

import pytest

from novita_async._util import lenient


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3600, 3600), ("3600", 3600), (" 3600 ", 3600), (3600.0, 3600), ("3600.9", 3600), ("-5", -5),
        ("+5", 5), (2**63 + 1, 2**63 + 1), (str(2**63 + 1), 2**63 + 1), ("1e3", 1000), ("", None),
        ("x", None), (None, None), (True, None), ([], None), ({}, None), ("nan", None), ("inf", None),
        (10**400, None), ("9" * 400, None), ("²", None), ("--5", None),
    ],
)  # fmt: skip
def test_integers_are_read_leniently(value, expected):
    assert lenient.as_int(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1, 1), (1.5, 1.5), ("1.5", 1.5), ("", None), (None, None), (False, None), ("-inf", None), ([1], None)],
)
def test_numbers_are_read_leniently(value, expected):
    assert lenient.as_float(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (True, True), (False, False), (1, True), (0, False), ("1", True), ("0", False), ("true", True),
        ("False", False), (2, None), ("yes", None), ("", None), (None, None), (1.0, None), ([], None),
        ({}, None),
    ],
)  # fmt: skip
def test_booleans_are_read_leniently(value, expected):
    assert lenient.as_bool(value) is expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [("a", "a"), ("", ""), (5, "5"), (1.5, "1.5"), (None, ""), (True, ""), ([1], ""), ({"a": 1}, "")],
)
def test_text_is_read_leniently(value, expected):
    assert lenient.as_text(value) == expected


def test_objects_and_lists_are_read_leniently():
    assert lenient.as_object({"a": 1}) == {"a": 1}
    assert [lenient.as_object(value) for value in (None, [], "x", 5)] == [{}] * 4
    assert lenient.as_list([1]) == [1]
    assert [lenient.as_list(value) for value in (None, {}, "x", 5)] == [[]] * 4


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1705307755123", 1705307755123.0), (1000, 1000.0), ("", None), (0, None), ("0", None), (-1, None),
        (None, None), ([], None), ("nan", None), (1e300, None),
        (lenient.END_OF_TIME - 1, float(lenient.END_OF_TIME - 1)), (lenient.END_OF_TIME, None),
    ],
)  # fmt: skip
def test_times_are_read_leniently(value, expected):
    assert lenient.as_ms(value) == expected
