"""Light on the pixels of a frame: noise, response, full well, rounding; what changed is kept as a list."""

from dataclasses import dataclass, replace

import numpy as np
from scipy import ndimage

from rbsim.added import Added, Boxes
from rbsim.draw import Drawn, draw
from rbsim.electrons import Values, add_noise, expose, take_away, values_of
from rbsim.errors import InputError
from rbsim.flash import flash
from rbsim.frame import Frame
from rbsim.lights import Lights, check_finite
from rbsim.photon_noise import neighbours, source_noise_at
from rbsim.psf import Psf, draw_shapes
from rbsim.schema import INJECTION_FLAG, MASK

NONLINEAR_SHARE = 0.01
"""A light whose flux the response changes by more than this is flagged, as is one that asks for more than
this share too much of what is there."""
NEGLIGIBLE_NOISE = 0.01
"""Share of a pixel's variance below which the noise of new light is left out of it, never of the image."""
MOST_VARIANCE_LOST = 0.9
SKY_QUANTILE = 0.1
"""Of the variances around a fading star, the one that is of the sky: sources only add."""


@dataclass(frozen=True, eq=False)
class InjectedFrame:
    """A frame with stars, and what they added to it.

    Attributes
    ----------
    science : Frame
    light : Added
        ADU, with their photon noise.
    noise : Added
        ADU squared, to the variance.
    flag : ndarray, shape (n,), int32
        Bits of schema.INJECTION_FLAGS of every light asked for.
    drawn : ndarray of bool, shape (n,)
    """

    science: Frame
    light: Added
    noise: Added
    flag: np.ndarray
    drawn: np.ndarray

    @property
    def touched(self) -> np.ndarray:
        """Pixels that changed, shape (ny, nx), bool; made anew at each call."""
        return self.light.touched()


@dataclass(frozen=True, eq=False)
class _Canvas:
    """The planes of a frame that are being changed, stack of stars after stack, and what was added."""

    values: Values | None
    image: np.ndarray
    mask: np.ndarray
    light: list[Boxes]
    noise: list[Boxes]


def shine(
    science: Frame,
    psf: Psf,
    lights: Lights,
    *,
    difference_image: np.ndarray | None = None,
    rng: np.random.Generator,
) -> InjectedFrame:
    """Add lights to a frame, or take them away.

    Parameters
    ----------
    science : Frame
        With known gain.
    psf : Psf
    lights : Lights
        Of which `flux_adu` is added.
    difference_image : ndarray, shape (ny, nx), optional
        The frame less what is expected there, so that light is taken away with the right noise; NaN where
        that is not known.
    rng : numpy.random.Generator

    Raises
    ------
    InputError
        If the gain is not known, or a light without a flag is not finite.
    """
    check_finite(lights)
    if not science.detector.gain_e_per_adu > 0:
        raise InputError(f"{science.name}: no gain; give --gain (electrons per ADU)")
    shape = science.shape
    # Real stars differ from the PSF of their place, and so do these.
    shapes = draw_shapes(psf, len(lights), rng=rng) if any(psf.quality.shape_scatter_pix2) else None
    values = None
    if science.detector.is_integer and len(lights):
        values = values_of(science.image, science.sky_adu, science.variance)
    canvas = _Canvas(values, science.image.copy(), science.mask.copy(), [], [])
    flag = lights.flag.copy()
    steady = (lights.flag == 0) & (lights.n_cube_frames == 0)
    # What is taken away comes first: it is drawn from the frame's own electrons.
    for fading in (True, False):
        for drawn in draw(
            psf, lights, np.flatnonzero(steady & ((lights.flux_adu < 0) == fading)), shape_pix2=shapes
        ):
            expected = _expected(drawn, lights, shape, flag)
            if fading:
                light = _fade(science, canvas, drawn, expected, difference_image, flag, rng=rng)
            else:
                light = add_noise(expected, science.detector.gain_e_per_adu, rng=rng)
            _add(science, canvas, drawn, light, expected, flag, rng=rng)
    brief = (lights.flag == 0) & (lights.n_cube_frames > 0)
    n_frames = 0 if science.cube is None else science.cube.n_frames
    _raise(flag, np.flatnonzero(brief & (lights.n_cube_frames > n_frames)), "NO_CUBE")
    for drawn in draw(
        psf, lights, np.flatnonzero(brief & (lights.n_cube_frames <= n_frames)), shape_pix2=shapes
    ):
        _flash(science, canvas, drawn, _expected(drawn, lights, shape, flag), lights, flag, rng=rng)
    added, noise = Added(tuple(canvas.light), shape), Added(tuple(canvas.noise), shape)
    variance = noise.to(science.variance.copy())
    injected = replace(science, image=canvas.image, mask=canvas.mask, variance=variance)
    lost = sum(INJECTION_FLAG[name] for name in ("PSF_COMPUTE_ERROR", "NO_OVERLAP", "NO_CUBE"))
    was_drawn = (lights.flag == 0) & ((flag & lost) == 0)
    return InjectedFrame(injected, added, noise, flag, was_drawn)


def _expected(drawn: Drawn, lights: Lights, shape: tuple[int, int], flag: np.ndarray) -> np.ndarray:
    """Mean light of each star in ADU, 0 outside the frame and where there is no PSF, which is flagged."""
    expected = drawn.images * lights.flux_adu[drawn.rows, None, None]
    inside = drawn.inside(shape)
    if inside is not None:
        _raise(flag, drawn.rows[~inside.any(axis=(1, 2))], "NO_OVERLAP")
        expected = np.where(inside, expected, 0)
    known = np.isfinite(expected.sum(axis=(1, 2)))
    if not known.all():
        _raise(flag, drawn.rows[~known], "PSF_COMPUTE_ERROR")
        expected[~known] = 0
    return expected


def _raise(flag: np.ndarray, rows: np.ndarray, name: str) -> None:
    flag[rows] |= INJECTION_FLAG[name]


def _fade(
    science: Frame,
    canvas: _Canvas,
    drawn: Drawn,
    expected: np.ndarray,
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
    # What lies outside the frame expects nothing, and takes any pixel's place here.
    numbers = drawn.in_frame(np.arange(expected.size), science.shape)
    at = np.where(expected != 0, numbers.reshape(expected.shape), 0)
    image, variance = canvas.image.reshape(-1)[at], science.variance.reshape(-1)[at]
    usable = (expected != 0) & np.isfinite(image) & ((canvas.mask.reshape(-1)[at] & MASK["SATURATED"]) == 0)
    seen = np.where(usable, image, 0).astype(float)
    shape = np.where(usable, drawn.images, 0)
    scale = (shape * seen).sum(axis=(1, 2)) / np.maximum((shape**2).sum(axis=(1, 2)), 1e-30)
    source = drawn.images * scale[:, None, None]
    source += ndimage.uniform_filter(np.where(usable, seen - source, 0), (0, 3, 3), mode="nearest")
    if difference_image is not None:
        model = image - difference_image.reshape(-1)[at]
        source = np.where(np.isfinite(model), model, source)
    source = np.maximum(source, 0)
    detector = science.detector
    other = np.nan_to_num(detector.read_noise_e) ** 2 + (gain**2 / 12 if detector.is_integer else 0)
    sky_e = np.maximum(_low_variance(variance, usable) * gain**2 - other, 0)
    light_e = sky_e[:, None, None] + gain * source
    lost_e = np.where(usable, np.maximum(-expected, 0), 0) * gain
    gone = take_away(lost_e, light_e, light_e + gain * (seen - source), rng=rng)
    too_much = np.maximum(lost_e - light_e, 0).sum(axis=(1, 2)) > NONLINEAR_SHARE * lost_e.sum(axis=(1, 2))
    _raise(flag, drawn.rows[too_much], "OVERDRAWN")
    full = ((canvas.mask.reshape(-1)[at] & MASK["SATURATED"]) != 0) & (-expected * gain > 1)
    _raise(flag, drawn.rows[full.any(axis=(1, 2))], "SATURATED")
    return -gone / gain


def _low_variance(variance: np.ndarray, usable: np.ndarray) -> np.ndarray:
    """The `SKY_QUANTILE` of the usable variances around each star, shape (n,); 0 without any."""
    ordered = np.sort(np.where(usable, variance, np.inf).reshape(len(variance), -1), axis=1)
    row = (SKY_QUANTILE * np.count_nonzero(np.isfinite(ordered), axis=1)).astype(int)
    found = np.take_along_axis(ordered, row[:, None], axis=1)[:, 0]
    return np.where(np.isfinite(found), found, 0.0)


def _add(
    science: Frame,
    canvas: _Canvas,
    drawn: Drawn,
    light: np.ndarray,
    expected: np.ndarray,
    flag: np.ndarray,
    *,
    rng: np.random.Generator,
) -> None:
    """Expose the pixels to light as well, which is 0 outside the frame; mask, variance and flags follow."""
    where = np.flatnonzero(light != 0)
    at = drawn.in_frame(where, science.shape)
    sky = np.take(science.sky_adu, at)
    raw = np.take(canvas.image, at) + sky
    sigma = np.sqrt(np.take(science.variance, at))
    known = np.isfinite(raw) & np.isfinite(sigma)
    if not known.all():
        where, at = where[known], at[known]
        sky, raw, sigma = sky[known], raw[known], sigma[known]
    asked = np.take(light, where)
    middle = sky if canvas.values is None else canvas.values.expected(raw, sky, sigma)
    added, unclipped, clipped = expose(asked, raw, middle, sigma, science.detector, rng=rng)
    if clipped.any():
        canvas.mask.reshape(-1)[at[clipped]] |= MASK["SATURATED"]
        _raise(flag, drawn.rows[np.unique(drawn.owner(where[clipped]))], "SATURATED")
    if not science.detector.is_linear:
        owner, n = drawn.owner(where), len(drawn.rows)
        true, seen = np.bincount(owner, asked, minlength=n), np.bincount(owner, unclipped, minlength=n)
        _raise(flag, drawn.rows[np.abs(seen - true) > NONLINEAR_SHARE * np.abs(true)], "NONLINEAR")
    changed = added != 0
    if not changed.any():
        return
    # Where the light is too faint to count, its noise is not asked for: that is most of a stamp.
    least = NEGLIGIBLE_NOISE * science.detector.gain_e_per_adu * float(sigma.min()) ** 2
    core = np.flatnonzero(np.abs(expected) > least)
    gained = drawn.boxes(at[changed], where[changed], added[changed].astype(np.float32))
    _write(science, canvas, gained, drawn.in_frame(core, science.shape), core)


def _flash(
    science: Frame,
    canvas: _Canvas,
    drawn: Drawn,
    expected: np.ndarray,
    lights: Lights,
    flag: np.ndarray,
    *,
    rng: np.random.Generator,
) -> None:
    """Lights in single frames of the cube, one by one."""
    cube = science.cube
    assert cube is not None
    for number, row in enumerate(drawn.rows):
        if not expected[number].any():
            continue
        of_mean = flash(
            cube,
            expected[number],
            int(drawn.corner_x[number]),
            int(drawn.corner_y[number]),
            int(lights.n_cube_frames[row]),
            sky_adu=science.sky_adu,
            gain_e_per_adu=science.detector.gain_e_per_adu / cube.n_frames,
            rng=rng,
        )
        good = np.isfinite(canvas.image.reshape(-1)[of_mean.pixels])
        at, added = of_mean.pixels[good], of_mean.added_adu[good]
        canvas.mask.reshape(-1)[of_mean.saturated] |= MASK["SATURATED"]
        canvas.mask.reshape(-1)[of_mean.one_frame] |= MASK["ONE_FRAME"]
        if len(of_mean.saturated):
            _raise(flag, np.array([row]), "SATURATED")
        alone = drawn.select(slice(number, number + 1))
        within = alone.numbers_of(at, science.shape)
        _write(science, canvas, alone.boxes(at, within, added), at, within)


def _write(science: Frame, canvas: _Canvas, gained: Boxes, core: np.ndarray, core_within: np.ndarray) -> None:
    """Add to pixels of the image, mark them, and grow the variance of those in `core`."""
    gain = science.detector.gain_e_per_adu
    at = gained.pixels
    here, around = np.take(science.variance, core), neighbours(core, science.shape)
    before = source_noise_at(np.take(canvas.image, around), here, gain)
    # No pixel is named twice; taking and putting is faster than numpy's changes in place.
    canvas.image.reshape(-1)[at] = np.take(canvas.image, at) + gained.values
    canvas.mask.reshape(-1)[at] = np.take(canvas.mask, at) | np.uint8(MASK["INJECTED"])
    canvas.light.append(gained)
    # The frame's own rule for the noise of sources, applied to the new light.
    more = source_noise_at(np.take(canvas.image, around), here, gain) - before
    grown = (more != 0) & np.isfinite(here)
    noise = np.maximum(more, -MOST_VARIANCE_LOST * here)[grown]
    canvas.noise.append(replace(gained, pixels=core[grown], within=core_within[grown], values=noise))
