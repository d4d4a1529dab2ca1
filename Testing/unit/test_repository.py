"""The rules of the repository: who may import what, which files ship, and that what ships works alone."""

import ast
import json
import os
import re
import struct
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from masr_registration import cli, demo, presets

ROOT = Path(__file__).resolve().parents[2]
MODULE = ROOT / "MASRRegistration"
CORE = MODULE / "masr_registration"
SLICER_SIDE = [MODULE / "MASRRegistration.py", MODULE / "MASRRegistrationLib"]

APPLICATION = {"slicer", "vtk", "qt", "ctk", "PythonQt", "mrml", "vtkmodules", "MASRRegistrationLib"}
CORE_PACKAGES = {
    "numpy", "SimpleITK", "torch", "safetensors", "typer", "rich", "matplotlib", "contourpy", "numba",
    "dask", "distributed", "dask_jobqueue", "pydicom", "scipy",
}  # fmt: skip
SLICER_PACKAGES = {
    "slicer",
    "vtk",
    "qt",
    "ctk",
    "numpy",
    "SimpleITK",
    "masr_registration",
    "MASRRegistrationLib",
}
LOADED_BY_SLICER = (
    "masr_registration",
    "masr_registration.batch.discover",
    "masr_registration.batch.manifest",
    "masr_registration.batch.study",
    "masr_registration.case.files",
    "masr_registration.case.monitor",
    "masr_registration.dicom_registration",
    "masr_registration.errors",
    "masr_registration.matching.suggest",
    "masr_registration.presets",
    "masr_registration.solver.cost",
    "masr_registration.worker.messages",
    "masr_registration.worker.client",
)
LARGEST_FILE = 4_000_000


def _files() -> list[Path]:
    """Every file that is or would be committed, relative to the repository."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return sorted(Path(name) for name in set(output.split("\0")) if name and (ROOT / name).is_file())


FILES = _files()


def _texts() -> Iterator[tuple[Path, str]]:
    for file in FILES:
        try:
            yield file, (ROOT / file).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue


def _imports(source: str, *, file_scope: bool = False) -> set[str]:
    """Top-level packages that a source imports by absolute name, anywhere or when the file itself is imported."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
        for child in ast.iter_child_nodes(node):
            if not (file_scope and isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))):
                visit(child)

    visit(ast.parse(source))
    return found - set(sys.stdlib_module_names)


def _sources(*places: Path) -> list[Path]:
    return [
        ROOT / f for f in FILES if f.suffix == ".py" and any((ROOT / f).is_relative_to(p) for p in places)
    ]


def _cmake_set(text: str, name: str) -> list[str]:
    """The values of ``set(name ...)``, quoted or not."""
    match = re.search(rf"set\({name}\s+(.*?)\)\s*$", text, re.DOTALL | re.MULTILINE)
    assert match, f"CMake sets no {name}"
    return [quoted or plain for quoted, plain in re.findall(r'"([^"]*)"|([^\s"]+)', match.group(1))]


# Imports


@pytest.mark.parametrize("source", _sources(CORE), ids=lambda p: str(p.relative_to(CORE)))
def test_the_core_imports_only_what_it_declares(source: Path) -> None:
    imported = _imports(source.read_text(encoding="utf-8"))
    assert not imported & APPLICATION
    assert imported <= CORE_PACKAGES


def test_the_slicer_side_keeps_its_rules() -> None:
    for source in _sources(*SLICER_SIDE):
        text = source.read_text(encoding="utf-8")
        assert "torch" not in _imports(text), f"{source.name} imports torch into Slicer"
        assert _imports(text, file_scope=True) <= SLICER_PACKAGES, source.name
        if "mrml" in source.parts:
            assert not _imports(text) & {"qt", "ctk", "PythonQt"}, f"{source.name}: mrml knows no qt"


def test_no_import_is_overlooked() -> None:
    code = (
        "import a.b\nfrom c import d\nfrom . import e\ndef f():\n import g\nclass H:\n import i\nimport os\n"
    )
    assert _imports(code) == {"a", "c", "g", "i"}
    assert _imports(code, file_scope=True) == {"a", "c", "i"}


@pytest.mark.parametrize("module", LOADED_BY_SLICER)
def test_what_slicer_loads_needs_no_torch_and_nothing_foreign(module: str) -> None:
    code = f"""
import sys
class Forbidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "matplotlib", "typer", "rich", "safetensors", "numba"):
            raise ImportError("forbidden in Slicer: " + name)
sys.meta_path.insert(0, Forbidden())
sys.path.insert(0, {str(MODULE)!r})
before = set(sys.modules)
import {module}
new = {{name.partition(".")[0] for name in set(sys.modules) - before}}
print(*sorted(new - set(sys.stdlib_module_names)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()) <= {"masr_registration", "numpy", "SimpleITK"}


# Metadata


def test_cmake_lists_every_file_of_the_module_and_no_other() -> None:
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    name = _cmake_set(text, "MODULE_NAME")[0]
    assert name == "MASRRegistration"
    there = {
        str(f.relative_to("MASRRegistration").as_posix()) for f in FILES if f.parts[0] == "MASRRegistration"
    }
    there.remove("CMakeLists.txt")
    for variable, python in (("MODULE_PYTHON_SCRIPTS", True), ("MODULE_PYTHON_RESOURCES", False)):
        listed = [entry.replace("${MODULE_NAME}", name) for entry in _cmake_set(text, variable)]
        expected = {f for f in there if f.endswith(".py") == python}
        assert sorted(expected - set(listed)) == [], f"missing in {variable}"
        assert sorted(set(listed) - expected) == [], f"listed in {variable}, but not there"
        assert listed == sorted(listed), f"{variable} is not sorted"


def test_cmake_s4ext_and_json_agree() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    catalogue = json.loads((ROOT / "MASRExtension.json").read_text(encoding="utf-8"))
    lines = (ROOT / "MASRExtension.s4ext").read_text(encoding="utf-8").splitlines()
    s4ext = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))

    def cmake_value(name: str) -> str:
        return " ".join(_cmake_set(cmake, f"EXTENSION_{name}"))

    assert "project(MASRExtension)" in cmake
    for name in ("HOMEPAGE", "CONTRIBUTORS", "DESCRIPTION", "ICONURL", "SCREENSHOTURLS", "DEPENDS"):
        assert s4ext[name.lower()] == cmake_value(name), name
    assert catalogue["build_dependencies"] == cmake_value("DEPENDS").split() == ["PyTorch"]
    assert catalogue["scm_url"] == s4ext["scmurl"]
    assert catalogue["scm_revision"] == s4ext["scmrevision"]
    assert catalogue["category"] == s4ext["category"] == "Registration"
    assert str(catalogue["tier"]) == s4ext["tier"]
    assert catalogue["scm_url"].removesuffix(".git") in cmake_value("HOMEPAGE")
    allowed = {
        "$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies", "build_subdirectory",
        "enabled", "tier", "dicom_support_rule",
    }  # fmt: skip
    assert set(catalogue) <= allowed
    assert {"$schema", "category", "scm_url"} <= set(catalogue)
    assert isinstance(catalogue["tier"], int)
    assert 1 <= catalogue["tier"] <= 5
    assert all(isinstance(catalogue[name], str) for name in set(catalogue) - {"tier", "build_dependencies"})
    assert catalogue["$schema"].endswith("slicer-extension-catalog-entry-schema-v1.0.2.json#")


def test_pictures_of_the_metadata_exist() -> None:
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    for name in ("ICONURL", "SCREENSHOTURLS"):
        for url in _cmake_set(cmake, f"EXTENSION_{name}"):
            assert Path("Resources", url.split("/Resources/")[1]) in FILES
    for icon in (
        ROOT / "Resources" / "MASRExtension.png",
        MODULE / "Resources" / "Icons" / "MASRRegistration.png",
    ):
        assert struct.unpack(">II", icon.read_bytes()[16:24]) == (128, 128)


def test_pictures_of_the_readme_exist() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    links = re.findall(r"\]\(([^)#:]+)\)", text) + re.findall(r'src="([^":]+)"', text)
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_what_reviewers_of_the_extensions_index_ask_for_is_there() -> None:
    """`slicer-ecosystem.md` 1.1: a picture, each tab in a sentence, citation, tutorial with the source of its data,
    patents, privacy, no installation of torch by pip."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for words in (
        "![",
        "**Register**",
        "**Check**",
        "**Landmarks**",
        "## How to cite",
        "](Docs/tutorial.md)",
        "Nothing leaves the computer",
        "patent application",
    ):
        assert words in text, words
    assert "sample/README.md" in (ROOT / "Docs" / "tutorial.md").read_text(encoding="utf-8")
    for source in _sources(*SLICER_SIDE):
        assert not re.search(r"pip_install\([^)]*torch", source.read_text(encoding="utf-8")), source.name
    module = (MODULE / "MASRRegistration.py").read_text(encoding="utf-8")
    cmake = (ROOT / "CMakeLists.txt").read_text(encoding="utf-8")
    place = re.search(r'DOCUMENTATION = "(.+)/blob/main/Docs"', module)
    assert place is not None
    assert place.group(1) in _cmake_set(cmake, "EXTENSION_HOMEPAGE")[0]
    for page in re.findall(r"{DOCUMENTATION}/([a-z]+\.md)", module):
        assert Path("Docs", page) in FILES


def test_pictures_of_slicer_are_of_slicer() -> None:
    """The README has a place for each picture that the script takes, and shows it as soon as it is there."""
    script = (ROOT / "Testing" / "application" / "take_screenshots.py").read_text(encoding="utf-8")
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    pictures = re.findall(r'^    "(slicer-[a-z]+\.png)": "(.+)",$', script, re.MULTILINE)
    assert len(pictures) >= 4
    for name, shows in pictures:
        taken = Path("Resources", "Screenshots", name) in FILES
        assert (f"](Resources/Screenshots/{name})" in text) == taken
        assert (f"| `{name}` | {shows} |" in text) != taken


def test_links_between_documents_lead_somewhere() -> None:
    for document in (f for f in FILES if f.parts[0] == "Docs" and f.suffix == ".md"):
        text = (ROOT / document).read_text(encoding="utf-8")
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", text):
            assert (ROOT / "Docs" / link).exists(), f"{document}: {link}"


def test_the_readme_knows_presets_and_options() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in presets.names():
        assert f"| `{name}` | {presets.load(name).description} |" in text
    command = typer.main.get_command(cli.app)
    options = {opt for sub in command.commands.values() for parameter in sub.params for opt in parameter.opts}
    assert set(re.findall(r"--[a-z][a-z-]+", text)) <= options


def test_every_dependency_is_pinned_for_the_tests() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = project["dependencies"] + project["optional-dependencies"]["test"]
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()

    def package(requirement: str) -> str:
        return re.split(r"[<>=]", requirement)[0].lower().replace("_", "-")

    assert {package(entry) for entry in wanted} <= {package(line) for line in lines if "==" in line}


def test_continuous_integration_runs_make_test() -> None:
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert "make test" in script.read_text(encoding="utf-8")


# Contents


def test_no_file_is_large() -> None:
    assert [str(f) for f in FILES if (ROOT / f).stat().st_size > LARGEST_FILE] == []


def test_no_text_names_a_package_registry_or_a_place_on_one_computer() -> None:
    registries = ["py" + "pi.org", "python" + "hosted.org", "download." + "pytorch.org", "ana" + "conda.org"]
    places = [r"/ho" + r"me/\w", r"/ro" + r"ot/", r"/wo" + r"rk/", r"/Us" + r"ers/\w", r"[A-Z]:\\+Us" + "ers"]
    pattern = re.compile(
        "|".join([*map(re.escape, registries), *(rf"(?<![\w.]){place}" for place in places)])
    )
    found = [f"{file}: {match.group()}" for file, text in _texts() for match in pattern.finditer(text)]
    assert found == []


# What ships works alone


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, output = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    _copy({file: file for file in FILES}, source)
    _pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(output), str(source))
    (built,) = output.glob("*.whl")
    return built


def _copy(files: dict[Path, Path], target: Path) -> None:
    """Copy files of the repository to places relative to `target`."""
    for source, place in files.items():
        (target / place).parent.mkdir(parents=True, exist_ok=True)
        (target / place).write_bytes((ROOT / source).read_bytes())


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.slow
def test_the_wheel_holds_the_whole_package(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    package = {f.relative_to("MASRRegistration").as_posix() for f in FILES if (ROOT / f).is_relative_to(CORE)}
    assert package - names == set()
    assert {name for name in names if ".dist-info/" not in name} - package == set()
    assert any(name.endswith("/LICENSE") for name in names)


@pytest.mark.slow
def test_the_demo_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    target = tmp_path / "installed"
    _pip("install", "--no-deps", "--target", str(target), str(wheel))
    _run_demo(target, tmp_path)


@pytest.mark.slow
def test_the_demo_runs_from_the_files_that_cmake_lists(tmp_path: Path) -> None:
    text = (MODULE / "CMakeLists.txt").read_text(encoding="utf-8")
    listed = _cmake_set(text, "MODULE_PYTHON_SCRIPTS") + _cmake_set(text, "MODULE_PYTHON_RESOURCES")
    entries = [entry.replace("${MODULE_NAME}", "MASRRegistration") for entry in listed]
    target = tmp_path / "module"
    _copy({Path("MASRRegistration", entry): Path(entry) for entry in entries}, target)
    _run_demo(target, tmp_path)


def _run_demo(package_folder: Path, tmp_path: Path) -> None:
    """Run the demo with the package in `package_folder`, in an empty folder; nothing of the checkout can be opened."""
    (package_folder / "sitecustomize.py").write_text(
        f"""
import sys

def hide(event, arguments):
    if event in ("open", "os.listdir", "os.scandir") and str(arguments[0]).startswith({str(MODULE)!r}):
        raise FileNotFoundError(arguments[0])

sys.addaudithook(hide)
""",
        encoding="utf-8",
    )
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(package_folder), "PYTHONDONTWRITEBYTECODE": "1"}
    origin = [sys.executable, "-c", "import masr_registration as m; print(m.__file__)"]
    where = subprocess.run(
        origin, cwd=empty, env=environment, capture_output=True, text=True, check=True
    ).stdout
    assert Path(where.strip()).is_relative_to(package_folder)
    command = [sys.executable, "-m", "masr_registration", "demo", "--output", "results"]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((empty / "results" / "result.json").read_text(encoding="utf-8"))
    assert demo.check(result) == []
    assert (empty / "results" / "report.html").stat().st_size > 100_000
