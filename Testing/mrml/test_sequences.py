"""Sequences of volumes to a request and back, and the motion of landmarks, on real MRML."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk
from result_case import FLIP, add_volume, slicer

from masr_registration.errors import InputError  # isort: skip
from masr_registration.worker.client import Outcome  # isort: skip
from MASRRegistrationLib.mrml.inputs import InputVolume  # isort: skip
from MASRRegistrationLib.mrml.motion import motion, plotMotion  # isort: skip
from MASRRegistrationLib.mrml.sequences import SequenceSetup, deliverSequence  # isort: skip

SHIFTS = np.array([[0, 0, 0], [3, -4, 0], [6, -8, 0]], float)


@pytest.fixture(autouse=True)
def scene():
    slicer.mrmlScene.Clear(False)
    yield
    slicer.mrmlScene.Clear(False)


def add_sequence(values=("0", "0.5", "1"), node=None):
    sequence = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceNode", "Cine")
    sequence.SetIndexName("time")
    sequence.SetIndexUnit("s")
    sequence.SetIndexType(slicer.vtkMRMLSequenceNode.TextIndex)
    node = node or add_volume("frame")
    for value in values:
        sequence.SetDataNodeAtValue(node, value)
    return sequence


def outcome_of(folder, setup):
    """Files like the worker's: every item moved by its shift (RAS)."""
    files = {}
    for number, shift in enumerate(SHIFTS):
        files[f"transform-{number:04}"] = folder / f"transform-{number:04}.h5"
        sitk.WriteTransform(
            sitk.TranslationTransform(3, (shift * FLIP).tolist()), files[f"transform-{number:04}"]
        )
        files[f"warped-{number:04}"] = folder / f"warped-{number:04}.nii.gz"
        array = slicer.util.arrayFromVolume(setup.items()[number])
        sitk.WriteImage(sitk.GetImageFromArray(array + number), files[f"warped-{number:04}"])
    verdict = {"level": "doubtful", "reasons": ["Item 2 is doubtful: far."]}
    return Outcome(
        files, {"0001": {"folds": 0}}, ["Item 2: Look."], verdict, {"reference": 0}, {"total": 1.0}
    )


def deliver(folder, sequence):
    setup = SequenceSetup(sequence)
    items = tuple(InputVolume.of(item) for item in setup.items())
    return deliverSequence(outcome_of(folder, setup), items, setup)


def add_points(*points):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", "Points")
    for point in points:
        node.AddControlPoint(*map(float, point))
    return node


def test_items_are_written_in_order(tmp_path):
    node = add_volume("frame")
    sequence = add_sequence(("a", "b"), node)
    slicer.util.arrayFromVolume(sequence.GetNthDataNode(1))[:] += 7
    setup = SequenceSetup(sequence, reference=1, target="neighbour")
    setup.check()
    fields = setup.write(*(InputVolume.of(item) for item in setup.items()), tmp_path)
    assert fields["fixed"] == fields["frames"][1]
    assert fields["moving"] == fields["frames"][0]
    assert (fields["reference"], fields["target"]) == (1, "neighbour")
    arrays = [sitk.GetArrayFromImage(sitk.ReadImage(path)) for path in fields["frames"]]
    np.testing.assert_array_equal(arrays[1], arrays[0] + 7)
    np.testing.assert_array_equal(arrays[0], slicer.util.arrayFromVolume(node))


def test_results_become_sequences_with_the_same_index(tmp_path):
    sequence = add_sequence()
    result = deliver(tmp_path, sequence)
    frame = sequence.GetNthDataNode(0)
    for node in (result.transformSequence, result.volumeSequence):
        assert [node.GetNthIndexValue(n) for n in range(3)] == ["0", "0.5", "1"]
        assert (node.GetIndexName(), node.GetIndexUnit()) == ("time", "s")
        assert result.browserNode.GetProxyNode(node) is not None
    np.testing.assert_array_equal(
        slicer.util.arrayFromVolume(result.volumeSequence.GetNthDataNode(2)),
        slicer.util.arrayFromVolume(frame) + 2,
    )
    assert result.volumeSequence.GetNthDataNode(1).GetSpacing() == pytest.approx(frame.GetSpacing())
    assert result.volumeSequence.GetNthDataNode(1).GetOrigin() == pytest.approx(frame.GetOrigin())
    moved = result.transformSequence.GetNthDataNode(2).GetTransformFromParent().TransformPoint(1, 2, 3)
    np.testing.assert_allclose(moved, np.array([1, 2, 3]) + SHIFTS[2], atol=1e-5)
    assert result.warnings == ["Item 2: Look."]
    assert result.transformSequence.GetAttribute("MASR.Verdict") == "doubtful"


def test_an_item_that_failed_is_left_out(tmp_path):
    sequence = add_sequence()
    setup = SequenceSetup(sequence)
    items = tuple(InputVolume.of(item) for item in setup.items())
    outcome = outcome_of(tmp_path, setup)
    for name in ("transform-0001", "warped-0001"):
        del outcome.files[name]
    result = deliverSequence(outcome, items, setup)
    for node in (result.transformSequence, result.volumeSequence):
        assert [node.GetNthIndexValue(n) for n in range(node.GetNumberOfDataNodes())] == ["0", "1"]
    np.testing.assert_allclose(
        motion(result.transformSequence, add_points((0, 0, 0))), [[0], [10]], atol=1e-4
    )


def test_a_browser_of_the_input_shows_the_result_in_step(tmp_path):
    sequence = add_sequence()
    browser = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSequenceBrowserNode", "Mine")
    browser.SetAndObserveMasterSequenceNodeID(sequence.GetID())
    result = deliver(tmp_path, sequence)
    assert result.browserNode is browser
    browser.SetSelectedItemNumber(2)
    slicer.modules.sequences.logic().UpdateProxyNodesFromSequences(browser)
    proxy = browser.GetProxyNode(result.transformSequence)
    np.testing.assert_allclose(proxy.GetTransformFromParent().TransformPoint(0, 0, 0), SHIFTS[2], atol=1e-5)


def test_a_sequence_that_was_deleted_meanwhile(tmp_path):
    sequence = add_sequence()
    setup = SequenceSetup(sequence)
    items = tuple(InputVolume.of(item) for item in setup.items())
    outcome = outcome_of(tmp_path, setup)
    slicer.mrmlScene.RemoveNode(sequence)
    result = deliverSequence(outcome, items, setup)
    assert "was deleted" in result.warnings[-1]
    assert result.transformSequence.GetNumberOfDataNodes() == 3


@pytest.mark.parametrize(
    ("make", "options", "words"),
    [
        (lambda: None, {}, "Choose a sequence"),
        (lambda: add_volume(), {}, "Choose a sequence"),
        (lambda: add_sequence(("a",)), {}, "at least two items"),
        (lambda: add_sequence(), {"reference": 3}, "0 to 2, not 3"),
        (lambda: add_sequence(), {"target": "all"}, 'not to "all"'),
        (lambda: add_sequence(node=add_points((0, 0, 0))), {}, "no scalar volumes"),
    ],
)
def test_what_is_no_sequence_of_volumes(make, options, words):
    with pytest.raises(InputError, match=words):
        SequenceSetup(make(), **options).check()


def test_motion_of_landmarks(tmp_path):
    result = deliver(tmp_path, add_sequence())
    points = add_points((0, 0, 0), (10, 5, -5))
    np.testing.assert_allclose(
        motion(result.transformSequence, points), [[0, 0], [5, 5], [10, 10]], atol=1e-4
    )
    for number in range(2):
        points.SetNthControlPointLabel(number, "tip")
    chart = plotMotion(result.transformSequence, points)
    assert chart.GetXAxisTitle() == "time (s)"
    series = [chart.GetNthPlotSeriesNode(n) for n in range(chart.GetNumberOfPlotSeriesNodes())]
    assert [node.GetYColumnName() for node in series] == ["tip", "tip (2)"]
    table = series[0].GetTableNode()
    np.testing.assert_allclose(slicer.util.arrayFromTableColumn(table, "time (s)"), [0, 0.5, 1])
    np.testing.assert_allclose(slicer.util.arrayFromTableColumn(table, "tip (2)"), [0, 5, 10], atol=1e-4)


def test_an_index_without_numbers_counts_the_items(tmp_path):
    result = deliver(tmp_path, add_sequence(("inhale", "middle", "exhale")))
    chart = plotMotion(result.transformSequence, add_points((0, 0, 0)))
    assert chart.GetXAxisTitle() == "item"
    table = chart.GetNthPlotSeriesNode(0).GetTableNode()
    np.testing.assert_allclose(slicer.util.arrayFromTableColumn(table, "item"), [0, 1, 2])


def test_motion_needs_transforms_and_points(tmp_path):
    with pytest.raises(InputError, match="sequence of transforms"):
        motion(add_sequence(), add_points((0, 0, 0)))
    result = deliver(tmp_path, add_sequence())
    with pytest.raises(InputError, match="at least one point"):
        motion(result.transformSequence, add_points())
