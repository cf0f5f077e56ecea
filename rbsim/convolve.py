"""Convolution with a kernel that varies over the frame: by FFT, tile by tile."""

from collections.abc import Callable

import numpy as np
from scipy import fft

TILE_PIX = 112
"""With the border of a typical kernel a span that the FFT likes; kernels change little over it."""
BATCH = 32

KernelAt = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps positions x, y of shape (n,) to kernels of shape (n, k, k), k odd."""


def convolve_varying(image: np.ndarray, kernel_at: KernelAt, *, tile_pix: int = TILE_PIX) -> np.ndarray:
    """Convolve with the kernel of each tile's centre; see `convolve_tiled`."""
    kernels = kernel_at(*tile_centres(image.shape, tile_pix=tile_pix))
    return convolve_tiled(image, kernels, tile_pix=tile_pix)


def _grid(shape: tuple[int, ...], tile_pix: int) -> tuple[int, int, int, int]:
    """Rows and columns of tiles, and the height and width of one."""
    ny, nx = shape
    rows, columns = max(1, round(ny / tile_pix)), max(1, round(nx / tile_pix))
    return rows, columns, -(-ny // rows), -(-nx // columns)


def tile_centres(shape: tuple[int, ...], *, tile_pix: int = TILE_PIX) -> tuple[np.ndarray, np.ndarray]:
    """Positions x, y of the centres of all tiles, shape (n,) each, row by row."""
    rows, columns, height, width = _grid(shape, tile_pix)
    tile_y, tile_x = (axis.ravel() for axis in np.mgrid[0:rows, 0:columns])
    return tile_x * width + (width - 1) / 2, tile_y * height + (height - 1) / 2


def nearest_centres(
    x_pix: np.ndarray, y_pix: np.ndarray, shape: tuple[int, ...], *, tile_pix: int = TILE_PIX
) -> tuple[np.ndarray, np.ndarray]:
    """Centres x, y of the tiles that positions are on, shape (n,); beyond the frame of the nearest one."""
    rows, columns, height, width = _grid(shape, tile_pix)
    tile_x = np.clip(np.rint(x_pix) // width, 0, columns - 1)
    tile_y = np.clip(np.rint(y_pix) // height, 0, rows - 1)
    return tile_x * width + (width - 1) / 2, tile_y * height + (height - 1) / 2


def convolve_tiled(image: np.ndarray, kernels: np.ndarray, *, tile_pix: int = TILE_PIX) -> np.ndarray:
    """Convolve each tile with its kernel.

    Linear in the image to rounding: convolving a sum gives the sum of the convolutions. Tiles whose
    input is zero cost nothing, so sparse images (masks, a few stars) are cheap.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Finite; beyond the border it counts as zero.
    kernels : ndarray, shape (n, k, k)
        One for each of `tile_centres`; k odd.
    tile_pix : int
        Size of the tiles, about.

    Returns
    -------
    ndarray, shape (ny, nx), float32
    """
    ny, nx = image.shape
    rows, columns, height, width = _grid(image.shape, tile_pix)
    half = kernels.shape[1] // 2
    padded = np.zeros((rows * height + 2 * half, columns * width + 2 * half), np.float32)
    padded[half : half + ny, half : half + nx] = image
    # Tiles with a border of half a kernel: (rows, columns, height + 2 half, width + 2 half)
    span = (height + 2 * half, width + 2 * half)
    windows = np.lib.stride_tricks.sliding_window_view(padded, span)[::height, ::width]
    size = tuple(fft.next_fast_len(length, real=True) for length in span)
    out = np.zeros((rows, height, columns, width), np.float32)
    filled = [tile for tile in range(rows * columns) if windows[divmod(tile, columns)].any()]
    for start in range(0, len(filled), BATCH):  # a batch at a time keeps the working memory small
        some = np.array(filled[start : start + BATCH])
        row, column = some // columns, some % columns
        spectrum = fft.rfft2(windows[row, column], size)
        spectrum *= _spectrum(kernels[some], size)
        lines = fft.ifft(spectrum, axis=1)[:, 2 * half : 2 * half + height]
        block = fft.irfft(lines, size[1], axis=2)[:, :, 2 * half : 2 * half + width]
        out[row, :, column, :] = block
    return out.reshape(rows * height, columns * width)[:ny, :nx]


def convolve_stamps(stamps: np.ndarray, kernels: np.ndarray) -> np.ndarray:
    """Convolve each small image with a kernel of its own.

    Parameters
    ----------
    stamps : ndarray, shape (n, height, width)
        Finite; beyond the border they count as zero.
    kernels : ndarray, shape (n, k, k)
        k odd.

    Returns
    -------
    ndarray, shape (n, height + k - 1, width + k - 1), float32
        All that the light reaches: k // 2 pixels more on each side.
    """
    n, height, width = stamps.shape
    k = kernels.shape[1]
    out = np.empty((n, height + k - 1, width + k - 1), np.float32)
    size = tuple(fft.next_fast_len(length, real=True) for length in out.shape[1:])
    batch = 4 * BATCH  # stamps are smaller than tiles
    for start in range(0, n, batch):
        some = slice(start, start + batch)
        spectrum = fft.rfft2(stamps[some].astype(np.float32, copy=False), size)
        spectrum *= _spectrum(kernels[some], size)
        out[some] = fft.irfft2(spectrum, size)[:, : out.shape[1], : out.shape[2]]
    return out


def _spectrum(kernels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """``rfft2(kernels, size)`` as two matrix products: most of a padded kernel is zeros.

    Shape (n, size[0], size[1] // 2 + 1), complex64.
    """
    k = kernels.shape[1]
    along_y, along_x = (
        np.exp(-2j * np.pi * np.outer(np.arange(n), np.arange(k)) / full).astype(np.complex64)
        for n, full in ((size[0], size[0]), (size[1] // 2 + 1, size[1]))
    )
    return np.asarray(along_y @ (kernels.astype(np.complex64) @ along_x.T))
