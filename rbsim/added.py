"""What lights added to a frame: little of it changes, so it is kept as lists of pixels and small boxes."""

from dataclasses import dataclass

import numpy as np

from rbsim.convolve import KernelAt, convolve_stamps, convolve_varying, nearest_centres

SPARSE_SHARE = 0.5
"""Boxes with the reach of the kernel are convolved one by one if they are less than this share of the frame:
from about 0.7 on its tiles are faster (hatp32, kernels of 17 px)."""


@dataclass(frozen=True, eq=False)
class Boxes:
    """Equal boxes that overlap nowhere, with the changes of some pixels within them.

    Attributes
    ----------
    pixels : ndarray, shape (m,), int
        Numbers in the frame, row by row; all of them in the frame.
    within : ndarray, shape (m,), int
        The same pixels numbered through the boxes, row by row, box after box.
    values : ndarray, shape (m,), float32
    corner_x, corner_y : ndarray, shape (n,), int
        Frame pixel of each box's first pixel; may lie outside the frame.
    height, width : int
    """

    pixels: np.ndarray
    within: np.ndarray
    values: np.ndarray
    corner_x: np.ndarray
    corner_y: np.ndarray
    height: int
    width: int

    def stamps(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, shape (n, height, width) or smaller without borders that are empty in all, and corners."""
        n = len(self.corner_x)
        flat = np.zeros(n * self.height * self.width, np.float32)
        flat[self.within] = self.values
        images = flat.reshape(n, self.height, self.width)
        filled = (images != 0).any(axis=0)
        y, x = (np.flatnonzero(filled.any(axis=axis)) for axis in (1, 0))
        if not len(y):
            return images[:, :0, :0], self.corner_x, self.corner_y
        images = images[:, y[0] : y[-1] + 1, x[0] : x[-1] + 1]
        return images, self.corner_x + x[0], self.corner_y + y[0]


@dataclass(frozen=True, eq=False)
class Added:
    """What some pixels of a frame gained.

    Attributes
    ----------
    boxes : tuple of Boxes
        Those of one may overlap those of another.
    shape : (ny, nx)
    """

    boxes: tuple[Boxes, ...]
    shape: tuple[int, int]

    def __bool__(self) -> bool:
        """Whether any pixel changed."""
        return any(len(some.pixels) for some in self.boxes)

    def plane(self) -> np.ndarray:
        """The gain of every pixel, shape (ny, nx), float32."""
        return self.to(np.zeros(self.shape, np.float32))

    def to(self, plane: np.ndarray) -> np.ndarray:
        """A plane that may be changed, with the gain added."""
        flat = plane.reshape(-1)
        for some in self.boxes:
            flat[some.pixels] = np.take(flat, some.pixels) + some.values
        return plane

    def touched(self) -> np.ndarray:
        """Pixels that are in the lists, shape (ny, nx), bool."""
        out = np.zeros(self.shape, bool)
        for some in self.boxes:
            out.reshape(-1)[some.pixels] = True
        return out

    def convolved(self, kernel_at: KernelAt) -> np.ndarray:
        """The plane convolved with a kernel that varies over the frame, shape (ny, nx), float32.

        Where the boxes are a small part of the frame each is convolved by itself, with the kernel of the tile
        that its middle is on, else the frame is, tile by tile. The two differ only where a box reaches into
        the next tile, by the change of the kernel from one to the next.
        """
        out = np.zeros(self.shape, np.float32)
        stacks = [stack for stack in (some.stamps() for some in self.boxes) if stack[0].size]
        kernels = [kernel_at(*self._tile_of(*stack)) for stack in stacks]
        n_pixels = sum(
            len(images) * np.prod(np.add(images.shape[1:], of_each.shape[1:]))
            for (images, _, _), of_each in zip(stacks, kernels, strict=True)
        )
        if n_pixels > SPARSE_SHARE * out.size:
            return convolve_varying(self.plane(), kernel_at)
        for (images, corner_x, corner_y), of_each in zip(stacks, kernels, strict=True):
            half = of_each.shape[1] // 2
            _lay(out, convolve_stamps(images, of_each), corner_x - half, corner_y - half)
        return out

    def _tile_of(
        self, images: np.ndarray, corner_x: np.ndarray, corner_y: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Centres x, y of the tiles that the middles of images are on."""
        _, height, width = images.shape
        return nearest_centres(corner_x + (width - 1) / 2, corner_y + (height - 1) / 2, self.shape)


def _lay(plane: np.ndarray, images: np.ndarray, left: np.ndarray, bottom: np.ndarray) -> None:
    """Add what of equal images, which may overlap, lies on a plane."""
    ny, nx = plane.shape
    _, height, width = images.shape
    spans = [
        np.clip(first, 0, size).tolist()
        for start, length, size in ((bottom, height, ny), (left, width, nx))
        for first in (start, start + length)
    ]
    for image, y, x, y0, y1, x0, x1 in zip(images, bottom.tolist(), left.tolist(), *spans, strict=True):
        plane[y0:y1, x0:x1] += image[y0 - y : y1 - y, x0 - x : x1 - x]
