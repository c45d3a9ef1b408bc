"""The blocks of a page of the documentation, run as they stand there.

| block                       | what is done with it                                                     |
|-----------------------------|--------------------------------------------------------------------------|
| `python`                    | run in the page's namespace, with `await` at the top level               |
| `sh`                        | each `novita-async` line is run; its exit code is 0, or as a comment says |
| `text`                      | compared with what the block before has printed; `…` stands for anything |
| `sql`                       | each statement is run in the page's database                             |
| with a caption              | written to the file of that name                                         |
| first line `# not run here` | compiled, where it is Python, and listed by a test                       |

Blocks of any other language are refused, so that none can go unrun.
"""

import asyncio
import inspect
import io
import json
import re
import shlex
import tomllib
from ast import PyCF_ALLOW_TOP_LEVEL_AWAIT
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import MappingProxyType

from attrs import define, field, frozen
from sybil import Region, Sybil
from sybil.parsers.markdown.lexers import FencedCodeBlockLexer
from sybil.parsers.myst.lexers import DirectiveLexer

from novita_async.cli._app import app_for, main
from tests.helpers.postgres import run_sql
from tests.helpers.programs import python, run, running

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
SERVICE = ("NOVITA_API_KEY", "NOVITA_BASE_URL")
"""Variables that name the service: the one beside the test has its own."""
DATABASE = "postgresql://db/studio"
SERVING = ("simulate", "mcp")
"""Commands that go on until they are stopped: only their options are read."""
NOT_RUN = "# not run here: "
ENOUGH = 3
"""Images that are bought before a program is killed."""

_FENCE = FencedCodeBlockLexer(r"\w+")
_DIRECTIVE = DirectiveLexer("code-block", r"\w+")
_EXIT_CODE = re.compile(r"# exit code (\d+)(?: or (\d+))?")


@frozen(kw_only=True)
class Block:
    """A block of a page."""

    language: str
    source: str
    caption: str | None

    @property
    def excuse(self) -> str | None:
        """Why the block cannot run here."""
        first = self.source.partition("\n")[0]
        return first.removeprefix(NOT_RUN) if first.startswith(NOT_RUN) else None


def _parser(evaluator):
    def parse(document):
        found = [(region, region.lexemes["language"], {}) for region in _FENCE(document)]
        found += [
            (region, region.lexemes["arguments"], region.lexemes["options"])
            for region in _DIRECTIVE(document)
        ]
        for region, language, options in found:
            block = Block(
                language=language, source=str(region.lexemes["source"]), caption=options.get("caption")
            )
            yield Region(region.start, region.end, block, evaluator)

    return parse


def examples_of(page, evaluator):
    """The blocks of a page, in their order."""
    document = Sybil([_parser(evaluator)], path=str(page.parent)).parse(page)
    return list(document.examples())


def blocks_of(page):
    return [example.parsed for example in examples_of(page, lambda _: None)]


@define(eq=False)
class Reader:
    """Somebody who reads a page in a folder of their own, and does what it says."""

    folder: Path
    server: object
    setenv: object
    database: str | None = None
    """URL of the database that pages call `postgresql://db/studio`."""
    printed: str | None = None
    names: dict = field(factory=lambda: {"__name__": "page"})
    _runner: asyncio.Runner = field(factory=asyncio.Runner)

    def __enter__(self):
        self._runner.__enter__()
        return self

    def __exit__(self, *error):
        return self._runner.__exit__(*error)

    def __call__(self, example):
        block = example.parsed
        if block.excuse is not None:
            self._look_at(block)
        elif block.caption is not None:
            (self.folder / block.caption).write_text(block.source, encoding="utf-8")
        else:
            self._DO[block.language](self, block.source, f"{example.path}:{example.line}")

    def _look_at(self, block):
        assert len(block.excuse) > len("needs")
        self.printed = None
        if block.language == "python":
            _compiled(block.source, block.excuse)

    def _python(self, source, place):
        code = _compiled(self._located(source), place)
        with redirect_stdout(io.StringIO()) as out:
            if code.co_flags & inspect.CO_COROUTINE:
                self._runner.run(eval(code, self.names))  # noqa: S307 - our own pages
            else:
                exec(code, self.names)  # noqa: S102 - our own pages
        self.printed = out.getvalue()

    def _shell(self, source, place):
        out = io.StringIO()
        for line in source.replace("\\\n", " ").splitlines():
            match shlex.split(line, comments=True):
                case ["novita-async", *tokens]:
                    with redirect_stdout(out):
                        self._command([self._located(token) for token in tokens], line)
                case [_, *_] as words:
                    out.write(self._other(words, f"{place}: nobody here can run {line!r}"))
        self.printed = out.getvalue()

    def _located(self, text):
        return text if self.database is None else text.replace(DATABASE, self.database)

    def _command(self, tokens, line):
        if line.endswith("# killed"):
            self._kill(tokens)
        elif tokens[0] in SERVING:
            app_for(tokens).parse_args(tokens, exit_on_error=False, print_error=False)
        else:
            told = _EXIT_CODE.search(line)
            codes = {int(code) for code in told.groups() if code} if told else {0}
            with redirect_stderr(io.StringIO()) as err:
                assert main(tokens) in codes, f"{line}\n{err.getvalue()}"

    def _other(self, words, complaint):
        match words:
            case ["pip", "install", *packages]:
                assert all(map(_can_be_installed, packages)), complaint
            case ["export", setting]:
                name, _, value = setting.partition("=")
                if name not in SERVICE:
                    self.setenv(name, value)
            case ["pytest", name]:
                self._start("-m", "pytest", "-q", "-p", "no:cacheprovider", name)
            case ["python", name]:
                return self._start(name)
            case ["mv", old, new]:
                (self.folder / old).rename(self.folder / new)
            case ["rm", name]:
                (self.folder / name).unlink()
            case _:
                raise AssertionError(complaint)
        return ""

    def _start(self, *arguments):
        """Run a program of the page to its end. Returns what it printed."""
        done = run(python(*arguments, flags=()), cwd=self.folder)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def _kill(self, tokens):
        """Start a command, and kill it as soon as it has bought enough."""
        with running(python("-m", "novita_async", *tokens), cwd=self.folder) as program:
            while len(self.server.ledger.accepted) < ENOUGH:
                assert not program.ended, program.finish().stderr
            program.kill()

    def _text(self, source, place):
        assert self.printed is not None, f"{place}: there is no output to compare with"
        pattern = ".*?".join(map(re.escape, source.strip().split("…")))
        found = "\n".join(line.rstrip() for line in self.printed.strip().splitlines())
        assert re.fullmatch(pattern, found, re.DOTALL), f"{place}: printed was\n{self.printed}"

    def _json(self, source, _):
        json.loads(source)

    def _sql(self, source, place):
        assert self.database is not None, f"{place}: the page names no database"
        for statement in filter(str.strip, source.split(";")):
            asyncio.run(run_sql(self.database, statement))

    _DO = MappingProxyType({"python": _python, "sh": _shell, "text": _text, "json": _json, "sql": _sql})


def _compiled(source, place):
    return compile(source, place, "exec", flags=PyCF_ALLOW_TOP_LEVEL_AWAIT, dont_inherit=True)


def _can_be_installed(package):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name, _, extras = package.rstrip("]").partition("[")
    return name == project["name"] and set(filter(None, extras.split(","))) <= set(
        project["optional-dependencies"]
    )
