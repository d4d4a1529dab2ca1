"""The transform chain against ITK: points, files, dense fields, resampled images, inverses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from masr_registration.errors import InputError
from masr_registration.transforms import affine
from masr_registration.transforms import chain as chain_module
from masr_registration.transforms.chain import Affine, DisplacementField, TransformChain
from masr_registration.transforms.resample import resample
from masr_registration.volume import Geometry, Volume
from phantoms import LEFT_HANDED, OBLIQUE, geometry, points_in, points_of, sitk_points, smooth_field

pytestmark = pytest.mark.usefixtures("either_path")

CENTRE = (20.0, -300.0, 55.0)
GRIDS = {
    "axis aligned": geometry((9, 11, 8), (3.0, 3.0, 3.0)),
    "oblique": geometry((12, 9, 7), (1.5, 3.0, 4.5), OBLIQUE, CENTRE),
    "left-handed": geometry((9, 11, 8), (1.5, 3.0, 4.5), LEFT_HANDED, CENTRE),
}
grids = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)


def noise_field(grid: Geometry, scale: float, seed: int = 0) -> DisplacementField:
    values = np.random.default_rng(seed).normal(scale=scale, size=(3, *grid.shape))
    return DisplacementField(torch.from_numpy(values).float(), grid)


def tilt(centre: np.ndarray) -> Affine:
    linear = affine.rotation(np.array([0.1, -0.2, 0.15])) @ np.diag([1.1, 0.9, 1.05])
    return Affine(affine.about(np.asarray(centre), linear, np.array([4.0, -3.0, 7.0])))


def mixed_chain(grid: Geometry) -> TransformChain:
    """An affine and two different fields on different grids, the second field rough and non-zero at its border."""
    other = geometry((7, 8, 9), (4.0, 3.5, 2.0), OBLIQUE.T, tuple(grid.centre.tolist()))
    return TransformChain((tilt(grid.centre), smooth_field(grid, 3.0), noise_field(other, 0.5)))


def applied(chain: TransformChain, points: np.ndarray) -> np.ndarray:
    result: np.ndarray = chain.apply(torch.from_numpy(points)).numpy()
    return result


@grids
def test_points_go_where_itk_sends_them(grid: Geometry) -> None:
    chain = mixed_chain(grid)
    points = points_in(grid, 500, margin_mm=25.0)
    assert chain.apply(torch.from_numpy(points.reshape(5, 100, 3))).shape == (5, 100, 3)
    np.testing.assert_allclose(applied(chain, points), sitk_points(chain.to_sitk(), points), atol=2e-4)


@grids
def test_the_last_half_voxel_and_beyond(grid: Geometry) -> None:
    field = noise_field(grid, 2.0)
    index = np.array([[1.3, 2.1, 3.6]] * 12)
    for row, (axis, side, step) in enumerate(
        (axis, side, step) for axis in range(3) for side in (0, 1) for step in (-0.02, 0.02)
    ):
        edge = -0.5 if side == 0 else grid.size[axis] - 0.5
        index[row, axis] = edge + step
    points = affine.apply(grid.index_to_physical, index)
    moved = applied(TransformChain((field,)), points)
    np.testing.assert_allclose(moved, sitk_points(field.to_sitk(), points), atol=2e-4)
    outside = np.linalg.norm(moved - points, axis=1) == 0
    assert outside.tolist() == [True, False, False, True] * 3


def test_fields_act_before_the_affine() -> None:
    grid = GRIDS["axis aligned"]
    shift = torch.zeros(3, *grid.shape)
    shift[0] = 2.0
    double = Affine(np.diag([2.0, 2.0, 2.0, 1.0]))
    chain = TransformChain((double, DisplacementField(shift, grid)))
    np.testing.assert_allclose(applied(chain, np.array([[1.0, 1.0, 1.0]])), [[6.0, 2.0, 2.0]], atol=1e-6)
    assert chain.to_sitk().TransformPoint((1.0, 1.0, 1.0)) == pytest.approx((6.0, 2.0, 2.0))


@pytest.mark.parametrize("suffix", [".h5", ".tfm"])
@grids
def test_files_bring_the_chain_back(grid: Geometry, suffix: str, tmp_path: Path) -> None:
    chain = mixed_chain(grid)
    path = str(tmp_path / f"transform{suffix}")
    sitk.WriteTransform(chain.to_sitk(), path)
    back = TransformChain.from_sitk(sitk.ReadTransform(path))
    assert [type(f) for f in back.factors] == [type(f) for f in chain.factors]
    points = points_in(grid, 200, margin_mm=25.0)
    np.testing.assert_allclose(applied(back, points), applied(chain, points), atol=1e-4)


def linear_transforms() -> list[sitk.Transform]:
    euler = sitk.Euler3DTransform((5.0, -6.0, 7.0), 0.1, -0.2, 0.3, (1.0, 2.0, 3.0))
    versor = sitk.VersorRigid3DTransform((0.0, 0.0, 1.0), 0.4, (1.0, 2.0, 3.0), (9.0, 8.0, 7.0))
    similarity = sitk.Similarity3DTransform(1.2, (0.0, 1.0, 0.0), 0.2, (3.0, 2.0, 1.0), (10.0, 0.0, -10.0))
    scale = sitk.ScaleTransform(3, (1.1, 0.9, 1.3))
    scale.SetCenter((4.0, 5.0, 6.0))
    general = sitk.AffineTransform([1.1, 0.2, 0, 0, 0.9, 0.1, 0.3, 0, 1], [1, 2, 3], [10.0, 20.0, 30.0])
    nested = sitk.CompositeTransform([euler, sitk.CompositeTransform([versor, general])])
    single = [euler, versor, similarity, scale, general, sitk.TranslationTransform(3, (1.0, -2.0, 3.0))]
    return [*single, sitk.Transform(3, sitk.sitkIdentity), sitk.CompositeTransform(single), nested]


@pytest.mark.parametrize("transform", linear_transforms(), ids=lambda t: t.GetName())
def test_every_linear_kind_is_understood(transform: sitk.Transform, tmp_path: Path) -> None:
    points = points_in(GRIDS["oblique"], 50)
    chain = TransformChain.from_sitk(transform)
    assert chain.is_linear
    np.testing.assert_allclose(applied(chain, points), sitk_points(transform, points), atol=1e-6)
    np.testing.assert_allclose(affine.apply(chain.matrix, points), sitk_points(transform, points), atol=1e-6)
    exported = chain.to_sitk()
    assert exported.GetName() == "AffineTransform"
    np.testing.assert_allclose(sitk_points(exported, points), sitk_points(transform, points), atol=1e-6)


@grids
def test_a_bspline_becomes_the_field_that_it_is(grid: Geometry) -> None:
    domain = grid.stamp(sitk.Image(*grid.size, sitk.sitkUInt8))
    spline = sitk.BSplineTransformInitializer(domain, [4, 3, 2], 3)
    spline.SetParameters(np.random.default_rng(0).uniform(-4, 4, len(spline.GetParameters())).tolist())
    whole = sitk.CompositeTransform([sitk.Euler3DTransform((1.0, 2.0, 3.0), 0.1, 0.2, 0.3), spline])
    points = np.concatenate([points_in(grid, 400), points_in(grid, 100, margin_mm=60.0)])
    error = np.linalg.norm(
        applied(TransformChain.from_sitk(whole), points) - sitk_points(whole, points), axis=1
    )
    depth = 0.5 - np.abs((points - grid.centre) @ np.reshape(grid.direction, (3, 3)) / grid.extent_mm)
    assert error[np.all(depth > 0.06, axis=1)].max() < 0.06
    assert error[np.any(depth < -0.06, axis=1)].max() < 1e-6


def unknown_place() -> sitk.Transform:
    field = noise_field(GRIDS["axis aligned"], 1.0)
    field.displacement[1, 2, 3, 4] = float("nan")
    return field.to_sitk()


@pytest.mark.parametrize(
    "transform",
    [
        unknown_place(),
        sitk.ScaleTransform(3, (1.0, 0.0, 1.0)),
    ],
    ids=["field with NaN", "flat"],
)
def test_what_cannot_be_used_is_refused_in_a_sentence(transform: sitk.Transform) -> None:
    with pytest.raises(InputError, match=r"^[^\n]+\.$"):
        TransformChain.from_sitk(transform)


@grids
def test_dense_is_the_chain_at_the_voxels(grid: Geometry) -> None:
    chain = mixed_chain(grid)
    image = geometry((10, 6, 8), (5.0, 4.0, 2.5), OBLIQUE, tuple((grid.centre + 5).tolist()))
    dense = chain.dense(image)
    assert dense.dtype == torch.float32
    points = points_of(image)
    expected = applied(chain, points) - points
    np.testing.assert_allclose(dense.movedim(0, -1), expected, atol=2e-4)


def textured(grid: Geometry, seed: int = 0) -> Volume:
    values = np.random.default_rng(seed).integers(0, 1000, grid.shape)
    return Volume(values.astype(np.int16), grid)


@grids
@pytest.mark.parametrize("default", [None, -7.0])
def test_resampling_is_simpleitks(grid: Geometry, default: float | None) -> None:
    moving = textured(geometry((14, 12, 10), (2.0, 2.5, 3.0), LEFT_HANDED, tuple(grid.centre.tolist())))
    chain = mixed_chain(grid)
    fixed = geometry((13, 15, 12), (3.0, 2.0, 3.0), OBLIQUE, tuple((grid.centre + 3).tolist()))
    fill = float(moving.array.min()) if default is None else default
    reference = fixed.stamp(sitk.Image(*fixed.size, sitk.sitkUInt8))

    linear = resample(moving, chain, fixed, default=default)
    image = moving.with_array(moving.array.astype(np.float32)).to_sitk()
    expected = sitk.GetArrayFromImage(sitk.Resample(image, reference, chain.to_sitk(), sitk.sitkLinear, fill))
    assert linear.geometry == fixed
    assert linear.array.dtype == np.float32
    assert 0.05 < (expected == fill).mean() < 0.95
    np.testing.assert_allclose(linear.array, expected, atol=0.5)
    np.testing.assert_array_equal(linear.array == fill, expected == fill)

    nearest = resample(moving, chain, fixed, order="nearest", default=default)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(moving.to_sitk(), reference, chain.to_sitk(), sitk.sitkNearestNeighbor, fill)
    )
    assert nearest.array.dtype == np.int16
    assert (nearest.array != expected).mean() < 2e-3  # ties between two voxels


@grids
def test_the_inverse_leads_back(grid: Geometry) -> None:
    chain = TransformChain((tilt(grid.centre), smooth_field(grid, 2.0, wavelength=2.0)))
    inverse = chain.inverse()
    points = points_in(grid, 500, margin_mm=10.0)
    for first, second in ((chain, inverse), (inverse, chain)):
        error = np.linalg.norm(applied(second, applied(first, points)) - points, axis=1)
        assert error.mean() < 0.05
        assert error.max() < 0.5
    assert (
        np.linalg.norm(
            applied(chain, points) - applied(TransformChain(chain.factors[:1]), points), axis=1
        ).max()
        > 1
    )


@grids
def test_a_field_that_moves_its_border_is_inverted_too(grid: Geometry) -> None:
    shift = DisplacementField(
        torch.tensor([6.0, -4.0, 5.0])[:, None, None, None].expand(3, *grid.shape), grid
    )
    chain = TransformChain((shift,))
    points = points_in(grid, 300, margin_mm=-max(grid.spacing))
    back = applied(chain.inverse(), applied(chain, points))
    assert np.linalg.norm(back - points, axis=1).max() < 0.01


@grids
def test_a_guess_leads_to_the_same_inverse_and_a_wrong_one_too(
    grid: Geometry, monkeypatch: pytest.MonkeyPatch
) -> None:
    smooth = smooth_field(grid, 2.0, wavelength=2.0)
    inside = torch.nn.functional.pad(torch.ones([n - 2 for n in grid.shape]), (1,) * 6)
    field = DisplacementField(smooth.displacement * inside, grid)  # zero at the border, to the bit
    alone = field.inverse()
    for guess in (-field.displacement, 3.0 * field.displacement):
        found = field.inverse(guess)
        assert found.geometry == alone.geometry
        assert float((found.displacement - alone.displacement).abs().amax()) < 2e-3
    monkeypatch.setattr(chain_module, "INVERSE_ITERATIONS", 0)
    assert torch.equal(
        field.inverse(inside.expand(3, *grid.shape)).displacement, inside.expand(3, *grid.shape)
    )


def test_an_empty_chain_is_the_identity() -> None:
    chain = TransformChain(())
    points = points_in(GRIDS["oblique"], 5)
    assert chain.is_linear
    np.testing.assert_array_equal(applied(chain, points), points)
    np.testing.assert_allclose(sitk_points(chain.to_sitk(), points), points)
    assert chain.inverse().factors == ()
