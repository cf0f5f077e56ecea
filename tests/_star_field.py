"""A small star field with known truth, drawn by GalSim from a known PSF; shared by the image tests."""

import math
from dataclasses import dataclass

import galsim
import numpy as np
from astropy.io import fits

from rbsim.frame import Frame, read_frame


@dataclass(frozen=True)
class Field:
    """Truth of a star field: 0-based positions and fluxes in ADU."""

    x_pix: np.ndarray
    y_pix: np.ndarray
    flux_adu: np.ndarray


def make_field(*, shape=(256, 300), n_stars=90, seed=1, flux=(300, 30_000)) -> Field:
    rng = np.random.default_rng(seed)
    ny, nx = shape
    return Field(
        rng.uniform(5, nx - 5, n_stars),
        rng.uniform(5, ny - 5, n_stars),
        np.exp(rng.uniform(np.log(flux[0]), np.log(flux[1]), n_stars)),
    )


def draw_light(field: Field, *, shape=(256, 300), fwhm_pix=3.0, shift=(0.0, 0.0)):
    """Moffat stars without noise in ADU, float64; fwhm_pix may be a function of (x, y)."""
    ny, nx = shape
    image = galsim.ImageD(nx, ny)
    for x, y, flux in zip(field.x_pix + shift[0], field.y_pix + shift[1], field.flux_adu, strict=True):
        width = fwhm_pix(x, y) if callable(fwhm_pix) else fwhm_pix
        star = galsim.Moffat(beta=3.5, fwhm=width, flux=flux)
        # Drawing takes as long as its stamp is large; 12 widths away the light is 4e-8 of the peak.
        reach = math.ceil(12 * width)
        column, row = round(x + 1), round(y + 1)
        near = galsim.BoundsI(column - reach, column + reach, row - reach, row + reach) & image.bounds
        if near.isDefined():
            centre = galsim.PositionD(x + 1, y + 1)
            star.drawImage(image[near], scale=1.0, center=centre, add_to_image=True)
    return image.array


def draw_field(
    field: Field, *, shape=(256, 300), fwhm_pix=3.0, sky_adu=200.0, gain=2.0, shift=(0.0, 0.0), seed=2
):
    """Noisy image in ADU (float32): Poisson sky and stars; fwhm_pix may be a function of (x, y)."""
    light = draw_light(field, shape=shape, fwhm_pix=fwhm_pix, shift=shift)
    rng = np.random.default_rng(seed)
    electrons = rng.poisson(np.maximum(light + sky_adu, 0) * gain)
    return (electrons / gain).astype(np.float32)


def write_frame(path, image, **cards):
    header = fits.Header()
    header.update({"GAIN": 2.0, **cards})
    fits.PrimaryHDU(image, header).writeto(path, overwrite=True)
    return path


def frame_of(tmp_path, image, name="frame.fits", **cards) -> Frame:
    return read_frame(write_frame(tmp_path / name, image, **cards))
