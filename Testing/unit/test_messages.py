"""The protocol: strict, one line a message, and importable without anything heavy."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from masr_registration.errors import InputError
from masr_registration.worker import messages
from masr_registration.worker.messages import (
    Cancelled,
    Error,
    Hello,
    LineBuffer,
    Progress,
    ProtocolError,
    Result,
    Warn,
)
from worker_tools import environment, plain_request, python

ALL = [
    Hello(pid=12, device="cpu", version="0.1.0"),
    Progress("linear", 0.25, 12.5, {"similarity": 0.5}),
    Progress("read", 0),
    Warn("Grüße\nfrom 日本 \udcff"),
    Result({"transform": "/a b/ü.h5"}, {"folds": 0}, ["w"], {"level": "plausible"}, {}, {"total": 1.5}),
    Cancelled(),
    Error("input", "There is no file."),
]


@pytest.mark.parametrize("message", ALL, ids=lambda message: type(message).__name__)
def test_every_message_survives_the_way_as_one_ascii_line(message: messages.Message) -> None:
    line = messages.encode(message)
    assert line.isascii()
    assert line.endswith(b"\n")
    assert line.count(b"\n") == 1
    assert messages.decode(line.decode()) == message


def test_numbers_that_are_not_finite_become_null() -> None:
    metrics = {
        "a": float("nan"),
        "b": [np.float32("inf"), np.int64(3), np.bool_(True)],
        "c": np.array([1.0, np.nan]),
    }
    line = messages.encode(Progress("check", 0.5, None, metrics))
    assert json.loads(line)["metrics"] == {"a": None, "b": [None, 3, True], "c": [1.0, None]}


def test_what_is_no_json_is_refused_when_sent() -> None:
    with pytest.raises(TypeError):
        messages.encode(Progress("check", 0.5, None, {"a": object()}))


def test_an_unknown_type_is_told_apart_from_garbage() -> None:
    assert messages.decode('{"type":"telemetry","x":1}') is None
    assert messages.decode('{"type":"warning","message":"a","new":1}') == Warn("a")


@pytest.mark.parametrize(
    "line",
    [
        "",
        "Downloading ... 45%",
        "[1]",
        '"hello"',
        "{",
        "{}",
        '{"type":1}',
        '{"type":"progress","stage":"a","fraction":NaN}',
        '{"type":"progress","stage":"a","fraction":Infinity}',
        '{"type":"progress","stage":"a","fraction":1.5}',
        '{"type":"progress","stage":"a","fraction":true}',
        '{"type":"progress","stage":"a"}',
        '{"type":"progress","stage":"a","fraction":0.5,"eta_s":"soon"}',
        '{"type":"hello","pid":1.5,"device":"cpu","version":"1"}',
        '{"type":"warning"}',
        '{"type":"warning","message":null}',
        '{"type":"result","files":{"a":1},"metrics":{},"warnings":[],"verdict":{},"provenance":{},"timings":{}}',
        '{"type":"result","files":[],"metrics":{},"warnings":[],"verdict":{},"provenance":{},"timings":{}}',
        '{"type":"error","code":"input"}',
        "[" * 100_000,
        '{"type":"hello","pid":' + "9" * 5000 + "}",
    ],
)
def test_garbage_is_a_protocol_error(line: str) -> None:
    with pytest.raises(ProtocolError):
        messages.decode(line)


def test_a_request_survives_the_way(tmp_path: Path) -> None:
    request = plain_request(
        tmp_path,
        landmarks=[str(tmp_path / "f.csv"), str(tmp_path / "m.csv")],
        labels=str(tmp_path / "ü 日本.nii.gz"),
        threads=2,
        seed=7,
        report=False,
    )
    assert messages.decode_request(messages.encode_request(request).decode()) == request


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"fixed": None}, "The request's 'fixed' has the wrong type."),
        ({"fixed": 3}, "The request's 'fixed' has the wrong type."),
        ({"fixed": "relative.nii"}, "The path of the fixed image is not absolute."),
        ({"output": "out"}, "The path of the output is not absolute."),
        ({"moving": "/a\0b"}, "The path of the moving image is not absolute."),
        ({"preset": "general"}, "The request's 'preset' has the wrong type."),
        (
            {"output": "/tmp/\udcff"},
            "The path of the output is not UTF-8, which the libraries that read it demand.",
        ),
        ({"threads": 0}, "The number of threads must be 1 to 4096, not 0."),
        ({"threads": True}, "The request's 'threads' has the wrong type."),
        ({"threads": 1.0}, "The request's 'threads' has the wrong type."),
        ({"seed": -1}, "The seed must be 0 to 9223372036854775807, not -1."),
        ({"seed": 2**63}, f"The seed must be 0 to 9223372036854775807, not {2**63}."),
        ({"landmarks": ["/a"]}, "The request's 'landmarks' has the wrong type."),
        ({"landmarks": "/a"}, "The request's 'landmarks' has the wrong type."),
        ({"landmarks": ["/a", "b"]}, "The path of the moving landmarks is not absolute."),
        ({"report": 1}, "The request's 'report' has the wrong type."),
        ({"run": "code"}, "The request has the unknown entry 'run'."),
        ({"protocol": 2}, "The request is of protocol 2, this worker speaks protocol 1."),
        ({"protocol": True}, "The request is of protocol True, this worker speaks protocol 1."),
        ({"command": "train"}, "The command 'train' is unknown; this worker knows register."),
    ],
)
def test_a_bad_request_gets_one_sentence(tmp_path: Path, change: dict[str, object], sentence: str) -> None:
    data = json.loads(messages.encode_request(plain_request(tmp_path)))
    with pytest.raises(InputError) as caught:
        messages.decode_request(json.dumps({**data, **change}))
    assert str(caught.value) == sentence


@pytest.mark.parametrize("name", ["fixed", "moving", "output", "preset"])
def test_an_incomplete_request_names_what_is_missing(tmp_path: Path, name: str) -> None:
    data = json.loads(messages.encode_request(plain_request(tmp_path)))
    del data[name]
    with pytest.raises(InputError, match=f"lacks '{name}'"):
        messages.decode_request(json.dumps(data))


def test_a_request_that_is_no_json_gets_one_sentence() -> None:
    with pytest.raises(InputError, match="not a JSON object on one line"):
        messages.decode_request("register a.nii b.nii")


@given(st.lists(st.text().filter(lambda text: "\n" not in text and "\r" not in text)), st.data())
def test_lines_do_not_depend_on_how_they_are_cut(lines: list[str], data: st.DataObject) -> None:
    stream = "".join(line + "\n" for line in lines).encode("utf-8", errors="replace")
    buffer, found = LineBuffer(), []
    while stream:
        length = data.draw(st.integers(1, len(stream)))
        found += buffer.feed(stream[:length])
        stream = stream[length:]
    assert found == [line.encode("utf-8", errors="replace").decode() for line in lines]
    assert buffer.close() == []


def test_a_character_cut_in_two_is_put_together() -> None:
    first, second = "aü\n".encode()[:2], "aü\n".encode()[2:]
    buffer = LineBuffer()
    assert buffer.feed(first) == []
    assert buffer.feed(second) == ["aü"]


def test_the_line_buffer_keeps_the_rest_and_windows_line_ends_go() -> None:
    buffer = LineBuffer()
    assert buffer.feed(b"a\r\nb\xff\nrest") == ["a", "b\ufffd"]
    assert buffer.close() == ["rest"]


def test_a_line_without_end_is_bounded() -> None:
    buffer = LineBuffer(limit=10)
    for _ in range(1000):
        assert buffer.feed(b"x" * 1000) == []
    assert buffer.feed(b"\nnext\n") == ["x" * 10, "next"]


@pytest.mark.parametrize(
    "module",
    ["masr_registration.worker.messages", "masr_registration.worker.client", "masr_registration.presets"],
)
def test_what_slicer_imports_brings_nothing_heavy(module: str) -> None:
    code = (
        f"import sys, {module}\n"
        "print([m for m in ('torch', 'numpy', 'SimpleITK', 'scipy', 'typer', 'rich') if m in sys.modules])"
    )
    run = subprocess.run(python("-c", code), env=environment(), capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
