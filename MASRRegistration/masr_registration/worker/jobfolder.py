"""Private folders of running jobs in the system's temporary folder, and their removal whoever dies first.

A job folder is called ``masr-<user id>-<pid of its owner>-<random>``. It is the worker's working directory and lists
what the job keeps elsewhere (its staging folder), so that the worker, its parent or the next start can tidy up.
Plain Python.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from . import staging

_RECORD = "elsewhere.json"


class JobFolder:
    """A folder of one job, mode 0700."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls) -> JobFolder:
        """A new one, owned by this process; those of dead owners are swept first. Raises `ResourceError`."""
        sweep()
        with staging.writing("The temporary folder"):
            return cls(Path(tempfile.mkdtemp(prefix=f"{_prefix()}{os.getpid()}-")))

    @classmethod
    def current(cls) -> JobFolder:
        """The working directory if it is a job folder (the client made it), else a new one."""
        here = Path.cwd()
        return cls(here) if _owner(here.name) is not None else cls.create()

    def record(self, place: staging.Staging) -> None:
        """Note a staging folder before it is created."""
        text = json.dumps({"folder": str(place.folder), "created": [str(p) for p in place.created]})
        with staging.writing("The temporary folder"):
            (self.path / _RECORD).write_text(text, encoding="utf-8")

    def collect_temporary(self) -> None:
        """Whatever libraries of this process put into the temporary folder goes into this one from now on."""
        os.environ.update(dict.fromkeys(("TMPDIR", "TEMP", "TMP"), str(self.path)))
        tempfile.tempdir = str(self.path)

    def remove(self) -> None:
        """Remove the folder and what the job keeps elsewhere. Never raises: it runs when things went wrong."""
        with suppress(OSError, ValueError, KeyError, TypeError):
            record = json.loads((self.path / _RECORD).read_text(encoding="utf-8"))
            if not staging.discard(Path(record["folder"]), [Path(p) for p in record["created"]]):
                return  # the next sweep tries again
        with suppress(OSError):
            if Path.cwd() == self.path:
                os.chdir(self.path.parent)
        shutil.rmtree(self.path, ignore_errors=True)


def sweep() -> None:
    """Remove this user's job folders whose owners are dead."""
    with suppress(OSError):
        for entry in os.scandir(tempfile.gettempdir()):
            owner = _owner(entry.name)
            if owner is None or not entry.is_dir(follow_symlinks=False) or _alive(owner):
                continue
            if sys.platform == "win32" or entry.stat(follow_symlinks=False).st_uid == os.getuid():
                JobFolder(Path(entry.path)).remove()


def _prefix() -> str:
    return "masr-" + (f"{os.getuid()}-" if sys.platform != "win32" else "0-")


def _owner(name: str) -> int | None:
    """The pid in a job folder's name; None for any other name."""
    match = re.fullmatch(re.escape(_prefix()) + r"(\d{1,10})-\w+", name)
    return int(match.group(1)) if match else None


def _alive(pid: int) -> bool:
    if sys.platform == "win32":
        import ctypes

        synchronize, timed_out = 0x00100000, 0x102
        kernel = ctypes.windll.kernel32
        handle = kernel.OpenProcess(synchronize, False, pid)
        if not handle:
            return False
        running: bool = kernel.WaitForSingleObject(handle, 0) == timed_out
        kernel.CloseHandle(handle)
        return running
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
