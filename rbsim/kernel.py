"""The kernel that turns one image's PSF into another's: Alard & Lupton (1998, ApJ 503, 325).

The kernel is a sum of Gauss-Hermite functions whose coefficients are polynomials in position (Alard
2000, A&AS 144, 363), fitted by weighted least squares on stamps around stars. The kernel sum may vary
with position too, so that vignetting and extinction gradients are taken out.
"""

import logging
from dataclasses import dataclass

import numpy as np

from rbsim import spatial
from rbsim.errors import InputError

log = logging.getLogger(__name__)

MIN_STAMPS = 3
MAX_STAMPS = 160
N_CLIPS = 4
MODEL_ERROR = 0.01
"""Relative error of the model in the weights: pixels of bright stars know more than interpolation gives."""


@dataclass(frozen=True)
class KernelBasis:
    """Gauss-Hermite families: standard deviations, degrees, and the half size of the kernel, px."""

    sigmas_pix: tuple[float, ...]
    degrees: tuple[int, ...]
    half_pix: int


@dataclass(frozen=True, eq=False)
class Kernel:
    """Spatially varying kernel.

    Attributes
    ----------
    coefficients : ndarray, shape (n_terms, n_basis)
    order : int
    frame_shape : (ny, nx)
    basis : KernelBasis
    n_stamps : int
        Stamps left after clipping.
    chi2_per_pixel : float
        Reduced chi-square over their pixels, `MODEL_ERROR` included.
    stamp_x_pix, stamp_y_pix : ndarray, shape (n_stamps,)
        Their centres.
    stamp_half_pix : int
    """

    coefficients: np.ndarray
    order: int
    frame_shape: tuple[int, int]
    basis: KernelBasis
    n_stamps: int
    chi2_per_pixel: float
    stamp_x_pix: np.ndarray
    stamp_y_pix: np.ndarray
    stamp_half_pix: int

    def at(self, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        """Kernels at positions, shape (n, k, k) with k = 2 * half_pix + 1."""
        weights = spatial.terms(x_pix, y_pix, self.frame_shape, self.order) @ self.coefficients
        functions, pairs = _functions(self.basis)
        along_y, along_x = functions[pairs[:, 0]], functions[pairs[:, 1]]  # (b, k)
        return np.einsum("nb,by,bx->nyx", weights, along_y, along_x, optimize=True)

    @property
    def flux_scale(self) -> float:
        """Kernel sum at the centre of the frame: target flux per flux of the convolved image."""
        ny, nx = self.frame_shape
        return float(self.at(np.array([nx / 2]), np.array([ny / 2])).sum())


def choose_basis(fwhm_from_pix: float, fwhm_to_pix: float, n_stamps: int) -> KernelBasis:
    """Widths from the two PSFs, degrees from the number of stamps.

    The middle Gaussian has the width that matches two Gaussian PSFs; where the target is not the wider
    one, the narrow functions of high degree have to sharpen.
    """
    difference = (fwhm_to_pix**2 - fwhm_from_pix**2) / 2.355**2
    match = np.sqrt(max(difference, 0.0))
    sigmas = (max(0.7, 0.5 * match), max(1.3, 1.0 * match), max(2.4, 2.0 * match))
    degrees = (6, 4, 2) if n_stamps >= 20 else (4, 2, 0) if n_stamps >= 8 else (2, 0, 0)
    return KernelBasis(sigmas, degrees, int(np.ceil(3.2 * sigmas[-1])))


def _functions(basis: KernelBasis) -> tuple[np.ndarray, np.ndarray]:
    """1-D functions, shape (f, k), and which two make each basis function, shape (b, 2)."""
    u = np.arange(-basis.half_pix, basis.half_pix + 1, dtype=float)
    functions: list[np.ndarray] = []
    pairs: list[tuple[int, int]] = []
    for sigma, degree in zip(basis.sigmas_pix, basis.degrees, strict=True):
        first = len(functions)
        gauss = np.exp(-0.5 * (u / sigma) ** 2)
        vander = np.polynomial.hermite_e.hermevander(u / sigma, degree) * gauss[:, None]
        functions += list((vander / np.sqrt((vander**2).sum(axis=0))).T)
        pairs += [(first + j, first + i) for i in range(degree + 1) for j in range(degree + 1 - i)]
    return np.array(functions), np.array(pairs)


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
    max_order: int = 2,
) -> Kernel:
    """Fit the kernel that makes ``source`` convolved equal to ``target``.

    Parameters
    ----------
    source, target : ndarray, shape (ny, nx)
        Registered, background-subtracted; NaN where bad.
    variance : ndarray, shape (ny, nx)
        Of their difference, to good approximation that of the noisier one.
    usable : ndarray of bool, shape (ny, nx)
        Pixels that may be fitted: valid in both and unsaturated.
    x_pix, y_pix : ndarray, shape (n,)
        Stars in order of preference.
    fwhm_from_pix, fwhm_to_pix : float
        Of source and target.
    max_order : int
        Highest degree in position; lowered to 1 below 40 stamps and to 0 below 12.

    Returns
    -------
    Kernel
        The local background that is fitted with it is dropped: backgrounds are taken out elsewhere.

    Raises
    ------
    InputError
        If the frame is smaller than the kernel or fewer than 3 stamps are usable.
    """
    ny, nx = target.shape
    guess = choose_basis(fwhm_from_pix, fwhm_to_pix, len(x_pix))
    half = int(np.clip(np.ceil(2.5 * max(fwhm_from_pix, fwhm_to_pix)), 6, 15))
    reach = half + guess.half_pix
    if min(ny, nx) < 4 * reach:
        raise InputError(f"frame of {nx} x {ny} px is too small for kernel stamps of {2 * reach + 1} px")
    centre_x, centre_y = _choose_stamps(source, usable, x_pix, y_pix, half, reach)
    if len(centre_x) < MIN_STAMPS:
        raise InputError(
            f"only {len(centre_x)} usable stars for the kernel; {MIN_STAMPS} are needed, better 20"
        )
    basis = choose_basis(fwhm_from_pix, fwhm_to_pix, len(centre_x))
    order = min(max_order, 2 if len(centre_x) >= 40 else 1 if len(centre_x) >= 12 else 0)
    wide = _cut(source, centre_x, centre_y, half + basis.half_pix)
    data = _cut(target, centre_x, centre_y, half)
    weight = _cut(np.where(usable, 1 / variance, 0), centre_x, centre_y, half)
    data = np.where(weight > 0, data, 0)
    weight = np.where(weight > 0, 1 / (1 / np.where(weight > 0, weight, 1) + (MODEL_ERROR * data) ** 2), 0)
    n = len(data)
    design = _design(wide, basis)  # (n, p, b + 1)
    weighted = design * weight.reshape(n, -1, 1)
    grams = np.matmul(weighted.transpose(0, 2, 1), design)
    rights = np.matmul(weighted.transpose(0, 2, 1), data.reshape(n, -1, 1))[..., 0]
    position_terms = spatial.terms(centre_x, centre_y, (ny, nx), order)
    keep = np.ones(n, bool)
    for _ in range(N_CLIPS):
        solution = spatial.solve(grams[keep], rights[keep], position_terms[keep], ridge=1e-8)
        model = np.einsum("npb,nb->np", design, position_terms @ solution, optimize=True)
        squared = ((data.reshape(n, -1) - model) ** 2 * weight.reshape(n, -1)).sum(axis=1)
        chi2 = squared / np.maximum((weight > 0).sum(axis=(1, 2)), 1)
        middle = float(np.median(chi2[keep]))
        spread = 1.4826 * float(np.median(np.abs(chi2[keep] - middle)))
        good = chi2 < middle + 4 * max(spread, 0.1 * middle)
        if good.sum() < MIN_STAMPS or np.array_equal(good, keep):
            break
        keep = good
    return Kernel(
        coefficients=solution[:, :-1],
        order=order,
        frame_shape=(ny, nx),
        basis=basis,
        n_stamps=int(keep.sum()),
        chi2_per_pixel=float(np.mean(chi2[keep])),
        stamp_x_pix=centre_x[keep],
        stamp_y_pix=centre_y[keep],
        stamp_half_pix=half,
    )


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
    valid = np.isfinite(_cut(source, x, y, reach)).all(axis=(1, 2))
    valid &= _cut(usable, x, y, half).mean(axis=(1, 2)) > 0.95
    valid &= _cut(usable, x, y, 2).all(axis=(1, 2))
    x, y = x[valid], y[valid]
    # The best star of every cell, then the second best: a cluster must not decide for the corners.
    cells = (y * 8 // ny) * 8 + x * 8 // nx
    rank = np.zeros(len(x), int)
    for cell in np.unique(cells):
        members = np.flatnonzero(cells == cell)
        rank[members] = np.arange(len(members))
    chosen = np.sort(np.argsort(rank, kind="stable")[:MAX_STAMPS])
    return x[chosen], y[chosen]


def _cut(image: np.ndarray, x: np.ndarray, y: np.ndarray, half: int) -> np.ndarray:
    """Stamps around integer centres, shape (n, size, size)."""
    span = np.arange(-half, half + 1)
    return np.asarray(image[y[:, None, None] + span[None, :, None], x[:, None, None] + span[None, None, :]])


def _design(wide: np.ndarray, basis: KernelBasis) -> np.ndarray:
    """Source stamps convolved with every basis function, and a constant: shape (n, pixels, b + 1).

    A 1-D convolution of a stamp is a product with a band matrix, so everything is BLAS.
    """
    functions, pairs = _functions(basis)
    n, size, _ = wide.shape
    k = functions.shape[1]
    out = size - k + 1
    bands = np.zeros((len(functions), out, size))
    for i in range(out):
        bands[:, i, i : i + k] = functions[:, ::-1]
    wide = wide.astype(float)
    along_y = np.einsum("foi,nix->fnox", bands, wide, optimize=True)  # (f, n, out, size)
    columns = np.empty((n, out * out, len(pairs) + 1))
    for b, (fy, fx) in enumerate(pairs):
        columns[:, :, b] = (along_y[fy] @ bands[fx].T).reshape(n, -1)
    columns[:, :, -1] = 1.0
    return columns
