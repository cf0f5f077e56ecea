"""Rows of the truth table: where the transients of an exposure are, and how well they can be seen."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from rbsim.emulate.night import TRUTH_UNITS
from rbsim.emulate.tomoe.scene import Flash, Layer
from rbsim.emulate.tomoe.transients import FLARE_NUMBERS, Lights
from rbsim.emulate.tomoe.view import View
from rbsim.tomoe.sensors import PIXEL_SCALE_ARCSEC

TRUTH_COLUMNS = {**TRUTH_UNITS, "trail_length_pix": "pixel", "trail_angle_deg": "deg"}
TRAIL_NUMBERS = FLARE_NUMBERS // 2
"""Trails of exposure i have numbers from (i + 1) times `FLARE_NUMBERS` plus this."""
MIN_SNR_LISTED = 2.0
"""Fainter transients are drawn, but not listed: what is found at their places was not them."""
HALF_PIX = 12


def truth_rows(
    view: View,
    lights: Lights,
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    light_e: np.ndarray,
    through: np.ndarray,
    expected_e: np.ndarray,
) -> list[dict[str, Any]]:
    """Truth of the transients on the sensor that reach `MIN_SNR_LISTED` in the stack.

    Parameters
    ----------
    view : View
    lights : Lights
    x_pix, y_pix, light_e : ndarray, shape (n, frames)
        Positions, and electrons per frame before vignetting and clouds' structure.
    through : ndarray, shape (ny, nx)
        What those leave.
    expected_e : ndarray, shape (ny, nx)
        All electrons that are expected per frame: their photon noise and that of the readout are the noise of
        the matched filter, the reference's is not.

    Returns
    -------
    list of dict
        With the keys of `TRUTH_COLUMNS` but ``frame``. The flux is that in the whole stack; the magnitude is
        the mean over its frames, of a variable that of its excess.
    """
    night = view.night
    padded = _padded_variance(view, expected_e)
    rows: list[dict[str, Any]] = []
    for i in range(len(lights.number)):
        x, y = float(x_pix[i].mean()), float(y_pix[i].mean())
        column, row = math.floor(x + 0.5), math.floor(y + 0.5)
        if not (0 <= column < night.shape[1] and 0 <= row < night.shape[0]):
            continue
        flux_e = float(light_e[i].sum() * through[row, column])
        psf, local = view.psf.stamp(x, y, half_pix=HALF_PIX), _around(padded, row, column)
        snr = flux_e * math.sqrt(float(np.sum(psf**2 / local)))
        if snr < MIN_SNR_LISTED:
            continue
        offset = float(lights.host_offset_arcsec[i]) / PIXEL_SCALE_ARCSEC
        rows.append(
            {
                "kind": str(lights.kind[i]),
                "transient_id": int(lights.number[i]),
                "x_pix": x,
                "y_pix": y,
                "ra_deg": float(lights.ra_deg[i].mean()),
                "dec_deg": float(lights.dec_deg[i].mean()),
                "mag": -2.5 * math.log10(float(lights.relative[i].mean())),
                "flux_e": flux_e,
                "snr_expected": snr,
                "host_offset_pix": offset,
                "trail_length_pix": 0.0,
                "trail_angle_deg": math.nan,
            }
        )
    return rows


def trail_rows(
    view: View,
    layers: Iterable[Layer],
    through: np.ndarray,
    expected_e: np.ndarray,
    *,
    exposure: int,
) -> list[dict[str, Any]]:
    """Truth of near-Earth objects, whose light is as real as that of asteroids which look like points.

    Parameters
    ----------
    view : View
    layers : iterable of Layer
        Of the exposure's artefacts; those of other classes are passed over.
    through, expected_e : ndarray, shape (ny, nx)
        As of `truth_rows`, without the flashes.
    exposure : int
        Its index; every exposure has objects of its own.

    Returns
    -------
    list of dict
        As of `truth_rows`. The position is the middle of the trail's part on the sensor; the expected S/N is
        what a matched filter for points finds there.
    """
    padded = _padded_variance(view, expected_e)
    n_frames = view.night.settings.mode.n_stacked
    found: list[dict[str, Any]] = []
    trails = [(row, layer) for layer in layers for row in layer.rows if row.artefact == "moving_object"]
    for number, (trail, layer) in enumerate(trails):
        x, y, flux_e = trail.x_pix, trail.y_pix, trail.strength
        column, row = math.floor(x + 0.5), math.floor(y + 0.5)
        light, local = _light_around(layer.flashes, row, column), _around(padded, row, column)
        psf = view.psf.stamp(x, y, half_pix=HALF_PIX)
        own_noise = local + light
        snr = float(np.sum(light * psf / own_noise)) / math.sqrt(float(np.sum(psf**2 / own_noise)))
        if snr < MIN_SNR_LISTED:
            continue
        ra, dec = view.to_sky(np.array([x]), np.array([y]))
        found.append(
            {
                "kind": "near_earth_object",
                "transient_id": FLARE_NUMBERS * (exposure + 1) + TRAIL_NUMBERS + number,
                "x_pix": x,
                "y_pix": y,
                "ra_deg": float(ra[0]),
                "dec_deg": float(dec[0]),
                "mag": view.zero_point - 2.5 * math.log10(flux_e / (n_frames * through[row, column])),
                "flux_e": flux_e,
                "snr_expected": snr,
                "host_offset_pix": math.nan,
                "trail_length_pix": trail.length_pix,
                "trail_angle_deg": trail.angle_deg,
            }
        )
    return found


def _padded_variance(view: View, expected_e: np.ndarray) -> np.ndarray:
    """Of every pixel of the whole stack, with a border of `HALF_PIX` that counts for nothing."""
    settings = view.night.settings
    variance = settings.mode.n_stacked * (expected_e + settings.camera.read_noise_e**2)
    return np.pad(variance, HALF_PIX, constant_values=np.inf)


def _around(padded: np.ndarray, row: int, column: int) -> np.ndarray:
    return padded[row : row + 2 * HALF_PIX + 1, column : column + 2 * HALF_PIX + 1]


def _light_around(flashes: Iterable[Flash], row: int, column: int) -> np.ndarray:
    """Electrons of all flashes within `HALF_PIX` of a pixel."""
    size = 2 * HALF_PIX + 1
    total = np.zeros((size, size))
    for flash in flashes:
        first, last = [], []
        for start, length, centre in zip(
            (flash.y0, flash.x0), flash.electrons.shape, (row, column), strict=True
        ):
            offset = start - centre + HALF_PIX
            first.append(max(offset, 0) - offset)
            last.append(min(offset + length, size) - offset)
        if last[0] <= first[0] or last[1] <= first[1]:
            continue
        y, x = flash.y0 - row + HALF_PIX + first[0], flash.x0 - column + HALF_PIX + first[1]
        part = flash.electrons[first[0] : last[0], first[1] : last[1]]
        total[y : y + part.shape[0], x : x + part.shape[1]] += part
    return total
