"""Injection of stars into a frame and, by linearity, into its difference.

Subtraction is linear in the science pixels as long as background, registration and kernel do not see
the star. So a frame is subtracted once, and every realisation adds its stars to science and difference.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from rbsim.difference import Difference
from rbsim.draw import Drawn, draw
from rbsim.electrons import add_noise, expose, take_away
from rbsim.errors import InputError
from rbsim.frame import Frame
from rbsim.lights import Lights, check_finite
from rbsim.photon_noise import source_noise_at
from rbsim.psf import Psf
from rbsim.schema import INJECTION_FLAG, MASK

NONLINEAR_SHARE = 0.01
"""A light whose flux the response changes by more than this is flagged, as is one that asks for more than
this share too much of what is there."""
MOST_VARIANCE_LOST = 0.9
SKY_QUANTILE = 0.1
"""Of the variances around a fading star, the one that is of the sky: sources only add."""


@dataclass(frozen=True, eq=False)
class InjectedFrame:
    """A frame with stars, and what they added to it.

    Attributes
    ----------
    science : Frame
    added_adu : ndarray, shape (ny, nx), float32
        Light, with its photon noise.
    added_variance : ndarray, shape (ny, nx), float32
        ADU squared.
    touched : ndarray of bool, shape (ny, nx)
        Pixels that changed.
    flag : ndarray, shape (n,), int32
        Bits of schema.INJECTION_FLAGS of every light asked for.
    drawn : ndarray of bool, shape (n,)
    """

    science: Frame
    added_adu: np.ndarray
    added_variance: np.ndarray
    touched: np.ndarray
    flag: np.ndarray
    drawn: np.ndarray


@dataclass(frozen=True, eq=False)
class Injected:
    """A frame with stars, its difference, and what became of each star.

    Attributes
    ----------
    science : Frame
    difference : Difference
    flag : ndarray, shape (n,), int32
        Bits of schema.INJECTION_FLAGS of every light asked for.
    drawn : ndarray of bool, shape (n,)
    """

    science: Frame
    difference: Difference
    flag: np.ndarray
    drawn: np.ndarray


def inject(
    science: Frame, psf: Psf, difference: Difference, lights: Lights, *, rng: np.random.Generator
) -> Injected:
    """Add stars to a frame and to its difference.

    Parameters
    ----------
    science : Frame
        With known gain.
    psf : Psf
    difference : Difference
        Of `science`.
    lights : Lights
    rng : numpy.random.Generator
        Photon noise and digitisation.

    Returns
    -------
    Injected
        Pixels at or above saturation stay as they are; those lifted to it are clipped and flagged.

    Raises
    ------
    InputError
        If the gain is not known, or a light without a flag is not finite.
    """
    known = difference.image if difference.convolved == "reference" else None
    stars = _shine(science, psf, lights, known, rng=rng)
    return Injected(stars.science, _into_difference(difference, stars), stars.flag, stars.drawn)


def inject_frame(science: Frame, psf: Psf, lights: Lights, *, rng: np.random.Generator) -> InjectedFrame:
    """Add stars to a frame alone; arguments as of `inject`."""
    return _shine(science, psf, lights, None, rng=rng)


@dataclass(frozen=True, eq=False)
class _Canvas:
    """The planes of a frame that are being changed, pixel after pixel, and what was added."""

    image: np.ndarray
    mask: np.ndarray
    added: np.ndarray
    added_variance: np.ndarray
    touched: np.ndarray


def _shine(
    science: Frame,
    psf: Psf,
    lights: Lights,
    difference_image: np.ndarray | None,
    *,
    rng: np.random.Generator,
) -> InjectedFrame:
    """Add stars to a frame; `difference_image` tells how much light there is without its noise."""
    check_finite(lights)
    if not science.detector.gain_e_per_adu > 0:
        raise InputError(f"{science.name}: no gain; give --gain (electrons per ADU)")
    shape = science.shape
    canvas = _Canvas(
        image=np.ascontiguousarray(science.image).copy(),
        mask=np.ascontiguousarray(science.mask).copy(),
        added=np.zeros(shape, np.float32),
        added_variance=np.zeros(shape, np.float32),
        touched=np.zeros(shape, bool),
    )
    flag = lights.flag.copy()
    # What is taken away comes first: it is drawn from the frame's own electrons.
    for fading in (True, False):
        rows = np.flatnonzero((lights.flag == 0) & ((lights.flux_adu < 0) == fading))
        for drawn in draw(psf, lights, rows):
            pixels, inside = drawn.pixels(shape)
            known = np.isfinite(drawn.images.sum(axis=(1, 2)))
            _raise(flag, drawn.rows[~known], "PSF_COMPUTE_ERROR")
            _raise(flag, drawn.rows[~inside.any(axis=(1, 2))], "NO_OVERLAP")
            inside &= known[:, None, None]
            expected = drawn.images * lights.flux_adu[drawn.rows, None, None]
            if fading:
                light = _fade(science, canvas, drawn, expected, pixels, inside, difference_image, flag, rng=rng)
            else:
                light = add_noise(np.where(inside, expected, 0), science.detector.gain_e_per_adu, rng=rng)
            _add(science, canvas, drawn, light, pixels, inside, flag, rng=rng)
    canvas.mask[canvas.touched] |= MASK["INJECTED"]
    injected = replace(
        science, image=canvas.image, mask=canvas.mask, variance=science.variance + canvas.added_variance
    )
    lost = INJECTION_FLAG["PSF_COMPUTE_ERROR"] | INJECTION_FLAG["NO_OVERLAP"]
    was_drawn = (lights.flag == 0) & ((flag & lost) == 0)
    return InjectedFrame(injected, canvas.added, canvas.added_variance, canvas.touched, flag, was_drawn)


def _raise(flag: np.ndarray, rows: np.ndarray, name: str) -> None:
    flag[rows] |= INJECTION_FLAG[name]


def _fade(
    science: Frame,
    canvas: _Canvas,
    drawn: Drawn,
    expected: np.ndarray,
    pixels: np.ndarray,
    inside: np.ndarray,
    difference_image: np.ndarray | None,
    flag: np.ndarray,
    *,
    rng: np.random.Generator,
) -> np.ndarray:
    """Light that fading stars take away, in whole electrons, shape (n, height, width), 0 or less.

    How much light a pixel should have is the frame minus its difference, which is the reference convolved.
    Without one it is the fit of the PSF at the star, and the mean over 3 x 3 pixels of the rest; then the
    sum over the star keeps the noise of the brighter star.
    """
    gain = science.detector.gain_e_per_adu
    at = np.where(inside, pixels, 0)
    image, variance = canvas.image.ravel()[at], science.variance.ravel()[at]
    usable = inside & np.isfinite(image) & ((canvas.mask.ravel()[at] & MASK["SATURATED"]) == 0)
    seen = np.where(usable, image, 0).astype(float)
    shape = np.where(usable, drawn.images, 0)
    scale = (shape * seen).sum(axis=(1, 2)) / np.maximum((shape**2).sum(axis=(1, 2)), 1e-30)
    source = drawn.images * scale[:, None, None]
    source += ndimage.uniform_filter(np.where(usable, seen - source, 0), (0, 3, 3), mode="nearest")
    if difference_image is not None:
        model = science.image.ravel()[at] - difference_image.ravel()[at] + canvas.added.ravel()[at]
        source = np.where(np.isfinite(model), model, source)
    source = np.maximum(source, 0)
    sky_variance = np.nanquantile(
        np.where(usable & np.isfinite(variance), variance, np.nan).reshape(len(image), -1), SKY_QUANTILE, axis=1
    )
    detector = science.detector
    other = np.nan_to_num(detector.read_noise_e) ** 2 + (gain**2 / 12 if detector.is_integer else 0)
    sky_e = np.maximum(np.nan_to_num(sky_variance) * gain**2 - other, 0)
    light_e = sky_e[:, None, None] + gain * source
    lost_e = np.where(usable, np.maximum(-expected, 0), 0) * gain
    gone = take_away(lost_e, light_e, light_e + gain * (seen - source), rng=rng)
    too_much = np.maximum(lost_e - light_e, 0).sum(axis=(1, 2)) > NONLINEAR_SHARE * lost_e.sum(axis=(1, 2))
    _raise(flag, drawn.rows[too_much], "OVERDRAWN")
    full = ((canvas.mask.ravel()[at] & MASK["SATURATED"]) != 0) & inside & (-expected * gain > 1)
    _raise(flag, drawn.rows[full.any(axis=(1, 2))], "SATURATED")
    return -gone / gain


def _add(
    science: Frame,
    canvas: _Canvas,
    drawn: Drawn,
    light: np.ndarray,
    pixels: np.ndarray,
    inside: np.ndarray,
    flag: np.ndarray,
    *,
    rng: np.random.Generator,
) -> None:
    """Expose the pixels to light as well: image, mask, variance and flags follow."""
    where = np.flatnonzero(inside & (light != 0))
    at, owner = pixels.ravel()[where], where // light[0].size
    sky = science.sky_adu.ravel()[at]
    raw = canvas.image.ravel()[at] + sky
    sigma = np.sqrt(science.variance.ravel()[at])
    known = np.isfinite(raw) & np.isfinite(sigma)
    if not known.all():
        where, at, owner = where[known], at[known], owner[known]
        sky, raw, sigma = sky[known], raw[known], sigma[known]
    asked = light.ravel()[where]
    added, unclipped, clipped = expose(asked, raw, sky, sigma, science.detector, rng=rng)
    canvas.mask.ravel()[at[clipped]] |= MASK["SATURATED"]
    _raise(flag, drawn.rows[np.unique(owner[clipped])], "SATURATED")
    if not science.detector.is_linear:
        n = len(drawn.rows)
        true, seen = np.bincount(owner, asked, minlength=n), np.bincount(owner, unclipped, minlength=n)
        _raise(flag, drawn.rows[np.abs(seen - true) > NONLINEAR_SHARE * np.abs(true)], "NONLINEAR")
    changed = added != 0
    at, added = at[changed], added[changed].astype(np.float32)
    if not len(at):
        return
    around = _around(where[changed], drawn, science.shape)
    gain = science.detector.gain_e_per_adu
    before = source_noise_at(science.variance, canvas.image, around, gain)
    canvas.image.ravel()[at] += added
    canvas.added.ravel()[at] += added
    canvas.touched.ravel()[at] = True
    # The frame's own rule for the noise of sources, applied to the new light.
    more = source_noise_at(science.variance, canvas.image, around, gain) - before
    here = science.variance.ravel()[around]
    more = np.where(np.isfinite(here), np.maximum(more, -MOST_VARIANCE_LOST * here), 0)
    canvas.added_variance.ravel()[around] += more


def _around(where: np.ndarray, drawn: Drawn, shape: tuple[int, int]) -> np.ndarray:
    """Frame pixels of some pixels of small images and of their eight neighbours."""
    n, height, width = drawn.images.shape
    wide = np.zeros((n, height + 2, width + 2), bool)
    number, rest = np.divmod(where, height * width)
    y, x = np.divmod(rest, width)
    wide[number, y + 1, x + 1] = True
    wide[:, 1:] |= wide[:, :-1]
    wide[:, :-1] |= wide[:, 1:]
    wide[:, :, 1:] |= wide[:, :, :-1]
    wide[:, :, :-1] |= wide[:, :, 1:]
    number, y, x = np.nonzero(wide)
    y += drawn.corner_y[number] - 1
    x += drawn.corner_x[number] - 1
    ny, nx = shape
    inside = (y >= 0) & (y < ny) & (x >= 0) & (x < nx)
    return y[inside] * nx + x[inside]


def _into_difference(difference: Difference, stars: InjectedFrame) -> Difference:
    mask = difference.mask | stars.science.mask
    if not stars.touched.any():
        return replace(difference, mask=mask)
    return replace(
        difference,
        image=difference.image + difference.light_of(stars.added_adu),
        variance=difference.variance + difference.noise_of(stars.added_variance),
        mask=mask,
    )
