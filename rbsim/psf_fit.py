"""Fit of the effective PSF to the stars of a frame.

It starts from a Moffat fitted to the best stars (`rbsim.moffat`), from which the data may move it the
farther the more they know: of few stars a Moffat is left.
"""

from dataclasses import replace

import numpy as np

from rbsim import moffat, profile, psf_stars, spatial
from rbsim.errors import InputError
from rbsim.psf import Psf, PsfQuality, sample, stamp_axis, weights_at
from rbsim.psf_quality import check_stars, measure_quality
from rbsim.psf_stars import Neighbours, Positions, PsfStars
from rbsim.sources import Sources

MIN_STARS = 3
"""Fewer than this, or together below `MIN_SNR`, do not say more than a Moffat does."""
MIN_SNR = 100.0
N_START_STARS = 16
START_FWHM = 2.5
"""Half size of the stamps for the Moffat, in units of the guess."""

ORDER_STARS = (20, 60, 120)
"""Stars from which on the order in position is 1, 2, 3."""

MIN_ITERATIONS, MAX_ITERATIONS, CONVERGED = 3, 7, 0.02
"""The last iteration fits the whole stamps; those before it centres and fluxes, for which the cores do, until
the stars' chi-square changes by less than this: in crowded fields, where the Moffat starts too wide."""

PRIOR, PRIOR_WING, PRIOR_WING_CHANGE = 0.1, 0.01, 0.003
"""Standard deviation of each function's share in what the profile has beyond the Moffat: in the core, in
the wings, and in how the wings change over the frame. Noise of the wings is noise of the flux scale."""

MODEL_ERROR = 0.02
"""Relative error of the model in the weights: keeps a few bright stars from deciding alone."""

OUTLIER_SIGMA = 5.0
"""Pixels farther from the model than this are cosmic rays or unknown neighbours."""

CORE_FWHM = 3.0
"""Half size of the middle of a stamp that the first iterations use."""

NARROW_FWHM_PIX = 1.6
"""Below, the pixel's own edges are most of the profile, which narrower functions hold."""

SUPPORT_FWHM, MIN_HALF_PIX, MAX_HALF_PIX = 5.0, 7, 40
FWHM_SAMPLES = 8


def fit_psf(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    sources: Sources,
    candidates: np.ndarray,
    *,
    fwhm_guess_pix: float,
    max_order: int = 3,
) -> Psf:
    """Fit the effective PSF to stars.

    Profile, centres, fluxes and local backgrounds are improved in turn; all other sources near a
    star are subtracted with the current model, or masked where the model cannot describe them.

    Parameters
    ----------
    image, variance : ndarray, shape (ny, nx)
        Background-subtracted ADU and ADU squared.
    bad : ndarray of bool, shape (ny, nx)
        Pixels to leave out (NaN, saturated).
    sources : Sources
        Everything that was found, so that neighbours are known.
    candidates : ndarray of bool, shape (n,)
        Which sources may serve as PSF stars: point-like, unsaturated.
    fwhm_guess_pix : float
        Within a factor of two.
    max_order : int
        Highest degree in position; fewer stars lower it (`ORDER_STARS`). With fewer than 3, or a
        joint S/N below 100, a Moffat profile is all.

    Raises
    ------
    InputError
        If no star is usable, or those that there are differ in shape as galaxies do.
    """
    ny, nx = image.shape
    at = Positions(sources.x_pix.copy(), sources.y_pix.copy(), sources.flux_adu.copy())
    start = _start(image, variance, bad, sources, candidates, at, fwhm_guess_pix)
    fwhm = _effective_fwhm(start)
    scale = fwhm / 2.355 * float(np.clip(fwhm / NARROW_FWHM_PIX, 0.8, 1.0))
    half = int(np.clip(np.ceil(SUPPORT_FWHM * fwhm), MIN_HALF_PIX, MAX_HALF_PIX))
    prior = moffat.project(
        moffat.effective_image(start, half, FWHM_SAMPLES // 2),
        half_pix=half,
        oversample=FWHM_SAMPLES // 2,
        scale_pix=scale,
    )
    nan = float("nan")
    unknown = PsfQuality(0, nan, nan, (0.0, 0.0, 0.0), nan, nan, is_moffat=True)
    psf = Psf(prior[None, :], 0, (ny, nx), scale, half, fwhm, unknown)
    rows = psf_stars.choose(sources, candidates, (ny, nx), half, scale)
    if not len(rows):  # all near the border: what the Moffat was fitted to is what there is
        return psf
    stars = psf_stars.cut(image, variance, bad, at, rows, half)
    neighbours = psf_stars.find_neighbours(sources, stars, fwhm)
    stars = replace(
        stars, weight=stars.weight * psf_stars.free_of(stars, sources, neighbours, fwhm, blind=True)
    )
    neighbours = neighbours.select(~sources.saturated[neighbours.other])
    enough = len(rows) >= MIN_STARS and np.hypot.reduce(sources.snr[rows]) >= MIN_SNR
    penalty = _penalty(psf) if enough else None
    before, last = np.inf, False
    for iteration in range(MAX_ITERATIONS):
        n = len(stars.rows)
        used = stars if last else stars.crop(int(np.ceil(CORE_FWHM * fwhm)))
        order = min(max_order, int(np.searchsorted(ORDER_STARS, n, side="right")))
        used = replace(used, data=used.data - _light(psf, used, at, neighbours))
        grids = [used.select(chunk).grid(at, scale, half) for chunk in used.chunks()]
        if iteration == 0:  # centres and fluxes of the stars that the Moffat has not seen
            _improve(psf, used, at, grids)
            grids = [used.select(chunk).grid(at, scale, half) for chunk in used.chunks()]
        used = replace(used, weight=_clipped(psf, used, at, grids))
        if penalty is not None:
            psf = _fit_profile(psf, used, at, grids, order, prior, penalty)
        moved, flux, chi2 = _improve(psf, used, at, grids)
        if last:
            break
        good = (chi2 < 3 * max(np.median(chi2), 1)) & (flux > 0) & (moved < 1)
        if good.sum() >= min(MIN_STARS, n) and not good.all():
            stars, neighbours = stars.select(good), neighbours.of_stars(good)
        now = float(np.median(chi2))
        last = iteration >= MIN_ITERATIONS - 2 and before - now < CONVERGED * now
        last |= iteration == MAX_ITERATIONS - 2
        before = now
    psf = replace(psf, fwhm_pix=_fwhm_at_centre(psf))
    used = stars.crop(int(np.ceil(CORE_FWHM * fwhm)))
    used = replace(used, data=used.data - _light(psf, used, at, neighbours))
    quality = measure_quality(
        psf, used, at, sources.snr[stars.rows], float(np.median(chi2)), is_moffat=not enough
    )
    psf = replace(psf, quality=quality)
    check_stars(psf)
    return psf


def _start(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    sources: Sources,
    candidates: np.ndarray,
    at: Positions,
    fwhm_guess_pix: float,
) -> moffat.Moffat:
    """The Moffat of the best stars, whose places in `at` are improved."""
    half = int(np.clip(np.ceil(START_FWHM * fwhm_guess_pix), 4, MAX_HALF_PIX))
    shape = (image.shape[0], image.shape[1])
    rows = psf_stars.choose(sources, candidates, shape, half, fwhm_guess_pix / 2.355, most=N_START_STARS)
    if not len(rows):
        raise InputError(
            "no star for the PSF; at least one isolated unsaturated star with S/N above"
            f" {psf_stars.MIN_STAR_SNR:g} is needed"
        )
    stars = psf_stars.cut(image, variance, bad, at, rows, half)
    neighbours = psf_stars.find_neighbours(sources, stars, fwhm_guess_pix)
    for blind in (True, False):
        free = psf_stars.free_of(stars, sources, neighbours, fwhm_guess_pix, blind=blind)
        stars = replace(stars, weight=stars.weight * free)
    return moffat.fit_moffat(stars, at, fwhm_guess_pix)


def _effective_fwhm(start: moffat.Moffat) -> float:
    half = int(np.ceil(1.5 * start.fwhm_pix)) + 1
    return moffat.fwhm_of(moffat.effective_image(start, half, FWHM_SAMPLES), FWHM_SAMPLES)


def _fwhm_at_centre(psf: Psf) -> float:
    ny, nx = psf.frame_shape
    centre = sample(psf, np.array([nx / 2]), np.array([ny / 2]), oversample=FWHM_SAMPLES)[0]
    return moffat.fwhm_of(centre, FWHM_SAMPLES)


def _penalty(psf: Psf) -> np.ndarray:
    """Inverse variances of the prior, in the norm on pixels, shape (n_terms, n_functions, n_functions)."""
    axis = stamp_axis(psf.half_pix)
    on = profile.grid(axis, axis, scale_pix=psf.scale_pix, half_pix=psf.half_pix)
    gram, _ = profile.normal_equations(
        on, np.zeros((1, axis.size, axis.size)), np.ones((1, axis.size, axis.size))
    )
    star = psf.coefficients[0]
    norm2 = np.diag(gram[0]) / (star @ gram[0] @ star)
    core = profile.BASIS.is_core
    shares = [np.where(core, PRIOR, wing) for wing in (PRIOR_WING, PRIOR_WING_CHANGE)]
    n_terms = spatial.n_terms(len(ORDER_STARS))
    return np.stack([np.diag(norm2 / shares[min(term, 1)] ** 2) for term in range(n_terms)])


def _improve(
    psf: Psf, stars: PsfStars, at: Positions, grids: list[profile.Grid]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Better centres and fluxes in `at`; how far stars moved, fluxes, chi-square, shape (n,) each."""
    step_x, step_y, flux, chi2 = _fit_stars(psf, stars, at, grids)
    at.x[stars.rows] += np.clip(step_x, -0.3, 0.3)
    at.y[stars.rows] += np.clip(step_y, -0.3, 0.3)
    at.flux[stars.rows] = flux
    return np.hypot(step_x, step_y), flux, chi2


def _light(psf: Psf, stars: PsfStars, at: Positions, neighbours: Neighbours) -> np.ndarray:
    """Light of the neighbours on each stamp, with the PSF at the star, shape (n, size, size)."""
    out = np.zeros_like(stars.data)
    weights = weights_at(psf, at.x[stars.rows], at.y[stars.rows])
    axis = stamp_axis(stars.half)
    step = max(1, psf_stars.CHUNK_PIX // axis.size**2)
    for start in range(0, len(neighbours.star), step):
        star, other = neighbours.star[start : start + step], neighbours.other[start : start + step]
        dx = axis + (stars.corner_x[star] + stars.half - at.x[other])[:, None]
        dy = axis + (stars.corner_y[star] + stars.half - at.y[other])[:, None]
        on = profile.grid(dx, dy, scale_pix=psf.scale_pix, half_pix=psf.half_pix)
        light = profile.values(on, weights[star] * at.flux[other, None])
        first = np.flatnonzero(np.r_[True, np.diff(star) > 0])
        out[star[first]] += np.add.reduceat(light, first, axis=0)
    return out


def _clipped(psf: Psf, stars: PsfStars, at: Positions, grids: list[profile.Grid]) -> np.ndarray:
    """Inverse variances with `MODEL_ERROR` of the star's light in them, 0 for outliers, (n, size, size)."""
    weight = stars.weight.copy()
    weights = weights_at(psf, at.x[stars.rows], at.y[stars.rows]) * at.flux[stars.rows, None]
    for chunk, on in zip(stars.chunks(), grids, strict=True):
        light = profile.values(on, weights[chunk])
        weight[chunk] /= 1 + stars.weight[chunk] * (MODEL_ERROR * light) ** 2
        weight[chunk][weight[chunk] * (stars.data[chunk] - light) ** 2 > OUTLIER_SIGMA**2] = 0
    return weight


def _fit_profile(
    psf: Psf,
    stars: PsfStars,
    at: Positions,
    grids: list[profile.Grid],
    order: int,
    prior: np.ndarray,
    penalty: np.ndarray,
) -> Psf:
    """The profile for the current centres and fluxes; what it has beyond the prior is kept small."""
    n, n_functions = len(stars.rows), len(prior)
    grams, rights = np.empty((n, n_functions, n_functions)), np.empty((n, n_functions))
    for chunk, on in zip(stars.chunks(), grids, strict=True):
        grams[chunk], rights[chunk] = profile.normal_equations(on, stars.data[chunk], stars.weight[chunk])
    flux = at.flux[stars.rows]
    grams *= (flux**2)[:, None, None]
    rights *= flux[:, None]
    terms = spatial.terms(at.x[stars.rows], at.y[stars.rows], psf.frame_shape, order)
    coefficients = spatial.solve(
        grams, rights - grams @ prior, terms, ridge=1e-7, penalty=penalty[: terms.shape[1]]
    )
    coefficients[0] += prior
    return replace(psf, coefficients=coefficients, order=order)


def _fit_stars(
    psf: Psf, stars: PsfStars, at: Positions, grids: list[profile.Grid]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One linear step in position, and flux, local background and chi-square, each of shape (n,)."""
    axis = stamp_axis(stars.half)
    inner = (np.hypot(axis, axis.T) < 2 * 2.355 * psf.scale_pix).ravel()
    weights = weights_at(psf, at.x[stars.rows], at.y[stars.rows])
    results = []
    for chunk, on in zip(stars.chunks(), grids, strict=True):
        part = stars.select(chunk)
        n = len(part.rows)
        design = np.ones((n, 4, *part.data.shape[1:]))
        design[:, 0] = profile.values(on, weights[chunk])
        design[:, 1], design[:, 2] = profile.slopes(on, weights[chunk])
        design = design.reshape(n, 4, -1)
        data, weight = part.data.reshape(n, -1), part.weight.reshape(n, -1)
        weighted = design * weight[:, None]
        gram = weighted @ design.transpose(0, 2, 1) + 1e-12 * np.eye(4)
        solution = np.linalg.solve(gram, weighted @ data[..., None])
        residual = data - (solution.transpose(0, 2, 1) @ design)[:, 0]
        n_used = np.count_nonzero(weight[:, inner], axis=1)
        chi2 = (residual[:, inner] ** 2 * weight[:, inner]).sum(axis=1) / np.maximum(n_used - 4, 1)
        flux = solution[:, 0, 0]
        safe = np.where(flux > 0, flux, np.inf)
        results.append((solution[:, 1, 0] / safe, solution[:, 2, 0] / safe, flux, chi2))
    step_x, step_y, flux, chi2 = (np.concatenate(column) for column in zip(*results, strict=True))
    return step_x, step_y, flux, chi2
