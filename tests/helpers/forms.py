"""Multipart forms as a server reads them: strictly, by the letter of RFC 7578 and of the HTML standard."""

import re

_HEAD = re.compile(
    rb'Content-Disposition: form-data; name="([^"\r\n]*)"(?:; filename="([^"\r\n]*)")?'
    rb"(?:\r\nContent-Type: ([^\r\n]+))?"
)


def fields_of(body, boundary):
    """Name, file name, media type and content of each field. Fails where anything is not as it must be."""
    mark = b"--" + boundary.encode()
    *fields, end = (b"\r\n" + body).split(b"\r\n" + mark)
    assert end == b"--\r\n"
    assert not fields or fields.pop(0) == b""
    return [_read(field) for field in fields]


def _read(field):
    assert field.startswith(b"\r\n")
    head, separator, content = field[2:].partition(b"\r\n\r\n")
    assert separator
    found = _HEAD.fullmatch(head)
    assert found, head
    name, file, kind = (None if text is None else text.decode() for text in found.groups())
    return _unquoted(name), _unquoted(file), kind, content


def _unquoted(text):
    if text is None:
        return None
    return text.replace("%22", '"').replace("%0D", "\r").replace("%0A", "\n")
