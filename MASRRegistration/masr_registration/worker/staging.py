"""Results appear together or not at all: written into a hidden folder inside the output folder, then renamed.

Plain Python, because whoever finds the remains of a killed worker has to be able to tidy them up.
"""

from __future__ import annotations

import errno
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from ..errors import ResourceError

PREFIX = ".masr-"
_SENTENCES = {
    errno.ENOSPC: "the disk is full",
    errno.EFBIG: "the file would be larger than the system allows",
    errno.EACCES: "permission is denied",
    errno.EPERM: "permission is denied",
    errno.EROFS: "the disk is read-only",
    errno.ENOTDIR: "part of its path is a file, not a folder",
    errno.EEXIST: "there is a file of that name",
    errno.EIO: "the disk reports an error",
    errno.ENAMETOOLONG: "its name is too long",
}
if hasattr(errno, "EDQUOT"):
    _SENTENCES[errno.EDQUOT] = "the disk quota is used up"


def why(error: OSError) -> str:
    """The cause of an operating system's error in words, without any path."""
    return _SENTENCES.get(error.errno or 0) or (error.strerror or type(error).__name__).lower()


@contextmanager
def writing(what: str) -> Iterator[None]:
    """Turns an `OSError` inside into a `ResourceError` with one sentence."""
    try:
        yield
    except OSError as error:
        raise ResourceError(f"{what} cannot be written: {why(error)}.") from error


class Staging:
    """A private place in the output folder (so on its file system) until `commit`.

    Attributes:
        output: where the results go.
        folder: the hidden folder; layout: `new/` the results, `old/` what they replace while they are being moved.
        created: the folders that `open` had to create for `output`, outermost first.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self.folder = output / f"{PREFIX}{os.getpid()}-{secrets.token_hex(4)}"
        self.created = [p for p in reversed([output, *output.parents]) if not os.path.lexists(p)]

    @property
    def new(self) -> Path:
        """Write the results here."""
        return self.folder / "new"

    def open(self) -> None:
        """Create the folder and prove that it can be written. Raises `ResourceError`."""
        with writing("The output folder"):
            self.output.mkdir(parents=True, exist_ok=True)
            self.folder.mkdir(mode=0o700)
            self.new.mkdir()
            probe = self.new / "probe"
            probe.write_bytes(b"MASR\n")
            probe.unlink()

    def require_space(self, needed_bytes: int) -> None:
        """Raises `ResourceError` when the disk certainly cannot hold the results."""
        with writing("The output folder"):
            free = shutil.disk_usage(self.folder).free
        if free < needed_bytes:
            raise ResourceError(
                f"The output folder's disk is full: {free / 1e6:.0f} MB are free, the results need about "
                f"{needed_bytes / 1e6:.0f} MB."
            )

    def commit(self, names: tuple[str, ...]) -> None:
        """Replace the earlier results `names` in the output folder by the new ones. All or none.

        Names without a new file vanish from the output folder: a report of an earlier run must not stand beside
        the transform of this one. Raises `ResourceError`, after which the output folder is as before.
        """
        with writing("The output folder"):
            fresh = sorted(p.name for p in self.new.iterdir())
            for name in fresh:
                _flush(self.new / name)
            (self.folder / "names").write_text("\n".join(fresh), encoding="utf-8")
            old = self.folder / "old"
            old.mkdir()
            try:
                for name in sorted({*names, *fresh}):
                    target = self.output / name
                    if target.is_dir() and not target.is_symlink():
                        raise OSError(errno.EISDIR, f"{name} is a folder there")
                    if os.path.lexists(target):
                        target.replace(old / name)
                for name in fresh:
                    (self.new / name).replace(self.output / name)
                old.rename(self.folder / "done")
            except OSError:
                roll_back(self.folder)
                raise
        shutil.rmtree(self.folder, ignore_errors=True)

    def discard(self) -> None:
        """Leave the output folder as it was found."""
        discard(self.folder, self.created)


def roll_back(folder: Path) -> None:
    """Undo an unfinished `Staging.commit`, also one of a process that is dead."""
    old = folder / "old"
    if not old.is_dir():
        return
    for name in (folder / "names").read_text(encoding="utf-8").splitlines():
        placed = folder.parent / name
        if not (folder / "new" / name).exists() and os.path.lexists(placed):
            placed.unlink()
    for kept in old.iterdir():
        kept.replace(folder.parent / kept.name)


def discard(folder: Path, created: list[Path]) -> bool:
    """Remove a staging folder and those of `created` that are empty, nothing else; False if something is left."""
    if not folder.name.startswith(PREFIX):
        return True
    if os.path.lexists(folder):
        if folder.is_symlink():
            return True
        doomed = folder.with_name(f"{folder.name}-discarded")
        try:
            roll_back(folder)
            folder.rename(doomed)  # a dying job may still be writing into it: its paths lead nowhere now
        except OSError:
            return False  # the earlier results may still be inside
        shutil.rmtree(doomed, ignore_errors=True)
        if doomed.exists():
            return False
    for path in reversed(created):
        with suppress(OSError):
            path.rmdir()
    return True


def _flush(path: Path) -> None:
    """Some file systems report a full disk only now."""
    descriptor = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
