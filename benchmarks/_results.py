"""What was measured last: kept as JSON, shown as Markdown, and in short in the README."""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Self

from attrs import evolve, field, frozen
from cattrs import Converter

from benchmarks import NAMES, PEERS
from benchmarks._machine import ROOT, commit, machine, versions
from benchmarks._tables import Cell, Figure, Table

RESULTS: Final = Path(__file__).parent / "results"
README: Final = ROOT / "README.md"
BEGIN, END = "<!-- figures: made by `make bench` -->\n", "<!-- end of figures -->"

_converter: Final = Converter()
_converter.register_unstructure_hook(
    Figure, lambda figure: {"median": figure.median, "values": list(figure.values), "form": figure.form}
)
_converter.register_structure_hook(Figure, lambda value, _: Figure(value["values"], value["form"]))
_converter.register_structure_hook(
    Cell, lambda value, _: value if isinstance(value, str) else _converter.structure(value, Figure)
)


@frozen(kw_only=True)
class Section:
    """The tables of one benchmark, and what they were taken on."""

    commit: str
    machine: str
    versions: dict[str, str]
    tables: tuple[Table, ...]

    def to_markdown(self, name: str) -> str:
        measured = ", ".join(f"{what} {which}" for what, which in self.versions.items())
        origin = f"`make bench-{name}` at commit {self.commit} on {self.machine}; {measured}"
        shown = "\n\n".join(table.to_markdown() for table in self.tables)
        return f"## {name}\n\n{origin}.\n\n{shown}\n"


@frozen
class Results:
    """All sections, by the name of the benchmark."""

    sections: dict[str, Section] = field(factory=dict)

    @classmethod
    def load(cls) -> Self:
        path = RESULTS / "tables.json"
        known: Any = json.loads(path.read_text()) if path.exists() else {}
        return cls({name: _converter.structure(value, Section) for name, value in known.items()})

    def updated(self, name: str, tables: Sequence[Table]) -> Self:
        section = Section(commit=commit(), machine=machine(), versions=versions(PEERS), tables=tuple(tables))
        sections = self.sections | {name: section}
        return evolve(self, sections={name: sections[name] for name in NAMES if name in sections})

    def save(self) -> None:
        """Write the JSON, the Markdown, the plots, and the README's part."""
        RESULTS.mkdir(exist_ok=True)
        for section in self.sections.values():
            for table in section.tables:
                for name, svg in table.plots.items():
                    if svg:  # else it was not drawn this time
                        (RESULTS / name).write_text(svg)
        stored = _converter.unstructure(self.without_plots().sections)
        (RESULTS / "tables.json").write_text(json.dumps(stored, indent=1) + "\n")
        (RESULTS / "tables.md").write_text(self.to_markdown())
        README.write_text(with_figures(README.read_text(), self.headlines()))

    def without_plots(self) -> Self:
        """The same with the names of plots alone: they have files of their own."""
        return evolve(
            self,
            sections={
                name: evolve(
                    section,
                    tables=tuple(evolve(t, plots=dict.fromkeys(t.plots, "")) for t in section.tables),
                )
                for name, section in self.sections.items()
            },
        )

    def to_markdown(self) -> str:
        head = "# Measured\n\nMade by `make bench`; medians, with the lowest and the highest round in brackets.\n"
        shown = (section.to_markdown(name) for name, section in self.sections.items())
        return "\n".join([head, *shown])

    def headlines(self) -> str:
        """The few lines that the README shows."""
        tables = [table for section in self.sections.values() for table in section.tables]
        rows = [(one.what, one.ours, one.peer, one.limit) for table in tables for one in table.headlines]
        lines = [("", "novita_async", "others", "limit"), ("---",) * 4, *rows]
        return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def with_figures(readme: str, figures: str) -> str:
    """The README with these figures between its marks."""
    marked = re.compile(re.escape(BEGIN) + ".*?" + re.escape(END), re.DOTALL)
    return marked.sub(lambda _: f"{BEGIN}{figures}\n{END}", readme)
