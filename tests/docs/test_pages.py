"""Every block of the documentation runs, or says why it cannot."""

import pytest

from tests.helpers.pages import DATABASE, DOCS, PAGES, Reader, blocks_of, examples_of

NOT_RUN_HERE = {
    "how-to/batches.md": ["needs jq"],
    "how-to/many-machines.md": ["needs psql", "needs two servers", "needs Celery"],
    "how-to/object-stores.md": ["installs"],
    "how-to/migrate.md": ["needs novita-client"],
    "how-to/other-languages.md": ["needs curl and a served simulator"],
    "how-to/shared-quota.md": ["needs a database"] * 3,
    "how-to/celery.md": ["needs Celery"],
    "how-to/notebooks.md": ["needs pandas"],
    "how-to/sync.md": ["needs Flask"],
    "how-to/watching.md": ["the id is yours"],
    "how-to/webhooks.md": ["needs FastAPI"],
    "tutorials/batch.md": ["kills whatever is called so"],
    "tutorials/web-service.md": ["needs curl, and serves until it is stopped"],
}
"""Blocks about other people's systems, by their page: what each needs."""


def name_of(page):
    return page.relative_to(DOCS).as_posix()


WITH_BLOCKS = [page for page in PAGES if blocks_of(page)]


@pytest.mark.parametrize("page", WITH_BLOCKS, ids=name_of)
def test_a_reader_can_do_what_the_page_says(page, folder, serve, monkeypatch, request):
    server = serve(workers=8, speed=200.0, latency=0.0)
    if name_of(page) == "how-to/object-stores.md":
        s3 = request.getfixturevalue("s3")
        s3.put_bucket("studio")
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
    with Reader(folder, server, monkeypatch.setenv) as reader:
        if DATABASE in page.read_text(encoding="utf-8"):
            reader.database = request.getfixturevalue("database")
        for example in examples_of(page, reader):
            example.evaluate()


def test_the_blocks_that_cannot_run_here_are_these():
    found = {
        name_of(page): excuses
        for page in PAGES
        if (excuses := [block.excuse for block in blocks_of(page) if block.excuse is not None])
    }
    assert found == NOT_RUN_HERE


def test_a_block_of_an_unknown_language_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```basic\nPRINT 1\n```\n", encoding="utf-8")
    (example,) = examples_of(page, Reader(tmp_path, None, None))
    with pytest.raises(KeyError, match="basic"):
        example.evaluate()


def test_a_shell_line_that_nobody_can_run_is_refused(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```sh\nfrobnicate now\n```\n", encoding="utf-8")
    (example,) = examples_of(page, Reader(tmp_path, None, None))
    with pytest.raises(AssertionError, match="frobnicate"):
        example.evaluate()


def test_an_output_that_differs_from_the_page_is_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('one', 'two')\n```\n\n```text\none three\n```\n", encoding="utf-8")
    first, second = examples_of(page, Reader(tmp_path, None, None))
    first.evaluate()
    with pytest.raises(AssertionError, match="printed was"):
        second.evaluate()
