"""What a scanner might make of an anatomy: random contrasts, textures and artefacts, one after another.

Everything takes a batch ``(N, D, H, W)``, draws each member's parameters by itself and uses only the given generator.
Sources: SynthSeg (Billot et al., 2023; Gaussian-mixture rendering), MASR-Net (Mok et al., CVPR 2024; Bezier intensity
maps and inversion), anatomix (Dey et al., ICLR 2025; artefacts).
"""

from __future__ import annotations

import math

import torch
from torch import Generator, Tensor
from torch.nn import functional

from .shapes import chance, integer, smooth_noise, uniform

CLASSES = 256
PARTS = 4
"""Every label may fall into parts that differ a little in both views, each in its own way."""

_FLUID, _GREY, _WHITE = (4, 5, 14, 15, 24, 30), (3, 8, 17, 18, 26), (2, 7, 28, 16, 85)
_THALAMUS, _CAUDATE, _PUTAMEN, _PALLIDUM = 10, 11, 12, 13
_BRAIN_CONTRASTS: tuple[dict[int | tuple[int, ...], float], ...] = (
    {
        _FLUID: 0.15,
        _GREY: 0.50,
        _WHITE: 0.80,
        _THALAMUS: 0.65,
        _CAUDATE: 0.53,
        _PUTAMEN: 0.57,
        _PALLIDUM: 0.70,
    },
    {
        _FLUID: 1.00,
        _GREY: 0.58,
        _WHITE: 0.36,
        _THALAMUS: 0.47,
        _CAUDATE: 0.54,
        _PUTAMEN: 0.47,
        _PALLIDUM: 0.30,
    },
    {
        _FLUID: 0.10,
        _GREY: 0.66,
        _WHITE: 0.50,
        _THALAMUS: 0.57,
        _CAUDATE: 0.63,
        _PUTAMEN: 0.59,
        _PALLIDUM: 0.47,
    },
    {
        _FLUID: 0.55,
        _GREY: 0.75,
        _WHITE: 0.60,
        _THALAMUS: 0.67,
        _CAUDATE: 0.73,
        _PUTAMEN: 0.70,
        _PALLIDUM: 0.58,
    },
    {
        _FLUID: 0.30,
        _GREY: 0.46,
        _WHITE: 0.38,
        _THALAMUS: 0.43,
        _CAUDATE: 0.47,
        _PUTAMEN: 0.46,
        _PALLIDUM: 0.42,
    },
)
"""Relative intensities of brain tissues (numbers of FreeSurfer) as T1, T2, FLAIR, proton density and CT show them."""


def render(
    labels: Tensor, structure: Tensor, generator: Generator, *, brain: bool, merging: bool = True
) -> Tensor:
    """Images ``(N, D, H, W)`` of `labels` ``(N, D, H, W)`` long, 0 = background, each with a contrast of its own.

    `structure` ``(N, D, H, W)`` is smooth noise of the anatomy itself; its level sets part the labels. With `merging`,
    some images show many labels in nearly the same few intensities.
    """
    images = []
    for label, noise in zip(labels, structure, strict=True):
        means, deviations = _mixture(generator, brain=brain, merging=merging)
        parts = torch.bucketize(noise, torch.tensor([-0.8, 0.0, 0.8]))
        index = label * PARTS + parts
        image = means[index]
        grain = torch.randn(label.shape, generator=generator)
        if chance(generator, 0.5):
            grain += 1.5 * smooth_noise(generator, 1, label.shape, uniform(generator, 2, 8))[0]
        images.append(image + deviations[index] * grain)
    return torch.stack(images)


def _mixture(generator: Generator, *, brain: bool, merging: bool) -> tuple[Tensor, Tensor]:
    """Mean and deviation of every part of every label: two ``(CLASSES * PARTS,)``."""
    means = torch.rand(CLASSES, generator=generator)
    if brain and chance(generator, 0.5):
        contrast = _BRAIN_CONTRASTS[integer(generator, 0, len(_BRAIN_CONTRASTS) - 1)]
        jitter = uniform(generator, 0.02, 0.10)
        for tissue, mean in contrast.items():
            numbers = [tissue] if isinstance(tissue, int) else list(tissue)
            shared = jitter * torch.randn((), generator=generator)
            means[numbers] = mean + shared + 0.3 * jitter * torch.randn(len(numbers), generator=generator)
    elif merging and chance(generator, 0.5):
        groups = integer(generator, 2, 10)
        means = means[torch.randint(0, groups, (CLASSES,), generator=generator)]
        means += 0.02 * torch.randn(CLASSES, generator=generator)
    spread = uniform(generator, 0.0, 0.12) if chance(generator, 0.7) else 0.0
    means = (means[:, None] + spread * torch.randn(CLASSES, PARTS, generator=generator)).flatten()
    deviations = uniform(generator, 0.005, 0.08) * torch.rand(CLASSES * PARTS, generator=generator)
    if chance(generator, 0.75):
        means[:PARTS] = 0.0
        deviations[:PARTS] = uniform(generator, 0.0, 0.02) if chance(generator, 0.3) else 0.0
    return means, deviations


def degrade(images: Tensor, generator: Generator) -> Tensor:
    """Blurred, in thick slices, with bias, ringing, noise, another intensity map: ``(N, D, H, W)`` in [0, 1]."""
    result = []
    for image in images:
        image = blur(image, [uniform(generator, 0.2, 1.1)] * 3)
        if chance(generator, 0.3):
            image = _thick_slices(image, generator)
        if chance(generator, 0.15):
            image = _gibbs(image, uniform(generator, 0.55, 0.9))
        if chance(generator, 0.7):
            strength = uniform(generator, 0.0, 0.3)
            bias = smooth_noise(generator, 1, image.shape, uniform(generator, 25, 80))[0]
            image = image * torch.exp(strength * bias)
        if chance(generator, 0.8):
            image = image + uniform(generator, 0.0, 0.05) * torch.randn(image.shape, generator=generator)
        image = unit_range(image)
        if chance(generator, 0.5):
            image = image ** math.exp(uniform(generator, -0.5, 0.5))
        if chance(generator, 0.4):
            image = intensity_transform(image, generator)
        result.append(image)
    return torch.stack(result)


def intensity_transform(image: Tensor, generator: Generator, *, monotone: bool = False) -> Tensor:
    """The stochastic non-linear intensity transform of MASR-Net: a cubic Bezier curve, inverted half of the time.

    Four random control points in the unit square, abscissae sorted so that the curve is a function; `monotone` sorts
    the ordinates too. `image` in [0, 1], and so is the result.
    """
    points = torch.rand(2, 4, generator=generator)
    x, y = points.sort(dim=1).values if monotone else torch.stack((points[0].sort().values, points[1]))
    x[0], x[3] = 0.0, 1.0
    if chance(generator, 0.5):
        y = 1 - y
    t = torch.linspace(0, 1, 256)
    weights = torch.stack([(1 - t) ** 3, 3 * t * (1 - t) ** 2, 3 * t**2 * (1 - t), t**3])
    curve_x, curve_y = x @ weights, y @ weights
    table = _interpolated(torch.linspace(0, 1, 1024), curve_x, curve_y)
    span = table.amax() - table.amin()
    table = (table - table.amin()) / span.clamp_min(1e-3)
    return table.to(image.device)[(image * 1023).round().long().clamp(0, 1023)]


def _interpolated(x: Tensor, known_x: Tensor, known_y: Tensor) -> Tensor:
    upper = torch.searchsorted(known_x.contiguous(), x).clamp(1, known_x.numel() - 1)
    x0, x1, y0, y1 = known_x[upper - 1], known_x[upper], known_y[upper - 1], known_y[upper]
    return y0 + (y1 - y0) * ((x - x0) / (x1 - x0).clamp_min(1e-9)).clamp(0, 1)


def unit_range(image: Tensor, low: float = 0.005, high: float = 0.995) -> Tensor:
    """Clipped at two quantiles of what is not zero (of everything where little is left), and brought to [0, 1]."""
    values = image[::2, ::2, ::2].flatten()
    object_values = values[values.abs() > 0.02]
    values = object_values if object_values.numel() > 100 else values
    values = values.sort().values
    bottom, top = (values[int(q * (values.numel() - 1))] for q in (low, high))
    return ((image - bottom) / (top - bottom).clamp_min(1e-6)).clamp(0, 1)


def blur(image: Tensor, sigmas: list[float]) -> Tensor:
    """``(D, H, W)`` under a Gaussian of the given deviations in voxels, edges repeated."""
    for axis, sigma in enumerate(sigmas):
        radius = max(1, math.ceil(2.5 * sigma))
        offsets = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
        weights = torch.exp(-0.5 * (offsets / sigma).square())
        weights = weights / weights.sum()
        rows = image.movedim(axis, -1)
        padded = functional.pad(rows[None], (radius, radius, 0, 0), mode="replicate")[0]
        rows = sum(w * padded.narrow(-1, i, rows.shape[-1]) for i, w in enumerate(weights))
        image = rows.movedim(-1, axis)
    return image


def _thick_slices(image: Tensor, generator: Generator) -> Tensor:
    """Averaged into slices of 2 to 6 voxels along one axis, and linearly interpolated back."""
    axis, factor = integer(generator, 0, 2), uniform(generator, 2, 6)
    rows = image.movedim(axis, -1)
    n = rows.shape[-1]
    slices = functional.adaptive_avg_pool1d(rows.flatten(0, 1)[:, None], max(4, round(n / factor)))
    back = functional.interpolate(slices, size=n, mode="linear", align_corners=False)
    return back.reshape(rows.shape).movedim(-1, axis)


def _gibbs(image: Tensor, kept: float) -> Tensor:
    """Without spatial frequencies beyond the fraction `kept` of the Nyquist frequency."""
    spectrum = torch.fft.rfftn(image)
    for axis in range(3):
        n = image.shape[axis]
        frequency = torch.fft.rfftfreq(n) if axis == 2 else torch.fft.fftfreq(n)
        shape = [1, 1, 1]
        shape[axis] = -1
        spectrum = spectrum * (frequency.abs() <= 0.5 * kept).reshape(shape)
    return torch.fft.irfftn(spectrum, s=image.shape)
