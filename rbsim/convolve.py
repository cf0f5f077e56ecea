"""Convolution with a kernel that varies over the frame: by FFT, tile by tile."""

from collections.abc import Callable

import numpy as np
from scipy import fft

TILE_PIX = 128

KernelAt = Callable[[np.ndarray, np.ndarray], np.ndarray]
"""Maps positions x, y of shape (n,) to kernels of shape (n, k, k), k odd."""


def convolve_varying(image: np.ndarray, kernel_at: KernelAt, *, tile_pix: int = TILE_PIX) -> np.ndarray:
    """Convolve with the kernel of each tile's centre.

    Linear in the image to rounding: convolving a sum gives the sum of the convolutions.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Finite; beyond the border it counts as zero.
    kernel_at : callable
        Kernels at positions, shape (n, k, k), k odd.
    tile_pix : int
        Size of the tiles; the kernel is constant within one.

    Returns
    -------
    ndarray, shape (ny, nx), float32
    """
    ny, nx = image.shape
    tile = min(tile_pix, max(ny, nx))
    rows, columns = -(-ny // tile), -(-nx // tile)
    tile_y, tile_x = (a.ravel() for a in np.mgrid[0:rows, 0:columns])
    kernels = kernel_at(np.minimum((tile_x + 0.5) * tile, nx - 1), np.minimum((tile_y + 0.5) * tile, ny - 1))
    half = kernels.shape[1] // 2
    padded = np.zeros((rows * tile + 2 * half, columns * tile + 2 * half), np.float32)
    padded[half : half + ny, half : half + nx] = image
    # One batch of tiles, each with a border of half a kernel: (rows, columns, tile + 2 half, tile + 2 half)
    span = tile + 2 * half
    windows = np.lib.stride_tricks.sliding_window_view(padded, (span, span))[::tile, ::tile]
    size = fft.next_fast_len(span, real=True)
    out = np.empty((rows * tile, columns * tile), np.float32)
    for row in range(rows):  # a row of tiles at a time keeps the working memory small
        spectrum = fft.rfft2(windows[row], (size, size))
        spectrum *= fft.rfft2(kernels[row * columns : (row + 1) * columns].astype(np.float32), (size, size))
        block = fft.irfft2(spectrum, (size, size))[:, 2 * half : 2 * half + tile, 2 * half : 2 * half + tile]
        out[row * tile : (row + 1) * tile] = block.transpose(1, 0, 2).reshape(tile, columns * tile)
    return out[:ny, :nx]
