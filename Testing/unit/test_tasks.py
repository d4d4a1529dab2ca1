"""Every layout of `masr evaluate TASK`, from a small data set to its tables, with the real batch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import task_sets
import typer
from masr_registration import presets
from masr_registration.cli import app
from masr_registration.errors import InputError
from masr_registration.evaluation.tasks import abdomen_mr_ct, fields, layouts, learn2reg_data, running
from masr_registration.evaluation.tasks.cases import Choice, identity_of
from masr_registration.evaluation.tasks.published import FIGURES
from typer.testing import CliRunner


def evaluate(task: str, data: Path, output: Path, *more: str) -> Any:
    arguments = ["evaluate", task, "--data", str(data), "--output", str(output), "--threads", "1", *more]
    return CliRunner().invoke(app, arguments)


def results(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "results.json").read_text(encoding="utf-8"))
    assert {figure["method"] for figure in content["published"]} == {
        figure.method for figure in FIGURES.get(content["task"], ())
    }
    return content


def numbers(content: dict[str, Any], method: str) -> dict[str, Any]:
    (found,) = [m["over_cases"] for m in content["methods"] if m["name"] == method]
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(task_sets.preset(tmp_path_factory.mktemp("preset") / "quick.json"))


@pytest.fixture(scope="module")
def abdomen(tmp_path_factory: pytest.TempPathFactory, quick: str) -> dict[str, Any]:
    """The whole way once: two pairs, with masks, fields for an evaluator in two forms."""
    folder = tmp_path_factory.mktemp("abdomen")
    data, output = task_sets.abdomen_mr_ct(folder / "data"), folder / "output"
    forms = ("--submission", "nii", "--submission", "npz-half")
    done = evaluate("abdomen-mr-ct", data, output, "--method", quick, "--masks", *forms)
    assert done.exit_code == 0, done.output
    return {"data": data, "output": output, "stdout": done.stdout, "quick": quick}


@pytest.mark.slow
class TestAbdomen:
    def test_both_conventions_and_the_missing_kidney(self, abdomen: dict[str, Any]) -> None:
        content = results(abdomen["output"])
        assert content["remarks"] == ["0002_0000--0002_0001: labels in the numbers of TotalSegmentator."]
        (quick,) = [m for m in content["methods"] if m["name"] == "quick"]
        first, second = (quick["scores"][case]["learn2reg"]["dice_each"] for case in content["pairs"])
        assert all(value is not None for value in first.values())
        assert second["4"] is None
        assert min(second[n] for n in "123") > 0.75

    def test_registration_helps_and_does_not_fold(self, abdomen: dict[str, Any]) -> None:
        content = results(abdomen["output"])
        before, after = (numbers(content, name) for name in ("before", "quick"))
        assert before["learn2reg"]["dice"]["mean"] < 0.8
        for group in ("learn2reg", "strict"):
            assert after[group]["dice"]["mean"] > before[group]["dice"]["mean"] + 0.08
        assert after["learn2reg"]["hd95"]["mean"] < before["learn2reg"]["hd95"]["mean"]
        assert after["strict"]["folds"] == before["strict"]["folds"] == 0
        assert before["learn2reg"]["sdlogj"]["mean"] < 1e-9 < 0.01 < after["learn2reg"]["sdlogj"]["mean"]

    def test_the_page_says_what_has_to_be_known(self, abdomen: dict[str, Any]) -> None:
        page = (abdomen["output"] / "results.md").read_text(encoding="utf-8")
        assert page in abdomen["stdout"]
        for words in (
            "CT (moving) to MR (fixed)",
            "aligned by its makers",
            "Masks: used by the registration; SDlogJ within the mask of the fixed image",
            "| Method | Reported | Protocol | Source |",
            "an order of magnitude, no ranking",
            "optimise, linear none, mind, 4 mm",
        ):
            assert words in page, words

    def test_the_cohort_report_is_that_of_the_batch(self, abdomen: dict[str, Any]) -> None:
        cohort = json.loads(
            (abdomen["output"] / "methods" / "quick" / "cohort.json").read_text(encoding="utf-8")
        )
        assert cohort["counts"] == {"done": 2, "failed": 0, "waiting": 0}
        assert "0001_0000--0001_0001" in (abdomen["output"] / "methods" / "quick" / "cohort.html").read_text(
            encoding="utf-8"
        )

    def test_no_paths_in_what_is_written(self, abdomen: dict[str, Any]) -> None:
        for name in ("results.json", "results.md"):
            assert str(abdomen["data"].parent) not in (abdomen["output"] / name).read_text(encoding="utf-8")

    def test_a_second_call_needs_resume_and_does_nothing_again(self, abdomen: dict[str, Any]) -> None:
        before = {p: p.stat().st_mtime_ns for p in abdomen["output"].glob("methods/*/cases/*/result.json")}
        assert len(before) == 2
        again = ("abdomen-mr-ct", abdomen["data"], abdomen["output"], "--method", abdomen["quick"], "--masks")
        refused = evaluate(*again)
        assert refused.exit_code == 2
        assert "--resume" in refused.stderr
        text = (abdomen["output"] / "results.json").read_text(encoding="utf-8")
        done = evaluate(*again, "--resume")
        assert done.exit_code == 0, done.output
        assert "scoring" not in done.stderr
        assert (abdomen["output"] / "results.json").read_text(encoding="utf-8") == text
        assert {p: p.stat().st_mtime_ns for p in before} == before

    def test_fields_that_are_read_back_have_the_same_score(
        self, abdomen: dict[str, Any], tmp_path: Path
    ) -> None:
        """Our own submission as that of another method: nothing is registered, only scored."""
        peers = [
            f"{form}={abdomen['output'] / 'submission' / 'quick' / form}" for form in ("nii", "npz-half")
        ]
        task = layouts.read("abdomen-mr-ct", abdomen["data"], Choice())
        plan = running.Plan([], {p.partition("=")[0]: Path(p.partition("=")[2]) for p in peers})
        running.Evaluation(task, Choice(), plan, tmp_path).run(_nothing, _nothing, _Never())
        content, ours = results(tmp_path), numbers(results(abdomen["output"]), "quick")
        same, near = numbers(content, "nii"), numbers(content, "npz-half")
        assert same["learn2reg"] == ours["learn2reg"]
        assert same["strict"] == ours["strict"]
        assert near["learn2reg"]["dice"]["mean"] == pytest.approx(ours["learn2reg"]["dice"]["mean"], abs=0.01)

    def test_a_peer_without_a_field_has_no_score(self, abdomen: dict[str, Any], tmp_path: Path) -> None:
        task = layouts.read("abdomen-mr-ct", abdomen["data"], Choice(limit=1))
        field = np.zeros((3, 5, 5, 5), np.float32)
        (tmp_path / "wrong").mkdir()
        (tmp_path / "empty").mkdir()
        np.savez(tmp_path / "wrong" / "disp_0001_0001.npz", field)
        plan = running.Plan([], {"wrong": tmp_path / "wrong", "empty": tmp_path / "empty"})
        rated = running.Evaluation(task, Choice(), plan, tmp_path / "o").run(_nothing, _nothing, _Never())
        reasons = {one.name: list(one.failed.values()) for one in rated if one.kind == "others"}
        assert "does not fit the fixed image" in reasons["wrong"][0]
        assert "there is no field (disp_0001_0001.npz" in reasons["empty"][0]
        assert "## Without a score" in (tmp_path / "o" / "results.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["lumir", "oasis", "hcp"])
def test_brains_of_different_persons(task: str, quick: str, tmp_path: Path) -> None:
    data = getattr(task_sets, task)(tmp_path / "data")
    done = evaluate(task, data, tmp_path / "o", "--method", quick, "--limit", "1", "--submission", "nii")
    assert done.exit_code == 0, done.output
    content = results(tmp_path / "o")
    before, after = (numbers(content, name) for name in ("before", "quick"))
    assert after["strict"]["dice"]["mean"] > before["strict"]["dice"]["mean"] + 0.08
    if task == "lumir":
        assert after["learn2reg"]["tre"]["mean"] < 0.7 * before["learn2reg"]["tre"]["mean"]
        assert after["learn2reg"]["ndv_percent"]["mean"] == 0
        assert (tmp_path / "o" / "submission" / "quick" / "disp_3455_3454.nii.gz").is_file()
    else:
        assert (
            "each person" in " ".join([content["direction"], *content["remarks"], content["title"]]).lower()
        )


@pytest.mark.slow
def test_phases_with_labels_or_landmarks(quick: str, tmp_path: Path) -> None:
    data = task_sets.multiphase_ct(tmp_path / "data")
    done = evaluate("multiphase-ct", data, tmp_path / "o", "--method", quick)
    assert done.exit_code == 0, done.output
    content = results(tmp_path / "o")
    assert content["pairs"] == ["patient1_portal--patient1_arterial", "patient2_portal--patient2_arterial"]
    (after,) = [m["scores"] for m in content["methods"] if m["name"] == "quick"]
    (before,) = [m["scores"] for m in content["methods"] if m["name"] == "before"]
    labelled, marked = content["pairs"]
    assert "dice" in after[labelled]["strict"]
    assert "tre_mm" not in after[labelled]["strict"]
    assert after[labelled]["strict"]["folds_in_mask"] == 0
    assert before[marked]["strict"]["tre_mm"] == pytest.approx(np.linalg.norm(task_sets.SHIFT_MM), abs=0.01)
    assert after[marked]["strict"]["tre_mm"] < 0.6 * before[marked]["strict"]["tre_mm"]
    cohort = json.loads((tmp_path / "o" / "methods" / "quick" / "cohort.json").read_text(encoding="utf-8"))
    assert cohort["cases"][1]["values"]["tre_before_mm"] == pytest.approx(11.18, abs=0.01)


class TestLayouts:
    def test_other_pairings(self, tmp_path: Path) -> None:
        phases = task_sets.multiphase_ct(tmp_path / "ct")
        task = layouts.read("multiphase-ct", phases, Choice(between=True, fixed="arterial", moving="portal"))
        assert [case.id for case in task.cases] == [
            "patient1_arterial--patient2_portal",
            "patient2_arterial--patient1_portal",
        ]
        assert "the next patient" in task.direction
        people = layouts.read("hcp", task_sets.hcp(tmp_path / "hcp"), Choice(swap=True))
        assert people.cases[0].id == "100307_T1w--100206_T2w"
        assert people.cases[0].fixed.image.name.startswith("T1w")
        assert "exchanged (--swap)" in people.direction

    def test_without_a_list_the_pairs_are_those_of_the_names(self, tmp_path: Path) -> None:
        folder = task_sets.abdomen_mr_ct(tmp_path)
        listed = layouts.read("abdomen-mr-ct", folder, Choice()).cases
        next(folder.glob("*_dataset.json")).unlink()
        assert layouts.read("abdomen-mr-ct", folder, Choice()).cases == listed

    @pytest.mark.parametrize(
        ("values", "totalsegmentator"),
        [
            ((1, 2, 3, 4), False),
            ((1, 2, 3), False),
            ((1, 2, 5), True),
            ((1, 2, 3, 5), True),
            ((4, 5, 52), True),
        ],
    )
    def test_conventions(self, values: tuple[int, ...], totalsegmentator: bool) -> None:
        found = abdomen_mr_ct.convention(np.array(values))
        assert (found is not None) == totalsegmentator
        if found:
            assert [abdomen_mr_ct.ORGANS[found[n]] for n in (5, 1, 2, 3)] == [
                "liver", "spleen", "right kidney", "left kidney"
            ]  # fmt: skip

    def test_names_of_fields(self, tmp_path: Path) -> None:
        for name in ("A_0001_0000", "A_0001_0001", "A_0002_0000"):
            task_sets.save(sitk.Image(4, 4, 4, sitk.sitkFloat32), tmp_path / "imagesTr" / f"{name}.nii.gz")

        def names(fixed: str, moving: str) -> tuple[str, ...]:
            places = [f"./imagesTr/A_{name}.nii.gz" for name in (fixed, moving)]
            return learn2reg_data.pair(tmp_path, places[0], places[1]).field_names

        assert names("0001_0000", "0001_0001") == ("disp_0001_0001", "disp_0001_0000_0001_0001")
        assert names("0001_0000", "0002_0000") == ("disp_0001_0002", "disp_0001_0000_0002_0000")
        assert names("0001_0001", "0001_0000")[0] == "disp_0001_0001_0001_0000"

    def test_faults_are_one_sentence(self, tmp_path: Path) -> None:
        def fails(task: str, folder: Path, choice: Choice = Choice()) -> str:  # noqa: B008
            with pytest.raises(InputError) as caught:
                layouts.read(task, folder, choice)
            return str(caught.value)

        assert "There is no task" in fails("spine", tmp_path)
        assert "no data folder" in fails("hcp", tmp_path / "none")
        for task in layouts.LAYOUTS:
            assert "\n" not in fails(task, tmp_path)
        folder = task_sets.abdomen_mr_ct(tmp_path / "a")
        assert "no pairs for --split test; there are: train, val" in fails(
            "abdomen-mr-ct", folder, Choice(split="test")
        )
        listed = next(folder.glob("*_dataset.json"))
        listed.write_text(listed.read_text(encoding="utf-8").replace("./imagesTr", "../../imagesTr"))
        assert "outside of its folder" in fails("abdomen-mr-ct", folder)
        listed.write_text("[1]")
        assert "no list of a Learn2Reg data set" in fails("abdomen-mr-ct", folder)

    def test_ids_are_names_of_folders(self) -> None:
        assert identity_of("pa/ti ent", "..") == "pa-ti-ent--x"
        assert len(identity_of("a" * 99, "b" * 99)) == 64


class TestMethods:
    def test_settings_are_those_of_presets(self, tmp_path: Path) -> None:
        text = "brain-mr,representation=masr,method=amortized,continuous.regularisation=3"
        method = running.Method.of(text, "general")
        assert method.name == text
        task = layouts.read("oasis", task_sets.oasis(tmp_path), Choice())
        evaluation = running.Evaluation(task, Choice(), running.Plan([method]), tmp_path / "o")
        from masr_registration.batch import manifest

        read = manifest.of_rows([("x", evaluation._row(task.cases[0], method))], tmp_path)
        assert read.faults == []
        assert read.cases[0].preset.representation == "masr"
        assert read.cases[0].preset.method == "amortized"
        assert read.cases[0].preset.continuous.regularisation == 3.0
        assert read.cases[0].preset.linear == presets.load("brain-mr").linear
        assert running.Method.of("seed=4", "brain-mr").columns == {"preset": "brain-mr", "seed": "4"}

    @pytest.mark.parametrize("text", ["a,b", "=x", "x,fixed=y", "id=3", ""])
    def test_nonsense_is_refused(self, text: str) -> None:
        with pytest.raises(InputError):
            running.Method.of(text, "general")

    def test_two_methods_need_two_names(self) -> None:
        method = running.Method.of("general", "general")
        with pytest.raises(InputError, match="two methods"):
            running.Plan([method, method])
        with pytest.raises(InputError, match="two methods"):
            running.Plan([], {"before": Path()})

    @pytest.mark.parametrize(
        ("more", "sentence"),
        [
            (("--split", "x"), "no split"),
            (("--submission", "x"), "no form"),
            (("--peers", "x"), "NAME=FOLDER"),
            (("--method", "nothing"), "no preset"),
            (("--method", "general,colour=red"), 'no column "colour"'),
        ],
    )
    def test_options_that_cannot_be_used(self, more: tuple[str, ...], sentence: str, tmp_path: Path) -> None:
        data = task_sets.oasis(tmp_path / "data")
        done = evaluate("oasis", data, tmp_path / "o", "--limit", "1", *more)
        assert done.exit_code == 2
        assert sentence in done.stderr

    def test_the_tasks_are_listed(self) -> None:
        done = CliRunner().invoke(app, ["evaluate", "tasks"])
        assert [line.split()[0] for line in done.stdout.splitlines()] == list(layouts.LAYOUTS)


def test_the_page_knows_tasks_options_and_forms(root: Path) -> None:
    page = (root / "Docs" / "evaluation.md").read_text(encoding="utf-8")
    for name in layouts.LAYOUTS:
        assert f"| `{name}` |" in page
    for form in fields.FORMS:
        assert f"| `{form}` |" in page
    command: Any = typer.main.get_command(app)
    group = command.commands["evaluate"]
    own = {
        opt for parameter in group.commands["task"].params for opt in parameter.opts if opt.startswith("--")
    }
    assert set(re.findall(r"--[a-z][a-z-]+", page)) == own | {"--help"}


@pytest.mark.slow
@pytest.mark.data
def test_neonates_as_oasis_and_hcp_would_lie(data_folder: Path, quick: str, tmp_path: Path) -> None:
    for number in ("01", "02"):
        for contrast in ("T1w", "T2w"):
            source = next((data_folder / "brain_t1t2_neonate" / number).glob(f"*{contrast}*.nii.gz"))
            place = tmp_path / "data" / number / "T1w"
            coarse = sitk.SmoothingRecursiveGaussian(sitk.ReadImage(str(source), sitk.sitkFloat32), 1.0)
            task_sets.save(coarse[::3, ::3, ::3], place / f"{contrast}_acpc_dc_restore_brain.nii.gz")
        labels = next(
            p for p in (data_folder / "brain_t1t2_neonate" / number).glob("*.nii.gz") if "w" not in p.name
        )
        task_sets.save(sitk.ReadImage(str(labels))[::3, ::3, ::3], place / "aparc+aseg.nii.gz")
    done = evaluate("hcp", tmp_path / "data", tmp_path / "o", "--method", quick, "--limit", "1")
    assert done.exit_code == 0, done.output
    before, after = (numbers(results(tmp_path / "o"), name) for name in ("before", "quick"))
    assert after["strict"]["dice"]["mean"] > before["strict"]["dice"]["mean"] + 0.05
    assert after["strict"]["folds"] == 0


class _Never:
    def is_set(self) -> bool:
        return False


def _nothing(*_: object) -> None:
    pass
