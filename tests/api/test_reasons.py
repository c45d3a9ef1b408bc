"""The table of reasons says the same everywhere."""

import pytest

from novita_async._api.reasons import REASONS, download_passes, meaning_for_task, meaning_of
from novita_async.errors import PermissionDenied, RateLimited, TaskNotFound

REFUSALS = [400, 401, 402, 403, 404, 408, 409, 410, 413, 425, 429, 499]


@pytest.mark.parametrize("reason", REASONS)
def test_a_known_reason_means_the_same_under_every_status(reason):
    """Only whether something was bought may follow from the status, where the reason does not tell."""
    row = REASONS[reason]
    for status in (200, 302, *REFUSALS, 500, 503, 521, 530):
        found = meaning_of(status, reason)
        assert (status, found.error, found.scope, found.passes, found.advice) == (
            status, row.error, row.scope, row.passes, row.advice,
        )  # fmt: skip
        assert (status, found.bought) == (status, "no" if status in REFUSALS else row.bought)


@pytest.mark.parametrize("reason", REASONS)
def test_a_known_reason_means_the_same_for_a_poll(reason):
    assert meaning_for_task(403, reason, in_json=True) == meaning_of(403, reason)


def test_the_scope_of_an_error_is_that_of_its_class_unless_the_class_has_several():
    """So an error that is raised by status dooms the same as one that is raised by reason."""
    scopes = {(row.error, row.scope) for row in REASONS.values()}
    for error, scope in scopes:
        assert error is PermissionDenied or error().scope == scope


def test_only_what_passes_by_itself_is_called_retryable():
    for row in REASONS.values():
        assert row.passes == row.error().retryable or row.advice or row.bought == "unknown"
    assert not REASONS["ANONYMOUS_ACCESS_QUOTA_EXCEEDS"].passes


@pytest.mark.parametrize(
    ("status", "reason", "in_json", "error", "passes"),
    [
        (404, None, True, TaskNotFound, True),
        (404, "NEW", True, TaskNotFound, False),
        (429, None, False, RateLimited, True),
    ],
)
def test_a_poll_without_a_known_reason(status, reason, in_json, error, passes):
    found = meaning_for_task(status, reason, in_json=in_json)
    assert (found.error, found.passes) == (error, passes)


@pytest.mark.parametrize(
    ("status", "passes"),
    [(None, True), (200, True), (400, False), (403, False), (404, False), (408, True), (425, True),
     (429, True), (499, False), (500, True), (503, True)],
)  # fmt: skip
def test_a_result_host_is_asked_again_where_its_refusal_passes(status, passes):
    assert download_passes(status) == passes
