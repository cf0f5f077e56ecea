"""Fine pixels dropped onto a coarser grid, each split between the pixels that it lies on, flux conserved.

A fine pixel counts as a square along the axes of the coarse grid, with its own centre and area. Turned
against the grid it has the same centroid and second moments as that square, so at 0.2 coarse pixels a side
nothing that a PSF could show is lost; and as the shares of each fine pixel sum to one, the sum of the image
is kept to rounding, whatever the angle.
"""

from collections.abc import Sequence

import numpy as np

from rbsim.errors import InputError
from rbsim.transform import Transform

BLOCK_ROWS = 48
"""Rows of fine pixels at a time: the working arrays stay in the cache."""


def deposit(
    planes: Sequence[np.ndarray], transform: Transform, shape: tuple[int, int]
) -> tuple[list[np.ndarray], np.ndarray]:
    """Sum planes of fine pixels over the pixels of another grid.

    Parameters
    ----------
    planes : sequence of ndarray, shape (my, mx)
        Finite. Boolean ones become areas (in coarse pixels) and cost little where they are mostly False.
    transform : Transform
        From the fine grid (its `from_shape`) to the coarse one.
    shape : (ny, nx)
        Of the coarse grid; what falls outside is lost.

    Returns
    -------
    sums : list of ndarray, shape (ny, nx), float64
        One for each plane.
    area : ndarray, shape (ny, nx), float64
        Of the fine pixels that lie on each pixel: about 1 where they cover it.

    Raises
    ------
    InputError
        If the fine pixels are not finer than the coarse ones.
    """
    my, mx = transform.from_shape
    ny, nx = shape
    sums = [
        np.zeros((ny + 2, nx + 2)) for _ in range(len(planes) + 1)
    ]  # a border for what lies across the edge
    columns = np.arange(mx)
    for y0 in range(0, my, BLOCK_ROWS):
        rows = np.arange(y0, min(y0 + BLOCK_ROWS, my))
        at_x, at_y, area = transform.apply_grid(columns, rows)
        side = float(np.sqrt(np.median(area)))
        if not side < 1:
            raise InputError(
                f"its pixels are {side:.2f} of the frame's; only finer images can be summed onto it"
            )
        low_x, low_y = at_x + (0.5 - side / 2), at_y + (0.5 - side / 2)
        first_x, first_y = np.floor(low_x), np.floor(low_y)
        inside = (first_x >= -1) & (first_x < nx) & (first_y >= -1) & (first_y < ny)
        if not inside.any():
            continue
        keep = slice(None) if inside.all() else np.flatnonzero(inside)
        first_x, first_y = first_x.ravel()[keep].astype(np.int64), first_y.ravel()[keep].astype(np.int64)
        # The share that lies on the next pixel.
        next_x = np.clip((low_x.ravel()[keep] + side - first_x - 1) / side, 0, 1)
        next_y = np.clip((low_y.ravel()[keep] + side - first_y - 1) / side, 0, 1)
        x0, y0_out = int(first_x.min()), int(first_y.min())
        box = (int(first_y.max()) - y0_out + 2, int(first_x.max()) - x0 + 2)
        index = (first_y - y0_out) * box[1] + (first_x - x0)
        parts = _parts(index, next_x, next_y, box[1])
        here = (slice(y0_out + 1, y0_out + 1 + box[0]), slice(x0 + 1, x0 + 1 + box[1]))
        flat_area = area.ravel()[keep]
        for total, plane in zip(sums, planes, strict=False):
            values = plane[rows[0] : rows[-1] + 1].ravel()[keep]
            total[here] += _sum(values, flat_area, parts, box)
        sums[-1][here] += _sum(flat_area, flat_area, parts, box)
    inner = [total[1:-1, 1:-1] for total in sums]
    return inner[:-1], inner[-1]


_Part = tuple[np.ndarray | slice, np.ndarray, np.ndarray]
"""Which of the fine pixels, where they go, and with which share."""


def _parts(index: np.ndarray, next_x: np.ndarray, next_y: np.ndarray, width: int) -> list[_Part]:
    across_x, across_y = np.flatnonzero(next_x > 0), np.flatnonzero(next_y > 0)
    corner = across_x[next_y[across_x] > 0]
    return [
        (slice(None), index, (1 - next_x) * (1 - next_y)),
        (across_x, index[across_x] + 1, next_x[across_x] * (1 - next_y[across_x])),
        (across_y, index[across_y] + width, (1 - next_x[across_y]) * next_y[across_y]),
        (corner, index[corner] + width + 1, next_x[corner] * next_y[corner]),
    ]


def _sum(values: np.ndarray, area: np.ndarray, parts: list[_Part], box: tuple[int, int]) -> np.ndarray:
    n = box[0] * box[1]
    total = np.zeros(n)
    if values.dtype == bool:
        if not values.any():
            return total.reshape(box)
        for which, index, share in parts:
            some = np.flatnonzero(values[which])
            total += np.bincount(index[some], weights=(area[which] * share)[some], minlength=n)
        return total.reshape(box)
    for which, index, share in parts:
        total += np.bincount(index, weights=values[which] * share, minlength=n)
    return total.reshape(box)
