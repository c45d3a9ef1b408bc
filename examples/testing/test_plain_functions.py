"""pytest and functions without `async`."""

from pictures import portrait_without_await


def test_a_portrait_is_bought_once(novita_simulator):
    with novita_simulator.sync_client() as client:
        assert portrait_without_await(client).startswith("https://")
    assert novita_simulator.ledger.images == 1
