"""RAW frames of a sensor with known dark, flat, defects and light, and their files."""

import numpy as np
from _star_field import draw_field, make_field
from _tomoe_files import CUBE, DARK, FLAT, cards_of, write_file

SHAPE, X0, WIDTH, N = (180, 200), 9, 216, 12
GAIN, READ_NOISE, FULL_ADU = 0.23, 2.0, 0.9 * 6000 / 0.23
FIELD = make_field(shape=SHAPE, n_stars=60, flux=(3_000, 400_000), seed=3)
HOT, DEAD, RAY, BLINK = [(20, 30), (90, 150)], [(60, 70)], (120, 40), (150, 150)
SKY_ADU = 60.0

rng = np.random.default_rng(5)
Y, X = np.mgrid[: SHAPE[0], : SHAPE[1]]
RESPONSE = (1.1 - 0.2 * X / SHAPE[1]) * rng.normal(1, 0.01, SHAPE)
RESPONSE /= np.median(RESPONSE)
RESPONSE[tuple(np.transpose(DEAD))] = 0.2
DARK_ADU = 8 + 3 * Y / SHAPE[0] + rng.normal(0, 0.5, SHAPE)
DARK_ADU[tuple(np.transpose(HOT))] += 400
LIGHT_ADU = draw_field(FIELD, shape=SHAPE, sky_adu=SKY_ADU, gain=1e12, fwhm_pix=2.6)
HIGH = "GAINCNFG= 'high'\n"
DEFECTS = np.zeros(SHAPE, bool)
DEFECTS[tuple(np.transpose(HOT + DEAD))] = True


def raw_frames(n=N, *, seed=1, light=LIGHT_ADU, whole=True):
    """Frames in raw ADU, reference columns at both sides: Poisson light, read noise, clipped at the well."""
    source = np.random.default_rng(seed)
    electrons = source.poisson(light * RESPONSE * GAIN, (n, *SHAPE)) + source.normal(
        0, READ_NOISE, (n, *SHAPE)
    )
    lit = electrons / GAIN + DARK_ADU
    out = source.normal(0, READ_NOISE / GAIN, (n, SHAPE[0], WIDTH))
    out[:, :, X0 : X0 + SHAPE[1]] = lit
    out = np.minimum(out, 27_000)
    return np.rint(out).astype(np.int16) if whole else out.astype(np.float32)


def raw_values(**values):
    n = values.pop("n", N)
    return CUBE | {"exptime": str(n * 0.499904), "fmttype": "TOMOE-IMAGE-RAW"} | values


def write_raw(path, frames, *, more=HIGH, **values):
    return write_file(path, cards_of(raw_values(n=len(frames), **values), more=more), frames)


def write_dark(path, *, image=DARK_ADU, more=HIGH, **values):
    values = DARK | {"frame_id": "TMQ1202310020102010312"} | values
    return write_file(path, cards_of(values, more=more), image.astype(np.float32))


def write_flat(path, *, image=20_000 * RESPONSE, more=HIGH, **values):
    values = FLAT | {"detector": "DET_ID  = 112\n", "frame_id": "TMQ1202310020102010712"} | values
    return write_file(path, cards_of(values, more=more), image.astype(np.float32))
