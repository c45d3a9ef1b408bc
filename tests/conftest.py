"""What all tests share: virtual time unless a test wants the real one, and a loop that nothing blocks."""

import signal

import pytest
from guard import Guard, standing
from hypothesis import settings

from novita_async.testing import VirtualTimeLoop

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a background job; children would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("steady", deadline=None)  # no test asserts a time
settings.load_profile("steady")

@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop():
    """A call of the library that blocks while a loop runs is an error, also where the library catches the error."""
    with standing(Guard()) as guard:
        yield
    assert guard.found == []
