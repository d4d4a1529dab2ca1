"""Human Connectome Project: T1w and T2w of each person, as its minimal preprocessing leaves them in SUBJECT/T1w.

Both images of a person are aligned already, so T1w of one is registered to T2w of another.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import InputError
from .cases import Choice, Side, Task, TaskCase, identity_of, rotated

NAME = "hcp"
_IMAGES = {
    kind: (f"{kind}_acpc_dc_restore_brain.nii.gz", f"{kind}_acpc_dc_restore.nii.gz")
    for kind in ("T1w", "T2w")
}
_LABELS = ("aparc+aseg.nii.gz", "wmparc.nii.gz", "aseg.nii.gz")


def read(folder: Path, choice: Choice) -> Task:
    """Raises `InputError`."""
    fixed, moving = choice.fixed or "T2w", choice.moving or "T1w"
    for kind in (fixed, moving):
        if kind not in _IMAGES:
            raise InputError(f'There is no contrast "{kind}" in this layout; there are T1w and T2w.')
    people = sorted(place.parent.name for place in folder.glob("*/T1w") if _image(place, fixed) is not None)
    people = [name for name in people if _image(folder / name / "T1w", moving) is not None]
    if len(people) < 2:
        raise InputError(
            "Two persons at least are needed, each with SUBJECT/T1w/T1w_acpc_dc_restore_brain.nii.gz "
            "and the T2w like it."
        )
    cases = []
    for one, two in rotated(people):
        identity = identity_of(f"{one}_{fixed}", f"{two}_{moving}")
        sides = _side(folder / one / "T1w", fixed), _side(folder / two / "T1w", moving)
        cases.append(TaskCase(identity, *sides, (f"disp_{identity}",)))
    return Task(
        NAME,
        f"HCP, {moving} to {fixed}",
        tuple(cases),
        f"{moving} of one person (moving) to {fixed} of another (fixed), each person with the next",
        "rigidly to the AC-PC line, each person by itself, by the minimal preprocessing of HCP",
        "brain-mr",
    )


def _image(place: Path, kind: str) -> Path | None:
    return next((place / name for name in _IMAGES[kind] if (place / name).is_file()), None)


def _side(place: Path, kind: str) -> Side:
    image = _image(place, kind)
    assert image is not None
    return Side(image, labels=next((place / name for name in _LABELS if (place / name).is_file()), None))
