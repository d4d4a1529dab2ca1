"""A result applied to contours, points and volumes, against SimpleITK; and its inverse."""

import numpy as np
import pytest
import SimpleITK as sitk
from harness.pytest_plugin import slicer_app  # noqa: F401
from result_case import SIZE, Result, add_linear, add_volume, turn, world

import slicer  # isort: skip
import vtk  # isort: skip
from masr_registration.errors import InputError
from MASRRegistrationLib.mrml.applying import Application, reasonsAgainst
from MASRRegistrationLib.mrml.inverse import createInverse

LABELS = np.zeros(SIZE, np.uint8)
LABELS[4:14, 5:16, 6:20] = 2
LABELS[8:11, 9:13, 10:15] = 7


def apply(result, node, harden=False):
    """The node that shows the moved content."""
    before = set(slicer.util.getNodesByClass(node.GetClassName()))
    fractions = list(Application(result.transformNode).steps(node, harden))
    assert fractions[-1] == 1.0
    new = [n for n in slicer.util.getNodesByClass(node.GetClassName()) if n not in before]
    return new[0] if harden else node


def on_moving_grid(case, class_name, array, name="Labels"):
    node = slicer.mrmlScene.AddNewNodeByClass(class_name, name)
    slicer.util.updateVolumeFromArray(node, array)
    node.CopyOrientation(case.moving_node)
    return node


def as_image(node):
    """A volume node as SimpleITK sees it in the world, LPS."""
    matrix = vtk.vtkMatrix4x4()
    node.GetIJKToRASMatrix(matrix)
    parent = node.GetParentTransformNode()
    world_matrix = slicer.util.arrayFromVTKMatrix(matrix)
    if parent is not None:
        parent.GetMatrixTransformToWorld(matrix)
        world_matrix = slicer.util.arrayFromVTKMatrix(matrix) @ world_matrix
    lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ world_matrix
    image = sitk.GetImageFromArray(slicer.util.arrayFromVolume(node))
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def under_the_movings_parents(case, *nodes):
    for node in nodes:
        node.SetAndObserveTransformNodeID(case.moving_node.GetTransformNodeID())


@pytest.fixture(params=["linear", "deformable"])
def case(request, tmp_path):
    return Result(tmp_path, linear=request.param == "linear")


@pytest.mark.parametrize("parent", ["the moving volume's", "its own", "none"])
def test_a_hardened_volume_equals_simpleitk(case, parent):
    other = add_volume("PET", array=np.random.default_rng(1).normal(50, 9, SIZE).astype(np.float32))
    if parent == "its own":
        add_linear(turn(-30, (1, 1, 0), (4, 4, 4)), other)
    elif parent != "none":
        under_the_movings_parents(case, other)
    result = case.deliver()
    image = as_image(other)
    hardened = apply(result, other, harden=True)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(
            image, as_image(case.fixed_node), case.transform, sitk.sitkLinear, float(case_min(other))
        )
    )
    got = slicer.util.arrayFromVolume(hardened)
    assert got.dtype == np.float32
    assert np.percentile(np.abs(got - expected), 99) < 0.05 * np.ptp(expected)
    assert hardened.GetParentTransformNode() is None
    np.testing.assert_allclose(
        as_image(hardened).GetOrigin(), as_image(case.fixed_node).GetOrigin(), atol=1e-6
    )
    assert hardened.GetName() == "PET registered to T1"
    assert slicer.util.arrayFromVolume(other).min() == case_min(other)


def case_min(node):
    return slicer.util.arrayFromVolume(node).min()


def test_a_hardened_label_map_takes_the_nearest_voxel(case):
    labels = on_moving_grid(case, "vtkMRMLLabelMapVolumeNode", LABELS)
    under_the_movings_parents(case, labels)
    result = case.deliver()
    hardened = apply(result, labels, harden=True)
    expected = sitk.GetArrayFromImage(
        sitk.Resample(as_image(labels), as_image(case.fixed_node), case.transform, sitk.sitkNearestNeighbor)
    )
    got = slicer.util.arrayFromVolume(hardened)
    assert hardened.GetClassName() == "vtkMRMLLabelMapVolumeNode"
    assert set(np.unique(got)) == {0, 2, 7}
    assert (got == expected).mean() > 0.999
    assert got.dtype == np.uint8


def test_a_hardened_segmentation_equals_simpleitk(case):
    labels = on_moving_grid(case, "vtkMRMLLabelMapVolumeNode", LABELS)
    segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    assert slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, segmentation)
    under_the_movings_parents(case, labels, segmentation)
    result = case.deliver()
    hardened = apply(result, segmentation, harden=True)
    assert hardened.GetSegmentation().GetNumberOfSegments() == 2
    for index, value in enumerate((2, 7)):
        segment = hardened.GetSegmentation().GetNthSegmentID(index)
        shown = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLabelMapVolumeNode", "shown")
        ids = vtk.vtkStringArray()
        ids.InsertNextValue(segment)
        logic = slicer.vtkSlicerSegmentationsModuleLogic
        assert logic.ExportSegmentsToLabelmapNode(hardened, ids, shown)
        single = on_moving_grid(case, "vtkMRMLLabelMapVolumeNode", (value == LABELS).astype(np.uint8), "one")
        under_the_movings_parents(case, single)
        expected = sitk.GetArrayFromImage(
            sitk.Resample(as_image(single), as_image(shown), case.transform, sitk.sitkNearestNeighbor)
        )
        got = slicer.util.arrayFromVolume(shown) > 0
        dice = 2 * (got & (expected > 0)).sum() / (got.sum() + (expected > 0).sum())
        assert dice > 0.99, (value, dice)


@pytest.mark.parametrize("harden", [True, False])
@pytest.mark.parametrize("parent", ["the moving volume's", "its own", "none"])
def test_points_and_surfaces_go_where_simpleitk_takes_them(case, harden, parent):
    """A point of the fixed volume, taken by SimpleITK into the moving one, comes back under the result."""
    points, targets = case.points()
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    model = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLModelNode", "Surface")
    if parent == "its own":
        add_linear(turn(25, (0, 1, 1), (9, 0, -3)), markups, model)
    elif parent != "none":
        under_the_movings_parents(case, markups, model)
    own = np.array([local(markups, target) for target in targets])
    slicer.util.updateMarkupsControlPointsFromArray(markups, own)
    vertices, data = vtk.vtkPoints(), vtk.vtkPolyData()
    vertices.SetDataTypeToDouble()
    for point in own.tolist():
        vertices.InsertNextPoint(point)
    data.SetPoints(vertices)
    model.SetAndObservePolyData(data)
    result = case.deliver()
    moved = apply(result, markups, harden)
    np.testing.assert_allclose(
        slicer.util.arrayFromMarkupsControlPoints(moved, world=True), points, atol=0.05
    )
    surface = apply(result, model, harden)
    np.testing.assert_allclose(world(surface, slicer.util.arrayFromModelPoints(surface)), points, atol=0.05)
    np.testing.assert_allclose(slicer.util.arrayFromModelPoints(model), own, atol=1e-9)
    if harden:
        assert moved.GetParentTransformNode() is surface.GetParentTransformNode() is None


def local(node, point):
    """World RAS -> a node's own coordinates."""
    general = vtk.vtkGeneralTransform()
    slicer.vtkMRMLTransformNode.GetTransformBetweenNodes(None, node.GetParentTransformNode(), general)
    return general.TransformPoint(point)


def test_applied_twice_changes_nothing(case):
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    slicer.util.updateMarkupsControlPointsFromArray(markups, np.array([(1.0, 2, 3)]))
    result = case.deliver()
    apply(result, markups)
    place, count = (
        slicer.util.arrayFromMarkupsControlPoints(markups, world=True),
        slicer.mrmlScene.GetNumberOfNodes(),
    )
    apply(result, markups)
    np.testing.assert_array_equal(slicer.util.arrayFromMarkupsControlPoints(markups, world=True), place)
    assert slicer.mrmlScene.GetNumberOfNodes() == count
    hardened = apply(result, markups, harden=True)
    np.testing.assert_allclose(slicer.util.arrayFromMarkupsControlPoints(hardened), place, atol=1e-6)


def sequence_of(*nodes):
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Phases")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    for index, node in enumerate(nodes):
        sequence.SetDataNodeAtValue(node, str(10 * index))
        slicer.mrmlScene.RemoveNode(node)
    return sequence


def phases(case, count=3):
    rng = np.random.default_rng(2)
    arrays = [rng.integers(0, 200, SIZE).astype(np.int16) for _ in range(count)]
    return sequence_of(*[on_moving_grid(case, "vtkMRMLScalarVolumeNode", array, "phase") for array in arrays])


def test_every_item_of_a_sequence_is_hardened(tmp_path):
    case = Result(tmp_path, parents=False)
    sequence, result = phases(case), case.deliver()
    fractions = list(Application(result.transformNode).steps(sequence, True))
    assert fractions == sorted(fractions)
    assert len(fractions) == 4
    assert [f < 1 for f in fractions] == [True, True, True, False]
    hardened = slicer.util.getNode("Phases registered to T1")
    assert (hardened.GetIndexName(), hardened.GetIndexUnit()) == ("time", "s")
    assert hardened.GetNumberOfDataNodes() == 3
    for index in range(3):
        item = sequence.GetNthDataNode(index)
        low = float(case_min(item))
        expected = sitk.Resample(
            as_image(item), as_image(case.fixed_node), case.transform, sitk.sitkLinear, low, sitk.sitkFloat32
        )
        got = slicer.util.arrayFromVolume(hardened.GetNthDataNode(index))
        assert hardened.GetNthIndexValue(index) == str(10 * index)
        assert np.percentile(np.abs(got - sitk.GetArrayFromImage(expected)), 99) < 10


def test_a_large_volume_is_hardened_slab_by_slab_and_given_up_half_way_leaves_nothing(tmp_path, monkeypatch):
    case = Result(tmp_path)
    result = case.deliver()
    volume = on_moving_grid(case, "vtkMRMLScalarVolumeNode", LABELS.astype(np.int16), "Dose")
    whole = slicer.util.arrayFromVolume(apply(result, volume, harden=True)).copy()
    monkeypatch.setattr("MASRRegistrationLib.mrml.reslice.SLAB_VOXELS", 3 * SIZE[1] * SIZE[2])
    count = slicer.mrmlScene.GetNumberOfNodes()
    steps = Application(result.transformNode).steps(volume, True)
    assert next(steps) < 0.5
    steps.close()
    assert slicer.mrmlScene.GetNumberOfNodes() == count
    names = [n.GetName() for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")]
    fractions = list(Application(result.transformNode).steps(volume, True))
    assert len(fractions) > 5
    (again,) = [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n.GetName() not in names]
    np.testing.assert_array_equal(slicer.util.arrayFromVolume(again), whole)


def test_a_segmentation_is_hardened_slab_by_slab(tmp_path, monkeypatch):
    case = Result(tmp_path)
    result = case.deliver()
    labels = on_moving_grid(case, "vtkMRMLLabelMapVolumeNode", LABELS)
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Organs")
    slicer.vtkSlicerSegmentationsModuleLogic.ImportLabelmapToSegmentationNode(labels, node)
    node.CreateClosedSurfaceRepresentation()
    monkeypatch.setattr("MASRRegistrationLib.mrml.reslice.SLAB_VOXELS", 1)
    count = slicer.mrmlScene.GetNumberOfNodes()
    steps = Application(result.transformNode).steps(node, True)
    next(steps)
    steps.close()
    assert slicer.mrmlScene.GetNumberOfNodes() == count
    assert len(list(Application(result.transformNode).steps(node, True))) > 5
    (copy,) = [n for n in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if n is not node]
    names = []
    copy.GetSegmentation().GetContainedRepresentationNames(names)
    assert names == ["Binary labelmap"]  # the surface was that of before
    assert copy.GetSegmentation().GetNumberOfSegments() == 2


def test_a_sequence_that_is_given_up_half_way_leaves_nothing(tmp_path):
    case = Result(tmp_path)
    sequence, result = phases(case), case.deliver()
    count = slicer.mrmlScene.GetNumberOfNodes()
    steps = Application(result.transformNode).steps(sequence, True)
    next(steps)
    steps.close()
    assert slicer.mrmlScene.GetNumberOfNodes() == count


def test_a_sequence_moves_with_what_shows_it(tmp_path):
    case = Result(tmp_path)
    sequence, result = phases(case), case.deliver()
    with pytest.raises(InputError, match="no sequence browser"):
        apply(result, sequence)
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode")
    browser.AddSynchronizedSequenceNode(sequence)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    proxy = browser.GetProxyNode(sequence)
    apply(result, sequence)
    chain = [proxy.GetParentTransformNode(), proxy.GetParentTransformNode().GetParentTransformNode()]
    assert result.transformNode in chain
    browser.SetSelectedItemNumber(2)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    assert proxy.GetParentTransformNode() is chain[0]


def test_what_cannot_be_moved_is_refused_with_a_sentence(tmp_path):
    case = Result(tmp_path)
    result = case.deliver()
    table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", "Table")
    deformed = add_volume("Deformed")
    warp = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLGridTransformNode", "Warp")
    deformed.SetAndObserveTransformNodeID(warp.GetID())
    application = Application(result.transformNode)
    for node, words in (
        (table, "cannot be moved"),
        (case.fixed_node, "the fixed volume"),
        (result.volumeNode, "made by this registration"),
        (deformed, "deforms it"),
    ):
        with pytest.raises(InputError, match=words):
            application.check(node, harden=False)
    with pytest.raises(InputError, match="not the result"):
        Application(warp)
    slicer.mrmlScene.RemoveNode(case.fixed_node)
    with pytest.raises(InputError, match="fixed volume is gone"):
        application.check(case.moving_node, harden=True)
    application.check(case.moving_node, harden=False)


def test_a_hardened_list_of_points_does_not_take_the_next_clicks(tmp_path):
    case = Result(tmp_path)
    markups = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    selection = slicer.app.applicationLogic().GetSelectionNode()
    selection.SetActivePlaceNodeID(markups.GetID())
    apply(case.deliver(), markups, harden=True)
    assert selection.GetActivePlaceNodeID() == markups.GetID()


def test_only_a_failed_result_speaks_against_moving(tmp_path):
    case = Result(tmp_path)
    assert reasonsAgainst(case.deliver().transformNode) == []
    case.outcome.verdict.update(level="failed", reasons=["The transform folds in 3 places."])
    assert reasonsAgainst(case.deliver().transformNode) == ["The transform folds in 3 places."]
    assert reasonsAgainst(None) == []


# The inverse


@pytest.mark.parametrize("parents", [True, False])
@pytest.mark.parametrize("linear", [True, False])
def test_the_inverse_takes_the_fixed_volume_to_the_moving_one(tmp_path, linear, parents):
    case = Result(tmp_path, linear, parents)
    points, targets = case.points()
    own = np.array([local(case.fixed_node, point) for point in points])
    result = case.deliver()
    inverse = createInverse(result.transformNode)
    assert inverse.GetName() == "T1 to T2"
    assert inverse.IsLinear() == linear
    case.fixed_node.SetAndObserveTransformNodeID(inverse.GetID())
    np.testing.assert_allclose(world(case.fixed_node, own), targets, atol=0.05)
    assert inverse.GetNodeReference("spatialRegistrationFixed") is case.moving_node
    assert inverse.GetNodeReference("spatialRegistrationMoving") is case.fixed_node
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    fixed = slicer.util.getNode("T1")
    np.testing.assert_allclose(world(fixed, own), targets, atol=0.05)


def test_there_is_no_inverse_of_what_is_no_result():
    with pytest.raises(InputError, match="not the result"):
        createInverse(add_linear(np.eye(4)))
