"""The Python packages that a registration needs, and installing them into Slicer after one question.

Looked at when Register is pressed, never earlier. PyTorch is installed by the extension PyTorch (which chooses the
build for the graphics card), everything else by pip with the installed numpy and SimpleITK pinned.
"""

from __future__ import annotations

import importlib
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import slicer
from masr_registration.errors import CancelledError, ResourceError
from slicer.i18n import tr as _

PINNED = ("numpy", "SimpleITK")
TORCH_VERSION = ">=2.2"


@dataclass(frozen=True)
class Package:
    """`name` as it is installed, `requirement` for pip; without an optional one a run goes on."""

    name: str
    requirement: str
    optional: bool = False

    @property
    def isThere(self) -> bool:
        try:
            metadata.version(self.name)
        except metadata.PackageNotFoundError:
            return False
        return True


PACKAGES = (
    Package("torch", "torch"),
    Package("safetensors", "safetensors>=0.4"),
    Package("matplotlib", "matplotlib>=3.8", optional=True),
    Package("numba", "numba>=0.59", optional=True),
)


def missing() -> list[Package]:
    importlib.invalidate_caches()
    return [package for package in PACKAGES if not package.isThere]


def ensure() -> None:
    """Ask once and install what is missing; nothing happens when only optional packages are, or all are there.

    Raises `CancelledError` when the user says no, `ResourceError` when it cannot be installed.
    """
    wanted = missing()
    if not any(not package.optional for package in wanted):
        return
    lines = [f"- {package.name}" + (_(" (optional)") if package.optional else "") for package in wanted]
    question = _("Python packages have to be downloaded and installed into Slicer first:")
    question = "\n".join(
        [question, *lines, _("This takes some minutes. numpy and SimpleITK stay as they are.")]
    )
    needsTorch = any(package.name == "torch" for package in wanted)
    installTorch = _torchInstaller() if needsTorch else None
    if not slicer.util.confirmOkCancelDisplay(question, windowTitle=_("Install packages")):
        raise CancelledError(_("Cancelled: the packages are needed and were not installed."))
    try:
        with slicer.util.WaitCursor():
            if installTorch is not None:
                installTorch()
            others = [package for package in wanted if package.name != "torch"]
            _install([p.requirement for p in others if not p.optional])
            for package in (p for p in others if p.optional):
                _tryToInstall(package)
    except Exception as error:
        logging.exception("Packages could not be installed")
        problem = ResourceError(
            _("The packages could not be installed; is there a connection to the internet?")
        )
        problem.add_note(str(error))
        raise problem from error
    left = [package.name for package in missing() if not package.optional]
    if left:
        raise ResourceError(
            _("{names} could not be installed; restart Slicer and try again.").format(names=", ".join(left))
        )


def _torchInstaller() -> Callable[[], Any]:
    """Raises `ResourceError` with what to do when the extension PyTorch is not there."""
    try:
        logicClass = importlib.import_module("PyTorchUtils").PyTorchUtilsLogic
    except (ImportError, AttributeError) as error:
        raise ResourceError(
            _(
                "PyTorch is needed, and the extension that installs it is missing: install the extension PyTorch in "
                "the Extensions Manager, restart Slicer, and press Register again."
            )
        ) from error
    return lambda: logicClass().installTorch(askConfirmation=False, torchVersionRequirement=TORCH_VERSION)


def _tryToInstall(package: Package) -> None:
    """What is optional must not keep anybody from registering."""
    try:
        _install([package.requirement])
    except Exception:
        logging.exception("The optional package %s could not be installed", package.name)


def _install(requirements: list[str]) -> None:
    if not requirements:
        return
    pins = [f"{name}=={metadata.version(name)}" for name in PINNED if Package(name, name).isThere]
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder) / "constraints.txt"
        constraints.write_text("\n".join([*pins, ""]), encoding="utf-8")
        try:
            packaging = importlib.import_module("slicer.packaging")
        except ImportError:
            slicer.util.pip_install(["--constraint", str(constraints), *requirements])
        else:
            packaging.pip_install(requirements, constraints=constraints, requester="MASR Registration")
