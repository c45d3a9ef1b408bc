"""`python -m novita_async` and the `novita-async` command."""

import sys


def main() -> None:
    """Run the command line, or say how to install what it needs."""
    try:
        from novita_async.cli import run  # noqa: PLC0415 - its packages are an extra
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        sys.exit(f"The command line needs {error.name}: pip install 'novita-async[cli]'")
    run()


if __name__ == "__main__":
    main()
