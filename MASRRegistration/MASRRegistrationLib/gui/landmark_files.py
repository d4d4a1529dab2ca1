"""Landmarks from and to files that the user chooses, and as a table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import qt
import slicer
from masr_registration.errors import MasrError
from slicer.i18n import tr as _

from ..mrml import landmarks
from .messages import showError

FILES = _("Landmarks (*.mrk.json *.csv)")


def chosenFile() -> str:
    """Empty when the user chose none."""
    path: str = qt.QFileDialog.getOpenFileName(slicer.util.mainWindow(), _("Import landmarks"), "", FILES)
    return path


def exportLists(fixedList: Any, movingList: Any) -> None:
    """One file after the other; a list that is not there is passed over, a cancelled choice ends it."""
    titles = _("Export fixed landmarks"), _("Export moving landmarks")
    for node, title in zip((fixedList, movingList), titles, strict=True):
        if node is None:
            continue
        name = f"{node.GetName()}.mrk.json"
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), title, name, FILES)
        if not path:
            return
        try:
            landmarks.exportFile(path, node)
        except MasrError as error:
            showError(error)
            return


def fillTable(table: Any, errors: Sequence[landmarks.LandmarkError]) -> None:
    """A row for each; cells that say the same already are left alone, so that dragging a point stays smooth."""
    table.setRowCount(len(errors))
    for number, row in enumerate(errors):
        places = ["" if p is None else ", ".join(f"{x:.1f}" for x in p) for p in (row.fixed, row.moving)]
        values = ["" if v is None else f"{v:.2f}" for v in (row.before, row.after)]
        for column, text in enumerate([row.name, *places, *values]):
            item = table.item(number, column)
            if item is None:
                table.setItem(number, column, qt.QTableWidgetItem(text))
            elif item.text() != text:
                item.setText(text)
