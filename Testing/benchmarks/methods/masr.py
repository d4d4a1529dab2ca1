"""MASR Registration: the engine in this process, its linear stage alone, and the whole command."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import masr_registration
import numpy as np
import SimpleITK as sitk
import torch
from masr_registration import presets
from masr_registration.solver.pipeline import register
from masr_registration.transforms.chain import TransformChain
from masr_registration.volume import Geometry, Volume, write_volume

from . import Outcome


class Masr:
    """`solver.pipeline.register` with the case's preset."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)
        sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(threads)
        self.preset: presets.Preset | None = None

    def describe(self) -> dict[str, Any]:
        return {
            "start": "image headers, own linear stage",
            "masr": masr_registration.__version__,
            "torch": torch.__version__,
            "preset": None if self.preset is None else asdict(self.preset),
        }

    def load_preset(self, name: str) -> presets.Preset:
        return presets.load(name)

    def prepare(self, fixed: Volume, moving: Volume, preset: str) -> None:
        self.preset = self.load_preset(preset)

    def register(self, fixed: Volume, moving: Volume, preset: str) -> Outcome:
        result = register(fixed, moving, self.load_preset(preset), device="cpu")
        return Outcome(
            _dense(result.transform, fixed.geometry),
            result.inverse.to_sitk,
            dict(result.timings),
            {**result.metrics, "warnings": result.warnings},
        )


class MasrMind(Masr):
    """With MIND-SSC alone, whatever the preset asks for."""

    def load_preset(self, name: str) -> presets.Preset:
        return replace(presets.load(name), representation="mind")


class MasrNetwork(Masr):
    """With the features of MASR-Net beside MIND-SSC, encoding included."""

    def load_preset(self, name: str) -> presets.Preset:
        return replace(presets.load(name), representation="masr")


class MasrAmortized(Masr):
    """By the registration network alone."""

    def load_preset(self, name: str) -> presets.Preset:
        return presets.load(name).with_method("amortized")


class MasrAmortizedRefine(Masr):
    """By the registration network, then a shortened continuous stage."""

    def load_preset(self, name: str) -> presets.Preset:
        return presets.load(name).with_method("amortized+refine")


class MasrLinear(Masr):
    """The linear stage without the deformable ones."""

    def load_preset(self, name: str) -> presets.Preset:
        preset = presets.load(name)
        return replace(
            preset,
            discrete=replace(preset.discrete, enabled=False),
            continuous=replace(preset.continuous, enabled=False),
        )

    def align(self, fixed: Volume, moving: Volume, preset: str) -> sitk.Transform:
        """The linear transform alone, fixed -> moving, LPS mm."""
        return register(fixed, moving, self.load_preset(preset), device="cpu").transform.to_sitk()


class MasrCommand:
    """`masr register` from files to files in a fresh process: start, reading, writing and report included."""

    def __init__(self, threads: int) -> None:
        self.threads = threads

    def describe(self) -> dict[str, Any]:
        return {
            "start": "image headers, own linear stage",
            "masr": masr_registration.__version__,
            "command": "masr register, files to files",
        }

    def prepare(self, fixed: Volume, moving: Volume, preset: str) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="masr-benchmark-"))
        for name, volume in (("fixed", fixed), ("moving", moving)):
            write_volume(volume, self.folder / f"{name}.nii.gz")

    def register(self, fixed: Volume, moving: Volume, preset: str) -> Outcome:
        output = self.folder / "result"
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        images = [str(self.folder / f"{name}.nii.gz") for name in ("fixed", "moving")]
        options = ["--output", str(output), "--preset", preset, "--threads", str(self.threads)]
        subprocess.run(
            [sys.executable, "-m", "masr_registration", "register", *images, *options, "--device", "cpu"],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        wall = time.perf_counter() - start
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        result = json.loads((output / "result.json").read_text(encoding="utf-8"))
        transform, inverse = (
            sitk.ReadTransform(str(output / f"{name}.h5")) for name in ("transform", "inverse")
        )
        return Outcome(
            _dense(TransformChain.from_sitk(transform), fixed.geometry),
            lambda: inverse,
            {**result["timings"], "start": wall - result["timings"]["total"]},
            result["metrics"],
            peak_mb=result["peak_memory_mb"],
            cpu_s=after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        )


def _dense(chain: TransformChain, geometry: Geometry) -> Callable[[], np.ndarray]:
    return lambda: chain.dense(geometry).cpu().numpy()
