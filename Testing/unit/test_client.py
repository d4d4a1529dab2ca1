"""The plain Python client against real processes that behave, misbehave and die."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from masr_registration.errors import CancelledError, InputError, MasrError, ResourceError
from masr_registration.worker import client
from masr_registration.worker.messages import Hello, Message, Progress, Warn
from worker_tools import Workers, alive, wait_until, workers

__all__ = ["workers"]

SPEAK = """
import json, os, sys, time
request = json.loads(sys.stdin.readline())
out = os.path.join(os.environ["PYTHONPATH"].split(os.pathsep)[1], "transform.h5")

def say(**message):
    print(json.dumps(message), flush=True)

def hello(pid=None):
    say(type="hello", protocol=1, pid=pid or os.getpid(), version="0", device="cpu")

def result(path=out):
    say(type="result", files={"transform": path}, metrics={"folds": 0}, warnings=["w"],
        verdict={"level": "plausible"}, provenance={}, timings={})
"""
SUCCEED = SPEAK + "open(out, 'w').close()\nhello()\n"


class CancelAt(threading.Event):
    """Set when a message of this kind comes."""

    def __init__(self, kind: type[Message]) -> None:
        super().__init__()
        self.kind = kind

    def __call__(self, message: Message) -> None:
        if isinstance(message, self.kind):
            self.set()


def test_a_result_with_its_files_and_exit_code_0_is_a_success(workers: Workers) -> None:
    outcome = workers.run(
        SUCCEED + "say(type='progress', stage='read', fraction=0.5)\nprint('note', file=sys.stderr)\nresult()"
    )
    assert outcome.files == {"transform": workers.folder / "transform.h5"}
    assert outcome.metrics == {"folds": 0}
    assert outcome.warnings == ["w"]
    assert outcome.verdict == {"level": "plausible"}
    assert outcome.log == "note"
    assert [type(m).__name__ for m in workers.seen] == ["Hello", "Progress", "Result"]


def test_the_worker_sees_a_private_folder_and_this_package_first(workers: Workers) -> None:
    workers.run(
        SUCCEED
        + """
import masr_registration, stat
assert stat.S_IMODE(os.stat('.').st_mode) == 0o700
assert os.path.basename(os.getcwd()).startswith(f'masr-{os.getuid()}-{os.getppid()}-')
assert '' not in sys.path and os.getcwd() not in sys.path
open('left behind', 'w').close()
result()
"""
    )


def test_garbage_and_unknown_messages_are_passed_over(workers: Workers) -> None:
    outcome = workers.run(
        SUCCEED
        + """
sys.stdout.buffer.write(b'Downloading 45%\\r\\n\\xff\\xfe\\n{"type": "progress"}\\n[1, 2]\\n' + b'x' * 300 + b'\\n')
say(type='telemetry', value=1)
say(type='warning', message='\u00fc')
result()
sys.stdout.buffer.write(b'no line end')
"""
    )
    assert outcome.files
    assert [m for m in workers.seen if isinstance(m, Warn)] == [Warn("ü")]


def test_garbage_alone_is_quoted_in_the_notes(workers: Workers) -> None:
    with pytest.raises(MasrError, match="ended without a result") as caught:
        workers.run("print('Welcome to Slicer')")
    assert any("Welcome to Slicer" in note for note in caught.value.__notes__)


def test_a_torn_character_and_a_torn_line_arrive_whole(workers: Workers) -> None:
    workers.run(
        SUCCEED
        + """
line = '{"type": "warning", "message": "\u00fc"}\\n'.encode()
for piece in (line[:-5], line[-5:-4], line[-4:]):
    sys.stdout.buffer.write(piece)
    sys.stdout.buffer.flush()
    time.sleep(0.05)
result()
"""
    )
    assert Warn("ü") in workers.seen


def test_a_talkative_worker_does_not_block(workers: Workers) -> None:
    outcome = workers.run(SUCCEED + "sys.stderr.write('chatter\\n' * 500_000)\nresult()")
    assert outcome.log.count("chatter") == client._LOG_LINES


@pytest.mark.parametrize(
    ("code", "kind"),
    [("input", InputError), ("resources", ResourceError), ("internal", MasrError), ("strange", MasrError)],
)
def test_an_error_message_becomes_its_exception(workers: Workers, code: str, kind: type[MasrError]) -> None:
    source = f"hello()\nsay(type='error', code='{code}', message='Too bad.', details='a trace')\nsys.exit(2)"
    with pytest.raises(MasrError) as caught:
        workers.run(SPEAK + source)
    assert (type(caught.value), str(caught.value)) == (kind, "Too bad.")
    assert any("a trace" in note for note in caught.value.__notes__)


@pytest.mark.parametrize(
    ("source", "kind", "sentence"),
    [
        ("os.abort()", MasrError, "The registration process crashed (SIGABRT)."),
        ("os.kill(os.getpid(), 11)", MasrError, "The registration process crashed (SIGSEGV)."),
        (
            "os.kill(os.getpid(), 9)",
            ResourceError,
            "The registration process was killed from outside, most often because the memory ran out.",
        ),
        (
            "os._exit(137)",
            ResourceError,
            "The registration process was killed from outside, most often because the memory ran out.",
        ),
        ("os._exit(134)", MasrError, "The registration process crashed (SIGABRT)."),
        ("1 / 0", MasrError, "The registration process crashed (exit code 1)."),
        ("pass", MasrError, "The registration process ended without a result."),
        (
            "result(); sys.exit(1)",
            MasrError,
            "The registration process ended with an error after its result (exit code 1).",
        ),
        (
            "result(); os.abort()",
            MasrError,
            "The registration process ended with an error after its result (SIGABRT).",
        ),
        (
            "result('/nowhere/transform.h5')",
            MasrError,
            "The registration reported files that are not there: transform.",
        ),
    ],
)
def test_every_other_end_is_one_clear_sentence(
    workers: Workers, source: str, kind: type[MasrError], sentence: str
) -> None:
    with pytest.raises(MasrError) as caught:
        workers.run(SUCCEED + source)
    assert (type(caught.value), str(caught.value)) == (kind, sentence)


def test_a_python_exception_of_the_worker_is_in_the_notes(workers: Workers) -> None:
    with pytest.raises(MasrError) as caught:
        workers.run("1 / 0")
    assert any("ZeroDivisionError" in note for note in caught.value.__notes__)


def test_a_worker_that_does_not_read_its_request(workers: Workers) -> None:
    with pytest.raises(MasrError, match="crashed"):
        workers.run("import os; os.close(0); os._exit(1)")


@pytest.mark.parametrize("name", ["no-such-python", "not-executable", "folder"])
def test_a_missing_executable(workers: Workers, name: str) -> None:
    (workers.folder / "not-executable").write_text("#!/bin/sh\n")
    (workers.folder / "folder").mkdir()
    with pytest.raises(ResourceError) as caught:
        workers.run("", python=str(workers.folder / name))
    assert (
        str(caught.value) == f"The registration process could not be started: no usable Python at {name!r}."
    )


def test_a_temporary_folder_that_cannot_be_used(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(workers.folder / "missing"))
    with pytest.raises(ResourceError, match=r"^The temporary folder cannot be written: "):
        workers.run("")


def test_cancel_is_obeyed(workers: Workers) -> None:
    cancel = CancelAt(Progress)
    source = """
hello()
say(type='progress', stage='linear', fraction=0.1)
assert json.loads(sys.stdin.readline()) == {'type': 'cancel'}
say(type='cancelled')
sys.exit(130)
"""
    with pytest.raises(CancelledError, match=r"^Cancelled\.$"):
        workers.run(SPEAK + source, on_message=cancel, cancel=cancel)


def test_cancel_before_the_start(workers: Workers) -> None:
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(CancelledError):
        workers.run(SPEAK + "sys.stdin.readline(); say(type='cancelled')", cancel=cancel)


def test_a_result_that_was_faster_than_the_cancel_counts(workers: Workers) -> None:
    cancel = CancelAt(Hello)
    outcome = workers.run(SUCCEED + "sys.stdin.readline(); result()", on_message=cancel, cancel=cancel)
    assert outcome.files


def test_a_worker_deaf_to_cancel_is_killed_and_its_files_go(workers: Workers) -> None:
    cancel = CancelAt(Hello)
    source = """
from pathlib import Path
from masr_registration.worker.jobfolder import JobFolder
from masr_registration.worker.staging import Staging
place = Staging(Path(request["output"]))
JobFolder.current().record(place)
place.open()
(place.new / "transform.h5").write_text("half")
hello()
time.sleep(600)
"""
    with pytest.raises(CancelledError):
        workers.run(SPEAK + source, on_message=cancel, cancel=cancel)
    hello = next(m for m in workers.seen if isinstance(m, Hello))
    assert not alive(hello.pid)
    assert not (workers.folder / "out").exists()


@pytest.mark.parametrize("session", [False, True])
def test_the_worker_behind_a_launcher_is_killed_too(workers: Workers, session: bool) -> None:
    cancel = CancelAt(Hello)
    source = f"""
import subprocess
child = subprocess.Popen(
    [sys.executable, "-c", "import time; time.sleep(600)"], stdout=1, start_new_session={session}
)
hello(child.pid)
child.wait()
"""
    with pytest.raises(CancelledError):
        workers.run(SPEAK + source, on_message=cancel, cancel=cancel)
    hello = next(m for m in workers.seen if isinstance(m, Hello))
    assert wait_until(lambda: not alive(hello.pid))


def test_a_failing_listener_ends_the_worker(workers: Workers) -> None:
    def fail(message: Message) -> None:
        raise RuntimeError("listener")

    with pytest.raises(RuntimeError, match="listener"):
        workers.run(SPEAK + "hello(); time.sleep(600)", on_message=fail)
    hello = workers.seen[0]
    assert isinstance(hello, Hello)
    assert wait_until(lambda: not alive(hello.pid))


def test_a_worker_that_lingers_after_its_result_is_ended(
    workers: Workers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "SECONDS_TO_LEAVE", 0.3)
    with pytest.raises(MasrError, match="did not end after its result"):
        workers.run(SUCCEED + "result(); time.sleep(600)")


def test_a_worker_that_falls_silent_is_ended(workers: Workers, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "SECONDS_TO_LEAVE", 0.3)
    with pytest.raises(MasrError, match="fell silent"):
        workers.run(SPEAK + "hello(); os.close(1); time.sleep(600)")


def test_the_worker_is_in_a_group_of_its_own(workers: Workers) -> None:
    """Ctrl-C in a terminal then reaches the command line only, which cancels properly."""
    groups: list[int] = []

    def look(message: Message) -> None:
        if isinstance(message, Hello):
            groups.append(os.getpgid(message.pid))

    workers.run(SUCCEED + "time.sleep(0.2); result()", on_message=look)
    assert groups
    assert groups[0] != os.getpgid(0)


def test_the_interpreter_is_looked_up_when_the_job_starts(
    workers: Workers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.executable", str(tmp_path / "gone"))
    with pytest.raises(ResourceError, match="'gone'"):
        workers.run("")


def test_stale_folders_of_dead_owners_are_swept(workers: Workers) -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitpid(child, 0)
    stale = workers.temporary / f"masr-{os.getuid()}-{child}-abc"
    foreign = [
        workers.temporary / f"masr-{os.getuid()}-{os.getpid()}-abc",
        workers.temporary / f"masr-{os.getuid() + 1}-{child}-abc",
        workers.temporary / "masr-notes",
    ]
    for folder in (stale, *foreign):
        folder.mkdir()
    (stale / "fixed.nrrd").write_text("patient")
    link = workers.temporary / f"masr-{os.getuid()}-{child}-link"
    link.symlink_to(foreign[2])
    client.JobFolder.create().remove()
    assert not stale.exists()
    assert link.is_symlink()
    for folder in foreign:
        folder.rmdir()
    link.unlink()


def test_signals_have_names() -> None:
    assert client._death(-signal.SIGSEGV) == "SIGSEGV"
    assert client._death(128 + signal.SIGABRT) == "SIGABRT"
    assert client._death(3) == "exit code 3"
    assert client._death(0xC0000005) == "exit code 0xc0000005"
