"""The functions that a subtraction kernel is made of: Gauss-Hermite, or one delta function a pixel."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np

FWHM_PER_SIGMA = 2.355
STAMPS_OF_ORDER = ((4, 105), (3, 70), (2, 40), (1, 12), (0, 0))
"""Degrees of the kernel in position, and the stamps that each needs: about seven a term."""


@dataclass(frozen=True)
class GaussHermiteBasis:
    """Gaussians times Hermite polynomials (Alard & Lupton 1998, ApJ 503, 325, eq. 3).

    Attributes
    ----------
    sigmas_pix : tuple of float
        Standard deviation of each family.
    degrees : tuple of int
        Highest total degree of each family.
    half_pix : int
        Half size of the kernel.
    """

    sigmas_pix: tuple[float, ...]
    degrees: tuple[int, ...]
    half_pix: int

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray]:
        """1-D functions, shape (f, k), and which two make each basis function, shape (b, 2)."""
        u = np.arange(-self.half_pix, self.half_pix + 1, dtype=float)
        functions: list[np.ndarray] = []
        pairs: list[tuple[int, int]] = []
        for sigma, degree in zip(self.sigmas_pix, self.degrees, strict=True):
            first = len(functions)
            gauss = np.exp(-0.5 * (u / sigma) ** 2)
            vander = np.polynomial.hermite_e.hermevander(u / sigma, degree) * gauss[:, None]
            functions += list((vander / np.sqrt((vander**2).sum(axis=0))).T)
            pairs += [(first + j, first + i) for i in range(degree + 1) for j in range(degree + 1 - i)]
        return np.array(functions), np.array(pairs)

    @property
    def size(self) -> int:
        """Number of basis functions."""
        return len(self._parts[1])

    @cached_property
    def images(self) -> np.ndarray:
        """The functions as images, shape (size, k, k)."""
        functions, pairs = self._parts
        return functions[pairs[:, 0], :, None] * functions[pairs[:, 1], None, :]

    @property
    def penalty(self) -> np.ndarray | None:
        """None: a few smooth functions need no regularisation."""
        return None

    def design(self, stamps: np.ndarray) -> np.ndarray:
        """Stamps convolved with every function, where the kernel is inside, shape (n, size, out * out).

        A 1-D convolution of a stamp is a product with a band matrix, so everything is BLAS.
        """
        functions, pairs = self._parts
        n, width, _ = stamps.shape
        k = functions.shape[1]
        out = width - k + 1
        bands = np.zeros((len(functions), out, width))
        for i in range(out):
            bands[:, i, i : i + k] = functions[:, ::-1]
        along_y = np.matmul(bands[None], stamps.astype(float)[:, None])  # (n, f, out, width)
        columns = np.empty((n, len(pairs), out, out))
        for fx in np.unique(pairs[:, 1]):
            rows = np.flatnonzero(pairs[:, 1] == fx)
            columns[:, rows] = along_y[:, pairs[rows, 0]] @ bands[fx].T
        return columns.reshape(n, len(pairs), out * out)


@dataclass(frozen=True)
class DeltaBasis:
    """A free value for every kernel pixel, smoothed by a penalty (Becker et al. 2012, MNRAS 425, 1341).

    Attributes
    ----------
    half_pix : int
        Half size of the kernel.
    """

    half_pix: int

    @property
    def size(self) -> int:
        """Number of basis functions."""
        return (2 * self.half_pix + 1) ** 2

    @cached_property
    def images(self) -> np.ndarray:
        """The functions as images, shape (size, k, k)."""
        k = 2 * self.half_pix + 1
        return np.eye(k * k).reshape(k * k, k, k)

    @cached_property
    def penalty(self) -> np.ndarray:
        """Sum of squared second differences along both axes as a quadratic form, shape (size, size)."""
        k = 2 * self.half_pix + 1
        # The kernel is zero outside: the differences run over its edge.
        second = np.zeros((k + 2, k))
        for i in range(k + 2):
            for offset, value in ((-2, 1.0), (-1, -2.0), (0, 1.0)):
                if 0 <= i + offset < k:
                    second[i, i + offset] = value
        square = second.T @ second
        return np.kron(square, np.eye(k)) + np.kron(np.eye(k), square)

    def design(self, stamps: np.ndarray) -> np.ndarray:
        """Stamps shifted by every kernel pixel, shape (n, size, out * out)."""
        k = 2 * self.half_pix + 1
        out = stamps.shape[1] - k + 1
        windows = np.lib.stride_tricks.sliding_window_view(stamps, (out, out), axis=(1, 2))
        return windows[:, ::-1, ::-1].reshape(len(stamps), k * k, out * out).astype(float)


KernelBasis = GaussHermiteBasis | DeltaBasis


def matching_sigma(fwhm_from_pix: float, fwhm_to_pix: float) -> float:
    """Standard deviation of the Gaussian that turns one Gaussian PSF into the other; 0 if it is not wider."""
    return float(np.sqrt(max(fwhm_to_pix**2 - fwhm_from_pix**2, 0.0))) / FWHM_PER_SIGMA


def choose_basis(kind: str, fwhm_from_pix: float, fwhm_to_pix: float, n_stamps: int) -> KernelBasis:
    """Widths from the two PSFs, freedom from the number of stamps.

    The middle Gaussian has the width that matches two Gaussian PSFs; where the target is not the wider
    one, the narrow functions of high degree have to sharpen. A delta kernel reaches 3 of these widths and
    2 px more.

    Parameters
    ----------
    kind : str
        One of `rbsim.config.BASES`.
    fwhm_from_pix, fwhm_to_pix : float
    n_stamps : int
    """
    match = matching_sigma(fwhm_from_pix, fwhm_to_pix)
    if kind == "delta":
        return DeltaBasis(int(np.clip(np.ceil(3 * match + 2), 4, 9)))
    sigmas = (max(0.7, 0.5 * match), max(1.3, 1.0 * match), max(2.4, 2.0 * match))
    degrees = (6, 4, 2) if n_stamps >= 20 else (4, 2, 0) if n_stamps >= 8 else (2, 0, 0)
    return GaussHermiteBasis(sigmas, degrees, int(np.ceil(3.2 * sigmas[-1])))


def affordable_order(max_order: int, n_stamps: int) -> int:
    """Highest degree of the kernel in position that so many stamps can carry, `max_order` at most."""
    return min(max_order, next(order for order, needed in STAMPS_OF_ORDER if n_stamps >= needed))
