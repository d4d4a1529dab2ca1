"""One registration in 3D Slicer without its window, of anything that Slicer can load; see Docs/batch-mode.md.

Slicer --no-splash --no-main-window --python-script <this file> -- FIXED MOVING --output FOLDER [--preset NAME|FILE]
    [--scene FILE.mrb] [--device D] [--threads N] [--seed N]

Writes transform.h5, registered.nrrd and result.json. Exit codes are those of ``masr register``. Slicer runs this before
its event loop, so that whatever waits has to keep the application alive by itself: `ConsoleLogic.wait` does.
"""

import argparse
import json
import sys
from pathlib import Path

import slicer
from masr_registration.errors import InputError, MasrError, ResourceError

from MASRRegistrationLib.console import ConsoleLogic


def main(arguments):
    """The exit code; one sentence on stderr for whatever went wrong."""
    parser = argparse.ArgumentParser(
        "Slicer --python-script batch_mode.py --", description="Register two volumes."
    )
    parser.add_argument("fixed", type=Path)
    parser.add_argument("moving", type=Path)
    parser.add_argument("--output", type=Path, required=True, help="folder for the results")
    parser.add_argument("--preset", default="general", help="name of a preset or a .json file")
    parser.add_argument("--scene", type=Path, help="save volumes and results as a scene (.mrb) as well")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments[1:] if arguments[:1] == ["--"] else arguments)
    try:
        register(options)
    except MasrError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


def register(options):
    """Raises `MasrError`."""
    fixed, moving = (load(path) for path in (options.fixed, options.moving))
    logic = ConsoleLogic()
    result = logic.register(
        fixed,
        moving,
        options.preset,
        device=options.device,
        threads=options.threads,
        seed=options.seed,
        onProgress=lambda stage, fraction, left: print(f"{100 * fraction:3.0f} % {stage}", flush=True),
    )
    save(lambda: options.output.mkdir(parents=True, exist_ok=True), options.output)
    for node, name in ((result.transformNode, "transform.h5"), (result.volumeNode, "registered.nrrd")):
        path = options.output / name
        save(lambda node=node, path=path: slicer.util.saveNode(node, str(path)), path)
    content = json.dumps(logic.provenance(result), indent=2)
    path = options.output / "result.json"
    save(lambda: path.write_text(content, encoding="utf-8"), path)
    if options.scene is not None:
        save(lambda: slicer.util.saveScene(str(options.scene)), options.scene)
    print(f"Verdict: {result.verdict['level']}")
    for reason in result.verdict["reasons"]:
        print(f"  - {reason}")


def load(path):
    """The volume node of a file. Raises `InputError`."""
    try:
        return slicer.util.loadVolume(str(path.absolute()))
    except RuntimeError as error:
        raise InputError(f'"{path.name}" could not be loaded as a volume.') from error


def save(write, path):
    """Raises `ResourceError` when `write` fails, in the way of the system's functions or of Slicer's."""
    try:
        done = write()
    except (OSError, RuntimeError) as error:
        raise ResourceError(f'"{path.name}" could not be written.') from error
    if done is False:
        raise ResourceError(f'"{path.name}" could not be written.')


if __name__ == "__main__":
    try:
        code = main(sys.argv[1:])
    except SystemExit as ended:  # of argparse
        code = ended.code
    except BaseException as error:
        print(f"An internal error stopped the registration ({type(error).__name__}).", file=sys.stderr)
        code = MasrError.exit_code
    sys.exit(code)
