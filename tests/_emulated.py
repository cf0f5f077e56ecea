"""Settings of the night «tiny» with parts taken away; shared by the tests of the emulator."""

import dataclasses

import numpy as np

from rbsim.emulate import optics, sky
from rbsim.emulate.night import load_night

SEED = 11
TINY = load_night("tiny")
CAMERA = TINY.detector
FLAT_PSF = optics.PsfField((121, 141), fwhm_pix=3.0, beta=3.0, shear=(0.03, -0.02))
NO_ARTEFACTS = dataclasses.replace(
    TINY.artefacts,
    hot_per_mpix=0.0,
    flicker_per_mpix=0.0,
    cosmic_ray_per_mpix=0.0,
    streak_probability=0.0,
    bad_columns=0,
    dead_areas=0,
)


def replace(night, **parts):
    """`night` with some keys of its parts replaced."""
    return dataclasses.replace(
        night, **{part: dataclasses.replace(getattr(night, part), **keys) for part, keys in parts.items()}
    )


def without_sources(night_sky, keep_star=None):
    """An empty sky, or one with a single star in the middle of magnitude `keep_star`."""
    n = 0 if keep_star is None else 1
    star = sky.Stars(*np.zeros((2, n)), np.full(n, keep_star or 0.0), np.ones(n), *np.zeros((2, n)))
    off = dataclasses.replace(night_sky.transients, mag=np.full_like(night_sky.transients.mag, np.nan))
    return sky.Sky(star, sky.Galaxies(*np.zeros((7, 0))), off)
