"""Foreground, modality and normalisation on phantoms with a known answer and on real images."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from masr_registration.presets import Normalisation
from masr_registration.representation.normalise import detect_modality, foreground, normalise
from masr_registration.volume import Geometry, Volume, read_labels, read_volume

DATA = Path(os.environ.get("MASR_DATA", Path(__file__).parents[3] / "shared" / "data"))
IDENTITY = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)
SETTINGS = Normalisation()


def grid(shape: tuple[int, int, int], spacing: tuple[float, float, float] = (4.0, 4.0, 4.0)) -> Geometry:
    return Geometry((shape[2], shape[1], shape[0]), spacing, (0.0, 0.0, 0.0), IDENTITY)


def ellipsoid(
    geometry: Geometry, radii_mm: tuple[float, float, float], centre_mm: tuple[float, ...] = (0, 0, 0)
) -> np.ndarray:
    """`radii_mm` and `centre_mm` along (i, j, k), from the middle of the grid."""
    axes = [(np.arange(n) - (n - 1) / 2) * s for n, s in zip(geometry.size, geometry.spacing, strict=True)]
    x, y, z = ((a - c) / r for a, c, r in zip(axes, centre_mm, radii_mm, strict=True))
    return (x[None, None, :] ** 2 + y[None, :, None] ** 2 + z[:, None, None] ** 2) <= 1


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    return float(2 * np.count_nonzero(a & b) / (np.count_nonzero(a) + np.count_nonzero(b)))


def head(geometry: Geometry, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A head with bright scalp, dark skull, grey brain, dark ventricles and noisy air; and the truth."""
    random = np.random.default_rng(seed)
    whole = ellipsoid(geometry, (75, 90, 80))
    image = np.zeros(geometry.shape)
    image[whole] = 900
    image[ellipsoid(geometry, (69, 84, 74))] = 15
    image[ellipsoid(geometry, (63, 78, 68))] = 400
    image[ellipsoid(geometry, (12, 20, 15))] = 60
    return np.hypot(image + random.normal(0, 12, image.shape), random.normal(0, 12, image.shape)), whole


HEAD_GRIDS = [grid((52, 56, 50)), grid((26, 112, 100), (2.0, 2.0, 8.0)), grid((50, 26, 100), (2.0, 8.0, 4.0))]


class TestMrForeground:
    @pytest.mark.parametrize("geometry", HEAD_GRIDS, ids=["4 mm", "thick axial", "thick coronal"])
    @pytest.mark.parametrize("kind", [np.float32, np.float64, np.int16])
    def test_whole_head_with_its_dark_parts(self, geometry: Geometry, kind: type) -> None:
        image, truth = head(geometry)
        mask = foreground(Volume(image.astype(kind), geometry), "mr")
        assert mask.dtype == bool
        assert mask.shape == geometry.shape
        assert overlap(mask, truth) > 0.95

    def test_eight_bits(self) -> None:
        image, truth = head(HEAD_GRIDS[0])
        mask = foreground(Volume((image / 5).clip(0, 255).astype(np.uint8), HEAD_GRIDS[0]), "mr")
        assert overlap(mask, truth) > 0.95

    def test_bias_field_and_outliers(self) -> None:
        geometry = HEAD_GRIDS[0]
        image, truth = head(geometry)
        image *= np.linspace(0.6, 1.6, geometry.size[0])
        image[20, 20, 20:24] = 1e7
        assert overlap(foreground(Volume(image, geometry), "mr"), truth) > 0.94

    @pytest.mark.parametrize("background", [0.0, -3.5, 10.0])
    def test_skull_stripped(self, background: float) -> None:
        geometry = grid((52, 56, 50), (1.0, 1.0, 1.0))
        brain = ellipsoid(geometry, (18, 22, 20))
        image = np.where(brain, np.random.default_rng(0).uniform(5, 15, geometry.shape), background)
        image[ellipsoid(geometry, (4, 5, 4))] = background
        mask = foreground(Volume(image.astype(np.float32), geometry), "mr")
        assert overlap(mask, brain) > 0.94
        assert mask[ellipsoid(geometry, (4, 5, 4))].all()

    def test_noisy_background_with_zero_padding_is_not_skull_stripped(self) -> None:
        geometry = HEAD_GRIDS[0]
        image, truth = head(geometry)
        image[:6], image[:, :, -5:] = 0, 0
        assert overlap(foreground(Volume(image, geometry), "mr"), truth) > 0.95

    def test_speck_beside_the_head_is_left_out(self) -> None:
        geometry = HEAD_GRIDS[0]
        image, _ = head(geometry)
        speck = ellipsoid(geometry, (8, 8, 8), (85, -95, 85))
        image[speck] = 900
        assert not foreground(Volume(image, geometry), "mr")[speck].any()

    @pytest.mark.parametrize("shape", [(4, 4, 4), (5, 40, 40), (4, 64, 5)])
    def test_any_image_has_a_foreground(self, shape: tuple[int, int, int]) -> None:
        for seed in range(3):
            array = np.random.default_rng(seed).normal(100, 10, shape).astype(np.float32)
            for spacing in (0.3, 1.0, 20.0):
                mask = foreground(Volume(array, grid(shape, (spacing,) * 3)), "mr")
                assert mask.shape == shape
                assert mask.any()

    def test_orientation_does_not_matter(self) -> None:
        image, _ = head(HEAD_GRIDS[0])
        flipped = Volume(image[::-1, :, ::-1], HEAD_GRIDS[0])
        unflipped = foreground(Volume(image, HEAD_GRIDS[0]), "mr")[::-1, :, ::-1]
        assert overlap(foreground(flipped, "mr"), unflipped) > 0.999


def across(geometry: Geometry, first_mm: float, last_mm: float) -> slice:
    """Rows along j between two distances from the middle."""
    middle, spacing = (geometry.size[1] - 1) / 2, geometry.spacing[1]
    return slice(round(middle + first_mm / spacing), round(middle + last_mm / spacing))


def table(geometry: Geometry) -> tuple[slice, slice, slice]:
    return slice(None), across(geometry, 66, 70), slice(4, -4)


def torso(geometry: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Body in HU with lungs open to the top, bowel gas, and a table that touches the back; and the body."""
    body = ellipsoid(geometry, (85, 60, 1e6))
    image = np.full(geometry.shape, -1000.0)
    image[body] = 40
    image[ellipsoid(geometry, (30, 35, 80), (40, 0, 80))] = -850
    image[ellipsoid(geometry, (30, 35, 80), (-40, 0, 80))] = -850
    image[ellipsoid(geometry, (10, 10, 25), (0, -20, -60))] = -980
    image[table(geometry)] = 0
    image[:, across(geometry, 58, 70)][:, :, geometry.size[0] // 2] = -100
    return image + np.random.default_rng(0).normal(0, 15, geometry.shape), body


class TestCtForeground:
    @pytest.mark.parametrize("geometry", [grid((45, 40, 50)), grid((23, 80, 100), (2.0, 2.0, 8.0))])
    def test_lungs_and_gas_are_inside_and_the_table_is_not(self, geometry: Geometry) -> None:
        image, body = torso(geometry)
        mask = foreground(Volume(image.astype(np.float32), geometry), "ct")
        assert overlap(mask, body) > 0.97
        assert mask[body].mean() > 0.97
        assert mask[table(geometry)].mean() < 0.02

    def test_image_of_air_alone(self) -> None:
        geometry = grid((8, 8, 8))
        assert foreground(Volume(np.full(geometry.shape, -1000.0), geometry), "ct").all()


class TestModality:
    def test_ct(self) -> None:
        geometry = grid((45, 40, 50))
        image, _ = torso(geometry)
        assert detect_modality(Volume(image.astype(np.int16), geometry)) == "ct"
        padded = np.where(ellipsoid(geometry, (95, 75, 1e6)), image, -3024)
        assert detect_modality(Volume(padded, geometry)) == "ct"

    def test_not_ct(self) -> None:
        geometry = HEAD_GRIDS[0]
        image, truth = head(geometry)
        assert detect_modality(Volume(image, geometry)) == "mr"
        scored = (image - image[truth].mean()) / image[truth].std()
        assert detect_modality(Volume(scored, geometry)) == "mr"
        ringing = image.copy()
        ringing[3, 3, 3:9] = -700
        assert detect_modality(Volume(ringing, geometry)) == "mr"
        shifted_ct = torso(geometry)[0] + 1024
        assert detect_modality(Volume(shifted_ct, geometry)) == "mr"


class TestNormalise:
    def test_ct_window(self) -> None:
        values = np.array([-1000.0, -200, -75, 50, 300, 3000]).repeat(100).reshape(6, 10, 10)
        result = normalise(Volume(values, grid((6, 10, 10))), "ct", SETTINGS)
        assert result.dtype == np.float32
        np.testing.assert_allclose(result[:, 0, 0], [0, 0, 0.25, 0.5, 1, 1])

    def test_mr_percentiles_of_the_mask_only(self) -> None:
        random = np.random.default_rng(0)
        array = random.uniform(0, 1000, (20, 20, 20))
        mask = np.zeros(array.shape, bool)
        mask[5:15] = True
        array[~mask] += 50_000
        result = normalise(Volume(array, grid(array.shape)), "mr", SETTINGS, mask)
        low, high = np.percentile(array[mask], (0.5, 99.5))
        np.testing.assert_allclose(result, np.clip((array - low) / (high - low), 0, 1), atol=1e-6)

    @pytest.mark.parametrize("scale", [1e-30, 1.0, 1e34])
    def test_scale_offset_and_type_do_not_matter(self, scale: float) -> None:
        image, _ = head(HEAD_GRIDS[0])
        expected = normalise(Volume(image.astype(np.float32), HEAD_GRIDS[0]), "mr", SETTINGS)
        other = normalise(Volume((image * scale).astype(np.float32), HEAD_GRIDS[0]), "mr", SETTINGS)
        np.testing.assert_allclose(other, expected, atol=1e-3)
        assert 0.1 < expected.std() < 0.5

    def test_outliers_do_not_flatten_the_image(self) -> None:
        image, truth = head(HEAD_GRIDS[0])
        expected = normalise(Volume(image, HEAD_GRIDS[0]), "mr", SETTINGS)
        image[25, 25, 20:24] = 1e12
        result = normalise(Volume(image, HEAD_GRIDS[0]), "mr", SETTINGS)
        assert np.abs(result - expected)[truth].mean() < 0.01

    def test_masks_without_contrast(self) -> None:
        array = np.zeros((6, 6, 6))
        array[3:] = 10
        volume = Volume(array, grid(array.shape))
        for mask in (np.zeros(array.shape, bool), array > 5):
            np.testing.assert_array_equal(normalise(volume, "mr", SETTINGS, mask), array / 10)
        constant = Volume(np.full((6, 6, 6), 5.0), grid((6, 6, 6)))
        assert np.isfinite(normalise(constant, "mr", SETTINGS)).all()


@pytest.mark.data
@pytest.mark.skipif(not DATA.is_dir(), reason="no development images")
class TestRealImages:
    @pytest.mark.parametrize(
        ("image", "labels", "kind", "size"),
        [
            ("brain_t1t2_neonate/01/T1w", "brain_t1t2_neonate/01/labels", "mr", (0.2, 0.3)),
            ("brain_t1t2_neonate/08/T2w", "brain_t1t2_neonate/08/labels", "mr", (0.2, 0.35)),
            ("brain_t1flair_elderly/3/T1", "brain_t1flair_elderly/3/labels_T1", "mr", (0.25, 0.4)),
            ("brain_t1flair_elderly/6/T1", "brain_t1flair_elderly/6/labels_T1", "mr", (0.25, 0.4)),
            ("abdomen_mr_chaos/1_image", "abdomen_mr_chaos/1_labels", "mr", (0.4, 0.65)),
            ("abdomen_mr_chaos/8_image", "abdomen_mr_chaos/8_labels", "mr", (0.5, 0.75)),
            ("abdomen_totalseg/example_ct_sm", "abdomen_totalseg/example_seg", "ct", (0.55, 0.75)),
            ("abdomen_ct_chaos/image", "abdomen_ct_chaos/liver", "ct", (0.35, 0.5)),
        ],
    )
    def test_labelled_organs_lie_inside(
        self, image: str, labels: str, kind: str, size: tuple[float, float]
    ) -> None:
        volume, organs = read_volume(DATA / f"{image}.nii.gz"), read_labels(DATA / f"{labels}.nii.gz")
        assert detect_modality(volume) == kind
        mask = foreground(volume, detect_modality(volume))
        assert mask[organs.array > 0].mean() > 0.99
        assert size[0] < mask.mean() < size[1]
