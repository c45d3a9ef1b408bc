"""`python -m novita_async` and the `novita-async` command."""

import sys

from novita_async._version import __version__


def main() -> None:
    """Run the command line, or say how to install what it needs. The version is told without either."""
    if sys.argv[1:] == ["--version"]:
        print(__version__)
        return
    try:
        from novita_async.cli import run  # noqa: PLC0415 - its packages are an extra
    except ModuleNotFoundError as error:
        if error.name not in ("cyclopts", "rich"):
            raise
        sys.exit(f"The command line needs {error.name}: pip install 'novita-async[cli]'")
    run()


if __name__ == "__main__":
    main()
