"""The background process: its session, its folders, progress, and what it leaves behind when something dies."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import textwrap
import threading
from pathlib import Path
from typing import Any

import pytest
from masr_registration.errors import CancelledError, InputError, MasrError, ResourceError
from masr_registration.worker.context import Context
from masr_registration.worker.jobfolder import JobFolder
from masr_registration.worker.messages import Cancelled, Error, Hello, Message, Warn, encode_request
from masr_registration.worker.session import failure
from masr_registration.worker.staging import Staging, discard
from worker_tools import (
    SERVE,
    SESSION,
    Workers,
    alive,
    environment,
    plain_request,
    python,
    wait_until,
    workers,
)

__all__ = ["workers"]

RESULTS = ("transform.h5", "report.html", "result.json")


def staged(output: Path, **contents: str) -> Staging:
    place = Staging(output)
    place.open()
    for name, text in contents.items():
        (place.new / name.replace("_", ".")).write_text(text)
    return place


def contents(folder: Path) -> dict[str, str]:
    return {p.name: p.read_text() for p in folder.iterdir()}


# --- results appear together or not at all


def test_results_appear_together(tmp_path: Path) -> None:
    place = staged(tmp_path / "a" / "out", transform_h5="new", result_json="{}")
    assert [p.stat().st_mode & 0o777 for p in place.output.iterdir()] == [0o700]
    place.commit(RESULTS)
    assert contents(place.output) == {"transform.h5": "new", "result.json": "{}"}


def test_earlier_results_are_replaced_and_other_files_stay(tmp_path: Path) -> None:
    for name in ("transform.h5", "report.html", "notes.txt"):
        (tmp_path / name).write_text("old")
    staged(tmp_path, transform_h5="new").commit(RESULTS)
    assert contents(tmp_path) == {"transform.h5": "new", "notes.txt": "old"}


def test_a_failing_commit_leaves_the_folder_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("old")
    (tmp_path / "transform.h5").mkdir()
    place = staged(tmp_path, result_json="new", transform_h5="new")
    with pytest.raises(ResourceError, match=r"^The output folder cannot be written: "):
        place.commit(RESULTS)
    place.discard()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["result.json", "transform.h5"]
    assert (tmp_path / "result.json").read_text() == "old"
    assert (tmp_path / "transform.h5").is_dir()


@pytest.mark.parametrize("moved", [0, 1, 2, 3])
def test_a_commit_cut_short_by_a_kill_is_undone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moved: int
) -> None:
    """After `moved` renames the process is gone; whoever finds the folder restores what was there."""
    for name in ("transform.h5", "report.html"):
        (tmp_path / name).write_text("old")
    place = staged(tmp_path, transform_h5="new", result_json="new")
    count, rename = 0, Path.replace

    def replace(self: Path, target: Path) -> Path:
        nonlocal count
        if count == moved:
            raise SystemExit
        count += 1
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", replace)
        with pytest.raises(SystemExit):
            place.commit(RESULTS)
    assert discard(place.folder, place.created)
    assert contents(tmp_path) == {"transform.h5": "old", "report.html": "old"}


def test_discarding_removes_only_what_was_created(tmp_path: Path) -> None:
    place = staged(tmp_path / "a" / "b", transform_h5="new")
    place.discard()
    assert list(tmp_path.iterdir()) == []
    place = staged(tmp_path / "a" / "b", transform_h5="new")
    (tmp_path / "a" / "mine.txt").write_text("mine")
    place.discard()
    assert contents(tmp_path / "a") == {"mine.txt": "mine"}
    assert not discard(tmp_path / "a", []) or (tmp_path / "a" / "mine.txt").exists()


@pytest.mark.parametrize("output", ["file", "file/below", "file/below/deeper"])
def test_an_output_folder_that_cannot_be(tmp_path: Path, output: str) -> None:
    (tmp_path / "file").write_text("a file")
    place = Staging(tmp_path / output)
    with pytest.raises(ResourceError, match=r"^The output folder cannot be written: .*a file"):
        place.open()
    place.discard()
    assert contents(tmp_path) == {"file": "a file"}


def test_too_little_space_is_told_before_the_work(tmp_path: Path) -> None:
    place = staged(tmp_path / "out")
    place.require_space(1)
    with pytest.raises(ResourceError, match=r"^The output folder's disk is full: .* the results need about"):
        place.require_space(2**62)
    place.discard()


# --- progress


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def context(sent: list[Message], cancel: threading.Event | None = None) -> tuple[Context, Clock]:
    clock = Clock()
    return Context(sent.append, JobFolder(Path()), cancel or threading.Event(), clock), clock


def test_progress_rises_is_throttled_and_ends_at_1() -> None:
    sent: list[Any] = []
    job, clock = context(sent)
    for step in range(1001):
        clock.now += 0.01
        job.progress("linear" if step < 500 else "discrete", step / 1000)
    job.progress("check", 0.4)
    job.finish()
    fractions = [m.fraction for m in sent]
    assert fractions == sorted(fractions)
    assert max(fractions[:-1]) < 1
    assert fractions[-1] == 1.0
    assert 95 < len(sent) < 110
    assert [m.stage for m in sent[-2:]] == ["check", "check"]


def test_the_remaining_time_is_estimated_and_smooth() -> None:
    sent: list[Any] = []
    job, clock = context(sent)
    for step in range(101):
        job.progress("linear", step / 100)
        clock.now += 1.0
    assert sent[2].eta_s is None
    estimates = {round(m.fraction, 2): m.eta_s for m in sent if m.eta_s is not None}
    assert estimates[0.5] == pytest.approx(50, abs=1)
    assert all(eta >= 0 for eta in estimates.values())


def test_cancel_comes_through_progress_and_check() -> None:
    cancel = threading.Event()
    job, _ = context([], cancel)
    job.progress("read", 0.0)
    cancel.set()
    with pytest.raises(CancelledError):
        job.progress("read", 0.1)
    with pytest.raises(CancelledError):
        job.check()


def test_warnings_are_sent_and_kept() -> None:
    sent: list[Any] = []
    job, _ = context(sent)
    job.warn("Look.")
    assert sent == [Warn("Look.")]
    assert job.warnings == ["Look."]


# --- what an error becomes


class OutOfMemoryError(RuntimeError):
    """Like torch's."""


@pytest.mark.parametrize(
    ("error", "code", "exit_code"),
    [
        (InputError("a"), "input", 2),
        (ResourceError("a"), "resources", 3),
        (MasrError("a"), "internal", 1),
        (MemoryError(), "resources", 3),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."), "resources", 3),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."), "resources", 3),
        (RuntimeError("itk::ERROR: Failed to allocate memory for image."), "resources", 3),
        (RuntimeError("std::bad_alloc"), "resources", 3),
        (OSError(errno.ENOSPC, "No space left on device", "/secret/patient"), "resources", 3),
        (OSError(errno.EDQUOT, "Quota exceeded", "/secret/patient"), "resources", 3),
        (OSError(errno.EFBIG, "File too large", "/secret/patient"), "resources", 3),
        (PermissionError(errno.EACCES, "Permission denied", "/secret/patient"), "resources", 3),
        (OSError(errno.EROFS, "Read-only file system", "/secret/patient"), "resources", 3),
        (FileNotFoundError(errno.ENOENT, "No such file", "/secret/patient"), "internal", 1),
        (RuntimeError("shape mismatch in /secret/patient"), "internal", 1),
        (KeyError("x"), "internal", 1),
        (SystemExit(0), "internal", 1),
        (KeyboardInterrupt(), "internal", 1),
    ],
)
def test_errors_have_one_sentence_and_an_exit_code(error: BaseException, code: str, exit_code: int) -> None:
    final, found = failure(error)
    assert isinstance(final, Error)
    assert (final.code, found) == (code, exit_code)
    assert "/secret" not in final.message
    assert "\n" not in final.message
    assert type(error).__name__ in final.details


def test_cancelled_is_no_error() -> None:
    assert failure(CancelledError()) == (Cancelled(), 130)


# --- the process


def test_a_job_with_chatter_on_every_stream(workers: Workers) -> None:
    outcome = workers.run_job(
        """
        import ctypes
        def job(request, context):
            place = staged(request, context)
            print("print")
            os.write(1, b"from descriptor 1\\n")
            os.system("echo from a child")
            libc = ctypes.CDLL(None)
            libc.puts(b"from C")
            libc.fflush(None)
            context.progress("read", 0.5)
            place.commit(("transform.h5",))
            return result(request, transform=str(place.output / "transform.h5"))
        """
    )
    assert outcome.files["transform"].read_text() == "new"
    for text in ("print", "from descriptor 1", "from a child", "from C"):
        assert text in outcome.log.splitlines()
    assert [type(m).__name__ for m in workers.seen] == ["Hello", "Progress", "Progress", "Result"]
    assert workers.seen[2].fraction == 1.0  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("raised", "kind", "sentence"),
    [
        ("InputError('No.')", InputError, "No."),
        ("ResourceError('Full.')", ResourceError, "Full."),
        ("CancelledError()", CancelledError, "Cancelled."),
        ("ValueError('/secret')", MasrError, "An internal error stopped the registration (ValueError)."),
        ("SystemExit(0)", MasrError, "An internal error stopped the registration (SystemExit)."),
    ],
)
def test_a_failing_job_leaves_nothing(
    workers: Workers, raised: str, kind: type[MasrError], sentence: str
) -> None:
    source = f"""
        def job(request, context):
            staged(request, context)
            open("note", "w").close()
            import tempfile
            tempfile.mkdtemp(prefix="left by a library")
            os.system("mktemp")
            raise {raised}
    """
    with pytest.raises(MasrError) as caught:
        workers.run_job(source)
    assert (type(caught.value), str(caught.value)) == (kind, sentence)
    assert not (workers.folder / "out").exists()


@pytest.mark.parametrize("death", ["os.abort()", "os.kill(os.getpid(), 9)", "os._exit(5)"])
def test_a_dying_job_leaves_nothing(workers: Workers, death: str) -> None:
    source = f"""
        def job(request, context):
            staged(request, context)
            {death}
    """
    with pytest.raises(MasrError):
        workers.run_job(source)
    assert not (workers.folder / "out").exists()


def test_sigterm_cancels(workers: Workers) -> None:
    def terminate(message: Message) -> None:
        if isinstance(message, Hello):
            os.kill(message.pid, signal.SIGTERM)

    source = """
        def job(request, context):
            staged(request, context)
            while True:
                context.progress("linear", 0.5)
                time.sleep(0.01)
    """
    with pytest.raises(CancelledError):
        workers.run_job(source, on_message=terminate)
    assert not (workers.folder / "out").exists()


def speak(arguments: list[str], line: bytes, workers: Workers) -> tuple[int, list[dict[str, Any]]]:
    """Exit code and messages of a worker that gets this line; its input stays open until it ends."""
    process = subprocess.Popen(
        arguments,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(TMPDIR=str(workers.temporary)),
        cwd=workers.folder,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(line)
    process.stdin.flush()
    found = [json.loads(answer) for answer in process.stdout]
    code = process.wait()
    process.stdin.close()
    return code, found


WORKER = python("-P", "-m", "masr_registration.worker")


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (b"register\n", "The request is not a JSON object on one line."),
        (b"\xff\xfe\n", "The request is not a JSON object on one line."),
        (b"{}\n", "The request is of protocol None, this worker speaks protocol 1."),
        (b'{"protocol":1,"command":"register"}\n', "The request lacks 'fixed'."),
    ],
)
def test_a_bad_request_ends_with_one_sentence(workers: Workers, line: bytes, sentence: str) -> None:
    code, found = speak(WORKER, line, workers)
    assert code == 2
    assert [(m["type"], m["code"], m["message"]) for m in found] == [("error", "input", sentence)]


def test_a_preset_is_checked(workers: Workers) -> None:
    request = plain_request(workers.folder, preset={"masr_preset": 1, "name": "x"})
    code, found = speak(WORKER, encode_request(request), workers)
    assert code == 2
    assert found[0]["message"].startswith("The preset's preset is incomplete")


def test_no_request_at_all(workers: Workers) -> None:
    run = subprocess.run(
        WORKER,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        env=environment(TMPDIR=str(workers.temporary)),
        check=False,
    )
    assert run.returncode == 2
    assert json.loads(run.stdout)["message"] == "No request came in on the standard input."


PARENT = """
import sys
from masr_registration.worker import client
from worker_tools import plain_request
from pathlib import Path
folder = Path(sys.argv[1])
client.run(plain_request(folder), lambda m: print(getattr(m, "pid", ""), flush=True), module="fake_worker",
           environment={"PYTHONPATH": str(folder)})
"""


def orphan(workers: Workers, job: str, *, kill_both: bool = False) -> int:
    """Starts a parent with a worker, kills the parent (or both at once) with SIGKILL; returns the worker's pid."""
    workers.write(SESSION + textwrap.dedent(job) + SERVE)
    tests = str(Path(__file__).parents[1])
    variables = environment(TMPDIR=str(workers.temporary))
    variables["PYTHONPATH"] = os.pathsep.join([variables["PYTHONPATH"], tests])
    parent = subprocess.Popen(
        python("-c", PARENT, str(workers.folder)), stdout=subprocess.PIPE, text=True, env=variables
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    if kill_both:
        os.kill(pid, signal.SIGSTOP)
    parent.kill()
    parent.wait()
    if kill_both:
        os.kill(pid, signal.SIGKILL)
    parent.stdout.close()
    return pid


def test_the_worker_ends_and_tidies_up_when_its_parent_dies(workers: Workers) -> None:
    pid = orphan(
        workers,
        """
        def job(request, context):
            place = staged(request, context)
            number = 0
            while True:
                number += 1
                (place.new / str(number % 100)).write_text("x" * 1000)
        """,
    )
    assert wait_until(lambda: not alive(pid))
    assert workers.leftovers() == []
    assert not (workers.folder / "out").exists()


def test_a_commit_is_finished_before_an_orphan_ends(workers: Workers) -> None:
    pid = orphan(
        workers,
        """
        def job(request, context):
            with context.uninterrupted:
                place = staged(request, context)
                time.sleep(1)
                place.commit(("transform.h5",))
            return result(request, transform="x")
        """,
    )
    assert wait_until(lambda: not alive(pid))
    assert contents(workers.folder / "out") == {"transform.h5": "new"}
    assert workers.leftovers() == []


def test_when_parent_and_worker_die_the_next_start_tidies_up(workers: Workers) -> None:
    pid = orphan(
        workers,
        """
        def job(request, context):
            staged(request, context)
            time.sleep(600)
        """,
        kill_both=True,
    )
    assert wait_until(lambda: not alive(pid))
    assert len(workers.leftovers()) == 2
    JobFolder.create().remove()
    assert workers.leftovers() == []
    assert not (workers.folder / "out").exists()
