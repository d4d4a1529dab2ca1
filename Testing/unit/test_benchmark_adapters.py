"""Every method against a shift that is known: units, signs and axes of its adapter, on an oblique, uneven grid."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from benchmarks import methods
from masr_registration.transforms.chain import TransformChain
from masr_registration.volume import Geometry, Volume
from torch import from_numpy

SIZE = (56, 48, 40)
SPACING = (2.0, 2.2, 2.5)
SHIFT_MM = np.array([6.0, -5.0, 4.0])
PACKAGES = {"convexadam": "convexAdam", "ants": "ants", "elastix": "itk"}
METHODS = (
    "masr",
    "convexadam",
    "convexadam-after-masr-linear",
    "ants-syn",
    "elastix-rigid",
    "elastix-bspline",
)


@pytest.fixture(scope="module")
def pair() -> tuple[Volume, Volume]:
    """A textured ball, and the same ball moved by `SHIFT_MM` through its origin alone: no voxel differs."""
    versor = sitk.VersorTransform([0.3, 0.5, 0.8], 0.4)
    geometry = Geometry(SIZE, SPACING, (10.0, -20.0, 30.0), versor.GetMatrix())
    noise = np.random.default_rng(1).random((10, 12, 14)).astype(np.float32)
    texture = sitk.GetArrayFromImage(sitk.Expand(sitk.GetImageFromArray(noise), [4, 4, 4], sitk.sitkLinear))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in geometry.shape), indexing="ij"), axis=-1)[..., ::-1]
    inside = np.linalg.norm((index - (np.array(SIZE) - 1) / 2) * SPACING, axis=-1) < 38
    array = np.where(inside, 200 + 800 * texture, 0).astype(np.float32)
    origin = tuple(float(x) for x in np.add(geometry.origin, SHIFT_MM))
    return Volume(array, geometry), Volume(array, Geometry(SIZE, SPACING, origin, geometry.direction))


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_a_shift_is_found_in_patient_millimetres(name: str, pair: tuple[Volume, Volume]) -> None:
    package = PACKAGES.get(name.split("-")[0])
    if package:
        pytest.importorskip(package)
    fixed, moving = pair
    method = methods.create(name, 1)
    method.prepare(fixed, moving, "brain-mr")
    outcome = method.register(fixed, moving, "brain-mr")
    displacement = outcome.displacement()
    assert displacement.shape == (3, *fixed.geometry.shape)
    inside = fixed.array > 0
    error = np.linalg.norm(displacement[:, inside].T - SHIFT_MM, axis=1)
    assert np.median(error) < 1.0, f"{name} is {np.median(error):.2f} mm off"
    if outcome.inverse is not None:
        k, j, i = np.nonzero(inside)
        matrix = fixed.geometry.index_to_physical
        points = np.stack([i, j, k], axis=1) @ matrix[:3, :3].T + matrix[:3, 3]
        moved = points + displacement[:, inside].T
        back = TransformChain.from_sitk(outcome.inverse()).apply(from_numpy(moved)).numpy()
        assert np.median(np.linalg.norm(back - points, axis=1)) < 0.5
