from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from functions._kit.errors import Unprocessable
from functions._kit.pictures import decode, denoise, encode, estimate_noise

Photo = NDArray[np.uint8]
HIGH = slice(5, 13)  # rings of high frequency, less the last, which few coefficients tell


def noisy(photo: Photo, sigma: float, full: int = 255) -> NDArray[np.uint8 | np.uint16]:
    """The photo with Gaussian noise of `sigma` of 255, at 8 or 16 bits."""
    noise = np.random.default_rng(1).normal(0, sigma, photo.shape)
    values = np.clip(np.rint((photo + noise) * (full / 255)), 0, full)
    return values.astype(np.uint8 if full == 255 else np.uint16)


def psnr(a: NDArray[np.uint8], b: NDArray[np.uint8 | np.uint16], full: int = 255) -> float:
    return float(10 * np.log10(255**2 / np.mean((a - b * (255 / full)) ** 2)))


@pytest.mark.parametrize("full", [255, 65_535])
def test_a_noisy_photo_comes_closer_to_the_clean_one(photo: Photo, full: int) -> None:
    # sigma: least gain in dB at strength 0.5 and 1.0
    for sigma, half, whole in ((5, 3.0, 3.5), (10, 3.5, 5.5), (25, 4.0, 8.5)):
        x = noisy(photo, sigma, full)
        before = psnr(photo, x, full)
        assert psnr(photo, denoise(x, 0.5), full) > before + half
        assert psnr(photo, denoise(x, 1.0), full) > before + whole


def test_strength_is_monotone(photo: Photo) -> None:
    x = noisy(photo, 25)
    likeness = [psnr(photo, denoise(x, s / 8)) for s in range(9)]
    assert likeness == sorted(likeness)
    assert len(set(likeness)) == 9
    change = [np.abs(denoise(x, s / 4) - x.astype(float)).mean() for s in range(5)]
    assert change == sorted(change)


def test_strength_0_is_the_same_object(photo: Photo) -> None:
    assert denoise(photo, 0) is photo


def test_16_bits_are_not_dropped_to_8(photo: Photo) -> None:
    result = denoise(noisy(photo, 8, 65_535), 1.0)
    assert result.dtype == np.uint16
    assert np.count_nonzero(result % 257) > 0.9 * result.size


@pytest.mark.parametrize("sigma", [5, 10, 25])
def test_the_estimate_is_the_noise_that_was_added(photo: Photo, sigma: float) -> None:
    grey, *colours = estimate_noise(noisy(photo, sigma))[:, HIGH] * 255
    assert colours == pytest.approx(np.full_like(colours, sigma), rel=0.15)
    # fur fills this photo and adds to grey alone: measured 25% at sigma 5, 12% at 10, 6% at 25
    assert grey.min() > 0.9 * sigma
    assert grey.mean() < 1.3 * sigma


@pytest.mark.parametrize(("quality", "gain"), [(95, 5.0), (85, 1.7), (75, 1.2)])
def test_noise_is_found_behind_jpeg(
    photo: Photo, tmp_path: Path, quality: int, gain: float
) -> None:
    encode(noisy(photo, 10), None, tmp_path / "photo", format="jpeg", quality=quality)
    x = decode(tmp_path / "photo").pixels
    assert psnr(photo, denoise(x, 1.0)) > psnr(photo, x) + gain


def test_a_clean_photo_is_left_nearly_alone(photo: Photo) -> None:
    assert psnr(photo, denoise(photo, 1.0)) > 44


def test_an_edge_stays_sharp() -> None:
    edge = np.full((64, 96, 3), 60, np.uint8)
    edge[:, 43:] = 190
    result = denoise(noisy(edge, 10), 1.0).astype(float)
    jump = result[:, 43].mean() - result[:, 42].mean()
    assert jump > 0.95 * 130
    assert result[:, :40].std() < 3


def test_strips_leave_no_seam(photo: Photo, monkeypatch: pytest.MonkeyPatch) -> None:
    x = noisy(photo, 15)
    by_strips = denoise(x, 1.0)
    monkeypatch.setattr("functions._kit.pictures.denoiser._STRIP_ROWS", 10_000)
    assert np.abs(denoise(x, 1.0).astype(int) - by_strips).max() <= 1


def test_progress_ends_at_one_and_an_error_from_it_stops_the_work(photo: Photo) -> None:
    shares: list[float] = []
    denoise(photo, 0.5, on_progress=shares.append)
    assert shares == sorted(shares)
    assert shares[-1] == 1

    class CancelledError(Exception):
        pass

    def cancel(_: float) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        denoise(photo, 0.5, on_progress=cancel)


@pytest.mark.parametrize("shape", [(1, 1), (1, 40), (7, 3), (8, 8), (9, 17), (130, 5)])
def test_any_size_is_taken(shape: tuple[int, int]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    assert denoise(pixels, 1.0).shape == pixels.shape


def test_a_flat_picture_stays_flat() -> None:
    for value in (0, 77, 255):
        flat = np.full((40, 50, 3), value, np.uint8)
        assert np.array_equal(denoise(flat, 1.0), flat)


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_other_strengths_are_refused(photo: Photo, strength: float) -> None:
    with pytest.raises(Unprocessable) as caught:
        denoise(photo, strength)
    assert caught.value.code == "denoise_strength_out_of_range"
