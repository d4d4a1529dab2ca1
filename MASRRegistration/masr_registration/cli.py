"""The command line ``masr``. Light: everything heavy runs in the background process."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.progress import TaskID
from rich.text import Text

from . import __version__, presets
from .batch.command import EXIT_FAILURES, batch
from .errors import CancelledError, InputError, MasrError
from .evaluation.tasks import command as tasks
from .representation import models
from .terminal import cancel_on_signals, progress_bar
from .training.command import train
from .training.command_amortized import amortized
from .worker import client, messages

app = typer.Typer(
    help="Registers medical images of any modalities. Research software, not a medical device.",
    pretty_exceptions_show_locals=False,
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
)


def main() -> None:
    """The console script."""
    app()


def _version(wanted: bool) -> None:
    if wanted:
        print(f"masr {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


Output = Annotated[Path, typer.Option("--output", "-o", help="Folder for the results; created if missing.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:N or mps.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; by default as many as there are cores.")]
PrintJson = Annotated[bool, typer.Option("--json", help="Print result.json on stdout and nothing else.")]


@app.command()
def register(
    fixed: Annotated[Path, typer.Argument(help="Fixed image: a file or a DICOM series folder.")],
    moving: Annotated[Path, typer.Argument(help="Moving image, which is brought onto the fixed one.")],
    output: Output,
    preset: Annotated[str, typer.Option(help="Name of a preset (masr presets) or a .json file.")] = "general",
    device: Device = "auto",
    fixed_mask: Annotated[Path | None, typer.Option(help="Mask on the fixed image's grid.")] = None,
    moving_mask: Annotated[Path | None, typer.Option(help="Mask on the moving image's grid.")] = None,
    initial_transform: Annotated[
        Path | None, typer.Option(help="ITK transform fixed -> moving (LPS) to start from.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Label map of the moving image, warped as well.")
    ] = None,
    landmarks: Annotated[
        tuple[Path, Path] | None,
        typer.Option(
            metavar="FIXED MOVING", help="Landmark files (.mrk.json or .csv) to measure the error with."
        ),
    ] = None,
    use_landmarks: Annotated[
        bool,
        typer.Option(
            help="Pull the deformation to the landmarks too; their error is no independent proof then."
        ),
    ] = False,
    representation: Annotated[
        str | None, typer.Option(help="mind, masr, masr-adapted or masr-faithful instead of the preset's.")
    ] = None,
    method: Annotated[
        str | None, typer.Option(help="optimise, amortized or amortized+refine instead of the preset's.")
    ] = None,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    plan: Annotated[
        bool,
        typer.Option("--plan", help="Only print what would be run, and write it to plan.json."),
    ] = False,
    replay: Annotated[
        Path | None,
        typer.Option(
            help="A result.json or plan.json whose plan, preset, device, threads and seed are used again."
        ),
    ] = None,
    print_json: PrintJson = False,
) -> None:
    """Register MOVING to FIXED and write transform, warped image, metrics and a report into the output folder."""
    with _errors_in_one_sentence():
        fields: dict[str, Any] = {
            "fixed": fixed,
            "moving": moving,
            "output": output,
            "fixed_mask": fixed_mask,
            "moving_mask": moving_mask,
            "initial_transform": initial_transform,
            "labels": labels,
            "landmarks": landmarks,
        }
        whole = _preset(preset, representation, method)
        options = {"device": device, "threads": threads, "seed": seed, "preset": whole}
        if replay is not None:
            options = _recorded(replay)
        values = {**_absolute(fields), **options, "use_landmarks": use_landmarks, "plan_only": plan}
        outcome = _run(messages.request_from(values))
        if plan:
            _print_plan(outcome, print_json)
        else:
            _print_result(outcome, print_json)


@app.command()
def sequence(
    items: Annotated[
        list[Path], typer.Argument(help="A 4-D image (or .seq.nrrd), or the images in their order.")
    ],
    output: Output,
    fixed: Annotated[
        Path | None, typer.Option(help="An image that all items are registered to; it becomes item 0.")
    ] = None,
    reference: Annotated[
        int, typer.Option(help="Number of the item that stays as it is, from 0.", min=0)
    ] = 0,
    target: Annotated[
        str, typer.Option(help="reference: every item to it; neighbour: each to the item beside it.")
    ] = "reference",
    preset: Annotated[str, typer.Option(help="Name of a preset (masr presets) or a .json file.")] = "general",
    device: Device = "auto",
    reference_mask: Annotated[Path | None, typer.Option(help="Mask on the grid of the reference.")] = None,
    landmarks: Annotated[
        Path | None,
        typer.Option(help="Points on the reference (.mrk.json or .csv) whose motion is measured."),
    ] = None,
    threads: Threads = None,
    seed: Annotated[int, typer.Option(help="The same seed gives the same result.")] = 0,
    print_json: PrintJson = False,
) -> None:
    """Register the items of a sequence and write a transform and a warped volume for each. Exit code 4: some failed."""
    with _errors_in_one_sentence():
        if fixed is not None and (reference or len(items) < 1):
            raise InputError("Either --fixed or --reference, not both.")
        if fixed is not None and len(items) == 1:
            raise InputError("--fixed needs its items as single images.")
        paths = {"fixed_mask": reference_mask, "points": landmarks, "output": output}
        frames = [str(path.absolute()) for path in ([] if fixed is None else [fixed]) + items]
        values = {
            **_absolute(paths),
            "fixed": frames[0],
            "moving": frames[-1],
            "frames": frames,
            "reference": reference,
            "target": target,
            "device": device,
            "threads": threads,
            "seed": seed,
        }
        outcome = _run(_request(values, preset))
        _print_sequence(outcome, print_json)
        if _result_json(outcome)["failures"]:
            raise typer.Exit(EXIT_FAILURES)


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for images and results.")] = Path(
        "masr-demo"
    ),
    device: Device = "auto",
    threads: Threads = None,
    print_json: PrintJson = False,
) -> None:
    """Register a real T1/T2 pair that was moved by a known transform, and print the true error in millimetres."""
    with _errors_in_one_sentence():
        from . import demo as demonstration

        fields = demonstration.prepare(output.absolute() / "input")
        preset = fields.pop("preset")
        options = {"output": str(output.absolute()), "device": device, "threads": threads}
        outcome = _run(_request({**fields, **options}, preset))
        _print_result(outcome, print_json)
        problems = demonstration.check(_result_json(outcome))
        if problems:
            raise MasrError(f"The demo did not reach its goal: {' '.join(problems)}")


@app.command("presets")
def list_presets() -> None:
    """List the presets."""
    for name in presets.names():
        print(f"{name:18} {presets.load(name).description}")


weights = typer.Typer(help="Weights of networks: those that ship, and those adapted to your own images.")
app.add_typer(weights, name="models")


@weights.callback(invoke_without_command=True)
def list_models(context: typer.Context) -> None:
    """List the weights of all networks, whether their files are whole, and which adapted ones are in use."""
    if context.invoked_subcommand is not None:
        return
    with _errors_in_one_sentence():
        shipped, adapted, in_use = models.shipped(), models.adapted(), models.in_use()
        for name, model in shipped.items():
            print(f"{name:18} {model.state():8} {model.sha256[:12]}  {model.description}")
        for name, model in adapted.items():
            used = f" (in use as {models.ADAPTED})" if name == in_use else ""
            state = model.state(models.user_folder())
            print(f"{name:18} {state:8} {model.sha256[:12]}  {model.description}{used}")
        if not shipped:
            print("This installation has no encoder weights; images are compared by MIND-SSC.")


@weights.command("use")
def use_model(name: Annotated[str, typer.Argument(help="Of an adapted model.")]) -> None:
    """Use this adapted model wherever the representation is masr-adapted."""
    with _errors_in_one_sentence():
        models.use(name)


@weights.command("remove")
def remove_model(name: Annotated[str, typer.Argument(help="Of an adapted model.")]) -> None:
    """Remove an adapted model and its card."""
    with _errors_in_one_sentence():
        models.remove(name)


@weights.command("card")
def print_card(name: Annotated[str, typer.Argument(help="Of any model.")]) -> None:
    """Print the card of a model: what it was made from, and what was measured."""
    with _errors_in_one_sentence():
        print(models.card(name), end="")


evaluate = typer.Typer(
    help="Measure representations, and registrations on the data sets of the field: masr evaluate TASK --data DIR.",
    no_args_is_help=True,
    cls=tasks.TaskByName,
)
evaluate.command("task", hidden=True)(tasks.task)
evaluate.command("tasks")(tasks.tasks)
app.add_typer(evaluate, name="evaluate")
train.command()(amortized)
app.add_typer(train, name="train")
app.add_typer(batch, name="batch")


@evaluate.callback()
def _evaluate() -> None:
    pass


@evaluate.command()
def discriminability(
    fixed: Annotated[Path, typer.Argument(help="Fixed image.")],
    moving: Annotated[Path, typer.Argument(help="Moving image of the same anatomy.")],
    truth: Annotated[
        Path | None,
        typer.Option(help="ITK transform fixed -> moving (LPS); none when the images are aligned."),
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for discriminability.json and heat maps.")
    ] = None,
    representation: Annotated[
        list[str] | None,
        typer.Option(
            help="image, mind, dsir, masr, masr-faithful, dsir-adapted or masr-adapted; may be repeated."
        ),
    ] = None,
    spacing: Annotated[float, typer.Option(help="Of the working grid, in mm.")] = 2.0,
    anchors: Annotated[int, typer.Option(help="How many places are searched.")] = 800,
    seed: Annotated[int, typer.Option(help="Of the choice of places.")] = 0,
    print_json: PrintJson = False,
) -> None:
    """How well places of FIXED are found again in MOVING, by several representations."""
    with _errors_in_one_sentence():
        from .evaluation import discriminability_report
        from .evaluation.discriminability import Protocol

        protocol = Protocol(
            spacing_mm=spacing, window_mm=10 * spacing, step_mm=2 * spacing, anchors=anchors, seed=seed
        )
        report = discriminability_report.run(fixed, moving, truth, output, representation, protocol)
        print(json.dumps(report.to_json(), indent=2) if print_json else report.table())


def _absolute(fields: dict[str, Any]) -> dict[str, Any]:
    """Paths as absolute strings: the worker runs elsewhere."""

    def text(path: Path | None) -> str | None:
        return None if path is None else str(path.absolute())

    return {
        name: [text(p) for p in value] if isinstance(value, tuple) else text(value)
        for name, value in fields.items()
    }


def _request(fields: dict[str, Any], preset: str) -> messages.Request:
    return messages.request_from({**fields, "preset": _preset(preset)})


def _preset(name: str, representation: str | None = None, method: str | None = None) -> dict[str, Any]:
    """The preset as a request carries it, with another representation and method if wanted."""
    preset = presets.load(name)
    if representation is not None:
        preset = preset.with_representation(representation)
    if method is not None:
        preset = preset.with_method(method)
    whole: dict[str, Any] = json.loads(preset.to_json())
    return whole


def _recorded(path: Path) -> dict[str, Any]:
    """What decides the bits of a result, from a result.json or plan.json. Raises `InputError`."""
    try:
        made = json.loads(path.read_text(encoding="utf-8"))["provenance"]
        plan = made["plan"]
        return {
            "plan": plan,
            "preset": {"masr_preset": presets.FORMAT_VERSION, **made["preset"]},
            "device": plan["device"],
            "threads": plan["threads"],
            "seed": made["seed"],
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f'"{path.name}" is not a result.json or plan.json with a plan in it.') from error


def _run(request: messages.Request) -> client.Outcome:
    """One job with a progress bar on a terminal; Ctrl-C cancels it, a second one ends it at once."""
    with cancel_on_signals() as cancel, _Bar() as bar:
        return client.run(request, bar.show, cancel)


class _Bar:
    """Progress on stderr, only if that is a terminal; warnings always."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._progress = progress_bar(self._console, self._console.is_terminal)
        self._task: TaskID | None = None

    def __enter__(self) -> _Bar:
        self._progress.start()
        self._task = self._progress.add_task("starting", total=1.0, left="")
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def show(self, message: messages.Message) -> None:
        if isinstance(message, messages.Progress) and self._task is not None:
            left = "" if message.eta_s is None else f"{_duration(message.eta_s)} left"
            self._progress.update(
                self._task, description=message.stage, completed=message.fraction, left=left
            )
        elif isinstance(message, messages.Warn):
            self._console.print(Text(f"Warning: {message.message}"), soft_wrap=True)


def _duration(seconds: float) -> str:
    whole = round(seconds)
    return f"{whole} s" if whole < 90 else f"{whole // 60} min {whole % 60:02} s"


def _result_json(outcome: client.Outcome) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(outcome.files["result"].read_text(encoding="utf-8"))
    return content


def _print_plan(outcome: client.Outcome, as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(outcome.files["plan"].read_bytes())
        return
    plan = outcome.provenance["plan"]
    size = " x ".join(str(n) for n in plan["working_size"])
    print(f"Working grid: {size} voxels of {plan['working_spacing_mm']:.2f} mm")
    print(f"Device: {plan['device']}, {plan['threads']} threads")
    print(f"Memory: about {plan['peak_mb']:.0f} MB", end="")
    print(f", {plan['device_peak_mb']:.0f} MB on the device" if plan["device_peak_mb"] else "")
    print(f"Time: roughly {_duration(sum(plan['seconds'].values()))}")
    print(f"Plan: {outcome.files['plan']}")


def _print_verdict(outcome: client.Outcome) -> None:
    print(f"Verdict: {outcome.verdict['level']}")
    for reason in outcome.verdict["reasons"]:
        print(f"  - {reason}")


def _print_result(outcome: client.Outcome, as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(outcome.files["result"].read_bytes())
        return
    _print_verdict(outcome)
    before, after = (outcome.metrics.get(f"true_error_{when}_mm") for when in ("before", "after"))
    if before and after:
        print(f"True error: {before['mean']:.2f} mm on average before, {after['mean']:.2f} mm after")
    print(f"Time: {_duration(outcome.timings['total'])}")
    print(f"Results: {outcome.files['transform'].parent}")
    if "report" in outcome.files:
        print(f"Report: {outcome.files['report']}")


def _print_sequence(outcome: client.Outcome, as_json: bool) -> None:
    if as_json:
        sys.stdout.buffer.write(outcome.files["result"].read_bytes())
        return
    _print_verdict(outcome)
    print(f"Time: {_duration(outcome.timings['total'])}")
    print(f"Results: {outcome.files['result'].parent}")


@contextmanager
def _errors_in_one_sentence() -> Iterator[None]:
    try:
        yield
    except MasrError as error:
        _fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        _fail(str(CancelledError()), CancelledError.exit_code)


def _fail(sentence: str, code: int) -> NoReturn:
    print(sentence, file=sys.stderr)
    raise typer.Exit(code)
