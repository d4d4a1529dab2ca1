"""Runs methods on cases, each in a process of its own, and keeps every result in a file of its own."""

from __future__ import annotations

import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .cases import Case

TESTING = Path(__file__).resolve().parents[1]
OWN_CHECKOUT = TESTING.parent
TIME_LIMIT_S = 3600
_THREAD_VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMBA_NUM_THREADS",
    "ITK_GLOBAL_DEFAULT_NUMBER_OF_THREADS",
)


@dataclass
class Runner:
    """One session of measuring.

    Attributes:
        data: folder of the images.
        output: folder of problems and results.
        checkout: the MASR Registration that is measured; problems and scores are always those of this checkout.
        threads: for every method alike.
        fresh: measure again what is there.
        keep: leave displacements and inverses beside the results.
    """

    data: Path
    output: Path
    checkout: Path = OWN_CHECKOUT
    threads: int = 2
    fresh: bool = False
    keep: bool = False
    session: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def run(self, cases: Sequence[Case], methods: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Every method on the first case, then on the second, so that a busy hour strikes all methods alike."""
        for case in cases:
            for method in methods:
                if case.suits(method):
                    yield self.one(case, method)

    def one(self, case: Case, method: str) -> dict[str, Any]:
        """The result of one method on one case: read when it is there, else measured, scored and kept."""
        folder = self.output / "results" / case.name / method
        path = folder / "result.json"
        if path.is_file() and not self.fresh:
            kept: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            return kept | {"kept": True}
        problem = self.problem(case)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        result: dict[str, Any] = {
            "case": case.name,
            "method": method,
            "session": self.session,
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "threads": self.threads,
            "machine": describe_machine(),
            "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
            "checkout": describe_checkout(self.checkout) if method.startswith("masr") else None,
            "notes": json.loads((problem / "about.json").read_text(encoding="utf-8"))["notes"],
        }
        failure = self._python(
            self.checkout, "benchmarks.solve", str(problem), method, str(folder), str(self.threads)
        ) or self._python(OWN_CHECKOUT, "benchmarks.score", str(problem), str(folder))
        if failure:
            result["error"] = failure
        else:
            result["solve"] = json.loads((folder / "solve.json").read_text(encoding="utf-8"))
            result["score"] = json.loads((folder / "score.json").read_text(encoding="utf-8"))
        if not self.keep:
            for name in ("displacement.npy", "inverse.h5", "solve.json", "score.json"):
                (folder / name).unlink(missing_ok=True)
        path.write_text(json.dumps(result, indent=1), encoding="utf-8")
        return result

    def problem(self, case: Case) -> Path:
        """The folder of the case's problem, built when it is not there."""
        folder = self.output / "problems" / case.name
        if not (folder / "about.json").is_file():
            case.build(self.data).save(folder)
        return folder

    def _python(self, checkout: Path, module: str, *arguments: str) -> str:
        """Run a module in a fresh interpreter; returns the end of what it said when it failed."""
        environment = {**os.environ, **dict.fromkeys(_THREAD_VARIABLES, str(self.threads))}
        environment["PYTHONPATH"] = os.pathsep.join([str(checkout / "MASRRegistration"), str(TESTING)])
        try:
            done = subprocess.run(
                [sys.executable, "-m", module, *arguments],
                env=environment,
                capture_output=True,
                text=True,
                timeout=TIME_LIMIT_S,
            )
        except subprocess.TimeoutExpired:
            return f"stopped after {TIME_LIMIT_S} s"
        if done.returncode == 0:
            return ""
        return "\n".join(done.stderr.strip().splitlines()[-5:]) or f"exit code {done.returncode}"


def describe_machine() -> dict[str, Any]:
    info = Path("/proc/cpuinfo")
    models = (
        [
            line.split(":")[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        if info.exists()
        else []
    )
    return {
        "processor": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "system": platform.system(),
    }


def describe_checkout(checkout: Path) -> str:
    """The commit of a checkout, with ``+`` where files differ from it."""
    git = ["git", "-C", str(checkout)]
    commit = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    changes = subprocess.run(
        [*git, "status", "--porcelain", "--untracked-files=no"], capture_output=True, text=True
    )
    return commit.stdout.strip() + ("+" if changes.stdout.strip() else "")
