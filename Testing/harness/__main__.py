"""``python -m harness``: the command line of 3D Slicer, as far as batch mode uses it.

Slicer [--no-splash] [--no-main-window] [--testing] [--additional-module-paths FOLDER...] --python-script FILE [-- ...]

As in the application the script runs once the modules are loaded and before the event loop; `sys.argv` holds the script
and what follows `--`. A script that does not exit leaves the application running.
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

FLAGS = ("--no-splash", "--no-main-window", "--testing")


def main(arguments: list[str]) -> int:
    rest: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, rest = arguments[:at], arguments[at + 1 :]
    folders: list[str] = []
    script: str | None = None
    while arguments:
        option = arguments.pop(0)
        if option in FLAGS:
            continue
        if option == "--python-script":
            script = arguments.pop(0)
        elif option == "--additional-module-paths":
            while arguments and not arguments[0].startswith("--"):
                folders.append(arguments.pop(0))
        else:
            raise SystemExit(f"The harness does not know Slicer's option {option}.")
    from harness.slicerapp import boot

    harness = boot()
    harness.start()
    for folder in folders:
        harness.load_modules(folder)
    if script is None or not Path(script).is_file():
        raise SystemExit(f"Specified python script doesn't exist: {script}")
    sys.argv = [script, *rest]
    code: object = 0
    try:
        runpy.run_path(script, run_name="__main__")
        code = harness.app.exec()
    except SystemExit as ended:
        code = 0 if ended.code is None else ended.code
    harness.quit()
    sys.stdout.flush()
    sys.stderr.flush()
    return code if isinstance(code, int) else 1


if __name__ == "__main__":
    os._exit(main(sys.argv[1:]))  # not through the destructors of Qt and VTK, which do not agree on an order
