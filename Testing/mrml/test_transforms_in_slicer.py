"""The exported transform means the same to 3D Slicer (real MRML), to SimpleITK and to our own resampling."""

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from harness.pytest_plugin import slicer_app  # noqa: F401
from harness.slicerapp import boot

boot()
import slicer  # noqa: E402
import vtk  # noqa: E402
from masr_registration.case.writing import write_displacement, write_transform  # noqa: E402
from masr_registration.solver.instance import Velocity  # noqa: E402
from masr_registration.transforms.affine import about, rotation  # noqa: E402
from masr_registration.transforms.chain import Affine, TransformChain  # noqa: E402
from masr_registration.transforms.files import read_transform  # noqa: E402
from masr_registration.transforms.grid import sample  # noqa: E402
from masr_registration.transforms.resample import resample  # noqa: E402
from masr_registration.transforms.velocity import one_to_one_factors  # noqa: E402
from masr_registration.volume import Geometry, Volume  # noqa: E402
from vtk.util.numpy_support import vtk_to_numpy  # noqa: E402

FLIP = np.array([-1.0, -1.0, 1.0])
WORKING = (56, 64, 72)


@pytest.fixture(scope="module")
def fixed():
    """An oblique, anisotropic, left-handed grid."""
    turn = rotation(np.array([0.3, -0.2, 0.5]))
    direction = turn @ np.diag([1.0, 1.0, -1.0])
    origin = tuple((turn @ [-25.0, -22.0, 20.0] + [5.0, 40.0, -10.0]).tolist())
    return Geometry((41, 36, 15), (1.25, 1.25, 3.0), origin, tuple(direction.ravel().tolist()))


@pytest.fixture(scope="module")
def chain(fixed):
    """An affine and a smooth warp of several millimetres, made the way the engine makes them."""
    generator = torch.Generator().manual_seed(3)
    velocity = Velocity(WORKING, 1.0, 4.0)
    noise = torch.randn(velocity.coefficients.shape, generator=generator)
    smooth = noise[None]
    for _ in range(3):
        smooth = torch.nn.functional.avg_pool3d(smooth, 3, stride=1, padding=1)
    velocity.coefficients = smooth[0] / smooth.abs().amax() * 1.8
    axes = np.asarray(fixed.direction).reshape(3, 3)
    centre = fixed.centre
    grid = Geometry(
        tuple(n // 2 for n in reversed(WORKING)),
        (2.0,) * 3,
        tuple((centre - axes @ [(n // 2 - 1) / 2 * 2.0 for n in reversed(WORKING)]).tolist()),
        fixed.direction,
    )
    factors, _ = one_to_one_factors(velocity.on_stride(2), grid)
    linear = about(centre, rotation(np.array([0.1, 0.2, -0.15])) * 1.05, np.array([9.0, -6.0, 12.0]))
    result = TransformChain((Affine(linear), *factors))
    assert len(factors) >= 2
    lengths = TransformChain(tuple(factors)).dense(fixed).norm(dim=0)
    assert float(lengths.max()) > 4.0
    return result


def points_around(fixed, margin_mm, count=4000):
    """LPS points in the fixed image's box and `margin_mm` around it."""
    random = np.random.default_rng(0)
    margin = margin_mm / np.asarray(fixed.spacing)
    index = random.uniform(-margin, np.asarray(fixed.size) - 1 + margin, (count, 3))
    return index @ fixed.index_to_physical[:3, :3].T + fixed.index_to_physical[:3, 3]


def load_transform(path):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    storage = slicer.vtkMRMLTransformStorageNode()
    slicer.mrmlScene.AddNode(storage)
    storage.SetFileName(str(path))
    assert storage.ReadData(node) == 1
    return node


def through_slicer(transform, points_lps):
    """LPS points through a VTK transform of RAS space."""
    return np.array([transform.TransformPoint(p) for p in (points_lps * FLIP).tolist()]) * FLIP


def through_itk(transform, points_lps):
    return np.array([transform.TransformPoint(p) for p in points_lps.tolist()])


@pytest.fixture
def node(chain, tmp_path):
    write_transform(chain, tmp_path / "transform.h5")
    return load_transform(tmp_path / "transform.h5")


def test_slicer_and_simpleitk_agree_in_and_around_the_fixed_box(node, chain, fixed, tmp_path):
    points = points_around(fixed, 40.0)
    ours = chain.apply(torch.from_numpy(points)).numpy()
    itk = through_itk(sitk.ReadTransform(str(tmp_path / "transform.h5")), points)
    slicer_points = through_slicer(node.GetTransformFromParent(), points)
    np.testing.assert_allclose(itk, ours, atol=1e-3)
    difference = np.linalg.norm(slicer_points - itk, axis=1)
    print(f"Slicer against SimpleITK: mean {difference.mean():.4f} mm, largest {difference.max():.4f} mm")
    # ITK interpolates linearly and Slicer cubically between nodes 2 mm apart: this is what is left of it.
    assert difference.mean() <= 0.02
    assert np.percentile(difference, 95) <= 0.05
    assert difference.max() <= 0.25


def test_no_field_folds_between_the_nodes_as_slicer_reads_it(node):
    composite = node.GetTransformFromParent()
    fields = [
        composite.GetConcatenatedTransform(n) for n in range(composite.GetNumberOfConcatenatedTransforms())
    ]
    fields = [f for f in fields if f.IsA("vtkOrientedGridTransform")]
    assert len(fields) >= 2
    for field in fields[:2]:
        assert field.GetInterpolationModeAsString() == "Cubic"
        image = field.GetDisplacementGrid() or field.GetInverse().GetDisplacementGrid()
        matrix = np.eye(3)
        direction = field.GetGridDirectionMatrix()
        for row in range(3):
            matrix[row] = [direction.GetElement(row, c) for c in range(3)]
        random = np.random.default_rng(1)
        index = random.uniform(0, np.asarray(image.GetDimensions()) - 1, (4000, 3))
        points = np.asarray(image.GetOrigin()) + (index * image.GetSpacing()) @ matrix.T
        step = 1e-3
        columns = []
        for axis in np.eye(3):
            ahead = np.array([field.TransformPoint(p) for p in (points + step * axis).tolist()])
            behind = np.array([field.TransformPoint(p) for p in (points - step * axis).tolist()])
            columns.append((ahead - behind) / (2 * step))
        determinants = np.linalg.det(np.stack(columns, axis=-1))
        assert determinants.min() > 0


def test_dense_field_loads_as_a_grid_transform(chain, fixed, tmp_path):
    write_displacement(chain.dense(fixed).numpy(), fixed, tmp_path / "displacement.nrrd")
    node = load_transform(tmp_path / "displacement.nrrd")
    assert node.GetTransformFromParent().IsA("vtkOrientedGridTransform")
    index = np.argwhere(np.ones(fixed.size))[::37]
    points = index @ fixed.index_to_physical[:3, :3].T + fixed.index_to_physical[:3, 3]
    ours = chain.apply(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(through_slicer(node.GetTransformFromParent(), points), ours, atol=0.01)


def test_warped_volume_is_the_same_in_slicer_simpleitk_and_here(node, chain, fixed, tmp_path):
    geometry = Geometry((60, 60, 44), (1.5, 1.5, 2.0), (-40.0, 0.0, -50.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))
    k, j, i = np.indices(geometry.shape)
    array = (200 + 100 * np.sin(i / 7) * np.cos(j / 6) * np.sin(k / 5)).astype(np.float32)
    moving = Volume(array, geometry, "moving")
    ours = resample(moving, chain, fixed, default=0.0).array
    itk = sitk.ReadTransform(str(tmp_path / "transform.h5"))
    reference = Volume(np.zeros(fixed.shape, np.float32), fixed).to_sitk()
    by_itk = sitk.GetArrayFromImage(sitk.Resample(moving.to_sitk(), reference, itk, sitk.sitkLinear, 0.0))
    seen = (by_itk > 0) & (ours > 0)
    assert seen.mean() > 0.2
    np.testing.assert_allclose(ours[seen], by_itk[seen], atol=0.05)

    points = np.argwhere(np.ones(fixed.size))[::11]
    points = points @ fixed.index_to_physical[:3, :3].T + fixed.index_to_physical[:3, 3]
    index = through_slicer(node.GetTransformFromParent(), points) @ geometry.physical_to_index[:3, :3].T
    index = torch.from_numpy(index + geometry.physical_to_index[:3, 3]).float().T
    by_slicer = sample(torch.from_numpy(array)[None], index)[0].numpy()
    inside = seen.transpose(2, 1, 0).ravel()[::11]
    expected = by_itk.transpose(2, 1, 0).ravel()[::11]
    assert np.percentile(np.abs(by_slicer - expected)[inside], 99) < 3.0


def test_a_shift_of_10_mm_moves_a_landmark_by_minus_10_mm(tmp_path):
    shift = np.eye(4)
    shift[0, 3] = -10.0  # LPS: +10 mm to the right in RAS
    write_transform(TransformChain((Affine(shift),)), tmp_path / "shift.h5")
    node = load_transform(tmp_path / "shift.h5")
    markup = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode")
    markup.AddControlPoint(vtk.vtkVector3d(1.0, 2.0, 3.0))
    markup.SetAndObserveTransformNodeID(node.GetID())
    world = [0.0, 0.0, 0.0]
    markup.GetNthControlPointPositionWorld(0, world)
    np.testing.assert_allclose(world, [-9.0, 2.0, 3.0], atol=1e-4)


def made_in_slicer(kind):
    """A VTK transform of RAS space, from parent."""
    linear = vtk.vtkTransform()
    linear.Translate(5.0, -2.0, 1.0)
    linear.RotateWXYZ(20.0, 1.0, 0.4, 2.0)
    if kind == "linear":
        return linear
    grid = slicer.vtkOrientedGridTransform()
    image = vtk.vtkImageData()
    image.SetDimensions(12, 14, 16)
    image.SetSpacing(3.0, 3.5, 4.0)
    image.SetOrigin(-20.0, -25.0, -30.0)
    image.AllocateScalars(vtk.VTK_DOUBLE, 3)
    k, j, i = np.indices((16, 14, 12))
    field = np.stack([3 + np.sin(j / 4), 2 * np.cos(k / 5), -2 + np.sin(i / 4)], axis=-1)
    vtk_to_numpy(image.GetPointData().GetScalars())[:] = field.reshape(-1, 3)
    grid.SetDisplacementGridData(image)
    if kind == "grid":
        return grid
    both = vtk.vtkGeneralTransform()
    both.PostMultiply()
    both.Concatenate(grid)
    both.Concatenate(linear)
    return both


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *(("linear", suffix) for suffix in (".h5", ".tfm", ".txt", ".mat")),
        *(("grid", suffix) for suffix in (".h5", ".tfm", ".nrrd", ".nii.gz", ".mha")),
        *(("composite", suffix) for suffix in (".h5", ".tfm")),
    ],
)
def test_what_slicer_writes_is_an_initial_transform(tmp_path, kind, suffix):
    transform = made_in_slicer(kind)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode")
    node.SetAndObserveTransformFromParent(transform)
    storage = slicer.vtkMRMLTransformStorageNode()
    slicer.mrmlScene.AddNode(storage)
    storage.SetFileName(str(tmp_path / f"written{suffix}"))
    assert storage.WriteData(node) == 1
    chain = TransformChain.from_sitk(read_transform(tmp_path / f"written{suffix}", "initial transform"))
    # at nodes, where Slicer's cubic interpolation and ours agree
    points = np.argwhere(np.ones((10, 12, 14)))[::7] + 1
    points = (points * [3.0, 3.5, 4.0] + [-20.0, -25.0, -30.0]) * FLIP
    ours = chain.apply(torch.from_numpy(points)).numpy()
    np.testing.assert_allclose(ours, through_slicer(transform, points), atol=1e-3)
    assert np.linalg.norm(ours - points, axis=1).min() > 1
