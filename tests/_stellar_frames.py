"""Frames of one sky, drawn by GalSim with a Moffat: real stars for the tests of fidelity."""

from dataclasses import replace

import numpy as np
from _star_field import draw_field, make_field, write_frame

from rbsim.config import InjectConfig
from rbsim.frame import DetectorOptions
from rbsim.inputs import frame_tasks

SHAPE = (380, 400)
GAIN, FWHM_PIX, SKY_ADU = 2.0, 2.6, 200.0


def write_frames(folder, *, n_frames=2, n_stars=110, gain=GAIN, fwhm_pix=FWHM_PIX):
    """FITS files of whole ADU, each shifted by some pixels; returns their paths."""
    field = make_field(shape=SHAPE, n_stars=n_stars, seed=4, flux=(700, 20_000))
    # On a jittered grid: most stars are isolated.
    rng = np.random.default_rng(5)
    side = int(np.ceil(np.sqrt(n_stars)))
    row, column = np.divmod(np.arange(n_stars), side)
    step_x, step_y = SHAPE[1] / side, SHAPE[0] / side
    field = replace(
        field,
        x_pix=(column + 0.5 + rng.uniform(-0.25, 0.25, n_stars)) * step_x,
        y_pix=(row + 0.5 + rng.uniform(-0.25, 0.25, n_stars)) * step_y,
    )
    paths = []
    for number in range(n_frames):
        image = draw_field(
            field,
            shape=SHAPE,
            fwhm_pix=fwhm_pix,
            sky_adu=SKY_ADU,
            gain=gain,
            shift=(3.3 * number, -2.6 * number),
            seed=10 + number,
        )
        cards = {"GAIN": gain, "DATE-OBS": f"2020-01-01T00:0{number}:00"}
        paths.append(
            str(write_frame(folder / f"frame{number}.fits", np.rint(image).astype(np.int16), **cards))
        )
    return paths


def tasks_of(paths):
    return frame_tasks(paths, InjectConfig(), None, None, "")


OPTIONS = DetectorOptions()
