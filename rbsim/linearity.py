"""Which stars a subtraction would see: those for which its linearity does not hold.

Measured by running everything again from a file with the stars in it (tests/test_linearity.py, and stars up
to S/N 3000 on PSFs of 1.7 to 7 px FWHM): stars on a stamp of the kernel fit are off by up to 0.5 sigma below
S/N 10, and by more than 1 sigma above it; the background takes at most 2 % of a star's flux per box.
"""

import numpy as np

from rbsim.difference import Difference
from rbsim.lights import Lights
from rbsim.schema import INJECTION_FLAG
from rbsim.sources import BACKGROUND_BOX_PIX

STAMP_SNR = 10.0
"""A star on a fit stamp moves the fit from here on."""
BACKGROUND_LEAK = 0.02
"""Share of a star's flux, its wings beyond what is masked as source, that a box takes for background."""
MAX_SHIFT_SIGMA = 1.0
"""Change of a flux by the background that is flagged."""


def linearity_flags(difference: Difference, lights: Lights) -> np.ndarray:
    """Flags ON_FIT_STAMP and MOVES_BACKGROUND of lights, whatever else became of them.

    Parameters
    ----------
    difference : Difference
        Before injection.
    lights : Lights

    Returns
    -------
    ndarray, shape (n,), int32
        Bits of schema.INJECTION_FLAGS; 0 for lights that have a flag already.
    """
    ny, nx = difference.image.shape
    flag = np.zeros(len(lights), np.int32)
    rows = np.flatnonzero(lights.flag == 0)
    if not rows.size:
        return flag
    profile = difference.psf_at(np.array([nx / 2]), np.array([ny / 2]))[0]
    area_pix = float(1 / (profile**2).sum())  # noise equivalent area
    x, y = lights.x_pix[rows], lights.y_pix[rows]
    column = np.clip(np.rint(x), 0, nx - 1).astype(int)
    line = np.clip(np.rint(y), 0, ny - 1).astype(int)
    sigma = np.sqrt(difference.variance[line, column] * area_pix) * difference.noise_factor[line, column]
    snr = np.abs(lights.flux_adu[rows]) / sigma  # 0 where there is no value
    fit = difference.fit
    off_x = np.abs(x[:, None] - fit.stamp_x_pix)
    off_y = np.abs(y[:, None] - fit.stamp_y_pix)
    on_stamp = (np.maximum(off_x, off_y) <= fit.stamp_half_pix).any(axis=1)
    flag[rows[on_stamp & (snr > STAMP_SNR)]] |= INJECTION_FLAG["ON_FIT_STAMP"]
    # What is left of the background is taken out of the difference in boxes of half the size.
    box_pix = (BACKGROUND_BOX_PIX // 2) ** 2
    shift = BACKGROUND_LEAK * snr * area_pix / box_pix
    flag[rows[shift > MAX_SHIFT_SIGMA]] |= INJECTION_FLAG["MOVES_BACKGROUND"]
    return flag
