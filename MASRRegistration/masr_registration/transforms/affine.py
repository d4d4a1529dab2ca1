"""Affine maps of physical space: 4x4 float64 matrices in LPS mm, fixed -> moving."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

FitFunction = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def about(centre: np.ndarray, linear: np.ndarray, translation: np.ndarray | float = 0.0) -> np.ndarray:
    """``x -> linear (x - centre) + centre + translation`` as a 4x4 matrix."""
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = centre + translation - linear @ centre
    return matrix


def rotation(vector: np.ndarray) -> np.ndarray:
    """3x3 rotation about `vector` by its length in radians (Rodrigues)."""
    angle = float(np.linalg.norm(vector))
    if angle < 1e-12:
        return np.eye(3)
    x, y, z = vector / angle
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def nearest_rotation(linear: np.ndarray) -> np.ndarray:
    """The rotation closest to a 3x3 matrix in the Frobenius norm (never a reflection)."""
    left, _, right = np.linalg.svd(linear)
    return np.asarray(left @ np.diag([1.0, 1.0, np.sign(np.linalg.det(left @ right))]) @ right)


def rotation_degrees(matrix: np.ndarray) -> float:
    """Angle of the rotation contained in a 4x4 (or 3x3) matrix."""
    trace = np.trace(nearest_rotation(matrix[:3, :3]))
    return float(np.degrees(np.arccos(np.clip((trace - 1) / 2, -1.0, 1.0))))


def scales(matrix: np.ndarray) -> np.ndarray:
    """The three stretches (singular values, largest first) of a 4x4 (or 3x3) matrix."""
    return np.asarray(np.linalg.svd(matrix[:3, :3], compute_uv=False))


def apply(matrix: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Points ``(N, 3)`` through a 4x4 matrix."""
    return np.asarray(points @ matrix[:3, :3].T + matrix[:3, 3])


def fit_rigid(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The rigid map that takes `source` ``(N, 3)`` closest to `target` in weighted least squares.

    Source: Kabsch 1976; Umeyama, TPAMI 1991.
    """
    weights = weights[:, None] / weights.sum()
    source_centre, target_centre = (weights * source).sum(0), (weights * target).sum(0)
    covariance = (weights * (target - target_centre)).T @ (source - source_centre)
    linear = nearest_rotation(covariance)
    return about(source_centre, linear, target_centre - source_centre)


def fit_affine(source: np.ndarray, target: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The affine map that takes `source` ``(N, 3)`` closest to `target` in weighted least squares."""
    centre = (weights[:, None] * source).sum(0) / weights.sum()
    design = np.c_[source - centre, np.ones(len(source))]
    root = np.sqrt(weights)[:, None]
    solution = np.linalg.lstsq(design * root, target * root, rcond=None)[0]
    matrix = np.eye(4)
    matrix[:3, :3] = solution[:3].T
    matrix[:3, 3] = solution[3] - matrix[:3, :3] @ centre
    return matrix


def fit_trimmed(
    fit: FitFunction,
    source: np.ndarray,
    target: np.ndarray,
    weights: np.ndarray,
    *,
    keep: float = 0.5,
    rounds: int = 6,
) -> np.ndarray:
    """Least trimmed squares: refit `rounds` times on the `keep` fraction of pairs that fit best.

    Source: Rousseeuw 1984; Ourselin et al. 2001 for block matching.
    """
    matrix = fit(source, target, weights)
    for _ in range(rounds):
        residual = np.linalg.norm(apply(matrix, source) - target, axis=1)
        best = residual <= np.quantile(residual, keep)
        matrix = fit(source[best], target[best], weights[best])
    return matrix
