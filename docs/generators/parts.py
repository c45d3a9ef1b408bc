"""The parts that pages name."""

from collections.abc import Callable
from functools import partial
from typing import Final

from docs.generators import api, drawings, errors, plots, project, reports, schemas, tables
from docs.generators.markdown import block

PARTS: Final[dict[str, Callable[[], str]]] = {
    **{name: partial(api.page, name) for name in api.PAGES},
    "error-tree": lambda: block("text", errors.tree()),
    "errors": errors.errors_table,
    "reasons": errors.reasons_table,
    "events": tables.events_tables,
    "states": drawings.shown,
    "transitions": tables.transitions_table,
    "settlements": tables.settlements_table,
    "commands": tables.commands,
    "exit-codes": tables.exit_codes,
    "defaults": tables.defaults,
    "variables": tables.variables,
    "routes": tables.routes,
    "journal-schema": tables.journal_schema,
    "shared-schema": tables.shared_schema,
    "report": reports.shown,
    "waits": plots.shown,
    "packages": project.packages,
    "extras": project.extras,
    "changes": project.changes,
    "security": project.security,
    "simulator-options": tables.simulator_options,
    "faults": tables.faults,
    "figures-told": tables.figures_told,
    "figures": tables.figures,
    "bench-tables": tables.bench_tables,
    "manifest-fields": schemas.manifest_fields,
    "index-fields": schemas.index_fields,
}
