"""A Moffat profile fitted to a few stars at once: where the effective PSF starts, and its last resort.

The profile is integrated over the pixels, so it holds from half a pixel of FWHM upwards, where the
centroids that an image gives are drawn to the pixel centres and no profile could be built on them.
"""

from dataclasses import dataclass

import numpy as np

from rbsim import profile
from rbsim.psf_stars import CHUNK_PIX, Positions, PsfStars

N_STEPS = 25
CONVERGED = 1e-3
BETA_LIMITS = (1.6, 8.0)
FWHM_LIMITS_PIX = (0.3, 25.0)
MODEL_ERROR = 0.03
OUTLIER_SIGMA = 5.0
"""Pixels farther off than this lose weight as in Huber's estimator: neighbours, cosmic rays."""


@dataclass(frozen=True, eq=False)
class _Sums:
    """Cost and normal equations in blocks: those of the shape, of shape and each star, of each star."""

    cost: float
    of_shape: np.ndarray
    mixed: np.ndarray
    of_star: np.ndarray
    right_shape: np.ndarray
    right_star: np.ndarray


@dataclass(frozen=True)
class Moffat:
    """``(1 + a u^2 + b v^2 + 2 c u v)^-beta`` with offsets u along x and v along y, before the pixel."""

    a: float
    b: float
    c: float
    beta: float

    @property
    def fwhm_pix(self) -> float:
        """Geometric mean of the two axes, without the pixel."""
        return float(2 * np.sqrt((2 ** (1 / self.beta) - 1) / np.sqrt(self.a * self.b - self.c**2)))


def round_moffat(fwhm_pix: float, beta: float = 3.0) -> Moffat:
    """A round profile."""
    inverse2 = 4 * (2 ** (1 / beta) - 1) / fwhm_pix**2
    return Moffat(inverse2, inverse2, 0.0, beta)


def subsamples(fwhm_pix: float) -> int:
    """Samples per pixel and axis for its integral to be right to about a thousandth of the peak."""
    return 9 if fwhm_pix < 1 else 5 if fwhm_pix < 2 else 3 if fwhm_pix < 4 else 1


def fit_moffat(stars: PsfStars, at: Positions, fwhm_guess_pix: float) -> Moffat:
    """One profile for all stars, with centre, amplitude and background of each, by Levenberg-Marquardt.

    Parameters
    ----------
    stars : PsfStars
        A dozen do.
    at : Positions
        Centres and fluxes of the stars are improved in place.
    fwhm_guess_pix : float
        Of the stars as they are, pixel included.

    Returns
    -------
    Moffat
    """
    n = len(stars.rows)
    start = float(np.sqrt(max(fwhm_guess_pix**2 - 0.7, 0.3)))
    shape = np.array([*vars(round_moffat(start)).values()])
    own = np.column_stack(
        [at.x[stars.rows], at.y[stars.rows], stars.data.max(axis=(1, 2)), np.zeros(n)]
    ).astype(float)
    # The amplitude first: whatever the centre, the peak is a fair guess.
    damping, sums = 1e-3, _sums(stars, shape, own)
    for _ in range(N_STEPS):
        step_shape, step_own = _step(sums, damping)
        tried_shape, tried_own = _bounded(shape + step_shape), own + step_own
        tried_own[:, :2] = own[:, :2] + np.clip(step_own[:, :2], -0.5, 0.5)
        tried = _sums(stars, tried_shape, tried_own)
        if not tried.cost < sums.cost:
            damping *= 10
            if damping > 1e6:
                break
            continue
        gain = sums.cost - tried.cost
        done = gain < CONVERGED * sums.cost / np.sqrt(stars.data.size) and damping < 1e-2
        shape, own, sums, damping = tried_shape, tried_own, tried, damping / 10
        if done:
            break
    moffat = Moffat(*map(float, shape))
    at.x[stars.rows], at.y[stars.rows] = own[:, 0], own[:, 1]
    area = np.pi / (moffat.beta - 1) / np.sqrt(moffat.a * moffat.b - moffat.c**2)
    at.flux[stars.rows] = own[:, 2] * area
    return moffat


def _bounded(shape: np.ndarray) -> np.ndarray:
    """Shape parameters of a profile that is one: exponent and both axes within limits."""
    a, b, c, beta = shape
    beta = float(np.clip(beta, *BETA_LIMITS))
    factor = 4 * (2 ** (1 / beta) - 1)
    low, high = factor / FWHM_LIMITS_PIX[1] ** 2, factor / FWHM_LIMITS_PIX[0] ** 2
    a, b = np.clip([a, b], low, high)
    limit = 0.9 * np.sqrt(a * b)
    return np.array([a, b, np.clip(c, -limit, limit), beta])


def _sums(stars: PsfStars, shape: np.ndarray, own: np.ndarray) -> _Sums:
    """The sums at a shape (4,) and own parameters of the stars (n, 4): x, y, amplitude, background."""
    size = stars.data.shape[-1]
    n = len(stars.rows)
    step = max(1, CHUNK_PIX // (size * subsamples(Moffat(*map(float, shape)).fwhm_pix)) ** 2)
    planes = np.concatenate(
        [_planes(stars.select(slice(k, k + step)), shape, own[k : k + step]) for k in range(0, n, step)]
    )
    amplitude = own[:, 2, None]
    model = amplitude * planes[:, 6] + own[:, 3, None]
    design = np.concatenate(
        [planes[:, :6] * amplitude[:, None], planes[:, 6:], np.ones((n, 1, size**2))], axis=1
    )
    weight = stars.weight.reshape(n, -1).astype(float)
    weight = weight / (1 + weight * (MODEL_ERROR * (model - own[:, 3, None])) ** 2)
    left = stars.data.reshape(n, -1) - model
    off = np.abs(left) * np.sqrt(weight)
    # Huber: cost grows linearly beyond the limit, and so the weight falls.
    far = np.maximum(off, OUTLIER_SIGMA)
    cost = float(np.where(off > OUTLIER_SIGMA, 2 * OUTLIER_SIGMA * off - OUTLIER_SIGMA**2, off**2).sum())
    # The normalisation of the weights moves with the model; its logarithm keeps the cost comparable.
    cost += float(
        np.log1p(stars.weight.reshape(n, -1) * (MODEL_ERROR * (model - own[:, 3, None])) ** 2).sum()
    )
    weighted = design * (weight * OUTLIER_SIGMA / far)[:, None]
    gram = weighted @ design.transpose(0, 2, 1)
    right = (weighted @ left[..., None])[..., 0]
    return _Sums(
        cost,
        gram[:, :4, :4].sum(axis=0),
        gram[:, :4, 4:],
        gram[:, 4:, 4:],
        right[:, :4].sum(axis=0),
        right[:, 4:],
    )


def _planes(stars: PsfStars, shape: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Derivatives with the four shape parameters, x and y, and the profile itself, (n, 7, size * size)."""
    a, b, c, beta = shape
    size = stars.data.shape[-1]
    k = subsamples(Moffat(a, b, c, beta).fwhm_pix)
    fine = (np.arange(size * k) + 0.5) / k - 0.5
    u = (fine + (stars.corner_x - own[:, 0])[:, None])[:, None, :]
    v = (fine + (stars.corner_y - own[:, 1])[:, None])[:, :, None]
    q = 1 + a * u**2 + b * v**2 + 2 * c * u * v
    value = q**-beta
    slope = beta * value / q
    planes = np.stack(
        [
            -slope * u**2,
            -slope * v**2,
            -2 * slope * u * v,
            -value * np.log(q),
            2 * slope * (a * u + c * v),
            2 * slope * (b * v + c * u),
            value,
        ],
        axis=1,
    )
    n = len(stars.rows)
    return np.asarray(planes.reshape(n, 7, size, k, size, k).mean(axis=(3, 5)).reshape(n, 7, -1))


def _step(sums: _Sums, damping: float) -> tuple[np.ndarray, np.ndarray]:
    """Damped step of the shape (4,) and of each star (n, 4); the stars' own blocks are eliminated."""
    own = sums.of_star
    own = own + damping * np.einsum("nii->ni", own)[:, :, None] * np.eye(4) + 1e-12 * np.eye(4)
    inverse = np.linalg.inv(own)
    through = sums.mixed @ inverse
    reduced = sums.of_shape - (through @ sums.mixed.transpose(0, 2, 1)).sum(axis=0)
    reduced += damping * np.diag(np.diag(sums.of_shape)) + 1e-12 * np.eye(4)
    right = sums.right_shape - (through @ sums.right_star[..., None]).sum(axis=0)[:, 0]
    shape = np.linalg.solve(reduced, right)
    left = sums.right_star - np.einsum("nij,i->nj", sums.mixed, shape)
    return shape, (inverse @ left[..., None])[..., 0]


def effective_image(moffat: Moffat, half_pix: int, oversample: int) -> np.ndarray:
    """The profile integrated over pixels at offsets of 1 / `oversample` px, (size, size), flux about 1."""
    k = max(2 * (subsamples(moffat.fwhm_pix) // 2 + 1) // oversample, 1) * oversample
    reach = half_pix * k + k // 2
    fine = np.arange(-reach, reach + 1) / k
    u, v = fine[None, :], fine[:, None]
    value = (1 + moffat.a * u**2 + moffat.b * v**2 + 2 * moffat.c * u * v) ** -moffat.beta
    # Trapezoid over one pixel: k intervals, the two at the ends with half weight.
    window = np.ones(k + 1)
    window[[0, -1]] = 0.5
    for axis in (0, 1):
        value = np.apply_along_axis(np.convolve, axis, value, window / k, mode="valid")
    value = value[:: k // oversample, :: k // oversample]
    return np.asarray(value * oversample**2 / value.sum())


def project(image: np.ndarray, *, half_pix: int, oversample: int, scale_pix: float) -> np.ndarray:
    """Coefficients of the functions for an oversampled image, shape (n_functions,)."""
    axis = (np.arange(image.shape[0]) - image.shape[0] // 2)[None, :] / oversample
    on = profile.grid(axis, axis, scale_pix=scale_pix, half_pix=half_pix)
    gram, right = profile.normal_equations(on, image[None], np.ones((1, *image.shape)))
    # Without the tails, which it has not.
    free = np.r_[: on.basis.n_symmetric, on.basis.n_functions - 1]
    gram, right = gram[0][np.ix_(free, free)], right[0, free]
    out = np.zeros(on.basis.n_functions)
    out[free] = np.linalg.solve(gram + 1e-9 * np.diag(np.diag(gram)), right)
    return out


def fwhm_of(image: np.ndarray, oversample: int) -> float:
    """Diameter of the circle with the area above half maximum of an oversampled image, px.

    Rows and columns at the rim of that area count by linear interpolation.
    """
    half = image.max() / 2
    step = np.abs(np.stack(np.gradient(image))).sum(axis=0)
    covered = np.clip((image - half) / np.maximum(step, 1e-30) + 0.5, 0, 1)
    return float(2 * np.sqrt(covered.sum() / np.pi) / oversample)
