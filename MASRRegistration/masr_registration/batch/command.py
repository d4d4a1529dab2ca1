"""The command line ``masr batch``. Light: everything heavy runs in warm processes."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer.core import TyperGroup

from ..errors import CancelledError, InputError, MasrError
from ..terminal import cancel_on_signals, progress_bar
from . import cohort, discover
from . import events as event_lines
from . import manifest as manifests
from .progress import Event
from .run import Engine, Forecast, Run, Settings

EXIT_FAILURES = 4


class _RunByDefault(TyperGroup):
    """``masr batch MANIFEST ...`` is ``masr batch run MANIFEST ...``."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] != "--help":
            args = ["run", *args]
        return super().parse_args(ctx, args)


batch = typer.Typer(
    help="Register the cases of a study: masr batch MANIFEST --output DIR.",
    no_args_is_help=True,
    cls=_RunByDefault,
)


@batch.callback()
def _batch() -> None:
    pass


@batch.command()
def run(
    manifest: Annotated[Path, typer.Argument(help="CSV or JSON with one case a row: id, fixed, moving, ...")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the study; created if missing.")],
    jobs: Annotated[
        int | None, typer.Option(help="Cases at once; by default one for each device.", min=1, max=1024)
    ] = None,
    engine: Annotated[
        str, typer.Option(help="local, or dask: worker processes here or on a cluster.")
    ] = "local",
    scheduler: Annotated[
        str | None,
        typer.Option(help="Address of a running dask scheduler; others than this machine by tls://."),
    ] = None,
    slurm: Annotated[
        Path | None, typer.Option(help="JSON file with the resources of Slurm jobs to start as workers.")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with a study that was stopped.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, fix the plans, predict time, memory, disk.")
    ] = False,
    keep_going: Annotated[
        bool, typer.Option("--keep-going", help="Run the sound cases although others have faults.")
    ] = False,
    preset: Annotated[str, typer.Option(help="Of the cases that name none.")] = "general",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="CPU threads of each case; by default the cores shared out.", min=1)
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the cases that name none.", min=0)] = 0,
    events: Annotated[
        bool, typer.Option("--events", help="Tell what happens as lines of JSON on stdout, for programs.")
    ] = False,
) -> None:
    """Register all cases of MANIFEST. Exit code 0: all done, 4: some cases failed, others as of masr register."""
    with _errors_in_one_sentence(events):
        whole = manifests.read(manifest, preset, seed)
        settings = Settings(
            device, jobs, threads, resume, dry_run, keep_going, _engine(engine, scheduler, slurm)
        )
        run_ = Run(whole, output, settings)
        with cancel_on_signals() as cancel, Display(events) as display, run_.opened(display.show, cancel):
            display.forecast(run_.forecast)
            if dry_run:
                return
            summary = run_.execute(display.show, cancel)
        if events:
            print(event_lines.line(event_lines.of_end(summary)), flush=True)
        else:
            print(f"Done: {summary.done}, failed: {summary.failed}")
            print(f"Report: {summary.report}")
        if summary.failed:
            raise typer.Exit(EXIT_FAILURES)


@batch.command()
def init(
    root: Annotated[Path, typer.Argument(help="Folder that holds the images.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="CSV file to write.")],
    fixed: Annotated[str, typer.Option(help="Pattern such as {subject}/T1.nii.gz; with --bids e.g. T1w.")],
    moving: Annotated[str, typer.Option(help="The same for the moving image.")],
    also: Annotated[
        list[str] | None,
        typer.Option(metavar="COLUMN=PATTERN", help="For another column, e.g. labels=...; may be repeated."),
    ] = None,
    bids: Annotated[bool, typer.Option("--bids", help="ROOT is a BIDS tree.")] = False,
    preset: Annotated[str | None, typer.Option(help="Written into every row.")] = None,
) -> None:
    """Write a manifest from the files of a folder. Look at it before you run it."""
    with _errors_in_one_sentence():
        patterns = {"fixed": fixed, "moving": moving, **_columns(also or [])}
        if output.exists():
            raise InputError(f'"{output.name}" is there already.')
        found = (discover.by_bids if bids else discover.by_patterns)(root, patterns)
        base = output.absolute().parent
        for row in found.rows:
            for column in patterns:
                if column in row:
                    path = (root.absolute() / row[column]).resolve()
                    near = path.is_relative_to(base.resolve())
                    row[column] = str(path.relative_to(base.resolve()) if near else path)
            if preset is not None:
                row["preset"] = preset
        columns = ["id", *patterns, *(["preset"] if preset is not None else [])]
        try:
            manifests.write(found.rows, output, columns)
        except OSError as error:
            raise InputError(f'"{output.name}" cannot be written.') from error
        for remark in found.remarks:
            print(remark, file=sys.stderr)
        print(f"{len(found.rows)} cases: {output}")


@batch.command()
def report(
    folder: Annotated[Path, typer.Argument(help="Output folder of a study.")],
) -> None:
    """Write cohort.html, cohort.csv and cohort.json of a study again."""
    with _errors_in_one_sentence():
        print(f"Report: {cohort.rebuild(folder)}")


@batch.command("job-script")
def job_script(
    slurm: Annotated[Path, typer.Argument(help="JSON file with the resources of the Slurm jobs.")],
) -> None:
    """Print the job script that --slurm would submit, and submit nothing."""
    with _errors_in_one_sentence():
        from . import slurm as jobs

        print(jobs.job_script(jobs.read(slurm)), end="")


def _engine(name: str, scheduler: str | None, slurm: Path | None) -> Engine | None:
    """The engine of the command line's choice; None for the local one. Raises `InputError`."""
    if name == "local" and scheduler is None and slurm is None:
        return None
    if name != "dask":
        raise InputError(
            "--scheduler and --slurm belong to --engine dask."
            if name == "local"
            else f'There is no engine "{name}".'
        )
    if scheduler is not None and slurm is not None:
        raise InputError("Either --scheduler or --slurm, not both.")
    from . import cluster
    from . import slurm as slurm_jobs

    return cluster.DaskEngine(scheduler, None if slurm is None else slurm_jobs.read(slurm))


def _columns(also: list[str]) -> dict[str, str]:
    columns = {}
    for text in also:
        column, equals, pattern = text.partition("=")
        if not equals or not pattern:
            raise InputError(f'"{text}" must be COLUMN=PATTERN.')
        columns[column] = pattern
    return columns


class Display:
    """A bar on a terminal, a line for each case that ended elsewhere; or lines of JSON on stdout."""

    def __init__(self, events: bool) -> None:
        self._events = events
        self._console = Console(stderr=True, highlight=False)
        self._bar = progress_bar(self._console, self._console.is_terminal and not events)
        self._task = self._bar.add_task("starting", total=1.0, left="")
        self._told = ""

    def __enter__(self) -> Display:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def show(self, event: Event) -> None:
        if self._events:
            print(event_lines.line(event_lines.of_case(event)), flush=True)
            return
        if not event.case:
            if event.stage != self._told:
                self._console.print(Text(f"{event.stage[0].upper()}{event.stage[1:]}."), soft_wrap=True)
            self._told = event.stage
            self._bar.update(self._task, description=event.stage)
            return
        self._told = ""
        left = "" if event.eta_s is None else f"{duration(event.eta_s)} left"
        doing = "checking" if event.state in ("checking", "checked", "faulty") else "registering"
        self._bar.update(
            self._task,
            completed=event.whole,
            description=f"{doing}, {event.finished} of {event.total} cases",
            left=left,
        )
        if event.state in ("done", "failed"):
            note = f": {event.message}" if event.message else ""
            line = f"[{event.finished}/{event.total}] {event.case} {event.state}{note}"
            self._console.print(Text(line), soft_wrap=True)

    def forecast(self, forecast: Forecast) -> None:
        if self._events:
            print(event_lines.line(event_lines.of_forecast(forecast)), flush=True)
            return
        lines = [
            f"Cases: {forecast.to_run} to run, {forecast.done} done, {len(forecast.faults)} faults",
            f"At once: {forecast.jobs}, with {forecast.threads} threads each, on {forecast.device or 'no device'}",
            f"Time: roughly {duration(forecast.seconds)}",
            f"Memory: about {forecast.memory_mb:.0f} MB",
            f"Disk: about {forecast.disk_mb:.0f} MB of {forecast.free_disk_mb:.0f} MB",
        ]
        lines += [f"Fault: {fault.case}: {fault.sentence}" for fault in forecast.faults]
        for line in lines:
            self._console.print(Text(line), soft_wrap=True)


def duration(seconds: float) -> str:
    """For a person: 40 s, 12 min, 3 h 20 min."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{round(seconds)} s"
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02} min"


@contextmanager
def _errors_in_one_sentence(events: bool = False) -> Iterator[None]:
    try:
        yield
    except (MasrError, KeyboardInterrupt) as error:
        told = error if isinstance(error, MasrError) else CancelledError()
        if events:
            print(event_lines.line(event_lines.of_error(told)), flush=True)
        print(told, file=sys.stderr)
        raise typer.Exit(told.exit_code) from error
