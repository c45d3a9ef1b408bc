"""The scanner of answers that hold pictures, beside a JSON library that reads them whole."""

import base64
import json
import re

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from novita_async._api.answers import (
    SAMPLE,
    AnswerScanner,
    PartBegun,
    PartEnded,
    PartPiece,
    TextPiece,
    closed,
)

PNG = b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR"
MAGICS = (
    PNG,
    b"\xff\xd8\xff\xe0",
    b"RIFF\x10\x10\x00\x00WEBPVP8 ",
    b"GIF89a",
    b"BM\x10\x10\x00\x00\x00\x00\x00\x00",
)
LONG = 2 * SAMPLE


class Scanned:
    """What a scanner made of an answer that came in pieces."""

    def __init__(self, *pieces):
        scanner = AnswerScanner()
        self.text, self.parts, self.whole, self.types = b"", [], [], []
        for piece in pieces:
            self.take(scanner.feed(piece))
            assert len(scanner._rest) < SAMPLE + 6
        self.text += scanner.finish()
        self.repr = repr(scanner)

    def take(self, events):
        for event in events:
            if isinstance(event, TextPiece):
                self.text += event.text
            elif isinstance(event, PartBegun):
                self.parts.append(b"")
                self.types.append(event.media_type)
            elif isinstance(event, PartPiece):
                self.parts[-1] += event.data
            elif isinstance(event, PartEnded):
                self.whole.append(event.is_whole)

    def same_as(self, other):
        return (self.text, self.parts, self.whole, self.types) == (
            other.text,
            other.parts,
            other.whole,
            other.types,
        )


def cut(text, places):
    places = sorted({place % (len(text) + 1) for place in places})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


@st.composite
def picture_literals(draw):
    """A picture as a JSON string, in one of the ways that encoders have, and its bytes."""
    magic, body = draw(st.sampled_from(MAGICS)), draw(st.binary(min_size=30, max_size=33))
    picture = magic + body * 30
    text = base64.b64encode(picture).decode()
    if draw(st.booleans()):
        text = text.translate(str.maketrans("+/", "-_"))
    if draw(st.booleans()):
        text = text.rstrip("=")
    for character in draw(st.sampled_from(["", "", "/", "+", "=", "/+", "A", "+=Q"])):
        written = "\\/" if character == "/" else f"\\u{ord(character):04x}"
        text = text.replace(character, written)
    if draw(st.booleans()):
        text = "\\r\\n".join(re.findall(r"(?:\\u....|\\.|.){1,76}", text)) + draw(
            st.sampled_from(["", "\\n"])
        )
    return f'"{draw(st.sampled_from(PREFIXES))}{text}"', picture


PREFIXES = ("", "", "data:image\\/png;base64,", "data:;base64,", "DATA:image/x;a=b;BASE64,")


TEXTS = st.builds(
    lambda text, times, is_ascii: json.dumps(text * times, ensure_ascii=is_ascii),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    st.sampled_from([1, 1, 1, 200]),
    st.booleans(),
)
OTHERS = TEXTS | st.sampled_from(["-2.5e3", "null"])
ITEMS = picture_literals() | OTHERS.map(lambda text: (text, None))
SHAPES = (
    "{}",
    "[{}]",
    "[[ {}, true ] , 1]",
    '{{"b64_json" : {}, "revised_prompt":"a"}}',
    '{{"a":{{"b\\"":{}}}}}',
)


@st.composite
def answers(draw):
    """The text of a JSON value, with the pictures in it."""
    items = draw(st.lists(st.tuples(ITEMS, st.sampled_from(SHAPES)), max_size=4))
    text = ", ".join(shape.format(literal) for (literal, _), shape in items)
    return f'{{"created": 1, "data": [{text}]}}'.encode(), [each for (_, each), _ in items if each]


def put_back(value, parts):
    """The value with the pictures in the place of their marks."""
    if isinstance(value, dict):
        return {key: put_back(item, parts) for key, item in value.items()}
    if isinstance(value, list):
        return [put_back(item, parts) for item in value]
    found = re.fullmatch(r"novita-part:(\d+)", value) if isinstance(value, str) else None
    return parts[int(found[1])] if found else value


def decoded(value, pictures):
    """The value with its pictures decoded by others."""
    if isinstance(value, dict):
        return {key: decoded(item, pictures) for key, item in value.items()}
    if isinstance(value, list):
        return [decoded(item, pictures) for item in value]
    if isinstance(value, str) and len(value) >= SAMPLE:
        text = re.sub(r"^data:.*?;base64,|\s", "", value, flags=re.IGNORECASE).rstrip("=")
        if re.fullmatch(r"[\w+/-]+", text, re.ASCII):
            data = base64.b64decode(text.translate(str.maketrans("-_", "+/")) + "==")
            return data if data in pictures else value
    return value


@given(answers(), st.lists(st.integers(0, 1 << 20), max_size=12))
def test_an_answer_is_read_as_by_a_json_library_wherever_its_bytes_are_cut(answer, places):
    text, pictures = answer
    scanned = Scanned(*cut(text, places))
    assert scanned.parts == pictures
    assert scanned.whole == [True] * len(pictures)
    expected = decoded(msgspec.json.decode(text), pictures)
    assert put_back(msgspec.json.decode(scanned.text), scanned.parts) == expected
    assert scanned.same_as(Scanned(text))


@settings(max_examples=20)
@given(answers())
def test_an_answer_that_comes_byte_by_byte_is_the_same(answer):
    text, _ = answer
    assert Scanned(*[text[n : n + 1] for n in range(len(text))]).same_as(Scanned(text))


WRONG = [
    b"\\",
    b'"',
    b"\\u",
    b"\\u00",
    b"\\/",
    b"=",
    b"==",
    b"!",
    b"\xc3\xa9",
    b"\\\\",
    b'\\"',
    b"\\n",
    b"-",
    b"{",
]


@given(
    answers(),
    st.lists(st.tuples(st.integers(0, 1 << 20), st.sampled_from(WRONG), st.integers(0, 3)), max_size=6),
    st.lists(st.integers(0, 1 << 20), max_size=12),
)
def test_what_is_no_json_is_read_the_same_wherever_its_bytes_are_cut(answer, faults, places):
    text, _ = answer
    for anywhere, wrong, dropped in faults:
        place = anywhere % (len(text) + 1)
        text = text[:place] + wrong + text[place + dropped :]
    assert Scanned(*cut(text, places)).same_as(Scanned(text))


@given(answers())
def test_without_its_pictures_an_answer_is_small(answer):
    text, pictures = answer
    taken = sum(map(len, pictures))
    assert len(Scanned(text).text) <= len(text) - taken + 20 * len(pictures)


def of_string(inside):
    """What becomes of an answer of one string."""
    return Scanned(b'["' + inside + b'"]')


PICTURE = PNG + bytes(range(256)) * 8
DIGITS = base64.b64encode(PICTURE)
SLASHED = base64.b64decode(DIGITS[:1200] + b"/" + DIGITS[1201:2000])


@pytest.mark.parametrize(
    "inside",
    [
        DIGITS[: SAMPLE - 1],
        b"a" * LONG,
        b"a cute dog " * 200,
        base64.b64encode(b"a signature " * 200),
        base64.b64encode(b"BM, which many a signature begins with " * 50),
        b"data:image/svg+xml,%3Csvg " + b"x" * LONG,
        b"data:text/plain,aaaa" + b"x" * LONG,
        b"\xc3\xa9" + DIGITS,
        b"\\u00e9" + DIGITS,
        b"\\\\" + DIGITS,
        b'\\"' + DIGITS,
        b"see data:image/png;base64," + DIGITS,
        b"\\" * LONG,
    ],
)
def test_what_is_no_picture_stays_in_the_text(inside):
    scanned = of_string(inside)
    assert (scanned.text, scanned.parts) == (b'["' + inside + b'"]', [])


@pytest.mark.parametrize(
    ("inside", "kept"),
    [
        (DIGITS + b"!", PICTURE),
        (DIGITS[:-1] + b"!AAAA", PICTURE[:-1]),
        (DIGITS[:2000] + b"\\u00e9" + DIGITS[2000:], PICTURE[:1500]),
        (DIGITS[:2001] + b'\\"' + DIGITS[2000:], PICTURE[:1500]),
        (DIGITS[:2000] + b"\\\\/" + DIGITS[2000:], PICTURE[:1500]),
        (DIGITS[:1200] + b"\\/" + DIGITS[1201:2000] + b"\\\\/" + DIGITS[2000:], SLASHED),
        (DIGITS[:2000] + b"=" + DIGITS[2000:], PICTURE[:1500]),
        (DIGITS[:2002] + b"==" + DIGITS[2000:], PICTURE[:1501]),
        (DIGITS[:2001], PICTURE[:1500]),
        (DIGITS[:2001] + b"===", PICTURE[:1500]),
        (DIGITS[:2002] + b"==\\nA", PICTURE[:1501]),
    ],
)
def test_a_picture_ends_where_something_else_stands_in_it(inside, kept):
    for scanned in (of_string(inside), Scanned(*[bytes([byte]) for byte in b'["' + inside + b'"]'])):
        assert scanned.text == b'["novita-part:0"]'
        assert (scanned.parts, scanned.whole) == ([kept], [False])


@pytest.mark.parametrize("end", [b"", b"=", b"==", b"===", b"\\n", b"==\\n", b"=\\r\\n=", b" "])
@pytest.mark.parametrize("size", [1500, 1501, 1502])
def test_padding_may_be_missing_or_too_much(size, end):
    scanned = of_string(base64.b64encode(PICTURE[:size]).rstrip(b"=") + end)
    assert (scanned.parts, scanned.whole) == ([PICTURE[:size]], [True])


def test_a_raw_line_break_in_a_string_is_read_although_json_forbids_it():
    scanned = of_string(base64.encodebytes(PICTURE))
    assert (scanned.text, scanned.parts, scanned.whole) == (b'["novita-part:0"]', [PICTURE], [True])


@pytest.mark.parametrize(
    ("prefix", "media_type"),
    [
        (b"data:image/png;base64,", "image/png"),
        (b"data:image\\/png;base64,", "image/png"),
        (b"data:;base64,", None),
        (b"data:image/x-new;v=1;base64,", "image/x-new"),
        (b"", None),
    ],
)
def test_a_data_url_tells_its_media_type(prefix, media_type):
    assert of_string(prefix + DIGITS).types == [media_type]


def test_a_data_url_is_taken_whatever_it_holds():
    other = b"\x00\x01\x02 no picture that is known" * 100
    scanned = of_string(b"data:image/x-new;base64," + base64.b64encode(other))
    assert scanned.parts == [other]


def test_a_picture_that_was_cut_does_not_end():
    scanned = Scanned(b'{"a": "' + DIGITS + b'", "b": "' + DIGITS[:-8])
    assert scanned.text == b'{"a": "novita-part:0", "b": "novita-part:1'
    assert (scanned.whole, scanned.parts[0]) == ([True], PICTURE)
    assert scanned.repr == "<AnswerScanner in part, 2 parts>"


@settings(max_examples=40)
@given(answers(), st.data())
def test_json_that_broke_off_anywhere_is_closed_behind_its_last_whole_value(answer, data):
    text = Scanned(answer[0]).text
    whole = msgspec.json.decode(text)
    place = data.draw(st.integers(1, len(text)))
    begun = msgspec.json.decode(closed(text[:place]))
    assert is_beginning(begun, whole)
    if place == len(text):
        assert begun == whole


def is_beginning(begun, whole):
    if isinstance(whole, dict) and isinstance(begun, dict):
        keys = list(begun)
        return keys == list(whole)[: len(keys)] and all(
            is_beginning(begun[key], whole[key]) if key == keys[-1] else begun[key] == whole[key]
            for key in keys
        )
    if isinstance(whole, list) and isinstance(begun, list):
        last = len(begun) - 1
        return len(begun) <= len(whole) and all(
            is_beginning(item, whole[n]) if n == last else item == whole[n] for n, item in enumerate(begun)
        )
    return begun == whole


@pytest.mark.parametrize(
    ("text", "end"),
    [
        (b'{"a": [{"b": "novita-part:0"}, {"b": "iVB', b'{"a": [{"b": "novita-part:0"}, {}]}'),
        (b'{"a": 1, "b', b'{"a": 1}'),
        (b'{"a": 1, "b"', b'{"a": 1}'),
        (b'{"a": 1, "b":', b'{"a": 1}'),
        (b'{"a": 12', b"{}"),
        (b'{"a": 12,', b'{"a": 12}'),
        (b'["a\\"b", "\\', b'["a\\"b"]'),
        (b"[true, [fal", b"[true, []]"),
        (b"[[[[", b"[[[[]]]]"),
        (b"[1, 2] trailing", b"[1, 2] trailing"),
        (b"", b""),
        (b"<html>", b""),
        (b"[1}, 2]", b"[1}, 2]"),
    ],
)  # fmt: skip
def test_what_broke_off_is_closed_like_this(text, end):
    assert closed(text) == end
