"""What all tests share: virtual time unless a test wants the real one, and a loop that nothing blocks."""

import signal

import pytest
from blockbuster import BlockBuster
from hypothesis import settings

from novita_async.testing import VirtualTimeLoop

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a background job; children would ignore it, too
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("steady", deadline=None)  # no test asserts a time
settings.load_profile("steady")

MAY_BLOCK = {
    # The two reads that are allowed by name: a picture's stat and header, and one slice of it.
    "novita_async/models/images.py": {"from_path", "_file_slices"},
    # The simulator is not the library: it draws where it stands, and its loop waits for the world.
    "novita_async/testing/transport.py": {"open"},
    "novita_async/testing/clock.py": {"wait", "select"},
    # What measures the tests is not tested.
    "coverage/collector.py": {"lock_data", "unlock_data"},
    # Modules are imported when they are first used.
    "importlib/_bootstrap.py": {"_find_and_load"},
    "<frozen importlib._bootstrap>": {"_find_and_load"},
}


@pytest.fixture
def anyio_backend():
    return "asyncio", {"loop_factory": VirtualTimeLoop}


@pytest.fixture(autouse=True)
def nothing_blocks_the_loop():
    """A call of the library that blocks while a loop runs is an error."""
    guard = BlockBuster(scanned_modules="novita_async")
    for function in guard.functions.values():
        for file, names in MAY_BLOCK.items():
            function.can_block_in(file, names)
    guard.activate()
    yield
    guard.deactivate()
