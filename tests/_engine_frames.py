"""A science frame, a deeper and sharper reference of the same stars, and options of external engines."""

import numpy as np
from _star_field import draw_field, frame_of, make_field

SHAPE = (380, 400)
FWHM_PIX = {"science": 3.2, "reference": 2.2}
FLUX_RATIO = 1 / 0.7


def stars():
    return make_field(shape=SHAPE, n_stars=200)


def pair(folder, field):
    """Science with 3.2 px, a deep reference with 2.2 px and 0.7 of the flux."""
    science = frame_of(folder, draw_field(field, shape=SHAPE, fwhm_pix=FWHM_PIX["science"]), "s.fits")
    dim = type(field)(field.x_pix, field.y_pix, 0.7 * field.flux_adu)
    deep = draw_field(dim, shape=SHAPE, fwhm_pix=FWHM_PIX["reference"], gain=200.0, seed=5)
    return science, frame_of(folder, deep, "r.fits", GAIN=200.0)


def options_of(field, direction="reference", *, kernel_order=1):
    other = {"reference": "science", "science": "reference"}.get(direction, "science")
    bright_first = np.argsort(-field.flux_adu)[:120]
    return {
        "direction": direction,
        "fwhm_from_pix": FWHM_PIX.get(direction, 3.0),
        "fwhm_to_pix": FWHM_PIX[other],
        "kernel_order": kernel_order,
        "background_order": 1,
        "stars_x_pix": field.x_pix[bright_first],
        "stars_y_pix": field.y_pix[bright_first],
    }
