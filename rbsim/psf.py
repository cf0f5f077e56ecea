"""The effective PSF of a frame, fitted to the frame's own stars.

The model is the pixel-convolved profile (Anderson & King 2000, PASP 112, 1360) as a function of the
offset from the star: Gauss-Hermite functions for the core, wider ones and a Moffat for the wings, with
coefficients that are polynomials in position. It is smooth, so it can be evaluated at any sub-pixel
offset and drawn with any oversampling.
"""

from dataclasses import dataclass, replace

import numpy as np

from rbsim import profile, psf_stars, spatial
from rbsim.errors import InputError
from rbsim.psf_stars import Neighbours, Positions, PsfStars
from rbsim.sources import Sources

MIN_STARS = 3
N_ITERATIONS = 4
"""The last one fits the whole stamps; those before it centres and fluxes, for which the cores do."""

MODEL_ERROR = 0.02
"""Relative error of the model in the weights: keeps a few bright stars from deciding alone."""

CORE_FWHM = 3.0
"""Half size of the middle of a stamp that the first iterations use."""

NARROW_FWHM_PIX, MIN_RICH_STARS = 3.0, 60
"""Below this guess (twice the half-light radius) and from so many stars on the richer basis is used."""


@dataclass(frozen=True, eq=False)
class Psf:
    """Spatially varying effective PSF.

    Attributes
    ----------
    coefficients : ndarray, shape (n_terms, n_basis)
    order : int
        Degree of the polynomial in position.
    frame_shape : (ny, nx)
    scale_pix : float
        Standard deviation of the core functions.
    half_pix : int
        Half size of the support; stamps have 2 * half_pix + 1 pixels a side.
    n_stars : int
    chi2_per_pixel : float
        Median over the stars of the reduced chi-square in the inner 2 FWHM, `MODEL_ERROR` included.
    """

    coefficients: np.ndarray
    order: int
    frame_shape: tuple[int, int]
    scale_pix: float
    half_pix: int
    n_stars: int
    chi2_per_pixel: float

    @property
    def basis(self) -> profile.Basis:
        """The functions that the coefficients belong to."""
        n_functions = self.coefficients.shape[1]
        return next(basis for basis in (profile.PLAIN, profile.RICH) if basis.n_functions == n_functions)

    @property
    def fwhm_pix(self) -> float:
        """FWHM at the frame's centre: diameter of the circle with the area above half maximum."""
        ny, nx = self.frame_shape
        oversample = 8
        image = sample(self, np.array([nx / 2]), np.array([ny / 2]), oversample=oversample)[0]
        return float(2 * np.sqrt(np.count_nonzero(image > image.max() / 2) / np.pi) / oversample)


def _axis(half_pix: int, oversample: int = 1) -> np.ndarray:
    """Offsets of the pixel centres of a stamp along one axis, shape (1, size)."""
    return (np.arange(-half_pix * oversample, half_pix * oversample + 1) / oversample)[None, :]


def sample(
    psf: Psf,
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    *,
    oversample: int = 1,
    dx_pix: np.ndarray | None = None,
    dy_pix: np.ndarray | None = None,
) -> np.ndarray:
    """The PSF at positions of the frame, flux 1.

    Parameters
    ----------
    x_pix, y_pix : ndarray, shape (n,)
        Positions where the shape is wanted.
    oversample : int
        Samples per pixel; the values stay flux per pixel area, so they sum to oversample squared.
    dx_pix, dy_pix : ndarray, shape (n,), optional
        Sub-pixel shift of the star from the central sample; default 0.

    Returns
    -------
    ndarray, shape (n, size, size), float64
        size = 2 * half_pix * oversample + 1; the star is at the central sample plus the shift.
    """
    axis = _axis(psf.half_pix, oversample)
    x = axis if dx_pix is None else axis - dx_pix[:, None]
    y = axis if dy_pix is None else axis - dy_pix[:, None]
    on = profile.grid(x, y, scale_pix=psf.scale_pix, half_pix=psf.half_pix, basis=psf.basis)
    weights = spatial.terms(x_pix, y_pix, psf.frame_shape, psf.order) @ psf.coefficients
    values = profile.values(on, weights)
    values *= oversample**2 / values.sum(axis=(1, 2), keepdims=True)
    return values


def fit_psf(
    image: np.ndarray,
    variance: np.ndarray,
    bad: np.ndarray,
    sources: Sources,
    candidates: np.ndarray,
    *,
    fwhm_guess_pix: float,
    max_order: int = 2,
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
    max_order : int
        Highest degree in position; fewer stars lower it (1 below 60, 0 below 20).

    Raises
    ------
    InputError
        If fewer than 3 stars are usable.
    """
    ny, nx = image.shape
    scale = fwhm_guess_pix / 2.355
    half = int(np.clip(np.ceil(5 * fwhm_guess_pix), 7, 40))
    rows = psf_stars.choose(sources, candidates, (ny, nx), half, scale)
    at = Positions(sources.x_pix.copy(), sources.y_pix.copy(), sources.flux_adu.copy())
    stars = psf_stars.cut(image, variance, bad, at, rows, half)
    neighbours = psf_stars.find_neighbours(sources, stars, fwhm_guess_pix)
    stars = replace(
        stars, weight=stars.weight * psf_stars.free_of(stars, sources, neighbours, fwhm_guess_pix, blind=True)
    )
    neighbours = neighbours.select(~sources.saturated[neighbours.other])
    narrow = fwhm_guess_pix < NARROW_FWHM_PIX and len(rows) >= MIN_RICH_STARS
    basis = profile.RICH if narrow else profile.PLAIN
    psf: Psf | None = None
    for iteration in range(N_ITERATIONS):
        n = len(stars.rows)
        last = iteration == N_ITERATIONS - 1
        used = stars if last else stars.crop(int(np.ceil(CORE_FWHM * fwhm_guess_pix)))
        if n < MIN_STARS:
            raise InputError(f"only {n} stars for the PSF; {MIN_STARS} isolated unsaturated ones are needed")
        order = min(max_order, 2 if n >= 60 else 1 if n >= 20 else 0)
        if psf is None:
            free = psf_stars.free_of(used, sources, neighbours, fwhm_guess_pix, blind=False)
            used = replace(used, weight=used.weight * free)
        else:
            used = replace(used, data=used.data - _light(psf, used, at, neighbours))
        grids = [used.select(chunk).grid(at, scale, half, basis) for chunk in used.chunks()]
        if psf is not None:
            used = replace(used, weight=_with_model_error(psf, used, at, grids))
        psf = _fit_profile(used, at, grids, order, half, (ny, nx))
        step_x, step_y, flux, chi2 = _fit_stars(psf, used, at, grids)
        at.x[stars.rows] += np.clip(step_x, -0.3, 0.3)
        at.y[stars.rows] += np.clip(step_y, -0.3, 0.3)
        at.flux[stars.rows] = flux
        psf = replace(psf, chi2_per_pixel=float(np.median(chi2)))
        if iteration > 0 and not last:
            good = (chi2 < 3 * max(np.median(chi2), 1)) & (flux > 0) & (np.hypot(step_x, step_y) < 1)
            if good.sum() >= MIN_STARS and not good.all():
                stars, neighbours = stars.select(good), neighbours.of_stars(good)
    assert psf is not None
    return psf


def _light(psf: Psf, stars: PsfStars, at: Positions, neighbours: Neighbours) -> np.ndarray:
    """Light of the neighbours on each stamp, with the PSF at the star, shape (n, size, size)."""
    out = np.zeros_like(stars.data)
    weights = _weights(psf, at, stars.rows)
    axis = _axis(stars.half)
    step = max(1, psf_stars.CHUNK_PIX // axis.size**2)
    for start in range(0, len(neighbours.star), step):
        star, other = neighbours.star[start : start + step], neighbours.other[start : start + step]
        dx = axis + (stars.corner_x[star] + stars.half - at.x[other])[:, None]
        dy = axis + (stars.corner_y[star] + stars.half - at.y[other])[:, None]
        on = profile.grid(dx, dy, scale_pix=psf.scale_pix, half_pix=psf.half_pix, basis=psf.basis)
        light = profile.values(on, weights[star] * at.flux[other, None])
        first = np.flatnonzero(np.r_[True, np.diff(star) > 0])
        out[star[first]] += np.add.reduceat(light, first, axis=0)
    return out


def _weights(psf: Psf, at: Positions, rows: np.ndarray) -> np.ndarray:
    """Weights of the functions in the PSF of flux 1 at the place of each source, shape (n, n_basis)."""
    axis = _axis(psf.half_pix)
    centred = profile.grid(axis, axis, scale_pix=psf.scale_pix, half_pix=psf.half_pix, basis=psf.basis)
    terms = spatial.terms(at.x[rows], at.y[rows], psf.frame_shape, psf.order)
    weights = terms @ psf.coefficients
    return weights / (weights @ profile.sums(centred)[0])[:, None]


def _with_model_error(psf: Psf, stars: PsfStars, at: Positions, grids: list[profile.Grid]) -> np.ndarray:
    """Inverse variances with `MODEL_ERROR` of the star's light in them, shape (n, size, size)."""
    weight = stars.weight.copy()
    weights = _weights(psf, at, stars.rows) * (MODEL_ERROR * at.flux[stars.rows, None])
    for chunk, on in zip(stars.chunks(), grids, strict=True):
        weight[chunk] /= 1 + stars.weight[chunk] * profile.values(on, weights[chunk]) ** 2
    return weight


def _fit_profile(
    stars: PsfStars,
    at: Positions,
    grids: list[profile.Grid],
    order: int,
    half: int,
    shape: tuple[int, int],
) -> Psf:
    """The profile for the current centres and fluxes."""
    n = len(stars.rows)
    n_functions = grids[0].basis.n_functions
    grams, rights = np.empty((n, n_functions, n_functions)), np.empty((n, n_functions))
    for chunk, on in zip(stars.chunks(), grids, strict=True):
        grams[chunk], rights[chunk] = profile.normal_equations(on, stars.data[chunk], stars.weight[chunk])
    flux = at.flux[stars.rows]
    grams *= (flux**2)[:, None, None]
    rights *= flux[:, None]
    terms = spatial.terms(at.x[stars.rows], at.y[stars.rows], shape, order)
    coefficients = spatial.solve(grams, rights, terms, ridge=1e-7)
    return Psf(coefficients, order, shape, grids[0].scale_pix, half, n, float("nan"))


def _fit_stars(
    psf: Psf, stars: PsfStars, at: Positions, grids: list[profile.Grid]
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One linear step in position, and flux, local background and chi-square, each of shape (n,)."""
    axis = _axis(stars.half)
    inner = (np.hypot(axis, axis.T) < 2 * 2.355 * psf.scale_pix).ravel()
    weights = _weights(psf, at, stars.rows)
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
