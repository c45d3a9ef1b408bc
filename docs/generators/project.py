"""Pages from the project's own files: packages, extras, changes, weaknesses."""

import re
import tomllib
from collections.abc import Iterable
from importlib.metadata import metadata
from typing import Any, Final

from docs.generators.markdown import code, table
from docs.generators.tables import ROOT

EXTRAS: Final = {
    "cli": "the command line, `novita-async`, with progress and reports",
    "mcp": "[agents](../how-to/mcp.md)",
    "objects": "[object stores](../how-to/object-stores.md)",
    "otel": "[traces and figures](../how-to/observability.md) for OpenTelemetry",
    "postgres": "[journals](../how-to/many-machines.md) and [shared quotas](../how-to/shared-quota.md)",
    "prometheus": "[figures](../how-to/observability.md#figures) for Prometheus",
    "simulator": "pictures of [the simulated service](simulator.md)",
}
"""Purpose of each extra."""
_NAME: Final = re.compile(r"[\w-]+")


def _project() -> dict[str, Any]:
    found: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return found


def packages() -> str:
    """The packages that are installed with this one."""
    return _listed(_project()["dependencies"])


def extras() -> str:
    """The extras. An extra without words here, or words for none, fails the build."""
    found = _project()["optional-dependencies"]
    if found.keys() != EXTRAS.keys():
        raise ValueError(f"extras that differ from the table: {found.keys() ^ EXTRAS.keys()}")
    return table(
        ("extra", "for", "installs"),
        ((code(name), EXTRAS[name], ", ".join(map(code, found[name]))) for name in sorted(found)),
    )


def _listed(requirements: Iterable[str]) -> str:
    rows = ((code(each), _licence_of(each)) for each in requirements)
    return table(("package", "licence"), rows)


def _licence_of(requirement: str) -> str:
    match = _NAME.match(requirement)
    assert match is not None  # noqa: S101 - of a requirement
    found = metadata(match[0])
    classified = (each for each in found.get_all("Classifier", []) if each.startswith("License ::"))
    return found.get("License-Expression") or next(classified, "").rpartition(" :: ")[2] or found["License"]


def changes() -> str:
    """The changelog, below the page's own title."""
    _, _, below = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("\n## ")
    return f"## {below.strip()}"


def security() -> str:
    """How to report a weakness, below the page's own title."""
    _, _, below = (ROOT / "SECURITY.md").read_text(encoding="utf-8").partition("\n\n")
    return below.strip()
