"""Rows of the truth table: where the transients of an exposure are, and how well they can be seen."""

import math
from typing import Any

import numpy as np

from rbsim.emulate.tomoe.transients import Lights
from rbsim.emulate.tomoe.view import View
from rbsim.tomoe.sensors import PIXEL_SCALE_ARCSEC

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
        With the keys of `rbsim.emulate.night.TRUTH_UNITS` but ``frame``. The flux is that in the whole stack;
        the magnitude is the mean over its frames, of a variable that of its excess.
    """
    night, n_frames = view.night, light_e.shape[1]
    half = HALF_PIX
    variance = n_frames * (expected_e + night.settings.camera.read_noise_e**2)
    padded = np.pad(variance, half, constant_values=np.inf)
    rows: list[dict[str, Any]] = []
    for i in range(len(lights.number)):
        x, y = float(x_pix[i].mean()), float(y_pix[i].mean())
        column, row = math.floor(x + 0.5), math.floor(y + 0.5)
        if not (0 <= column < night.shape[1] and 0 <= row < night.shape[0]):
            continue
        flux_e = float(light_e[i].sum() * through[row, column])
        local = padded[row : row + 2 * half + 1, column : column + 2 * half + 1]
        snr = flux_e * math.sqrt(float(np.sum(view.psf.stamp(x, y, half_pix=half) ** 2 / local)))
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
            }
        )
    return rows
