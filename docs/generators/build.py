"""Steps of the build beside Sphinx: puts made parts into pages, and writes a Markdown copy of each page."""

import re
import shutil
from pathlib import Path
from typing import Any, Final

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.writers.text import TextTranslator

from docs.generators import docstrings, drawings, looks, pictures, plots, reports, schemas, tables
from docs.generators.markdown import summary_of, title_of
from docs.generators.parts import PARTS

_MADE: Final = re.compile(r"^<!-- made: ([\w-]+) -->$", re.MULTILINE)
_DIRECTIVE: Final = "{eval-rst}"
_FOLDER: Final = "made"
DRAWINGS: Final = {"purchase": drawings.purchase, "waits": plots.waits}
SUMMARY: Final = "What each page says, a line each; these addresses hold the pages as Markdown."


def with_parts(text: str) -> str:
    """Put the made parts into a page's text."""
    return _MADE.sub(lambda match: PARTS[match[1]](), text)


def connect(app: Sphinx) -> None:
    """Take part in the build."""
    sources: dict[str, str] = {}

    def read(_: Sphinx, name: str, content: list[str]) -> None:
        content[0] = sources[name] = with_parts(content[0])

    def draw(_: Sphinx) -> None:
        folder = Path(app.srcdir) / _FOLDER
        folder.mkdir(exist_ok=True)
        looks.write(folder, DRAWINGS)
        schemas.write(folder)
        pictures.write(folder)
        reports.write(folder)
        shutil.copy(tables.WAIT, folder)

    def resolve(_: Sphinx, document: nodes.document, name: str) -> None:
        if _DIRECTIVE in sources[name]:  # made of directives: as Sphinx puts it in words
            sources[name] = in_words(app, document)

    def finish(_: Sphinx, error: Exception | None) -> None:
        if error is None:
            write_copies(app, sources)
            shutil.copytree(Path(app.srcdir) / _FOLDER, Path(app.outdir) / _FOLDER, dirs_exist_ok=True)

    app.connect("builder-inited", draw)
    app.connect("source-read", read)
    app.connect("autodoc-process-docstring", docstrings.to_rst, priority=400)
    app.connect("doctree-resolved", resolve)
    app.connect("build-finished", finish)


def write_copies(app: Sphinx, sources: dict[str, str]) -> None:
    """Write each page as Markdown beside its HTML, and `llms.txt`, which lists them."""
    out = Path(app.outdir)
    lines = [f"# {app.config.project}", "", f"> {summary_of(sources['index'])}", "", SUMMARY, ""]
    for name in order_of(app):
        copy = out / f"{name}.md"
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(looks.plain(sources[name]), encoding="utf-8")
        lines.append(f"- [{title_of(sources[name])}]({name}.md): {summary_of(sources[name])}")
    (out / "llms.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def order_of(app: Sphinx) -> list[str]:
    """The pages in the order of the contents."""
    found: list[str] = []

    def visit(name: str) -> None:
        if name not in found:
            found.append(name)
            for below in app.env.toctree_includes.get(name, ()):
                visit(below)

    visit(app.config.root_doc)
    return found


def in_words(app: Sphinx, document: nodes.document) -> str:
    """A page as plain text, with its title as Markdown has it."""
    builder: Any = app.builder
    translator = TextTranslator(document, builder)
    document.walkabout(translator)
    title, _, rest = str(translator.body).partition("\n")
    return f"# {title}\n{rest.partition(chr(10))[2]}"
