"""Which points of two lists belong together."""

import numpy as np
from harness.pytest_plugin import slicer_app  # noqa: F401

import slicer  # isort: skip
from MASRRegistrationLib.mrml.pairing import forget, join, newName, remember, rows


def point_list(*names, name="List"):
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLMarkupsFiducialNode", name)
    for number, label in enumerate(names):
        node.SetNthControlPointLabel(node.AddControlPoint(number, 0.0, 0.0), label)
    return node


def seen(fixed, moving):
    return [(row.name, row.fixed, row.moving) for row in rows(fixed, moving)]


def test_equal_names_belong_together_in_any_order():
    fixed, moving = point_list("tip", "end", "mid"), point_list("end", "other", "tip")
    assert seen(fixed, moving) == [("tip", 0, 2), ("end", 1, 0), ("mid", 2, None), ("other", None, 1)]


def test_lists_that_never_met_go_by_their_order_only_if_equally_long():
    fixed, moving = point_list("F-1", "F-2"), point_list("M-1", "M-2")
    assert seen(fixed, moving) == [("F-1 / M-1", 0, 0), ("F-2 / M-2", 1, 1)]
    moving.AddControlPoint(0.0, 0.0, 0.0)
    assert all(row.fixed is None or row.moving is None for row in rows(fixed, moving))
    assert seen(None, moving)[0] == ("M-1", None, 0)
    assert rows(None, None) == []


def test_a_name_that_is_used_twice_decides_nothing():
    fixed, moving = point_list("a", "a", "b"), point_list("a", "b", "b")
    remember(fixed, moving)
    assert [(row.fixed, row.moving) for row in rows(fixed, moving)] == [(0, 0), (1, 1), (2, 2)]
    moving.RemoveNthControlPoint(0)
    assert [(row.fixed, row.moving) for row in rows(fixed, moving)] == [(0, None), (1, 0), (2, 1)]


def test_deleting_and_adding_does_not_shift_pairs():
    fixed, moving = point_list("F-1", "F-2", "F-3"), point_list("M-1", "M-2", "M-3")
    remember(fixed, moving)
    fixed.RemoveNthControlPoint(0)
    moving.RemoveNthControlPoint(2)
    remember(fixed, moving)
    left = [("F-2 / M-2", 0, 1), ("F-3", 1, None), ("M-1", None, 0)]
    assert seen(fixed, moving) == left  # of equal length again, and yet not by their order
    fixed.SetNthControlPointLabel(0, "renamed")
    remember(fixed, moving)
    fixed.SetNthControlPointPosition(0, 50.0, 60.0, 70.0)
    remember(fixed, moving)
    assert seen(fixed, moving)[1:] == left[1:]
    added = moving.AddControlPoint(1.0, 1.0, 1.0)
    join(fixed, 1, moving, added)
    assert (rows(fixed, moving)[1].fixed, rows(fixed, moving)[1].moving) == (1, added)


def test_an_identifier_that_is_used_again_is_another_point():
    """Slicer counts anew after a list was emptied."""
    fixed, moving = point_list("F-1"), point_list("M-1")
    remember(fixed, moving)
    moving.RemoveAllControlPoints()
    index = moving.AddControlPoint(9.0, 9.0, 9.0)
    moving.SetNthControlPointLabel(index, "another")
    assert moving.GetNthControlPointID(index) == "1"
    assert seen(fixed, moving) == [("F-1", 0, None), ("another", None, 0)]
    forget(fixed)
    assert seen(fixed, moving) == [("F-1 / another", 0, 0)]


def test_pairs_survive_saving_and_know_their_list(tmp_path):
    fixed, moving = point_list("F-1", "F-2", name="F"), point_list("M-1", "M-2", name="M")
    join(fixed, 0, moving, 1)
    join(fixed, 1, moving, 0)
    crossed = [("F-1 / M-2", 0, 1), ("F-2 / M-1", 1, 0)]
    assert seen(fixed, moving) == crossed
    assert seen(fixed, point_list("x", "y")) == [("F-1 / x", 0, 0), ("F-2 / y", 1, 1)]
    assert slicer.util.saveScene(str(tmp_path / "scene.mrb"))
    slicer.mrmlScene.Clear(False)
    slicer.util.loadScene(str(tmp_path / "scene.mrb"))
    fixed, moving = slicer.util.getNode("F"), slicer.util.getNode("M")
    assert seen(fixed, moving) == crossed
    moving.RemoveNthControlPoint(0)
    assert seen(fixed, moving) == [("F-1 / M-2", 0, 0), ("F-2", 1, None)]


def test_a_new_name_is_no_points_name():
    assert newName(point_list("1", "tip"), point_list("3")) == "2"
    assert newName(None, None) == "1"


def test_what_follows_the_mouse_is_no_point():
    fixed, moving = point_list("1"), point_list("1")
    fixed.AddControlPoint(0.0, 0.0, 0.0)
    fixed.SetNthControlPointPosition(1, *np.zeros(3), fixed.PositionPreview)
    assert seen(fixed, moving) == [("1", 0, 0)]
