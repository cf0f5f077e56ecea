"""The effective PSF of a frame, fitted to the frame's own stars.

The model is the pixel-convolved profile (Anderson & King 2000, PASP 112, 1360) as a function of the
offset from the star: Gauss-Hermite functions for the core, wider ones and a Moffat for the wings, with
coefficients that are polynomials in position. It is smooth, so it can be evaluated at any sub-pixel
offset and drawn with any oversampling.
"""

import logging
from dataclasses import dataclass, replace

import numpy as np
from scipy.spatial import cKDTree

from rbsim import spatial
from rbsim.errors import InputError
from rbsim.sources import Sources

log = logging.getLogger(__name__)

MIN_STARS = 3
MAX_STARS = 250
N_ITERATIONS = 5
MODEL_ERROR = 0.02
"""Relative error of the model in the weights: keeps a few bright stars from deciding alone."""

CORE_DEGREE, WING_DEGREE = 6, 2


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
    def fwhm_pix(self) -> float:
        """FWHM at the frame's centre: diameter of the circle with the area above half maximum."""
        ny, nx = self.frame_shape
        oversample = 8
        image = sample(self, np.array([nx / 2]), np.array([ny / 2]), oversample=oversample)[0]
        return float(2 * np.sqrt(np.count_nonzero(image > image.max() / 2) / np.pi) / oversample)


def _hermite(u: np.ndarray, degree: int) -> np.ndarray:
    """Gauss-Hermite functions of degree 0 to `degree`, shape (*u.shape, degree + 1)."""
    vander = np.polynomial.hermite_e.hermevander(u, degree)
    norms = np.sqrt(np.cumprod(np.maximum(np.arange(degree + 1), 1)).astype(float))
    return vander / norms * np.exp(-0.5 * u**2)[..., None]


def _families(scale_pix: float) -> tuple[tuple[float, int], ...]:
    """Width and degree of each Gauss-Hermite family."""
    return (scale_pix, CORE_DEGREE), (2 * scale_pix, WING_DEGREE), (4 * scale_pix, 0)


def _moffat_and_edge(
    x: np.ndarray, y: np.ndarray, scale_pix: float, half_pix: int
) -> tuple[np.ndarray, np.ndarray]:
    """The wing function and the cosine edge of the support, each of shape (n, size_y, size_x)."""
    radius2 = x[:, None, :] ** 2 + y[:, :, None] ** 2
    edge = np.clip((np.sqrt(radius2) / (half_pix + 0.5) - 0.8) / 0.2, 0, 1)
    return (1 + radius2 / (2 * scale_pix) ** 2) ** -2.5, 0.5 + 0.5 * np.cos(np.pi * edge)


def _basis(x: np.ndarray, y: np.ndarray, scale_pix: float, half_pix: int) -> np.ndarray:
    """Basis functions on separable grids x (n, size), y (n, size): shape (n, size_y, size_x, n_basis)."""
    functions = []
    for width, degree in _families(scale_pix):
        along_x, along_y = _hermite(x / width, degree), _hermite(y / width, degree)
        functions += [
            along_y[:, :, None, j] * along_x[:, None, :, i]
            for i in range(degree + 1)
            for j in range(degree + 1 - i)
        ]
    moffat, edge = _moffat_and_edge(x, y, scale_pix, half_pix)
    return np.stack([*functions, moffat], axis=-1) * edge[..., None]


def _profile(
    x: np.ndarray, y: np.ndarray, weights: np.ndarray, scale_pix: float, half_pix: int
) -> np.ndarray:
    """``_basis @ weights`` without forming the basis: shape (n, size_y, size_x) for weights (n, n_basis)."""
    moffat, edge = _moffat_and_edge(x, y, scale_pix, half_pix)
    total = moffat * weights[:, -1, None, None]
    start = 0
    for width, degree in _families(scale_pix):
        pairs = [(i, j) for i in range(degree + 1) for j in range(degree + 1 - i)]
        matrix = np.zeros((len(weights), degree + 1, degree + 1))
        i, j = np.array(pairs).T
        matrix[:, j, i] = weights[:, start : start + len(pairs)]
        start += len(pairs)
        along_x, along_y = _hermite(x / width, degree), _hermite(y / width, degree)
        total += along_y @ matrix @ along_x.transpose(0, 2, 1)
    return total * edge


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
    weights = spatial.terms(x_pix, y_pix, psf.frame_shape, psf.order) @ psf.coefficients
    x = np.broadcast_to(axis, (len(weights), axis.size)) if dx_pix is None else axis - dx_pix[:, None]
    y = np.broadcast_to(axis, (len(weights), axis.size)) if dy_pix is None else axis - dy_pix[:, None]
    values = _profile(x, y, weights, psf.scale_pix, psf.half_pix)
    return values / (values.sum(axis=(1, 2), keepdims=True) / oversample**2)


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
    scale = fwhm_guess_pix / 2.355
    half = int(np.clip(np.ceil(5 * fwhm_guess_pix), 7, 40))
    rows = np.flatnonzero(candidates & (sources.snr > 15) & _inside(sources, image.shape, half))
    rows = rows[:MAX_STARS]
    neighbours = _Neighbours(sources, half, fwhm_guess_pix)
    modelled = ~sources.saturated
    x, y, flux = sources.x_pix.copy(), sources.y_pix.copy(), sources.flux_adu.copy()
    psf: Psf | None = None
    for iteration in range(N_ITERATIONS):
        if len(rows) < MIN_STARS:
            raise InputError(
                f"only {len(rows)} stars for the PSF; {MIN_STARS} isolated unsaturated ones are needed"
            )
        order = min(max_order, 2 if len(rows) >= 60 else 1 if len(rows) >= 20 else 0)
        data, weight, corner_x, corner_y = _cut(image, variance, bad, x[rows], y[rows], half)
        if psf is None:
            weight *= neighbours.mask(rows, corner_x, corner_y)
        else:
            data = data - neighbours.model(psf, rows, x, y, flux, corner_x, corner_y, modelled)
            weight *= neighbours.mask(rows, corner_x, corner_y, only=~modelled)
        dx, dy = x[rows] - corner_x - half, y[rows] - corner_y - half
        order_changed = psf is None or psf.order != order
        if not order_changed:
            assert psf is not None
            model = flux[rows][:, None, None] * sample(psf, x[rows], y[rows], dx_pix=dx, dy_pix=dy)
            weight = 1 / (1 / np.maximum(weight, 1e-30) + (MODEL_ERROR * model) ** 2) * (weight > 0)
        psf = _fit_profile(
            image.shape, data, weight, x[rows], y[rows], dx, dy, flux[rows], order, scale, half
        )
        step_x, step_y, new_flux, chi2 = _fit_stars(psf, data, weight, x[rows], y[rows], dx, dy)
        x[rows] += np.clip(step_x, -0.3, 0.3)
        y[rows] += np.clip(step_y, -0.3, 0.3)
        flux[rows] = new_flux
        psf = replace(psf, n_stars=len(rows), chi2_per_pixel=float(np.median(chi2)))
        if 0 < iteration < N_ITERATIONS - 1:
            good = (chi2 < 3 * max(np.median(chi2), 1)) & (new_flux > 0) & (np.hypot(step_x, step_y) < 1)
            rows = rows[good] if good.sum() >= MIN_STARS else rows
    assert psf is not None
    return psf


def _inside(sources: Sources, shape: tuple[int, ...], half: int) -> np.ndarray:
    ny, nx = shape
    return (
        (sources.x_pix > half + 1)
        & (sources.x_pix < nx - half - 2)
        & (sources.y_pix > half + 1)
        & (sources.y_pix < ny - half - 2)
    )


def _cut(
    image: np.ndarray, variance: np.ndarray, bad: np.ndarray, x: np.ndarray, y: np.ndarray, half: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Stamps and inverse variances, shape (n, size, size), and the corners of the stamps."""
    corner_x, corner_y = np.rint(x).astype(int) - half, np.rint(y).astype(int) - half
    span = np.arange(2 * half + 1)
    index = (corner_y[:, None, None] + span[None, :, None], corner_x[:, None, None] + span[None, None, :])
    good = ~bad[index] & np.isfinite(variance[index])
    data = np.where(good, image[index], 0).astype(float)
    weight = np.where(good, 1 / np.where(good, variance[index], 1), 0).astype(float)
    return data, weight, corner_x, corner_y


class _Neighbours:
    """Pairs of sources that fall on each other's stamps, found once."""

    def __init__(self, sources: Sources, half: int, fwhm_pix: float) -> None:
        self.sources, self.half, self.fwhm_pix = sources, half, fwhm_pix
        self.tree = cKDTree(np.column_stack([sources.x_pix, sources.y_pix]))

    def _of(self, row: int) -> np.ndarray:
        here = [self.sources.x_pix[row], self.sources.y_pix[row]]
        near = np.array(self.tree.query_ball_point(here, 2 * self.half, p=np.inf), int)
        return near[near != row]

    def mask(
        self, rows: np.ndarray, corner_x: np.ndarray, corner_y: np.ndarray, only: np.ndarray | None = None
    ) -> np.ndarray:
        """1 where a stamp pixel is free of (the chosen) neighbours, shape (n, size, size)."""
        size = 2 * self.half + 1
        out = np.ones((len(rows), size, size))
        span = np.arange(size)
        for k, row in enumerate(rows):
            near = self._of(row)
            near = near if only is None else near[only[near]]
            for other in near:
                reach = self.fwhm_pix * (1.5 if not self.sources.saturated[other] else 4)
                dx = span[None, :] + corner_x[k] - self.sources.x_pix[other]
                dy = span[:, None] + corner_y[k] - self.sources.y_pix[other]
                out[k][dx**2 + dy**2 < reach**2] = 0
        return out

    def model(
        self,
        psf: Psf,
        rows: np.ndarray,
        x: np.ndarray,
        y: np.ndarray,
        flux: np.ndarray,
        corner_x: np.ndarray,
        corner_y: np.ndarray,
        modelled: np.ndarray,
    ) -> np.ndarray:
        """Light of the neighbours on each stamp with the current PSF, shape (n, size, size)."""
        pairs = [(k, other) for k, row in enumerate(rows) for other in self._of(row) if modelled[other]]
        size = 2 * self.half + 1
        out = np.zeros((len(rows), size, size))
        if not pairs:
            return out
        k, other = np.array(pairs).T
        axis = _axis(self.half)
        dx = axis + (corner_x[k] + self.half - x[other])[:, None]
        dy = axis + (corner_y[k] + self.half - y[other])[:, None]
        weights = spatial.terms(x[other], y[other], psf.frame_shape, psf.order) @ psf.coefficients
        centred = np.broadcast_to(axis, dx.shape)
        norm = _profile(centred, centred, weights, psf.scale_pix, psf.half_pix).sum(axis=(1, 2))
        light = _profile(dx, dy, weights, psf.scale_pix, psf.half_pix)
        np.add.at(out, k, light * (flux[other] / norm)[:, None, None])
        return out


def _fit_profile(
    shape: tuple[int, ...],
    data: np.ndarray,
    weight: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    dx: np.ndarray,
    dy: np.ndarray,
    flux: np.ndarray,
    order: int,
    scale: float,
    half: int,
) -> Psf:
    axis = _axis(half)
    n = len(data)
    basis = _basis(axis - dx[:, None], axis - dy[:, None], scale, half).reshape(n, axis.size**2, -1)
    flat_data, flat_weight = data.reshape(n, -1), weight.reshape(n, -1)
    # The local background is fitted by taking the weighted means out of data and basis.
    total = np.maximum(flat_weight.sum(1), 1e-30)
    basis = basis - (np.einsum("np,npb->nb", flat_weight, basis) / total[:, None])[:, None, :]
    centred = flat_data - ((flat_weight * flat_data).sum(1) / total)[:, None]
    weighted = basis * flat_weight[:, :, None]
    grams = np.matmul(weighted.transpose(0, 2, 1), basis) * (flux**2)[:, None, None]
    rights = np.matmul(weighted.transpose(0, 2, 1), centred[:, :, None])[:, :, 0] * flux[:, None]
    ny, nx = shape
    coefficients = spatial.solve(grams, rights, spatial.terms(x, y, (ny, nx), order), ridge=1e-7)
    return Psf(coefficients, order, (ny, nx), scale, half, n, float("nan"))


def _fit_stars(
    psf: Psf,
    data: np.ndarray,
    weight: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    dx: np.ndarray,
    dy: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """One linear step in position, and flux, local background and chi-square, each of shape (n,)."""
    n = len(data)
    step = 0.02
    model = sample(psf, x, y, dx_pix=dx, dy_pix=dy)
    slope_x = (
        sample(psf, x, y, dx_pix=dx + step, dy_pix=dy) - sample(psf, x, y, dx_pix=dx - step, dy_pix=dy)
    ) / (2 * step)
    slope_y = (
        sample(psf, x, y, dx_pix=dx, dy_pix=dy + step) - sample(psf, x, y, dx_pix=dx, dy_pix=dy - step)
    ) / (2 * step)
    design = np.stack([model, slope_x, slope_y, np.ones_like(model)], axis=-1).reshape(n, -1, 4)
    weighted = design * weight.reshape(n, -1, 1)
    gram = np.matmul(weighted.transpose(0, 2, 1), design) + 1e-12 * np.eye(4)
    right = np.matmul(weighted.transpose(0, 2, 1), data.reshape(n, -1, 1))
    solution = np.linalg.solve(gram, right)[..., 0]
    flux = solution[:, 0]
    residual = data - np.matmul(design, solution[..., None]).reshape(data.shape)
    axis = _axis(psf.half_pix)
    inner = np.hypot(axis, axis.T) < 2 * 2.355 * psf.scale_pix
    used = (weight > 0) & inner
    chi2 = (residual**2 * weight * inner).sum(axis=(1, 2)) / np.maximum(used.sum(axis=(1, 2)) - 4, 1)
    safe = np.where(flux > 0, flux, np.inf)
    return solution[:, 1] / safe, solution[:, 2] / safe, flux, chi2
