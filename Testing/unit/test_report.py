"""The report: complete, self-contained, harmless whatever the names are, honest about what is missing."""

import base64
import re
import subprocess
import sys
from collections.abc import Iterator
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from masr_registration.evaluation import pictures, report
from masr_registration.evaluation.report import CSP, NOTICE, PATENT, report_page
from masr_registration.evaluation.slices import PLANES, Hanging
from masr_registration.volume import Geometry, Volume

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>&amp;\ud800.nii.gz"
SECTIONS = (
    "Images",
    "Outlines",
    "Colour overlay",
    "Checkerboard",
    "Deformation in millimetres",
    "Local change of volume",
    "Measurements",
    "Time and memory",
    "Provenance",
)
METRICS = {
    "similarity_before": 0.3121,
    "similarity_after": 0.1834,
    "folds": 0,
    "folds_dense": 0,
    "sdlogj": 0.1,
    "jacobian_min": 0.7,
    "jacobian_max": 1.4,
    "inverse_consistency_mean_mm": 0.01,
    "inverse_consistency_max_mm": 0.2,
    "displacement_mean_mm": 4.56,
    "displacement_p95_mm": 8.0,
    "displacement_max_mm": 9.6,
    "linear_rotation_deg": 12.3,
    "linear_translation_mm": 15.0,
    "linear_scale_min": 0.99,
    "linear_scale_max": 1.01,
    "overlap": 1.0,
}


class Page(HTMLParser):
    """What a page consists of: tags with their attributes, and the text between them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.html = html
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._hidden = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._hidden = tag == "style"

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def _result(**changes: object) -> dict:
    return {
        "format": 1,
        "verdict": {"level": "plausible", "reasons": ["The similarity improved by 41%."]},
        "metrics": METRICS,
        "warnings": [],
        "timings": {"read": 0.5, "linear": 2.0, "total": 2.5},
        "peak_memory_mb": 1234.0,
        "provenance": {
            "masr_version": "0.1.0",
            "device": "cpu",
            "preset": {"name": "brain-mr", "description": "Brain MR."},
            "weights_sha256": None,
            "date": "2026-11-22T12:00:00+00:00",
        },
        **changes,
    }


def _write(path: Path, name: str = "T1.nii.gz", geometry: Geometry | None = None, **changes: object) -> Page:
    geometry = geometry or Geometry((24, 28, 20), (1.5, 1.5, 2.0), (3.0, 4.0, 5.0), tuple(np.eye(3).ravel()))
    folded = changes.pop("folded", np.zeros(geometry.shape, bool))
    foreground = changes.pop("foreground", None)
    k, j, i = (x / n for x, n in zip(np.indices(geometry.shape), geometry.shape, strict=True))
    image = (100 * np.exp(-8 * ((k - 0.5) ** 2 + (j - 0.5) ** 2 + (i - 0.4) ** 2))).astype(np.float32)
    fixed = Volume(image, geometry, name)
    jacobian = np.where(folded, -0.5, 1 + 0.2 * np.sin(6 * i)).astype(np.float32)
    page = report_page(
        result=_result(**changes),
        fixed=fixed,
        moving=Volume(image[::2], geometry.resized((1.5, 1.5, 4.0)), f"moving {name}"),
        before=fixed.with_array(image[::-1]),
        after=fixed.with_array(100 - image),
        displacement=np.stack([5 * np.sin(6 * j), 2 * k, i]).astype(np.float32),
        jacobian=jacobian,
        folded=folded,
        foreground=image > 30 if foreground is None else foreground,
    )
    path.write_text(page, encoding="utf-8", errors="replace")
    return Page(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module", autouse=True)
def _small_pictures() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pictures, "PIXELS_ACROSS", 450)
        yield


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Page:
    return _write(tmp_path_factory.mktemp("report") / "report.html")


def test_all_sections_are_there(page: Page) -> None:
    for section in SECTIONS:
        assert section in page.text
    assert NOTICE in page.text
    assert PATENT in page.text
    assert "T1.nii.gz" in page.text
    assert "brain-mr" in page.text
    assert "2026-11-22 12:00:00 UTC" in page.text


def test_every_picture_is_an_embedded_jpeg_with_a_text(page: Page) -> None:
    pictures = page.all("img")
    assert len(pictures) == 3 * (3 + 2 + 2 + 2 + 1 + 1)
    assert all(len(p["alt"] or "") > 20 for p in pictures)
    assert {p["alt"].split(" · ")[0].split(", ")[-1] for p in pictures} == {"Axial", "Coronal", "Sagittal"}
    for picture in pictures:
        header, data = (picture["src"] or "").split(",", 1)
        assert header == "data:image/jpeg;base64"
        assert base64.b64decode(data, validate=True).startswith(b"\xff\xd8")


def test_nothing_of_one_picture_is_left_in_the_next() -> None:
    geometry = Geometry((24, 28, 20), (1.5, 1.5, 2.0), (0.0, 0.0, 0.0), tuple(np.eye(3).ravel()))
    hanging = Hanging.of(geometry)
    first, again = pictures.Painter(hanging), pictures.Painter(hanging)
    image = np.linspace(0, 1, 24 * 28).reshape(28, 24)
    body, folded = image > 0.3, image > 0.9
    axial = PLANES[0]
    again.displacement(axial, image, np.stack([10 * image] * 3), body, 5.0)
    again.jacobian(axial, image, image, folded, body, 1.0)
    again.outlines(axial, image, image, 0.5)
    assert again.overlay(axial, image, image[::-1]) == first.overlay(axial, image, image[::-1])
    assert again.grey(axial, 0.5 * image) == first.grey(axial, 0.5 * image)


def test_pictures_have_the_proportions_of_the_body(tmp_path: Path) -> None:
    from PIL import Image

    geometry = Geometry((20, 20, 6), (1.0, 1.0, 8.0), (0, 0, 0), tuple(np.eye(3).ravel()))
    thick = _write(tmp_path / "thick.html", geometry=geometry)
    sizes = []
    for picture in thick.all("img")[:3]:
        data = base64.b64decode((picture["src"] or "").split(",", 1)[1])
        sizes.append(Image.open(BytesIO(data)).size)
    (aw, ah), (cw, ch), _ = sizes
    assert aw / ah == pytest.approx(20 / 20, rel=0.02)
    assert cw / ch == pytest.approx(20 / 48, rel=0.02)


def test_the_page_is_sealed(page: Page) -> None:
    policies = [m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy"]
    assert policies == [CSP] == ["default-src 'none'; img-src data:; style-src 'unsafe-inline'"]
    assert not {"script", "link", "iframe", "object", "embed", "a", "form", "base"} & {
        tag for tag, _ in page.tags
    }
    for _, attributes in page.tags:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("href", "srcset", "action")
        ]
    assert not re.search(
        r"url\(|@import|https?:|file:", re.sub(r"data:image/jpeg;base64,[\w+/=]+", "", page.html)
    )


def test_hostile_texts_stay_texts(tmp_path: Path) -> None:
    hostile = _write(
        tmp_path / "hostile.html",
        name=HOSTILE,
        verdict={"level": HOSTILE, "reasons": [HOSTILE]},
        warnings=[HOSTILE],
        timings={HOSTILE: 1.0},
        metrics={HOSTILE: HOSTILE, "folds": HOSTILE, "tre_before_mm": {"each": [1.0]},
                 "tre_after_mm": {"each": [1.0]}, "landmark_labels": [HOSTILE]},
        provenance={HOSTILE: {HOSTILE: [HOSTILE]}, "date": HOSTILE, "device": HOSTILE, "masr_version": HOSTILE,
                    "preset": {"name": HOSTILE, "description": HOSTILE}},
    )  # fmt: skip
    assert "script" not in {tag for tag, _ in hostile.tags}
    assert len(hostile.all("img")) == 33
    assert not [name for _, attributes in hostile.tags for name in attributes if name.startswith("on")]
    assert "<script>alert(1)</script>" in hostile.text


def test_missing_numbers_are_shown_as_missing(tmp_path: Path) -> None:
    bare = _write(
        tmp_path / "bare.html",
        metrics=dict.fromkeys(METRICS),
        timings={"total": None},
        peak_memory_mb=None,
        provenance={},
        verdict={},
    )
    for section in SECTIONS:
        assert section in bare.text
    assert "—" in bare.text
    assert "None" not in bare.text
    assert not re.search(r"\bnan\b", bare.text, re.IGNORECASE)


@pytest.mark.parametrize(
    ("level", "word"),
    [("plausible", "Plausible"), ("doubtful", "Doubtful"), ("failed", "Do not use this result")],
)
def test_the_verdict_is_told_in_words(tmp_path: Path, level: str, word: str) -> None:
    verdict = {"level": level, "reasons": ["First reason.", "Second reason."]}
    judged = _write(tmp_path / "v.html", verdict=verdict, warnings=["First reason.", "A warning."])
    assert word in judged.text
    assert judged.text.count("First reason.") == 1
    assert "Second reason." in judged.text
    assert "A warning." in judged.text


def test_an_unknown_verdict_is_never_plausible(tmp_path: Path) -> None:
    assert "Plausible" not in _write(tmp_path / "v.html", verdict={"level": "splendid", "reasons": []}).text


def test_folds_are_counted_and_marked(tmp_path: Path, page: Page) -> None:
    folded = np.zeros((20, 28, 24), bool)
    folded[4:6, 10:13, 7:9] = True
    marked = _write(tmp_path / "folds.html", folded=folded)
    assert "12 folded voxels" in marked.text
    assert "no folds" not in marked.text
    assert "no folds" in page.text

    def red_pixels(of: Page) -> int:
        from PIL import Image

        data = base64.b64decode((of.all("img")[-3]["src"] or "").split(",", 1)[1])
        pixels = np.asarray(Image.open(BytesIO(data)).convert("RGB")).astype(int)
        return int(((pixels[..., 0] > 200) & (pixels[..., 1] < 90) & (pixels[..., 2] < 90)).sum())

    assert red_pixels(marked) > 50
    assert red_pixels(page) == 0


def test_errors_are_told_where_they_are_known(tmp_path: Path, page: Page) -> None:
    known = {
        "true_error_before_mm": {"mean": 16.61, "median": 16.0, "p95": 24.0, "max": 28.0},
        "true_error_after_mm": {"mean": 0.42, "median": 0.3, "p95": 1.0, "max": 3.0},
        "landmark_labels": ["AC", "PC"],
        "tre_before_mm": {"mean": 10.0, "median": 10.0, "max": 11.0, "each": [9.0, 11.0]},
        "tre_after_mm": {"mean": 2.0, "median": 2.0, "max": 3.25, "each": [0.75, 3.25]},
    }
    told = _write(tmp_path / "known.html", metrics={**METRICS, **known})
    for text in ("16.61", "0.42", "AC", "PC", "0.75", "3.25"):
        assert text in told.text
    assert "True error" not in page.text
    assert "Landmark" not in page.text


def test_metrics_that_the_page_does_not_know_are_listed_too(tmp_path: Path) -> None:
    assert "dice_of_tomorrow" in _write(tmp_path / "new.html", metrics={"dice_of_tomorrow": 0.5}).text


def test_an_oblique_grid_is_named_so(tmp_path: Path, page: Page) -> None:
    cos, sin = np.cos(0.3), np.sin(0.3)
    direction = (1, 0, 0, 0, cos, -sin, 0, sin, cos)
    geometry = Geometry((24, 28, 20), (1.5, 1.5, 2.0), (0, 0, 0), direction)
    assert "17° oblique" in _write(tmp_path / "oblique.html", geometry=geometry).text
    assert "oblique" not in page.text


def test_an_empty_foreground_still_gives_a_page(tmp_path: Path) -> None:
    empty = _write(tmp_path / "empty.html", foreground=np.zeros((20, 28, 24), bool))
    assert len(empty.all("img")) == 33


def test_the_page_stays_small(page: Page) -> None:
    assert len(page.html) < 3e6


def test_without_matplotlib_there_is_a_clear_import_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match="needs matplotlib"):
        _write(tmp_path / "report.html")


def test_importing_the_report_imports_no_matplotlib() -> None:
    package = str(Path(report.__file__).parents[2])
    code = (
        f"import sys; sys.path.insert(0, {package!r}); import masr_registration.evaluation.report; "
        "sys.exit('matplotlib' in sys.modules or 'torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
