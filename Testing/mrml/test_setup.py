"""Masks, initial transforms and what is asked beforehand, from nodes to files."""

import numpy as np
import pytest
import SimpleITK as sitk
from harness.pytest_plugin import slicer_app  # noqa: F401
from result_case import FLIP, SIZE, add_linear, add_volume, turn, voxel_centres, world

import slicer  # isort: skip
import vtk  # isort: skip
from masr_registration import presets
from masr_registration.errors import InputError
from masr_registration.transforms.chain import TransformChain
from MASRRegistrationLib.mrml.expectation import Expectation
from MASRRegistrationLib.mrml.identity import doubts, laterality, patientId
from MASRRegistrationLib.mrml.initial import writeInitialTransform
from MASRRegistrationLib.mrml.inputs import InputVolume
from MASRRegistrationLib.mrml.masks import writeMask
from MASRRegistrationLib.mrml.setup import RegistrationSetup

BOX = np.zeros(SIZE, np.uint8)
BOX[5:12, 6:15, 8:20] = 3


def label_map(array=BOX, like=None, kind="vtkMRMLLabelMapVolumeNode"):
    node = slicer.mrmlScene.AddNewNodeByClass(kind, "Mask")
    slicer.util.updateVolumeFromArray(node, array)
    if like is not None:
        node.CopyOrientation(like)
    return node


def segmentation(labels):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    assert slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
    return node


def name_of(node, index):
    return node.GetSegmentation().GetNthSegmentID(index)


def written(mask, segment, volume, folder):
    writeMask(mask, segment, InputVolume.of(volume), folder / "mask.nrrd")
    InputVolume.of(volume).write(folder / "image.nrrd")
    image, mask_image = sitk.ReadImage(folder / "image.nrrd"), sitk.ReadImage(folder / "mask.nrrd")
    assert image.GetOrigin() == mask_image.GetOrigin()
    assert image.GetDirection() == mask_image.GetDirection()
    return sitk.GetArrayFromImage(mask_image)


# Masks


@pytest.mark.parametrize("parents", [True, False])
@pytest.mark.parametrize("kind", ["label map", "segmentation", "volume"])
def test_a_mask_on_the_volumes_own_grid_stays_as_it_is(tmp_path, kind, parents):
    volume = add_volume()
    class_name = "vtkMRMLScalarVolumeNode" if kind == "volume" else "vtkMRMLLabelMapVolumeNode"
    mask = label_map(like=volume, kind=class_name)
    if kind == "segmentation":
        mask = segmentation(mask)
    if parents:
        add_linear(turn(30, (1, 0, 1), (5, 6, 7)), volume, mask)
    np.testing.assert_array_equal(written(mask, "", volume, tmp_path), BOX > 0)


@pytest.mark.parametrize("kind", ["label map", "segmentation"])
def test_a_mask_elsewhere_is_taken_where_it_lies_in_the_world(tmp_path, kind):
    """Other grid and other parents: a voxel is inside if its centre in the world is."""
    volume = add_volume()
    add_linear(turn(15, (0, 0, 1)), volume, name="V")
    fine = np.zeros((50, 50, 50), np.uint8)
    fine[10:40, 10:40, 10:40] = 1
    mask = grid = label_map(fine)
    back = np.linalg.inv(turn(-20, (1, 0, 0), (2, 0, 0)))
    centre = world(volume, voxel_centres(volume, np.array(SIZE)[None, ::-1] / 2))[0]
    origin = (back @ [*centre, 1.0])[:3] - 25.0
    mask.SetOrigin(*origin.tolist())
    if kind == "segmentation":
        mask = segmentation(mask)
    add_linear(turn(-20, (1, 0, 0), (2, 0, 0)), mask, grid, name="M")
    got = written(mask, "", volume, tmp_path)
    kji = np.argwhere(np.ones(SIZE))
    places = world(volume, voxel_centres(volume, kji[:, ::-1]))
    own = (np.column_stack([places, np.ones(len(places))]) @ back.T)[:, :3] - origin
    expected = np.all((own > 9.5) & (own < 39.5), axis=1).reshape(SIZE)
    assert expected.sum() > 200
    np.testing.assert_array_equal(got, expected)


def test_a_segment_that_is_a_surface(tmp_path):
    volume = add_volume()
    node = segmentation(label_map(like=volume))
    assert node.CreateClosedSurfaceRepresentation()
    node.GetSegmentation().SetSourceRepresentationName("Closed surface")
    node.RemoveBinaryLabelmapRepresentation()
    assert node.GetBinaryLabelmapInternalRepresentation(node.GetSegmentation().GetNthSegmentID(0)) is None
    got = written(node, "", volume, tmp_path)
    assert 2 * (got & BOX > 0).sum() / (got.sum() + (BOX > 0).sum()) > 0.85


def test_writing_a_mask_leaves_the_scene_alone(tmp_path):
    volume = add_volume()
    node = segmentation(label_map(like=volume))
    count = slicer.mrmlScene.GetNumberOfNodes()
    written(node, "", volume, tmp_path)
    assert slicer.mrmlScene.GetNumberOfNodes() == count


def test_one_segment_of_several(tmp_path):
    volume = add_volume()
    array = BOX.copy()
    array[0:3, 0:3, 0:3] = 5
    node = segmentation(label_map(array, volume))
    ids = node.GetSegmentation().GetSegmentIDs()
    np.testing.assert_array_equal(written(node, ids[1], volume, tmp_path), array == 5)
    np.testing.assert_array_equal(written(node, "", volume, tmp_path), array > 0)


def test_probabilities_stay_probabilities(tmp_path):
    volume = add_volume()
    weights = np.random.default_rng(0).uniform(0, 1, SIZE).astype(np.float32)
    mask = label_map(weights, volume, "vtkMRMLScalarVolumeNode")
    np.testing.assert_allclose(written(mask, "", volume, tmp_path), weights, atol=1e-5)


def test_masks_that_cannot_be_used_are_refused_with_a_sentence(tmp_path):
    volume = add_volume()
    far = label_map(like=volume)
    far.SetOrigin(1000.0, 0.0, 0.0)
    with pytest.raises(InputError, match='"Mask" is empty where "CT" lies'):
        writeMask(far, "", InputVolume.of(volume), tmp_path / "mask.nrrd")
    organs = segmentation(label_map(like=volume))
    moving = add_volume("MR")
    for changes, words in (
        ({"fixedMask": organs, "fixedSegment": "gone"}, "segment of the mask .* is gone"),
        ({"movingMask": add_linear(np.eye(4))}, "no mask"),
        ({"movingMask": slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")}, "holds no image"),
        ({"fixedMask": far, "outputVolume": far}, "no label map"),
        ({"initialTransform": volume}, "has to be a transform"),
    ):
        with pytest.raises(InputError, match=words):
            RegistrationSetup(volume, moving, **changes).check()
    weights = add_volume("Weights")
    with pytest.raises(InputError, match="overwrite a mask"):
        RegistrationSetup(volume, moving, fixedMask=weights, outputVolume=weights).check()
    RegistrationSetup(volume, moving, fixedMask=organs, movingMask=far).check()


def test_a_setup_writes_all_of_its_files(tmp_path):
    fixed, moving = add_volume("T1"), add_volume("T2")
    setup = RegistrationSetup(
        fixed,
        moving,
        fixedMask=label_map(like=fixed),
        movingMask=segmentation(label_map(like=moving)),
        initialTransform=add_linear(turn(3, (0, 0, 1)), name="Start"),
    )
    paths = setup.write(InputVolume.of(fixed), InputVolume.of(moving), tmp_path)
    assert set(paths) == {"fixed", "moving", "fixed_mask", "moving_mask", "initial_transform"}
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(p.rpartition("/")[2] for p in paths.values())
    assert setup.described() == {"fixed_mask": "Mask", "moving_mask": "Organs", "initial_transform": "Start"}


def test_what_is_changed_after_it_was_handed_over_is_named(tmp_path):
    fixed, moving = add_volume("T1"), add_volume("T2")
    organs, weights = segmentation(label_map(like=moving)), label_map(like=fixed)
    start = add_linear(turn(3, (0, 0, 1)), name="Start")
    lists = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name) for name in ("F", "M")]
    for node in lists:
        node.AddControlPoint(1.0, 2.0, 3.0)
    setup = RegistrationSetup(
        fixed, moving, fixedMask=weights, movingMask=organs, initialTransform=start, landmarks=tuple(lists)
    )
    setup.write(InputVolume.of(fixed), InputVolume.of(moving), tmp_path)
    assert setup.changes() == []
    organs.CreateClosedSurfaceRepresentation()
    organs.GetSegmentation().AddEmptySegment("drawn meanwhile")
    chosen = RegistrationSetup(fixed, moving, movingMask=organs, movingSegment=name_of(organs, 0))
    chosen.write(InputVolume.of(fixed), InputVolume.of(moving), tmp_path)
    other = np.roll(BOX, 9, axis=0) > 0
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        other.astype(np.uint8), organs, name_of(organs, 1), moving
    )
    assert chosen.changes() == []  # it is another segment
    slicer.util.arrayFromVolume(weights)[0] = 1
    slicer.util.arrayFromVolumeModified(weights)
    name = name_of(organs, 0)
    slicer.util.updateSegmentBinaryLabelmapFromArray(
        (np.roll(BOX, 1) > 0).astype(np.uint8), organs, name, moving
    )
    slicer.util.updateTransformMatrixFromArray(start, turn(4, (0, 0, 1)))
    lists[0].SetNthControlPointPosition(0, 1.0, 2.0, 4.0)
    slicer.mrmlScene.RemoveNode(lists[1])
    assert [sentence.partition(" during")[0] for sentence in setup.changes()] == [
        '"Mask" was changed',
        '"Organs" was changed',
        '"Start" was changed',
        '"F" was changed',
        '"M" was deleted',
    ]


# Initial transforms


def grid_transform(amplitude=6.0):
    image = vtk.vtkImageData()
    image.SetDimensions(24, 24, 24)
    image.SetSpacing(8, 8, 8)
    image.SetOrigin(-92, -92, -92)
    k, j, i = np.indices((24, 24, 24))
    field = amplitude * np.stack([np.sin(j / 6), np.cos(k / 7), np.sin(i / 5)], axis=-1)
    from vtk.util.numpy_support import numpy_to_vtk

    image.GetPointData().SetScalars(numpy_to_vtk(field.reshape(-1, 3), deep=True))
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(image)
    transform.SetInterpolationModeToCubic()
    return transform


def thin_plates():
    rng = np.random.default_rng(1)
    transform = vtk.vtkThinPlateSplineTransform()
    transform.SetBasisToR()
    for setter in (transform.SetSourceLandmarks, transform.SetTargetLandmarks):
        points = vtk.vtkPoints()
        for index, corner in enumerate(np.array(np.meshgrid(*[(-60.0, 60.0)] * 3)).reshape(3, -1).T):
            points.InsertPoint(index, (corner + rng.uniform(-5, 5, 3)).tolist())
        setter(points)
    return transform


def start_node(kind):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Start")
    if kind == "linear":
        node.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(turn(20, (1, 2, 3), (4, 5, 6))))
    elif kind == "warp":
        node.SetAndObserveTransformFromParent(grid_transform())
    elif kind == "inverse warp":
        node.SetAndObserveTransformToParent(grid_transform())
    elif kind == "thin plates":
        node.SetAndObserveTransformToParent(thin_plates())
    else:
        node.SetAndObserveTransformFromParent(grid_transform())
        add_linear(turn(-10, (0, 1, 0), (7, 0, 2)), node, name="outer")
    return node


@pytest.mark.parametrize("parents", [True, False])
@pytest.mark.parametrize("kind", ["linear", "warp", "inverse warp", "thin plates", "chain"])
def test_any_transform_is_an_initial_transform(tmp_path, kind, parents):
    """The worker starts where Slicer shows the moving volume under the transform."""
    fixed, moving, node = add_volume("T1"), add_volume("T2"), start_node(kind)
    if parents:
        add_linear(turn(15, (0, 0, 1), (3, 2, 1)), fixed, name="F")
        add_linear(turn(-40, (0, 1, 0), (1, 9, -4)), moving, name="M")
    volumes = InputVolume.of(fixed), InputVolume.of(moving)
    writeInitialTransform(node, *volumes, tmp_path / "initial.h5")
    rng = np.random.default_rng(0)
    own = voxel_centres(moving, rng.uniform(0, np.array(SIZE)[::-1] - 1, (50, 3)))
    in_moving_world = world(moving, own)
    moving.SetAndObserveTransformNodeID(node.GetID())
    in_fixed_world = world(moving, own)
    transform = sitk.ReadTransform(str(tmp_path / "initial.h5"))
    got = [transform.TransformPoint(p) for p in (in_fixed_world * FLIP).tolist()] * FLIP
    error = np.linalg.norm(got - in_moving_world, axis=1)
    assert error.max() < (1e-6 if kind == "linear" else 0.25), error.max()
    chain = TransformChain.from_sitk(transform)  # and the worker can read it
    assert len(chain.factors) == (1 if kind == "linear" else 2)


# What is asked beforehand


def test_patients_that_differ():
    first, second = add_volume("A"), add_volume("B")
    assert doubts(first, second) == []
    first.SetAttribute("DICOM.PatientID", "17")
    assert doubts(first, second) == []
    second.SetAttribute("DICOM.PatientID", "18")
    assert doubts(first, second) == ['The patient IDs differ: "17" (fixed) and "18" (moving).']
    second.SetAttribute("DICOM.PatientID", "17")
    assert doubts(first, second) == []


def test_the_patient_of_the_subject_hierarchy():
    volume = add_volume()
    hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    patient = hierarchy.CreateSubjectItem(hierarchy.GetSceneItemID(), "Somebody")
    hierarchy.SetItemLevel(patient, "Patient")
    hierarchy.SetItemAttribute(patient, "DICOM.PatientID", "42")
    study = hierarchy.CreateStudyItem(patient, "Study")
    assert patientId(volume) == ""
    hierarchy.CreateItem(study, volume)
    assert patientId(volume) == "42"


@pytest.mark.parametrize(
    ("name", "side"),
    [
        ("Knee left", "left"),
        ("hip_R", "right"),
        ("LT shoulder", "left"),
        ("3: T1 RIGHT", "right"),
        ("Liver", ""),
        ("left and right", ""),
        ("T1", ""),
        ("relaxation", ""),
    ],
)
def test_sides_in_names(name, side):
    assert laterality(add_volume(name)) == side


def test_the_side_of_dicom_counts_more_than_the_name():
    node = add_volume("Knee left")
    node.SetAttribute("DICOM.Laterality", "R")
    assert laterality(node) == "right"
    assert doubts(node, add_volume("knee l")) == [
        "The sides of the body seem to differ: right (fixed) and left (moving)."
    ]


def test_a_finer_spacing_and_a_network_cost_more():
    fixed, moving = add_volume(), add_volume()
    preset = presets.load("brain-mr")
    plain = Expectation.of(fixed, moving, preset, 2)
    network = Expectation.of(fixed, moving, preset.with_representation("masr"), 2)
    assert plain.seconds > 1
    assert 500 < plain.megabytes < network.megabytes
    assert Expectation.of(fixed, moving, preset, 8).seconds < plain.seconds
    assert Expectation.of(fixed, None, preset, 2) is None
