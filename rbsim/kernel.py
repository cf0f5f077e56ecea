"""The kernel that turns one image's PSF into another's: Alard & Lupton (1998, ApJ 503, 325).

The kernel is a sum of basis functions whose coefficients are polynomials in position (Alard 2000, A&AS
144, 363), fitted together with a polynomial background by weighted least squares on stamps around
stars. The kernel sum may vary with position too, so that vignetting and extinction gradients are taken
out.
"""

import logging
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from rbsim import spatial
from rbsim.config import BASES
from rbsim.errors import InputError
from rbsim.kernel_basis import KernelBasis, affordable_order, choose_basis
from rbsim.robust import robust_width

log = logging.getLogger(__name__)

MIN_STAMPS = 3
MAX_STAMPS = 160
N_CLIPS = 4
CELLS = 8
CHUNK = 16
MIN_USABLE = 0.8
"""Share of usable pixels in a stamp, and in the 5 x 5 px at its centre."""
MODEL_ERROR = 0.01
"""Relative error of the model in the weights: pixels of bright stars know more than interpolation gives."""
CHANGE_LIMIT = 0.02
"""A star whose flux changed by less than this is never called variable, whatever its S/N."""
PENALTIES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Strengths of the smoothing of a delta kernel that are tried, relative to the data's own weight."""


@dataclass(frozen=True, eq=False)
class KernelFit:
    """What a kernel rests on.

    Attributes
    ----------
    n_stamps : int
        Stamps left after clipping.
    n_clipped : int
        Stamps that were left out as variable, blended or badly fitted.
    chi2_per_pixel : float
        Reduced chi-square over the stamps' pixels, `MODEL_ERROR` included; NaN if it is not known.
    residual_share : float
        Root mean square of what is left of a star beyond noise, over that of the star itself, both weighted
        as in the fit: the median over the stamps; NaN if it is not known.
    stamp_x_pix, stamp_y_pix : ndarray, shape (n_stamps,)
        Centres of the stamps.
    stamp_half_pix : int
    """

    n_stamps: int
    n_clipped: int
    chi2_per_pixel: float
    residual_share: float
    stamp_x_pix: np.ndarray
    stamp_y_pix: np.ndarray
    stamp_half_pix: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """Spatially varying kernel, with the background that was fitted beside it.

    Attributes
    ----------
    coefficients : ndarray, shape (n_terms, n_basis)
    order : int
    background : ndarray, shape (n_background_terms,)
        Of the target minus the convolved source, in units of the target.
    background_order : int
    frame_shape : (ny, nx)
    basis : KernelBasis
    fit : KernelFit
    """

    coefficients: np.ndarray
    order: int
    background: np.ndarray
    background_order: int
    frame_shape: tuple[int, int]
    basis: KernelBasis
    fit: KernelFit

    def at(self, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        """Kernels at positions, shape (n, k, k) with k = 2 * half_pix + 1."""
        weights = spatial.terms(x_pix, y_pix, self.frame_shape, self.order) @ self.coefficients
        images = self.basis.images
        return (weights @ images.reshape(len(images), -1)).reshape(-1, *images.shape[1:])

    @property
    def sum_coefficients(self) -> np.ndarray:
        """Polynomial of the kernel sum, target flux per source flux, shape (n_terms,)."""
        return np.asarray(self.coefficients @ self.basis.images.sum(axis=(1, 2)))

    @property
    def flux_scale(self) -> float:
        """Kernel sum at the centre of the frame: target flux per flux of the convolved image."""
        ny, nx = self.frame_shape
        return float(self.at(np.array([nx / 2]), np.array([ny / 2])).sum())


@dataclass(frozen=True, eq=False)
class _Normal:
    """Normal equations of each stamp: G = B W B^T, r = B W d, and d W d; the last row of B is 1."""

    grams: np.ndarray  # (n, b + 1, b + 1)
    rights: np.ndarray  # (n, b + 1)
    squares: np.ndarray  # (n,)
    n_pixels: np.ndarray  # (n,)

    def select(self, rows: np.ndarray) -> "_Normal":
        return _Normal(self.grams[rows], self.rights[rows], self.squares[rows], self.n_pixels[rows])

    def chi2(self, local: np.ndarray) -> np.ndarray:
        """Chi-square per pixel for coefficients of each stamp, shape (n, b + 1)."""
        inner = np.einsum("nb,nbc,nc->n", local, self.grams, local, optimize=True)
        chi2 = self.squares - 2 * (local * self.rights).sum(axis=1) + inner
        return np.asarray(chi2 / np.maximum(self.n_pixels, 1))

    def amplitude(self, local: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Flux of each star relative to the model's, and the model's own sum of squares over the noise.

        The local background is free; the error of the amplitude is the inverse root of the sum.
        """
        kernel = local[:, :-1]
        to_constant = self.grams[:, :-1, -1]
        total = np.maximum(self.grams[:, -1, -1], 1e-300)
        crossed = (kernel * to_constant).sum(axis=1)
        own = np.einsum("nb,nbc,nc->n", kernel, self.grams[:, :-1, :-1], kernel, optimize=True)
        own = np.maximum(own - crossed**2 / total, 1e-300)
        seen = (kernel * self.rights[:, :-1]).sum(axis=1) - crossed * self.rights[:, -1] / total
        return seen / own, own

    def residual_share(self, local: np.ndarray) -> float:
        """See `KernelFit`."""
        excess = (self.chi2(local) - 1) * self.n_pixels / self.amplitude(local)[1]
        return float(np.sqrt(max(np.median(excess), 0.0)))


def fit_kernel(
    source: np.ndarray,
    target: np.ndarray,
    variance: np.ndarray,
    usable: np.ndarray,
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    *,
    fwhm_from_pix: float,
    fwhm_to_pix: float,
    basis: str = "gauss-hermite",
    max_order: int = 2,
    background_order: int = 0,
) -> Kernel:
    """Fit the kernel that makes ``source`` convolved, plus a background, equal to ``target``.

    Parameters
    ----------
    source, target : ndarray, shape (ny, nx)
        Registered, background-subtracted; NaN where bad.
    variance : ndarray, shape (ny, nx)
        Of the difference, in units of the target squared.
    usable : ndarray of bool, shape (ny, nx)
        Pixels that may be fitted: valid in both and unsaturated.
    x_pix, y_pix : ndarray, shape (n,)
        Stars in order of preference.
    fwhm_from_pix, fwhm_to_pix : float
        Of source and target.
    basis : str
        ``gauss-hermite``, or ``delta``: a free, smoothed value for every pixel, for PSFs that have no
        centre or no smooth shape; the strength of the smoothing is the one that predicts every fifth
        stamp best from the others.
    max_order, background_order : int
        Highest degrees in position; the kernel's is lowered to what the stamps carry (`affordable_order`),
        and the background's is never higher than that.

    Raises
    ------
    InputError
        If the frame is smaller than the kernel, fewer than 3 stamps are usable, or `basis` is unknown.
    """
    if basis not in BASES:
        raise InputError(f"basis is {basis!r}; allowed are {', '.join(BASES)}")
    ny, nx = target.shape
    guess = choose_basis(basis, fwhm_from_pix, fwhm_to_pix, len(x_pix))
    half = int(np.clip(np.ceil(2.5 * max(fwhm_from_pix, fwhm_to_pix)), 6, 15))
    reach = half + guess.half_pix
    if min(ny, nx) < 4 * reach:
        raise InputError(f"frame of {nx} x {ny} px is too small for kernel stamps of {2 * reach + 1} px")
    x, y = _choose_stamps(source, usable, x_pix, y_pix, half, reach)
    if len(x) < MIN_STAMPS:
        raise InputError(f"only {len(x)} usable stars for the kernel; {MIN_STAMPS} are needed, better 20")
    functions = choose_basis(basis, fwhm_from_pix, fwhm_to_pix, len(x))
    order = affordable_order(max_order, len(x))
    background_order = min(background_order, order)
    normal = _normal_equations(source, target, variance, usable, x, y, half, functions)
    position_terms = spatial.terms(x, y, (ny, nx), max(order, background_order))
    orders = np.append(np.full(functions.size, order), background_order)
    penalty = _choose_penalty(normal, position_terms, orders, functions)
    solution, keep, chi2 = _clipped_solution(normal, position_terms, orders, penalty)
    n_background = spatial.n_terms(background_order)
    return Kernel(
        coefficients=solution[: spatial.n_terms(order), :-1],
        order=order,
        background=solution[:n_background, -1],
        background_order=background_order,
        frame_shape=(ny, nx),
        basis=functions,
        fit=KernelFit(
            n_stamps=int(keep.sum()),
            n_clipped=int(np.count_nonzero(~keep)),
            chi2_per_pixel=float(np.mean(chi2[keep])),
            residual_share=normal.select(keep).residual_share((position_terms @ solution)[keep]),
            stamp_x_pix=x[keep],
            stamp_y_pix=y[keep],
            stamp_half_pix=half,
        ),
    )


def _solve(
    normal: _Normal, position_terms: np.ndarray, orders: np.ndarray, penalty: np.ndarray | None
) -> np.ndarray:
    return spatial.solve(
        normal.grams, normal.rights, position_terms, ridge=1e-8, orders=orders, penalty=penalty
    )


def _clipped_solution(
    normal: _Normal, position_terms: np.ndarray, orders: np.ndarray, penalty: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coefficients (t, b + 1), the stamps kept, and the chi-square per pixel of all."""
    keep = np.ones(len(normal.squares), bool)
    for last in (*[False] * (N_CLIPS - 1), True):
        solution = _solve(normal.select(keep), position_terms[keep], orders, penalty)
        local = position_terms @ solution
        chi2 = normal.chi2(local)
        flux, own = normal.amplitude(local)
        middle = float(np.median(chi2[keep]))
        good = chi2 < middle + 4 * max(robust_width(chi2[keep]), 0.1 * middle)
        # A variable star may fit in shape: it is its flux that disagrees with the others'.
        change = flux - float(np.median(flux[keep]))
        good &= np.abs(change) < 4 * np.maximum(
            np.hypot(own**-0.5, robust_width(flux[keep])), CHANGE_LIMIT / 4
        )
        if last or good.sum() < MIN_STAMPS or np.array_equal(good, keep):
            break
        keep = good
    return solution, keep, chi2


def _choose_penalty(
    normal: _Normal, position_terms: np.ndarray, orders: np.ndarray, functions: KernelBasis
) -> np.ndarray | None:
    """The functions' penalty at the strength that predicts held-out stamps best; None if they have none."""
    if functions.penalty is None:
        return None
    weight = float(np.trace(normal.grams[:, :-1, :-1].sum(axis=0))) / functions.size
    full = np.zeros((functions.size + 1, functions.size + 1))
    full[:-1, :-1] = functions.penalty * weight
    held = np.arange(len(normal.squares)) % 5 == 4
    if held.sum() < 2:
        return full * PENALTIES[len(PENALTIES) // 2]
    scores = []
    for strength in PENALTIES:
        solution = _solve(normal.select(~held), position_terms[~held], orders, strength * full)
        scores.append(float(np.median(normal.select(held).chi2(position_terms[held] @ solution))))
    log.debug("delta kernel: held-out chi-square %s for smoothing %s", scores, PENALTIES)
    return full * PENALTIES[int(np.argmin(scores))]


def _normal_equations(
    source: np.ndarray,
    target: np.ndarray,
    variance: np.ndarray,
    usable: np.ndarray,
    x: np.ndarray,
    y: np.ndarray,
    half: int,
    functions: KernelBasis,
) -> _Normal:
    wide = _cut(source, x, y, half + functions.half_pix)
    good = _cut(usable, x, y, half)
    data = np.where(good, _cut(target, x, y, half), 0).astype(float)
    sigma2 = np.where(good, _cut(variance, x, y, half), 0).astype(float) + (MODEL_ERROR * data) ** 2
    # Smoothed: weights that follow a pixel's own noise prefer low values and pull the kernel sum down.
    share = ndimage.uniform_filter(good.astype(float), (0, 3, 3))
    sigma2 = ndimage.uniform_filter(sigma2, (0, 3, 3)) / np.maximum(share, 1e-3)
    weight = np.where(good, 1 / np.where(good, sigma2, 1), 0).reshape(len(x), -1)
    data = data.reshape(len(x), -1)
    size = functions.size + 1
    grams, rights = np.empty((len(x), size, size)), np.empty((len(x), size))
    for start in range(0, len(x), CHUNK):  # a few stamps at a time keep the design matrix in the cache
        rows = slice(start, start + CHUNK)
        design = functions.design(wide[rows])
        design = np.concatenate([design, np.ones((len(design), 1, design.shape[2]))], axis=1)
        weighted = design * weight[rows, None, :]
        grams[rows] = np.matmul(weighted, design.transpose(0, 2, 1))
        rights[rows] = np.matmul(weighted, data[rows, :, None])[..., 0]
    return _Normal(grams, rights, (weight * data**2).sum(axis=1), np.count_nonzero(weight, axis=1))


def _choose_stamps(
    source: np.ndarray, usable: np.ndarray, x: np.ndarray, y: np.ndarray, half: int, reach: int
) -> tuple[np.ndarray, np.ndarray]:
    """Centres (integers) of usable stamps, spread evenly over the frame."""
    ny, nx = source.shape
    x, y = np.rint(x).astype(int), np.rint(y).astype(int)
    inside = (x >= reach) & (x < nx - reach) & (y >= reach) & (y < ny - reach)
    x, y = x[inside], y[inside]
    if not len(x):
        return x, y
    # The best star of every cell, then the second best: a cluster must not decide for the corners.
    cells = (y * CELLS // ny) * CELLS + x * CELLS // nx
    order = np.argsort(cells, kind="stable")
    starts = np.searchsorted(cells[order], cells[order], side="left")
    rank = np.empty(len(x), int)
    rank[order] = np.arange(len(x)) - starts
    by_rank = np.argsort(rank, kind="stable")[: 4 * MAX_STAMPS]
    x, y = x[by_rank], y[by_rank]
    valid = np.isfinite(_cut(source, x, y, reach)).all(axis=(1, 2))
    # Single bad pixels have no weight and do no harm; a saturated core or a mask across the star does.
    valid &= _cut(usable, x, y, half).mean(axis=(1, 2)) > MIN_USABLE
    valid &= _cut(usable, x, y, 2).mean(axis=(1, 2)) > MIN_USABLE
    return x[valid][:MAX_STAMPS], y[valid][:MAX_STAMPS]


def _cut(image: np.ndarray, x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    """Stamps around integer centres, shape (n, size, size)."""
    span = np.arange(-half, half + 1)
    return np.asarray(image[y[:, None, None] + span[None, :, None], x[:, None, None] + span[None, None, :]])
