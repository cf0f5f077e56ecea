"""What a Tomo-e sensor makes of light: frames of 0.5 s with noise and limits, calibrated; the mean of them.

The mean can be drawn at once instead of frame by frame. Sums of Poisson numbers are Poisson numbers, and
sums of Gaussian ones Gaussian, so nothing is approximated but the response, which is linear enough where
little light falls. Pixels near the well, or with much light in one frame, are still drawn frame by frame.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rbsim.emulate.tomoe.scene import Flash, Impacts
from rbsim.emulate.tomoe.settings import Camera

STEADY_SHARE = 0.4
"""Pixels whose expected charge per frame exceeds this share of the well are drawn frame by frame."""
FLASH_SHARE = 0.02
"""The same for what a single frame has beyond the others: there the response is not that of the mean."""


@dataclass(frozen=True, eq=False)
class Chip:
    """Pixels of one sensor and their calibration; arrays of shape (ny, nx), float32.

    Attributes
    ----------
    camera : Camera
    efficiency : ndarray
        Share of the light at the field's centre that arrives.
    dark_share : ndarray
        Dark current over the median one.
    flat : ndarray
        What the data are divided by: `efficiency` over that at the middle, with the flat frame's errors.
    """

    camera: Camera
    efficiency: np.ndarray
    dark_share: np.ndarray
    flat: np.ndarray

    @property
    def shape(self) -> tuple[int, int]:
        """(ny, nx)."""
        ny, nx = self.efficiency.shape
        return ny, nx

    @property
    def efficiency_middle(self) -> float:
        """At the middle of the sensor."""
        ny, nx = self.shape
        return float(self.efficiency[ny // 2, nx // 2])


def make_chip(camera: Camera, efficiency: np.ndarray, *, rng: np.random.Generator) -> Chip:
    """Draw the pixels of a sensor.

    Parameters
    ----------
    camera : Camera
    efficiency : ndarray, shape (ny, nx)
    rng : numpy.random.Generator
        The same stream whenever this sensor is made: it has these pixels all night.
    """
    ny, nx = efficiency.shape
    dark_share = np.exp(camera.dark_scatter * rng.standard_normal((ny, nx), np.float32))
    error = camera.flat_scatter * rng.standard_normal((ny, nx), np.float32)
    slope_y, slope_x = camera.flat_gradient * rng.uniform(-1, 1, 2)
    error += (slope_y * np.linspace(-1, 1, ny, dtype=np.float32))[:, None]
    error += slope_x * np.linspace(-1, 1, nx, dtype=np.float32)
    flat = efficiency / efficiency[ny // 2, nx // 2] * (1 + error)
    return Chip(camera, efficiency, dark_share, flat.astype(np.float32))


@dataclass(frozen=True, eq=False)
class Light:
    """What falls on a sensor during an exposure.

    Attributes
    ----------
    steady_e : ndarray, shape (ny, nx)
        Expected photo-electrons per frame.
    flashes : sequence of Flash
        Added to single frames; frames outside the exposure are ignored.
    impacts : sequence of Impacts
        Charge without photon noise.
    dark_e : float
        Median dark electrons per frame.
    dark_frame_e : float
        The same in the dark frame that is subtracted.
    """

    steady_e: np.ndarray
    flashes: Sequence[Flash]
    impacts: Sequence[Impacts]
    dark_e: float
    dark_frame_e: float


def respond(charge_e: np.ndarray, camera: Camera) -> np.ndarray:
    """Electrons that the electronics report for collected ones.

    Never more than a full well, and a little less before: the shortfall grows linearly, to
    `Camera.nonlinearity_at_well` there. Negative charge passes.
    """
    held = np.minimum(charge_e, camera.well_e)
    return held - camera.nonlinearity_at_well / camera.well_e * np.square(np.maximum(held, 0))


def expose_frames(chip: Chip, light: Light, n_frames: int, *, rng: np.random.Generator) -> np.ndarray:
    """Calibrated frames, one by one.

    Parameters
    ----------
    chip : Chip
    light : Light
    n_frames : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (n_frames, ny, nx), float32
        ADU, bias and dark subtracted, divided by the flat.
    """
    ny, nx = chip.shape
    expected = np.maximum(light.steady_e + light.dark_e * chip.dark_share, 0)
    cube = np.empty((n_frames, ny, nx), np.float32)
    for frame in range(n_frames):
        now = expected.copy()
        for flash in light.flashes:
            if flash.frame == frame:
                box = _box(flash, chip.shape)
                now[box.on_chip] += flash.electrons[box.on_flash]
        charge = rng.poisson(_bounded(now, chip.camera)).astype(np.float32)
        for some in light.impacts:
            here = (some.frame == frame) | (some.frame == -1)
            np.add.at(charge, (some.y[here], some.x[here]), some.electrons[here].astype(np.float32))
        cube[frame] = _calibrated(_read(charge, chip.camera, rng), chip, light)
    return cube


def expose_mean(chip: Chip, light: Light, n_frames: int, *, rng: np.random.Generator) -> np.ndarray:
    """Mean of calibrated frames, drawn at once; as `expose_frames` in distribution, with other numbers.

    Parameters
    ----------
    chip : Chip
    light : Light
    n_frames : int
    rng : numpy.random.Generator

    Returns
    -------
    ndarray, shape (ny, nx), float32
    """
    camera, shape = chip.camera, chip.shape
    expected = np.maximum(light.steady_e + light.dark_e * chip.dark_share, 0)
    extra = _Extra.of(light, shape, n_frames)
    total = _bounded(expected, camera) * n_frames
    np.add.at(total.reshape(-1), extra.pixel, extra.flash_e)
    charge = rng.poisson(total).astype(np.float64)
    np.add.at(charge.reshape(-1), extra.pixel, extra.impact_e)
    # Rounding to whole ADU spreads by a twelfth of a square ADU in every frame.
    noise_e = math.sqrt(n_frames * (camera.read_noise_e**2 + camera.gain_e_per_adu**2 / 12))
    mean_e = respond(charge / n_frames, camera)
    mean_e += (noise_e / n_frames) * rng.standard_normal(shape, np.float32)
    mean_adu = (mean_e / camera.gain_e_per_adu).astype(np.float32)

    hard = np.union1d(
        np.flatnonzero(expected.reshape(-1) > STEADY_SHARE * camera.well_e), extra.strong(camera)
    )
    if len(hard):
        by_frame = np.repeat(_bounded(expected.reshape(-1)[hard], camera)[None], n_frames, axis=0)
        added = np.zeros_like(by_frame)
        rows = np.searchsorted(hard, extra.pixel)
        rows[rows == len(hard)] = 0
        mine = hard[rows] == extra.pixel
        np.add.at(by_frame, (extra.frame[mine], rows[mine]), extra.flash_e[mine])
        np.add.at(added, (extra.frame[mine], rows[mine]), extra.impact_e[mine])
        values = _read(rng.poisson(_bounded(by_frame, camera)) + added, camera, rng)
        mean_adu.reshape(-1)[hard] = values.mean(axis=0)
    return _calibrated(mean_adu, chip, light)


def _bounded(expected_e: np.ndarray, camera: Camera) -> np.ndarray:
    """Far above the well the count does not matter, and numpy's Poisson has an upper limit."""
    return np.minimum(expected_e, 100 * camera.well_e)


def _read(charge_e: np.ndarray, camera: Camera, rng: np.random.Generator) -> np.ndarray:
    """Whole ADU, bias subtracted."""
    read = respond(charge_e, camera) + rng.normal(0, camera.read_noise_e, charge_e.shape)
    return np.clip(np.rint(read / camera.gain_e_per_adu), camera.adc_low_adu, camera.adc_high_adu)


def _calibrated(adu: np.ndarray, chip: Chip, light: Light) -> np.ndarray:
    dark_adu = np.float32(light.dark_frame_e / chip.camera.gain_e_per_adu) * chip.dark_share
    return np.asarray((adu - dark_adu) / chip.flat, np.float32)


@dataclass(frozen=True, eq=False)
class _Box:
    on_chip: tuple[slice, slice]
    on_flash: tuple[slice, slice]


def _box(flash: Flash, shape: tuple[int, int]) -> _Box:
    """Part of a flash's box that lies on the sensor."""
    chip, own = [], []
    for first, length, limit in zip((flash.y0, flash.x0), flash.electrons.shape, shape, strict=True):
        low, high = max(first, 0), max(min(first + length, limit), first, 0)
        chip.append(slice(low, high))
        own.append(slice(low - first, high - first))
    return _Box((chip[0], chip[1]), (own[0], own[1]))


@dataclass(frozen=True, eq=False)
class _Extra:
    """What single frames have beyond the steady light; arrays of shape (n,), a pixel may come up often."""

    pixel: np.ndarray
    frame: np.ndarray
    flash_e: np.ndarray
    impact_e: np.ndarray

    @classmethod
    def of(cls, light: Light, shape: tuple[int, int], n_frames: int) -> "_Extra":
        pixel, frame, flash_e, impact_e = [], [], [], []
        for flash in light.flashes:
            if not 0 <= flash.frame < n_frames:
                continue
            box = _box(flash, shape)
            electrons = flash.electrons[box.on_flash]
            y, x = (np.arange(part.start, part.stop) for part in box.on_chip)
            pixel.append((y[:, None] * shape[1] + x).ravel())
            frame.append(np.full(electrons.size, flash.frame))
            flash_e.append(electrons.ravel().astype(float))
            impact_e.append(np.zeros(electrons.size))
        for some in light.impacts:
            always = some.frame == -1
            for frames in range(n_frames) if always.any() else ():
                pixel.append(some.y[always] * shape[1] + some.x[always])
                frame.append(np.full(int(always.sum()), frames))
                impact_e.append(some.electrons[always].astype(float))
                flash_e.append(np.zeros(int(always.sum())))
            once = (some.frame >= 0) & (some.frame < n_frames)
            pixel.append(some.y[once] * shape[1] + some.x[once])
            frame.append(some.frame[once])
            impact_e.append(some.electrons[once].astype(float))
            flash_e.append(np.zeros(int(once.sum())))
        if not pixel:
            return cls(np.empty(0, int), np.empty(0, int), np.empty(0), np.empty(0))
        return cls(
            np.concatenate(pixel).astype(int),
            np.concatenate(frame).astype(int),
            np.concatenate(flash_e),
            np.concatenate(impact_e),
        )

    def strong(self, camera: Camera) -> np.ndarray:
        """Pixels whose response must be taken frame by frame."""
        return np.unique(self.pixel[self.flash_e + self.impact_e > FLASH_SHARE * camera.well_e])
