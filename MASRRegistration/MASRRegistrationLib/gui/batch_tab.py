"""The Batch tab: a study of many cases in the background, its table, and any case's result or report."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import ctk
import qt
import slicer
from masr_registration.batch import discover, manifest
from masr_registration.batch.discover import Found
from masr_registration.batch.study import Study
from masr_registration.errors import InputError, MasrError
from slicer.i18n import tr as _

from ..mrml import batch_cases
from ..mrml.dicom_database import openDatabase
from . import preset_library
from .background_tab import BackgroundTab
from .batch_process import BatchProcess
from .messages import showError
from .parameters import DEFAULT_PRESET

PATTERNS, BIDS, SCENE, DICOM = range(4)
CASE, STATE, REMARK = range(3)


class BatchTab(BackgroundTab):
    file = "BatchTab.ui"

    def __init__(self, resourcePath: Callable[[str], str]) -> None:
        super().__init__(resourcePath)
        self._rows: dict[str, int] = {}
        ui = self.ui
        for source in (
            _("Folder, by patterns"),
            _("Folder in BIDS format"),
            _("Volumes of the scene"),
            _("DICOM database"),
        ):
            ui.sourceComboBox.addItem(source)
        for edit, kind in (
            (ui.manifestEdit, ctk.ctkPathLineEdit.Files),
            (ui.outputEdit, ctk.ctkPathLineEdit.Dirs),
            (ui.rootEdit, ctk.ctkPathLineEdit.Dirs),
        ):
            edit.filters = kind
        ui.caseTable.setHorizontalHeaderLabels([_("Case"), _("State"), _("Remark")])
        ui.sourceComboBox.connect("currentIndexChanged(int)", self._onSource)
        ui.makeButton.connect("clicked(bool)", self.onMake)
        ui.runButton.connect("clicked(bool)", self.onRun)
        ui.manifestEdit.connect("currentPathChanged(QString)", self._onPaths)
        ui.outputEdit.connect("currentPathChanged(QString)", self._onPaths)
        ui.caseTable.connect("itemSelectionChanged()", self.update)
        ui.reportButton.connect("clicked(bool)", self.onReport)
        ui.loadButton.connect("clicked(bool)", self.onLoad)
        ui.cohortButton.connect("clicked(bool)", self.onCohort)
        self._onSource()
        self._listPresets()
        self.update()

    @property
    def study(self) -> Study | None:
        path = self.ui.outputEdit.currentPath
        return Study(Path(path)) if path else None

    def parametersChanged(self, parameters: Any) -> None:
        super().parametersChanged(parameters)
        self._listPresets()

    def losses(self) -> list[str]:
        running = _(
            "A study is running; quitting ends it. The finished cases stay, and it can be gone on with."
        )
        return [running] if self.running else []

    def update(self, *_ignored: Any) -> None:
        """What can be done now, and why not."""
        ui, study, case = self.ui, self.study, self._selectedCase()
        reason = ""
        if not Path(ui.manifestEdit.currentPath or "-").is_file():
            reason = _("Choose a manifest, or make one.")
        elif study is None:
            reason = _("Choose a folder for the results.")
        ui.runButton.enabled = self.running or not reason
        ui.runButton.text = _("Cancel") if self.running else _("Run")
        ui.makeButton.enabled = not self.running
        if not self.running and reason:
            ui.stageLabel.text = reason
        done = study is not None and case is not None and study.is_done(case)
        ui.reportButton.enabled = done and (study.cases / case / "report.html").is_file()
        ui.loadButton.enabled = done
        ui.cohortButton.enabled = study is not None and (study.folder / "cohort.html").is_file()

    # A manifest

    def onMake(self) -> None:
        """Write the manifest that `manifestEdit` names, from the chosen source."""
        try:
            path = Path(self.ui.manifestEdit.currentPath or "")
            if path.suffix.lower() != ".csv" or not path.is_absolute():
                raise InputError(_("Say above where the manifest is to be written: a .csv file."))
            if path.exists():
                raise InputError(_('"{name}" is there already.').format(name=path.name))
            with slicer.util.WaitCursor():
                found = self._found(path)
                for row in found.rows:
                    row["preset"] = preset_library.inManifest(self.ui.presetComboBox.currentText)
                columns = [c for c in ("id", *manifest.FILES, "preset") if c in found.rows[0]]
                try:
                    manifest.write(found.rows, path, columns)
                except OSError as error:
                    raise InputError(_("The manifest cannot be written there.")) from error
        except MasrError as error:
            showError(error)
            return
        count = _("{count} cases.").format(count=len(found.rows))
        self.ui.remarkLabel.text = "\n".join([count, *found.remarks])
        self._onPaths()

    def _found(self, path: Path) -> Found:
        ui, source = self.ui, self.ui.sourceComboBox.currentIndex
        texts = {"fixed": ui.fixedPatternEdit.text.strip(), "moving": ui.movingPatternEdit.text.strip()}
        if source == SCENE:
            fixed = None if self.parameters is None else self.parameters.fixedVolume
            return batch_cases.fromScene(fixed, path.parent / f"{path.stem}-images")
        if source == DICOM:
            return batch_cases.fromDicomDatabase(openDatabase(), texts["fixed"], texts["moving"])
        root = Path(ui.rootEdit.currentPath or "-")
        found = (discover.by_bids if source == BIDS else discover.by_patterns)(root, texts)
        for row in found.rows:
            row.update({column: str(root / row[column]) for column in texts})
        return found

    def _listPresets(self) -> None:
        box, names = self.ui.presetComboBox, preset_library.names()
        if [box.itemText(n) for n in range(box.count)] != names:
            chosen = box.currentText or DEFAULT_PRESET
            box.clear()
            box.addItems(names)
            box.setCurrentIndex(names.index(chosen if chosen in names else DEFAULT_PRESET))

    def _onSource(self, *_ignored: Any) -> None:
        source, ui = self.ui.sourceComboBox.currentIndex, self.ui
        ui.rootEdit.enabled = source in (PATTERNS, BIDS)
        ui.fixedPatternEdit.enabled = ui.movingPatternEdit.enabled = source != SCENE
        examples = {
            PATTERNS: ("{subject}/T1.nii.gz", "{subject}/T2.nii.gz"),
            BIDS: ("T1w", "T2w"),
            SCENE: ("", ""),
            DICOM: (_("part of the description"), _("part of the description")),
        }[source]
        ui.fixedPatternEdit.placeholderText, ui.movingPatternEdit.placeholderText = examples

    # A run

    def onRun(self) -> None:
        if self._process is not None:
            self.ui.stageLabel.text = _("Cancelling; the finished cases stay.")
            self.ui.runButton.enabled = False
            self._process.cancel()
            return
        ui = self.ui
        request = {
            "manifest": ui.manifestEdit.currentPath,
            "output": ui.outputEdit.currentPath,
            "jobs": ui.jobsSpinBox.value,
            "keep_going": ui.keepGoingCheckBox.checked,
            "resume": True,
        }
        self._showCases()
        process = BatchProcess(request, self._onEvent, self._onEnd)
        try:
            process.start()
        except MasrError as error:
            showError(error)
            return
        self._process = process
        ui.stageLabel.text = _("Starting")
        ui.progressBar.value = 0
        self.update()

    def _onEvent(self, event: dict[str, Any]) -> None:
        if event["type"] == "error":
            for fault in event["faults"]:
                self._show(fault["case"], _("faulty"), fault["sentence"])
        if event["type"] != "case":
            return
        state, fraction = event["state"], event["fraction"]
        shown = f"{self._word(state)}, {100 * fraction:.0f} %" if state == "running" else self._word(state)
        self._show(event["case"], shown, event["message"])
        ui, left = self.ui, event["eta_s"]
        ui.progressBar.value = round(100 * event["whole"])
        doing = _("Registering") if state in ("running", "done", "failed") else _("Checking")
        told = _("{doing}: {finished} of {total} cases").format(doing=doing, **event)
        if left is not None and event["whole"] < 1:
            told += _(", about {minutes} min left").format(minutes=max(1, round(left / 60)))
        ui.stageLabel.text = told

    def _onEnd(self, error: MasrError | None) -> None:
        self._process = None
        study = self.study
        states = [study.state(case) for case in self._rows] if study is not None else []
        told = _("{done} cases are done, {failed} failed.").format(
            done=states.count("done"), failed=states.count("failed")
        )
        self._refreshStates()
        self.update()
        self.ui.stageLabel.text = told
        if error is not None and error.code != "cancelled":
            self.ui.stageLabel.text = str(error).partition("\n")[0]
            showError(error)

    # The table

    def _onPaths(self, *_ignored: Any) -> None:
        if not self.running:
            self.ui.stageLabel.text = ""
            self._showCases()
            self.update()

    def _showCases(self) -> None:
        """The cases of the manifest with what is known of them; nothing where it cannot be read."""
        self.ui.caseTable.setRowCount(0)
        self._rows.clear()
        path = Path(self.ui.manifestEdit.currentPath or "-")
        if not path.is_file():
            return
        try:
            read = manifest.read(path)
        except InputError as error:
            self.ui.stageLabel.text = str(error)
            return
        for case in read.cases:
            self._show(case.id, "", "")
        for fault in read.faults:
            self._show(fault.case, _("faulty"), fault.sentence)
        self._refreshStates()

    def _refreshStates(self) -> None:
        study = self.study
        for case in list(self._rows) if study is not None else ():
            state = study.state(case)
            if state == "failed":
                self._show(case, self._word(state), str((study.failure(case) or {}).get("message", "")))
            elif state == "done":
                verdict = ((study.result(case) or {}).get("verdict") or {}).get("level", "")
                self._show(case, self._word(state), str(verdict))
            elif self.ui.caseTable.item(self._rows[case], STATE).text() != _("faulty"):
                self._show(case, _("waiting"), "")

    def _show(self, case: str, state: str, remark: str) -> None:
        table = self.ui.caseTable
        if case not in self._rows:
            self._rows[case] = table.rowCount
            table.setRowCount(table.rowCount + 1)
            for column in (CASE, STATE, REMARK):
                table.setItem(self._rows[case], column, qt.QTableWidgetItem(""))
        for column, text in ((CASE, case), (STATE, state), (REMARK, remark)):
            table.item(self._rows[case], column).setText(text)

    def _selectedCase(self) -> str | None:
        item = self.ui.caseTable.item(self.ui.caseTable.currentRow(), CASE)
        return None if item is None else str(item.text())

    def _word(self, state: str) -> str:
        return {
            "checking": _("checking"),
            "checked": _("can be run"),
            "faulty": _("faulty"),
            "running": _("running"),
            "done": _("done"),
            "failed": _("failed"),
        }[state]

    # Results

    def onReport(self) -> None:
        study, case = self.study, self._selectedCase()
        if study is not None and case is not None:
            self._open(study.cases / case / "report.html")

    def onCohort(self) -> None:
        if self.study is not None:
            self._open(self.study.folder / "cohort.html")

    def onLoad(self) -> None:
        """The transform and the warped volume of the selected case, as nodes named after it."""
        study, case = self.study, self._selectedCase()
        if study is None or case is None:
            return
        folder = study.cases / case
        try:
            with slicer.util.WaitCursor():
                transform = slicer.util.loadTransform(str(folder / "transform.h5"))
                volume = slicer.util.loadVolume(str(folder / "warped.nii.gz"))
        except RuntimeError:
            showError(InputError(_('The result of "{case}" cannot be loaded.').format(case=case)))
            return
        transform.SetName(f"{case} transform")
        volume.SetName(f"{case} warped")

    def _open(self, path: Path) -> None:
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(path)))
