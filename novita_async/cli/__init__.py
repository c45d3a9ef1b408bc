"""The `novita-async` command."""

from novita_async.cli._app import run

__all__ = ["run"]
