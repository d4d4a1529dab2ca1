"""The Python interface: `register`, `make_plan`, `Result`.

The command line and 3D Slicer do the same by the same code (`case`), in a process of its own.

Everything here is reached from the package as well (``masr_registration.register``), which imports it when it is
first used.
"""

from __future__ import annotations

from .case import solve
from .case.inputs import Given, ImageLike, PointsLike, TransformLike
from .case.monitor import CancelFlag, Listener, ProgressCallback, WarningCallback
from .case.result import Result
from .case.settings import PlanLike, PresetLike, Settings
from .sequence import SequenceResult, read_sequence, register_sequence
from .solver.plan import Plan
from .transforms.chain import TransformChain
from .volume import Geometry, Volume, read_labels, read_volume, write_volume

__all__ = [
    "Geometry",
    "Plan",
    "Result",
    "SequenceResult",
    "TransformChain",
    "Volume",
    "make_plan",
    "read_labels",
    "read_sequence",
    "read_volume",
    "register",
    "register_sequence",
    "write_volume",
]


def register(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    preset: PresetLike = "general",
    fixed_mask: ImageLike | None = None,
    moving_mask: ImageLike | None = None,
    initial_transform: TransformLike | None = None,
    labels: ImageLike | None = None,
    landmarks: tuple[PointsLike, PointsLike] | None = None,
    truth: TransformLike | None = None,
    use_landmarks: bool = False,
    device: str = "auto",
    threads: int | None = None,
    seed: int = 0,
    plan: PlanLike | None = None,
    method: str | None = None,
    progress: ProgressCallback | None = None,
    warn: WarningCallback | None = None,
    cancel: CancelFlag | None = None,
) -> Result:
    """Register `moving` to `fixed`, in this process.

    An image is a path (a file, a folder with one DICOM series, a .dcm file), a SimpleITK image or a `Volume`.

    Args:
        fixed, moving: scalar 3-D images, at least 4 voxels along each axis, finite.
        preset: a name (`presets.names()`), a .json file, its content, or a `Preset`.
        fixed_mask, moving_mask: on their image's grid, labels or weights in [0, 1]; where zero, the image says nothing.
        initial_transform: fixed -> moving, LPS mm: a file, a SimpleITK transform, or the `transform` of a result.
        labels: label map of the moving image, warped as well.
        landmarks: fixed and moving points, files (.mrk.json, .csv) or ``(N, 3)`` in LPS mm, to measure the error with.
        use_landmarks: pull linear stage and deformation to the landmarks as well, with the preset's `landmark_weight`.
        truth: a transform fixed -> moving known to be true, to measure the error with.
        device: ``auto``, ``cpu``, ``cuda``, ``cuda:N``.
        threads: CPU threads while this runs; None leaves torch's and SimpleITK's numbers as they are.
        seed: the same seed, plan, threads, device and versions give the same bits on a CPU.
        plan: that of an earlier result, to be repeated; without one, the finest that fits into the memory.
        method: ``optimise``, ``amortized`` or ``amortized+refine`` instead of the preset's.
        progress: called with the stage, the fraction done (0 to 1, never falling) and metrics of the moment.
        warn: called with every warning when it comes up; `Result.warnings` holds them all.
        cancel: looked at whenever progress is made, for example a `threading.Event`.

    Raises:
        InputError: what was given cannot be used; one sentence for a person.
        ResourceError: a device that is not there, or too little memory.
        CancelledError: `cancel` was set.
    """
    given = Given(
        fixed, moving, fixed_mask, moving_mask, initial_transform, labels, landmarks, truth, use_landmarks
    )
    monitor = Listener(progress, warn, cancel, whole=solve.SOLVE_UNTIL)
    settings = Settings.of(preset, device, threads, seed, plan, method)
    with settings.in_force():
        inputs, read_s = solve.read(given, monitor)
        return solve.solve(inputs, settings, monitor, read_s)


def make_plan(
    fixed: ImageLike,
    moving: ImageLike,
    *,
    preset: PresetLike = "general",
    fixed_mask: ImageLike | None = None,
    moving_mask: ImageLike | None = None,
    device: str = "auto",
    threads: int | None = None,
    warn: WarningCallback | None = None,
) -> Plan:
    """The plan that `register` would follow now: working grid, device, threads, predicted memory and seconds.

    Raises as `register` does.
    """
    monitor = Listener(warn=warn)
    settings = Settings.of(preset, device, threads, 0)
    with settings.in_force():
        inputs, _ = solve.read(Given(fixed, moving, fixed_mask, moving_mask), monitor)
        return solve.make_plan(inputs, settings, monitor)
