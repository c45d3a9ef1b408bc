"""What was learned of durations goes from one process to the next by a file that may fail in any way."""

import pytest

from novita_async._policy.polling.memory import PollMemory
from novita_async._watch.memory_file import load_memory, save_memory


def learned():
    memory = PollMemory()
    for _ in range(20):
        memory.kind("x", None).service.observe(5.0, 5.0)
    return memory


def test_what_was_saved_is_loaded_and_nothing_else_is_left(tmp_path):
    """The folder is made, and the file comes whole or not at all."""
    path = tmp_path / "new" / "polls.json"
    save_memory(path, learned())
    (kind,) = load_memory(path).statistics().kinds
    assert (kind.endpoint, kind.observed) == ("x", 20)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("content", [None, b"", b"{", b"\xff", b'{"version": 1, "kinds": 5}'])
def test_a_file_that_is_missing_or_damaged_is_an_empty_memory(tmp_path, content):
    path = tmp_path / "polls.json"
    if content is not None:
        path.write_bytes(content)
    assert load_memory(path).statistics().kinds == ()


def test_where_the_file_cannot_be_written_nothing_is_raised_or_left(tmp_path):
    """A folder stands where the file belongs."""
    path = tmp_path / "polls.json"
    path.mkdir()
    save_memory(path, learned())
    assert list(tmp_path.iterdir()) == [path]
