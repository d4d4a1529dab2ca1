"""What the Check tab shows: the sampled deformation, the views and their volumes, overlap, sentences."""

import numpy as np
import pytest
from harness.pytest_plugin import slicer_app  # noqa: F401
from result_case import FLIP, SIZE, Result

import slicer  # isort: skip
import vtk  # isort: skip
from vtk.util.numpy_support import vtk_to_numpy  # isort: skip
from masr_registration.errors import InputError
from masr_registration.evaluation.verdict import NO_FOLDING
from MASRRegistrationLib.mrml import comparison, layouts
from MASRRegistrationLib.mrml.applying import reasonsAgainst
from MASRRegistrationLib.mrml.comparison import Comparison, checkerboard
from MASRRegistrationLib.mrml.deformation import DeformationMap, Fold, linearPart
from MASRRegistrationLib.mrml.evidence import toleranceSentence, verdictSentences
from MASRRegistrationLib.mrml.inputs import InputVolume
from MASRRegistrationLib.mrml.judgement import lowered, recordFolds, store, storedResult
from MASRRegistrationLib.mrml.overlap import overlaps
from MASRRegistrationLib.mrml.provenance import verdictText


def sampled(transform_node, fixed_node):
    found = DeformationMap(transform_node, fixed_node)
    fractions = list(found.steps())
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    return found


def places(found):
    """World RAS of the samples ``(D, H, W, 3)``."""
    k, j, i = np.indices(found.magnitude.shape)
    index = np.stack((i, j, k, np.ones_like(i)), axis=-1)
    return (index @ found.ijkToRas.T)[..., :3]


@pytest.mark.parametrize("parents", [False, True])
def test_displacement_and_jacobian_are_those_of_the_true_transform(tmp_path, parents):
    case = Result(tmp_path, parents=parents)
    result = case.deliver()
    found = sampled(result.transformNode, case.fixed_node)
    points = places(found)
    chosen = [(2, 3, 4), (10, 12, 13), (15, 8, 20), (9, 11, 12)]
    step, moved = 1e-3, lambda p: np.array(case.transform.TransformPoint((p * FLIP).tolist())) * FLIP
    affine = case.transform.GetNthTransform(0)
    back = affine.GetInverse()
    for place in chosen:
        point = points[place]
        straight = np.array(back.TransformPoint((moved(point) * FLIP).tolist())) * FLIP
        assert found.magnitude[place] == pytest.approx(
            np.linalg.norm(straight - point), abs=0.1
        )  # linear fields in ITK, cubic in Slicer
        columns = [(moved(point + step * e) - moved(point - step * e)) / (2 * step) for e in np.eye(3)]
        determinant = np.linalg.det(np.stack(columns, axis=1))
        # the volumes' own parents turn and shift, which changes no volume
        assert found.jacobian[place] == pytest.approx(determinant, abs=0.06)
    assert found.magnitude.max() > 2.0
    assert found.folds == []


def test_a_linear_result_deforms_nothing(tmp_path):
    case = Result(tmp_path, linear=True)
    found = sampled(case.deliver().transformNode, case.fixed_node)
    assert found.magnitude.max() < 1e-3
    np.testing.assert_allclose(found.jacobian, found.jacobian[0, 0, 0], rtol=1e-4)


def folding_node(centre_ras, amplitude=30.0):
    """A transform that folds in one place: a steep step along R."""
    grid = vtk.vtkImageData()
    grid.SetDimensions(41, 41, 41)
    grid.SetSpacing(2, 2, 2)
    grid.SetOrigin(*(np.asarray(centre_ras) - 40))
    k, j, i = np.indices((41, 41, 41)) - 20
    field = np.zeros((41, 41, 41, 3), np.float32)
    field[..., 0] = -amplitude * np.tanh(i / 2) * np.exp(-(i**2 + j**2 + k**2) / 8)
    from vtk.util.numpy_support import numpy_to_vtk

    grid.GetPointData().SetScalars(numpy_to_vtk(field.reshape(-1, 3), deep=1))
    transform = slicer.vtkOrientedGridTransform()
    transform.SetDisplacementGridData(grid)
    transform.SetInterpolationModeToCubic()
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTransformNode", "Folded")
    node.SetAndObserveTransformFromParent(transform)
    return node


def test_folds_are_listed_with_their_places():
    fixed = slicer.util.addVolumeFromArray(np.zeros((40, 40, 40), np.int16))
    fixed.SetSpacing(2, 2, 2)
    found = sampled(folding_node((30.0, 44.0, 36.0)), fixed)
    assert found.folds
    assert sum(fold.cells for fold in found.folds) >= 4
    assert [fold.cells for fold in found.folds] == sorted((f.cells for f in found.folds), reverse=True)
    assert np.linalg.norm(found.folds[0].place - [30.0, 44.0, 36.0]) < 8
    assert found.jacobian.min() < 0
    assert sampled(folding_node((30.0, 44.0, 36.0), 1.0), fixed).folds == []


def test_folds_that_slicer_finds_fail_the_result(tmp_path):
    """Shown, stored, and asked about before anything is moved by it, until none is found any more."""
    case = Result(tmp_path)
    node = case.deliver().transformNode
    before = storedResult(node)
    assert before["verdict"]["level"] == "doubtful"
    assert reasonsAgainst(node) == []
    place = InputVolume.of(case.fixed_node).ijkToWorld[:3, 3] + 30.0
    recordFolds(node, [Fold(place, 3), Fold(place, 2)])
    assert node.GetAttribute("MASR.Verdict") == "failed"
    assert "folds in 2 places" in reasonsAgainst(node)[0]
    first, reason = verdictText(storedResult(node)).split("\n")[:2]
    assert first.startswith("Failed")
    assert "folds in 2 places" in reason
    recordFolds(node, [])
    assert storedResult(node)["verdict"] == before["verdict"]
    assert reasonsAgainst(node) == []
    recordFolds(folding_node((0.0, 0.0, 0.0)), [Fold(place, 3)])  # no result: nothing to judge


def test_a_lowered_verdict_keeps_the_worse_level_and_contradicts_nothing(tmp_path):
    assert lowered({"level": "failed", "reasons": ["A"]}, "doubtful", ["B"]) == {
        "level": "failed",
        "reasons": ["B", "A"],
    }
    assert lowered({"level": "plausible", "reasons": ["A"]}, "doubtful", []) == {
        "level": "plausible",
        "reasons": ["A"],
    }
    node = Result(tmp_path).deliver().transformNode
    content = storedResult(node)
    content["verdict"]["reasons"] = [NO_FOLDING]
    store(node, content)
    recordFolds(node, [Fold(np.zeros(3), 1)])
    assert NO_FOLDING not in storedResult(node)["verdict"]["reasons"]


def test_a_large_volume_is_sampled_more_coarsely():
    fixed = slicer.util.addVolumeFromArray(np.zeros((150, 150, 150), np.uint8))
    fixed.SetSpacing(1, 1, 1)
    found = DeformationMap(folding_node((70, 70, 70), 1.0), fixed)
    next(found.steps())
    assert np.prod(found._size) <= 1_000_000
    assert np.linalg.norm(found.ijkToRas[:3, 0]) >= 1.5


def test_the_linear_part_is_the_product_of_the_linear_factors():
    first, second = vtk.vtkTransform(), vtk.vtkTransform()
    first.RotateX(30)
    second.Translate(1, 2, 3)
    whole = vtk.vtkGeneralTransform()
    whole.Concatenate(first)
    whole.Concatenate(second)
    both = linearPart(whole)
    np.testing.assert_allclose(
        both[:3, :3] @ [4, 5, 6] + both[:3, 3], whole.TransformPoint(4, 5, 6), atol=1e-9
    )


# Views


def test_six_views_show_before_and_after(slicer_app, tmp_path):  # noqa: F811
    case = Result(tmp_path)
    result = case.deliver()
    with slicer_app.mrml.layout() as layout:
        earlier = layout.GetViewArrangement()
        shown = Comparison(result.transformNode, result.volumeNode)
        shown.open()
        assert layout.GetViewArrangement() == layouts.COMPARE
        for row in (layouts.BEFORE, layouts.AFTER):
            assert [x.GetSliceNode().GetLayoutName() for x in layouts.sliceLogics(row)] == [
                f"{row}{plane}" for plane in layouts.PLANES
            ]
        assert len({x.GetSliceNode().GetViewGroup() for x in layouts.sliceLogics(layouts.AFTER)}) == 1
        for row, name in ((layouts.BEFORE, "T2 before"), (layouts.AFTER, result.volumeNode.GetName())):
            for logic in layouts.sliceLogics(row):
                composite = logic.GetSliceCompositeNode()
                assert composite.GetBackgroundVolumeID() == case.fixed_node.GetID()
                assert slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID()).GetName() == name
                assert composite.GetLinkedControl()
        shown.setOpacity(0.25)
        opacities = {
            x.GetSliceCompositeNode().GetForegroundOpacity() for x in layouts.sliceLogics(layouts.AFTER)
        }
        assert opacities == {0.25}
        place = [3.0, -4.0, 5.0]
        layouts.jumpTo(place)
        for logic in layouts.sliceLogics(layouts.BEFORE):
            to_ras = slicer.util.arrayFromVTKMatrix(logic.GetSliceNode().GetSliceToRAS())
            np.testing.assert_allclose((np.linalg.inv(to_ras) @ [*place, 1.0])[:3], 0, atol=1e-6)
        shown.close()
        assert layout.GetViewArrangement() == earlier
    assert [n for n in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode") if n.GetHideFromEditors()] == []


def test_the_moving_volume_before_stays_where_it_was(tmp_path):
    case = Result(tmp_path)
    result = case.deliver()
    expected = slicer.util.arrayFromVTKMatrix(slicer.util.vtkMatrixFromArray(case.moving.ijkToWorld))
    case.moving_node.SetAndObserveTransformNodeID(result.transformNode.GetID())
    before = Comparison(result.transformNode, result.volumeNode)._before()
    matrix = vtk.vtkMatrix4x4()
    before.GetIJKToRASMatrix(matrix)
    np.testing.assert_allclose(slicer.util.arrayFromVTKMatrix(matrix), expected, atol=1e-9)
    assert before.GetImageData() is case.moving_node.GetImageData()
    assert (before.GetHideFromEditors(), before.GetSaveWithScene()) == (1, 0)


def test_overlays_have_a_scale_in_their_own_units(slicer_app, tmp_path):  # noqa: F811
    case = Result(tmp_path)
    result = case.deliver()
    with slicer_app.mrml.layout():
        shown = Comparison(result.transformNode, result.volumeNode)
        shown.open()
        shown.setMap(sampled(result.transformNode, case.fixed_node))
        for content, limits in ((comparison.DISPLACEMENT, (0, 20)), (comparison.JACOBIAN, (0, 2))):
            shown.setContent(content)
            composite = layouts.sliceLogics(layouts.AFTER)[0].GetSliceCompositeNode()
            volume = slicer.mrmlScene.GetNodeByID(composite.GetForegroundVolumeID())
            display = volume.GetDisplayNode()
            assert (display.GetWindowLevelMin(), display.GetWindowLevelMax()) == limits
            assert composite.GetForegroundOpacity() == comparison.OVERLAY_OPACITY
            legend = slicer.vtkSlicerColorLogic.GetColorLegendDisplayNode(volume)
            assert legend.GetVisibility()
            assert legend.GetTitleText() == volume.GetName()
        shown.setContent(comparison.IMAGES)
        assert not legend.GetVisibility()
        shown.setGrid(True)
        grid = result.transformNode.GetDisplayNode()
        assert grid.GetVisibility2D()
        assert grid.GetVisualizationMode() == grid.VIS_MODE_GRID
        shown.close()
        assert not grid.GetVisibility2D()
        assert slicer.util.getNodesByClass("vtkMRMLColorLegendDisplayNode") == []


def test_a_checkerboard_is_shown_in_grey(slicer_app, tmp_path):  # noqa: F811
    case = Result(tmp_path)
    result = case.deliver()
    with slicer_app.mrml.layout():
        shown = Comparison(result.transformNode, result.volumeNode)
        shown.open()
        shown.setContent(comparison.CHECKERBOARD)
        logic = layouts.sliceLogics(layouts.AFTER)[0]
        board = slicer.mrmlScene.GetNodeByID(logic.GetSliceCompositeNode().GetForegroundVolumeID())
        assert board.GetName() == "Checkerboard"
        logic.GetSliceNode().JumpSliceByCentering(
            *places(sampled(result.transformNode, case.fixed_node))[10, 12, 14]
        )
        logic.UpdateImageData()
        producer = logic.GetImageDataConnection().GetProducer()
        producer.Update()
        picture = vtk_to_numpy(producer.GetOutput().GetPointData().GetScalars())[:, :3].astype(int)
        assert np.ptp(picture, axis=1).max() == 0
        assert 20 < picture.max() <= 255
        assert len(np.unique(picture)) > 20
        shown.close()


def test_a_checkerboard_takes_its_squares_from_both():
    first, second = np.zeros((16, 16, 16), np.uint8), np.full((16, 16, 16), 255, np.uint8)
    board = checkerboard(first, second)
    assert board[0, 0, 0] == 0
    assert board[0, 0, 2] == 255
    assert board[2, 0, 2] == 0
    assert 0.4 < (board == 255).mean() < 0.6


def test_without_views_nothing_is_shown_and_nothing_fails(tmp_path):
    case = Result(tmp_path)
    result = case.deliver()
    shown = Comparison(result.transformNode, result.volumeNode)
    shown.open()
    shown.setContent(comparison.CHECKERBOARD)
    shown.close()


# Overlap and sentences


def node_ids():
    scene = slicer.mrmlScene
    return {scene.GetNthNode(n).GetID() for n in range(scene.GetNumberOfNodes())}


def segmentation(volume, name, mask, segment="liver"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", name)
    node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
    node.GetSegmentation().AddEmptySegment(segment, segment)
    slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), node, segment, volume)
    return node


def test_dice_and_hd95_before_and_after(tmp_path):
    case = Result(tmp_path, parents=False)
    result = case.deliver()
    k, j, i = np.indices(SIZE) - np.array(SIZE)[:, None, None, None] / 2
    moving_mask = (k**2 + j**2 + i**2) < 49
    import SimpleITK as sitk

    image = sitk.ReadImage(tmp_path / "moving.nrrd")
    labels = sitk.GetImageFromArray(moving_mask.astype(np.uint8))
    labels.CopyInformation(image)
    warped = sitk.Resample(
        labels, sitk.ReadImage(tmp_path / "fixed.nrrd"), case.transform, sitk.sitkNearestNeighbor
    )
    fixed = segmentation(case.fixed_node, "F", sitk.GetArrayFromImage(warped))
    moving = segmentation(case.moving_node, "M", moving_mask)
    slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)  # made when first asked for
    before = node_ids()
    (liver,) = overlaps(result.transformNode, fixed, moving)
    assert node_ids() - before == set()
    assert liver.name == "liver"
    assert liver.diceAfter > 0.93
    assert liver.diceBefore < liver.diceAfter - 0.1
    assert liver.hd95After <= 2.5
    assert liver.hd95Before > liver.hd95After
    other = segmentation(case.moving_node, "N", moving_mask, "spleen")
    with pytest.raises(InputError, match="same name"):
        overlaps(result.transformNode, fixed, other)


def test_every_number_comes_in_a_sentence():
    content = {
        "verdict": {"level": "plausible", "reasons": ["No folding: every point maps to exactly one point."]},
        "warnings": [],
        "metrics": {
            "inverse_consistency_mean_mm": 0.012, "inverse_consistency_max_mm": 0.2,
            "similarity_before": 0.05, "similarity_after": 0.03, "overlap": 0.75, "folds": 0,
        },
    }  # fmt: skip
    sentences = verdictSentences(content)
    assert sentences[0].startswith("Plausible")
    text = " ".join(sentences)
    for words in ("No folding", "0.01 mm on average", "0.050 before"):
        assert words in text
    assert all(sentence.endswith(".") for sentence in sentences)
    assert verdictSentences({**content, "metrics": {}}) == sentences[:2]
    assert "no proof" in toleranceSentence(1.5, 4.0)
