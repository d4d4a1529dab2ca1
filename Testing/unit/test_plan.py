"""The plan before a run: what fits is chosen, recorded, replayed to the same bits, and left when memory runs out."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from masr_registration import presets
from masr_registration.errors import InputError, ResourceError
from masr_registration.representation.descriptor import Scan
from masr_registration.solver import convex, plan
from masr_registration.solver.instance import border_mm
from masr_registration.solver.pipeline import make_plan, register
from masr_registration.solver.plan import Plan
from masr_registration.transforms import affine
from masr_registration.volume import Volume
from phantoms import Head, geometry
from worker_tools import environment

GENERAL = presets.load("general")
QUICK = replace(
    GENERAL,
    working_spacing_mm=4.0,
    linear=replace(GENERAL.linear, model="none"),
    discrete=replace(GENERAL.discrete, reach_mm=16.0),
    continuous=replace(GENERAL.continuous, control_spacing_mm=12.0, iterations=(2, 2)),
)
GRID = geometry((24, 26, 22), (3.0, 3.0, 3.0))
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


def pair() -> tuple[Volume, Volume]:
    head = Head(radii=(24.0, 27.0, 23.0))
    return head.volume(GRID, "t1"), head.volume(GRID, "t2", lambda points: points + 2.0)


def plans() -> list[Plan]:
    fixed, _ = pair()
    scan = Scan.of(fixed, "mr", QUICK.normalisation)
    return plan.ladder(scan, [GRID, GRID], QUICK, torch.device("cpu"), 1)


def test_the_ladder_gets_coarser_and_smaller() -> None:
    steps = plans()
    assert len(steps) >= 3
    assert [p.coarsened for p in steps] == sorted(p.coarsened for p in steps)
    assert steps[0].coarsened == 1
    memory = [p.peak_mb for p in steps]
    assert memory == sorted(memory, reverse=True)
    assert memory[-1] < memory[0]


def scan(radii: tuple[float, float, float], move: float = 0.0, mask: Volume | None = None) -> Scan:
    head = Head(radii=radii)
    return Scan.of(
        head.volume(GRID, "t1", lambda points: points - [move, 0, 0]), "mr", QUICK.normalisation, mask
    )


def test_there_is_room_for_a_body_that_reaches_farther() -> None:
    small, large = scan((20.0, 24.0, 18.0)), scan((26.0, 24.0, 18.0), move=8.0)
    room = plan.room(small, large, np.eye(4))
    np.testing.assert_allclose(room, [[0, 14], [0, 0], [0, 0]], atol=3.1)
    assert room[0, 1] > room[0, 0]
    assert plan.room(large, small, np.eye(4)).max() < 3.1
    back = affine.about(np.zeros(3), np.eye(3), np.array([8.0, 0, 0]))
    np.testing.assert_allclose(plan.room(small, large, back)[0], [6, 6], atol=3.1)
    grids = [plan.working_grid(small, 3.0, QUICK, r) for r in (0.0, room)]
    points = affine.apply(large.geometry.index_to_physical, large.region.nonzero().flip(1).double().numpy())
    margins = []
    for grid in grids:
        index = affine.apply(grid.physical_to_index, points)
        margins.append(min(index.min(), (np.array(grid.size) - 1 - index).min()) * 3.0)
    needed = border_mm(3.0, QUICK.continuous.control_spacing_mm)
    assert margins[0] < needed - 3.0
    assert margins[1] > needed - 3.0


def test_the_room_is_limited_and_none_beyond_a_cut_or_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    small, large = scan((20.0, 24.0, 18.0)), scan((26.0, 24.0, 18.0), move=4.0)
    monkeypatch.setattr(plan, "ROOM_MM", 3.0)
    assert plan.room(small, large, np.eye(4)).max() == 3.0
    cut = scan((60.0, 24.0, 18.0))
    assert not plan.room(cut, scan((20.0, 30.0, 18.0)), np.eye(4))[0].any()
    assert plan.room(cut, scan((20.0, 30.0, 18.0)), np.eye(4))[1].any()

    def mask(*inside: slice, outside: float = 0.0) -> Volume:
        values = np.full(GRID.shape, outside, np.float32)
        values[inside] = 1
        return Volume(values, GRID)

    def with_mask(where: Volume) -> Scan:
        return scan((20.0, 24.0, 18.0), mask=where)

    assert plan.room(with_mask(mask()), large, np.eye(4)).any()
    hole = mask()
    hole.array[10:12, 10:12, 10:12] = 0
    assert plan.room(with_mask(hole), large, np.eye(4)).any()
    narrow = mask(slice(8, 14), slice(8, 18), slice(8, 16))
    assert not plan.room(with_mask(narrow), large, np.eye(4)).any()
    soft = mask(slice(8, 14), slice(8, 18), slice(8, 16), outside=0.01)
    assert not plan.room(with_mask(soft), large, np.eye(4)).any()
    both = scan((26.0, 24.0, 18.0), 8.0, mask(slice(4, 18), slice(4, 22), slice(4, 24)))
    assert plan.room(with_mask(narrow), both, np.eye(4)).any()


def test_without_the_memory_for_it_there_is_no_room_but_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    search, seen = convex.search, []

    def watched(*arguments: Any) -> Any:
        seen.append(arguments[0][0].numel())
        return search(*arguments)

    made, _ = make_plan(*pair(), QUICK, device="cpu")
    monkeypatch.setattr(convex, "search", watched)
    monkeypatch.setattr(plan, "room", lambda *_: np.full((3, 2), 60.0))
    told = "holds the moving body too"
    assert not any(told in warning for warning in register(*pair(), QUICK, device="cpu").warnings)
    monkeypatch.setattr(plan, "usable_host_mb", lambda: made.peak_mb)
    tight = register(*pair(), QUICK, device="cpu")
    assert tight.plan == replace(made, roomy=False)
    assert any(told in warning for warning in tight.warnings)
    for replayed in (made, tight.plan):
        assert register(*pair(), QUICK, device="cpu", replayed=replayed).plan == replayed
    assert seen[0] == seen[2] > seen[1] == seen[3]


def test_the_finest_plan_that_fits_is_chosen() -> None:
    finest = plans()[0]
    steps = [replace(finest, peak_mb=mb, coarsened=c) for mb, c in ((900.0, 1.0), (700.0, 1.6), (650.0, 2.5))]
    assert plan.choose(steps, 901) is steps[0]
    assert plan.choose(steps, 899) is steps[1]
    device = [replace(s, device_peak_mb=s.peak_mb) for s in steps]
    assert plan.choose(device, 1e6, 680) is device[2]
    with pytest.raises(ResourceError, match="even the coarsest plan needs about 650 MB"):
        plan.choose(steps, 649)


def test_a_plan_travels_as_json() -> None:
    made = plans()[0]
    assert Plan.from_json(json.loads(json.dumps(made.to_json()))) == made


@pytest.mark.parametrize(
    "change",
    [
        {"masr_plan": 2},
        {"more": 1},
        {"working_size": None},
        {"working_size": [1, 2]},
        {"working_spacing_mm": "fine"},
        {"working_spacing_mm": -1.0},
        {"threads": None},
        {"seconds": [1]},
        {"feature_bits": 3},
        {"roomy": "yes"},
    ],
)
def test_what_is_no_plan_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(InputError):
        Plan.from_json({**plans()[0].to_json(), **change})


def test_too_little_memory_coarsens_with_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = plans()
    monkeypatch.setattr(plan, "usable_host_mb", lambda: steps[-1].peak_mb)
    made, warnings = make_plan(*pair(), QUICK, device="cpu")
    assert made.coarsened > 1
    assert made.peak_mb <= steps[-1].peak_mb
    assert "The memory is not enough for a working grid of 3.20 mm" in warnings[0]
    monkeypatch.setattr(plan, "usable_host_mb", lambda: 1.0)
    with pytest.raises(ResourceError, match="even the coarsest"):
        register(*pair(), QUICK, device="cpu")


def failing(times: int) -> Callable[..., Any]:
    """`convex.search` that runs out of memory so many times, as torch does."""
    search, left = convex.search, [times]

    def run(*arguments: Any) -> Any:
        left[0] -= 1
        if left[0] >= 0:
            raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: 12 bytes")
        return search(*arguments)

    return run


def test_after_an_out_of_memory_error_the_next_plan_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(convex, "search", failing(1))
    result = register(*pair(), QUICK, device="cpu")
    assert result.plan.coarsened == plans()[1].coarsened
    assert any("The memory ran out" in warning for warning in result.warnings)
    assert result.metrics["folds_dense"] == 0
    monkeypatch.setattr(convex, "search", failing(100))
    with pytest.raises(ResourceError, match="no smaller plan"):
        register(*pair(), QUICK, device="cpu")


def test_another_error_is_not_taken_for_want_of_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*arguments: Any) -> Any:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(convex, "search", broken)
    with pytest.raises(RuntimeError, match="shapes"):
        register(*pair(), QUICK, device="cpu")


def test_a_replayed_plan_is_followed_to_the_same_bits_or_refused() -> None:
    fixed, moving = pair()
    coarse = plans()[1]
    first, second = (register(fixed, moving, QUICK, device="cpu", replayed=coarse) for _ in range(2))
    assert first.plan == second.plan == coarse
    assert torch.equal(first.transform.dense(GRID), second.transform.dense(GRID))
    with pytest.raises(InputError, match="other images"):
        register(fixed, moving, QUICK, device="cpu", replayed=replace(coarse, working_size=(8, 8, 8)))


def test_limits_of_control_groups_are_seen(tmp_path: Path) -> None:
    own = tmp_path / "cgroup"
    for version, line, names in (
        ("two", "0::/job/step", ("memory.max", "memory.current")),
        ("one", "4:cpu,memory:/job/step", ("memory.limit_in_bytes", "memory.usage_in_bytes")),
    ):
        own.write_text(f"7:cpuset:/elsewhere\n{line}\n")
        root = tmp_path / version
        outer = root / ("job" if version == "two" else "memory/job")
        (outer / "step").mkdir(parents=True)
        for folder, numbers in ((outer, ("900", "100")), (outer / "step", ("max", "50"))):
            for name, number in zip(names, numbers, strict=True):
                (folder / name).write_text(number)
        assert plan._cgroup_free(root, own) == [800.0]
    assert plan._cgroup_free(tmp_path, tmp_path / "missing") == []


CHILD = """
import hashlib, json, resource, sys
from dataclasses import replace
import torch
torch.set_num_threads(int(sys.argv[1]))
from masr_registration.solver import plan
from masr_registration.solver.pipeline import register
from masr_registration.case.provenance import peak_memory_mb
from phantoms import Head, geometry
from test_plan import GRID, QUICK, pair

def describe(result, grid):
    field = result.transform.dense(grid).numpy().tobytes()
    return {"bits": hashlib.sha256(field).hexdigest(), "plan": result.plan.to_json(), "warnings": result.warnings}
"""


def child(source: str, threads: int = 1, **variables: str) -> Any:
    """What a fresh process with these environment variables prints as JSON."""
    here = Path(__file__).parent
    paths = [environment()["PYTHONPATH"], str(here), str(here.parent)]
    surroundings = environment(PYTHONPATH=":".join(paths), OMP_NUM_THREADS=str(threads), **variables)
    done = subprocess.run(
        [sys.executable, "-c", CHILD + source, str(threads)], env=surroundings, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@linux
@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2])
def test_fresh_processes_give_the_same_bits(threads: int, tmp_path: Path) -> None:
    """With kernels that have just been compiled, and with the same kernels from the cache."""
    source = "print(json.dumps(describe(register(*pair(), QUICK, device='cpu'), GRID)))"
    first, second = (child(source, threads, NUMBA_CACHE_DIR=str(tmp_path)) for _ in range(2))
    assert first == second
    assert first["plan"]["threads"] == threads


LIMITED = """
register(*pair(), QUICK, device="cpu")
grid = geometry((64, 64, 64))
head = Head(radii=(30.0, 30.0, 30.0))
images = [head.volume(grid, shade) for shade in ("t1", "t2")]
done = []

def limit(stage, fraction, metrics):
    if stage == "discrete" and not done:
        size = plan._numbers("/proc/self/status")["VmSize"] * 1024
        resource.setrlimit(resource.RLIMIT_AS, (size + 50_000_000,) * 2)
        done.append(plan.usable_host_mb() - plan._numbers("/proc/self/status")["VmRSS"] * 1024 / 1e6)

preset = replace(QUICK, working_spacing_mm=1.0)
print(json.dumps({**describe(register(*images, preset, device="cpu", progress=limit), grid), "free": done[0]}))
"""


@linux
@pytest.mark.slow
def test_real_want_of_memory_ends_in_a_smaller_plan() -> None:
    result = child(LIMITED)
    assert 0 < result["free"] < 50
    assert result["plan"]["coarsened"] > 1
    assert any("The memory ran out" in warning for warning in result["warnings"])


@linux
@pytest.mark.slow
@pytest.mark.parametrize("side", [48, 96])
def test_the_predicted_peak_is_near_the_measured_one(side: int) -> None:
    """Stated bounds: the process takes 60 to 110 % of what was predicted."""
    found = child(f"""
grid = geometry(({side},) * 3)
head = Head(radii=({side / 2.1},) * 3)
preset = replace(QUICK, working_spacing_mm=1.0, continuous=replace(QUICK.continuous, control_spacing_mm=4.0))
result = register(head.volume(grid, "t1"), head.volume(grid, "t2"), preset, device="cpu")
print(json.dumps([result.plan.peak_mb, peak_memory_mb()]))
""")
    predicted, measured = found
    assert 0.6 * predicted < measured < 1.1 * predicted
