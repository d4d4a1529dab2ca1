"""The Check tab: whether to trust the result, and why."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import qt
import slicer
from masr_registration.errors import InputError, ResourceError
from slicer.i18n import tr as _

from ..mrml import check_report, comparison, landmarks, layouts
from ..mrml.comparison import Comparison
from ..mrml.evidence import verdictSentences
from ..mrml.overlap import Overlap, overlaps
from ..mrml.results import MOVING_ROLE, RegistrationResult, storedResult
from .messages import showError
from .sampling import Sampler
from .tab import Tab
from .views import Settling

CONTENTS = (comparison.IMAGES, comparison.CHECKERBOARD, comparison.DISPLACEMENT, comparison.JACOBIAN)
"""In the order of the combo box."""
FLICKER_MS = 600
MOST_FOLDS_LISTED = 100


class CheckTab(Tab):
    """`isShown` tells whether the module is entered; `onJudged` is called when the verdict may be another one.

    Attributes:
        comparison: what the views show; None without a result, and until the views are opened.
        sampler: of the deformation, whether the views are open or not.
    """

    file = "CheckTab.ui"

    def __init__(
        self,
        resourcePath: Callable[[str], str],
        isShown: Callable[[], bool],
        onJudged: Callable[[], None],
    ) -> None:
        super().__init__(resourcePath)
        self.comparison: Comparison | None = None
        self.sampler = Sampler(self._onSampled)
        self._isShown, self._onJudged = isShown, onJudged
        self._overlaps: list[Overlap] = []
        self._listed: Any = None
        self._reportPath: Path | None = None
        self._settling = Settling(self._onSettled, layouts.BEFORE, layouts.AFTER)
        self._flicker = qt.QTimer()
        self._flicker.setInterval(FLICKER_MS)
        self._flicker.connect("timeout()", self._onFlicker)
        ui = self.ui
        ui.compareButton.connect("clicked(bool)", lambda: self._show(layouts.COMPARE))
        ui.oneUpButton.connect("clicked(bool)", lambda: self._show(layouts.ONE_UP))
        ui.closeButton.connect("clicked(bool)", self.closeViews)
        ui.contentComboBox.connect("currentIndexChanged(int)", lambda index: self._onContent())
        ui.fadeSlider.connect("valueChanged(double)", self._onFade)
        ui.flickerCheckBox.connect("toggled(bool)", self._onFlickerToggled)
        ui.gridCheckBox.connect("toggled(bool)", self._onGrid)
        ui.foldsList.connect("currentRowChanged(int)", self._onFold)
        ui.measureButton.connect("clicked(bool)", self._onMeasure)
        ui.reportButton.connect("clicked(bool)", self.onReport)
        table = ui.overlapTable
        heads = [_("Segment"), _("Dice before"), _("Dice after"), _("HD95 before, mm"), _("HD95 after, mm")]
        table.setColumnCount(len(heads))
        table.setHorizontalHeaderLabels(heads)
        ui.closeButton.enabled = False
        self.parametersChanged(None)

    def parametersChanged(self, parameters: Any) -> None:
        super().parametersChanged(parameters)
        transformNode = self.transformNode
        if self.comparison is not None and self.comparison.transformNode is not transformNode:
            self.closeViews()
        if parameters is not None and self.sampler.transformNode is not transformNode:
            self.sampler.stop()
        self._showVerdict()
        sides = parameters and (parameters.fixedSegmentation, parameters.movingSegmentation)
        self.ui.measureButton.enabled = bool(sides and sides[0] and sides[1])
        self._showFolds()

    def resultArrived(self, result: RegistrationResult) -> None:
        """Open the views where the module is shown; another module's layout is left alone."""
        self.closeViews()
        self.sampler.stop()
        if self._isShown():
            self._open(result.transformNode, result.volumeNode, layouts.COMPARE)
        else:
            self._sample(result.transformNode)

    def resultReverted(self) -> None:
        self.closeViews()
        self.sampler.stop()
        self._showFolds()

    def cleanup(self) -> None:
        self.closeViews()
        self.sampler.stop()

    def closeViews(self) -> None:
        """The layout as before; nothing is left in the scene."""
        self._settling.stop()
        self._endReport()
        self.ui.flickerCheckBox.checked = self.ui.gridCheckBox.checked = False
        self.ui.contentComboBox.currentIndex = 0
        if not self.sampler.running:
            self.ui.mapLabel.text = ""
        if self.comparison is not None:
            self.comparison.close()
            self.comparison = None
        self.ui.closeButton.enabled = False
        self._overlaps = []
        self.ui.overlapTable.setRowCount(0)

    def onReport(self) -> None:
        """Save the page where the user wants it, once the views are drawn, and open it in the browser."""
        name = f"{self.transformNode.GetName()}.html".replace("/", "-")
        path = qt.QFileDialog.getSaveFileName(
            slicer.util.mainWindow(), _("Save report"), name, _("Web page (*.html)")
        )
        if not path:
            return
        if self.comparison is None or not layouts.shown():
            self._show(layouts.COMPARE)
        self._reportPath = Path(path)
        self.ui.reportButton.enabled = False
        self.ui.reportLabel.text = _("The report is written as soon as the views are drawn and sampled…")
        self._settling.start()

    def _onSettled(self) -> None:
        """The views show all of their volumes at their size."""
        if self._reportPath is not None and not self.sampler.running:
            self._writeReport(self._reportPath)

    def _endReport(self) -> None:
        self._reportPath = None
        self.ui.reportButton.enabled = True
        self.ui.reportLabel.text = ""

    def _writeReport(self, path: Path) -> None:
        self._endReport()
        with slicer.util.WaitCursor():
            page = check_report.reportPage(
                self.transformNode,
                check_report.pictures(),
                self._folds(),
                self._overlaps,
                landmarks.errors(*self._landmarkLists(), self.transformNode, self._movingNode()),
            )
            try:
                path.write_text(page, encoding="utf-8")
                problem = None
            except OSError:
                problem = ResourceError(_("The report could not be written: is the folder read-only?"))
        if problem is not None:
            showError(problem)
            return
        self.ui.reportLabel.text = _('The report is in "{name}".').format(name=path.name)
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path)))

    def _show(self, layout: int) -> None:
        if self.comparison is None:
            self._open(self.transformNode, self.parameters.outputVolume, layout)
        else:
            self.comparison.open(layout)
            self._settling.start()

    def _open(self, transformNode: Any, volumeNode: Any, layout: int) -> None:
        """Show the result, and begin to sample its deformation, a piece at a time."""
        self.comparison = Comparison(transformNode, volumeNode)
        self.ui.closeButton.enabled = True
        self.comparison.setOpacity(self.ui.fadeSlider.value)
        self.comparison.open(layout)
        self._settling.start()
        self.ui.mapLabel.text = ""
        self._sample(transformNode)
        if self.sampler.map is not None:
            self.comparison.setMap(self.sampler.map)

    def _sample(self, transformNode: Any) -> None:
        try:
            self.sampler.start(transformNode)
        except InputError as error:
            self.ui.mapLabel.text = str(error)

    def _onSampled(self, fraction: float) -> None:
        if fraction < 1:
            percent = int(100 * fraction)
            self.ui.mapLabel.text = _("Sampling the deformation: {percent} %").format(percent=percent)
            return
        if self.comparison is not None:
            self.ui.mapLabel.text = ""
            self.comparison.setMap(self.sampler.map)
        else:
            self.ui.mapLabel.text = _("The views are ready: press Before and after.")
        self._showVerdict()
        self._showFolds()
        self._onJudged()
        if self._reportPath is not None:
            self._settling.start()

    def _showVerdict(self) -> None:
        content = storedResult(self.transformNode)
        self.ui.checkWidget.visible = content is not None
        self.ui.resultLabel.text = (
            _("There is no result to check yet; register two volumes first.")
            if content is None
            else "\n".join(verdictSentences(content))
        )

    def _onContent(self) -> None:
        if self.comparison is not None:
            with slicer.util.WaitCursor():
                self.comparison.setContent(CONTENTS[self.ui.contentComboBox.currentIndex])

    def _onFade(self, opacity: float) -> None:
        if self.comparison is not None:
            self.comparison.setOpacity(opacity)

    def _onFlickerToggled(self, on: bool) -> None:
        self.ui.fadeSlider.enabled = not on
        if on and self.comparison is not None:
            self._shown = 1.0
            self._flicker.start()
        else:
            self._flicker.stop()
            self._onFade(self.ui.fadeSlider.value)

    def _onFlicker(self) -> None:
        self._shown = 1.0 - self._shown
        self._onFade(self._shown)

    def _onGrid(self, visible: bool) -> None:
        if self.comparison is not None:
            self.comparison.setGrid(visible)

    def _folds(self) -> Any:
        """None while nobody has looked for them."""
        return None if self.sampler.map is None else self.sampler.map.folds

    def _showFolds(self) -> None:
        """The list; the chosen fold stays chosen while they are the same."""
        folds, ui = self._folds(), self.ui
        if folds is not None and folds is self._listed:
            return
        self._listed = folds
        ui.foldsList.clear()
        ui.foldsList.visible = bool(folds)
        if folds is None:
            ui.foldsLabel.text = _("Nobody has looked for folds yet; opening the views does.")
        elif not folds:
            ui.foldsLabel.text = _("No fold was found at the sampled points.")
        else:
            ui.foldsLabel.text = _("The transform is not one-to-one in {count} places:").format(
                count=len(folds)
            )
        for fold in (folds or [])[:MOST_FOLDS_LISTED]:
            place = ", ".join(f"{x:.1f}" for x in fold.place)
            ui.foldsList.addItem(
                _("{cells} cells around R, A, S = {place}").format(cells=fold.cells, place=place)
            )

    def _onFold(self, row: int) -> None:
        folds = self._folds()
        if folds and 0 <= row < len(folds):
            layouts.jumpTo(folds[row].place)

    def _onMeasure(self) -> None:
        parameters = self.parameters
        try:
            with slicer.util.WaitCursor():
                self._overlaps = overlaps(
                    self.transformNode, parameters.fixedSegmentation, parameters.movingSegmentation
                )
        except InputError as error:
            showError(error)
            return
        table = self.ui.overlapTable
        table.setRowCount(len(self._overlaps))
        for row, o in enumerate(self._overlaps):
            values = (o.diceBefore, o.diceAfter, o.hd95Before, o.hd95After)
            texts = [o.name, *("–" if value is None else f"{value:.2f}" for value in values)]
            for column, text in enumerate(texts):
                table.setItem(row, column, qt.QTableWidgetItem(text))

    def _landmarkLists(self) -> tuple[Any, Any]:
        return self.parameters.fixedLandmarks, self.parameters.movingLandmarks

    def _movingNode(self) -> Any:
        return self.transformNode.GetNodeReference(MOVING_ROLE)
