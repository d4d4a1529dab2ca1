"""The command line ``masr evaluate TASK --data DIR``. Importable without numpy and torch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from ...batch.command import EXIT_FAILURES, Display
from ...batch.run import Settings
from ...errors import CancelledError, InputError, MasrError
from ...terminal import cancel_on_signals


class TaskByName(TyperGroup):
    """``masr evaluate TASK ...`` is ``masr evaluate task TASK ...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and not args[0].startswith("-"):
            args = ["task", *args]
        return super().parse_args(ctx, args)


def tasks() -> None:
    """List the tasks."""
    from . import layouts

    for name, (_, description) in layouts.LAYOUTS.items():
        print(f"{name:15} {description}")


def task(
    name: Annotated[str, typer.Argument(metavar="TASK", help="One of masr evaluate tasks.")],
    data: Annotated[Path, typer.Option(help="Folder of the data set.")],
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder for everything; created if missing.")
    ],
    method: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PRESET[,SETTING=VALUE...]",
            help="What registers; may be repeated. By default the preset of the task.",
        ),
    ] = None,
    peers: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=FOLDER", help="Fields of another method, scored by the same code; may be repeated."
        ),
    ] = None,
    split: Annotated[str, typer.Option(help="train, val or test, of data sets that have a list.")] = "val",
    masks: Annotated[bool, typer.Option("--masks", help="The registration may use the masks.")] = False,
    swap: Annotated[bool, typer.Option("--swap", help="Exchange fixed and moving.")] = False,
    between: Annotated[bool, typer.Option("--between", help="Pair different patients (phases).")] = False,
    fixed: Annotated[str | None, typer.Option(help="Phase or contrast of the fixed images.")] = None,
    moving: Annotated[str | None, typer.Option(help="Phase or contrast of the moving images.")] = None,
    limit: Annotated[int | None, typer.Option(help="Only so many pairs.", min=1)] = None,
    submission: Annotated[
        list[str] | None,
        typer.Option(help="Write fields for an evaluator: nii, npz or npz-half; may be repeated."),
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what was stopped.")] = False,
    jobs: Annotated[int | None, typer.Option(help="Cases at once.", min=1, max=1024)] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads of each case.", min=1)] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.", min=0)] = 0,
    print_json: Annotated[bool, typer.Option("--json", help="Print results.json on stdout.")] = False,
) -> None:
    """Register and score the pairs of a data set, and write results.json and results.md.

    Exit code 0: every case has a score, 4: some failed, others as of masr register.
    """
    try:
        from . import fields, layouts, running
        from .cases import Choice

        choice = Choice(_split(split), masks, swap, between, fixed, moving, limit)
        read = layouts.read(name, data, choice)
        for form in submission or ():
            if form not in fields.FORMS:
                raise InputError(f'There is no form "{form}". Forms: {", ".join(fields.FORMS)}.')
        plan = running.Plan(
            [running.Method.of(text, read.preset) for text in dict.fromkeys(method or [read.preset])],
            _folders(peers or []),
            list(dict.fromkeys(submission or [])),
            Settings(device, jobs, threads, resume, keep_going=True),
            seed,
        )
        evaluation = running.Evaluation(read, choice, plan, output)
        console = Console(stderr=True, highlight=False)

        def scoring(by: str, case: str) -> None:
            console.print(Text(f"scoring {by}: {case}"), soft_wrap=True)

        with cancel_on_signals() as cancel, Display(False) as display:
            rated = evaluation.run(display.show, scoring, cancel)
        if print_json:
            print((evaluation.output / running.RESULTS).read_text(encoding="utf-8"), end="")
        else:
            print((evaluation.output / running.PAGE).read_text(encoding="utf-8"))
            print(f"Results: {evaluation.output / running.RESULTS}")
        if any(one.failed for one in rated):
            raise typer.Exit(EXIT_FAILURES)
    except (MasrError, KeyboardInterrupt) as error:
        told = error if isinstance(error, MasrError) else CancelledError()
        print(told, file=sys.stderr)
        raise typer.Exit(told.exit_code) from error


def _split(text: str) -> Any:
    if text not in ("train", "val", "test"):
        raise InputError(f'There is no split "{text}"; there are train, val and test.')
    return text


def _folders(peers: list[str]) -> dict[str, Path]:
    folders = {}
    for text in peers:
        name, equals, folder = text.partition("=")
        if not equals or not name or not folder:
            raise InputError(f'"{text}" must be NAME=FOLDER.')
        folders[name] = Path(folder)
    return folders
