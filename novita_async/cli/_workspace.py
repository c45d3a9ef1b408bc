"""A folder that is filled anew each time, among files that belong to somebody else.

Names are listed in a file of the folder before anything is written, so that the next time exactly
those are removed, even after a crash.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from novita_async._util.values import frozen
from novita_async.errors import ConfigurationError

_LIST: Final = ".novita-async-demo"


@frozen
class Workspace:
    """A folder, and which files in it are ours."""

    folder: Path
    """Where it is."""

    def prepare(self, names: Iterable[str]) -> None:
        """Remove what an earlier time left, see to it that these names are free, and list them.

        Raises:
            ConfigurationError: one of them belongs to somebody else.
        """
        listed = list(names)
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self._ours():
            path.unlink(missing_ok=True)
        foreign = [str(self.folder / name) for name in listed if (self.folder / name).exists()]
        if foreign:
            raise ConfigurationError(
                problem=f"{', '.join(foreign)}: not made here, and never replaced",
                advice="choose another folder with --out",
            )
        (self.folder / _LIST).write_text("\n".join(listed), encoding="utf-8")

    def write(self, name: str, data: bytes) -> Path:
        """Write a file that is not there yet."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as file:
            file.write(data)
        return path

    def _ours(self) -> Iterator[Path]:
        """The files of the list, as far as they are in the folder: a list can be edited."""
        try:
            names = (self.folder / _LIST).read_text(encoding="utf-8").splitlines()
        except FileNotFoundError:
            return
        inside = self.folder.resolve()
        for name in filter(None, names):
            path = self.folder / name
            if path.resolve().is_relative_to(inside) and not path.is_dir():
                yield path
