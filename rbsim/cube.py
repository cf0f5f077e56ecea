"""Cubes of short exposures: read block by block, averaged with clipping, and looked into again later.

What one single frame of a cube has (a glint, a satellite, a cosmic ray) the clipped mean does not, and its
pixels are marked ONE_FRAME. A frame that is such a mean remembers its cube, so that light can be put into
single frames of it and the same mean be taken again.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.io import fits

from rbsim import hdus
from rbsim.detector import (
    PILE_UP_SHARE,
    Detector,
    DetectorOptions,
    find_saturation,
    interpret_header,
    median_of_finite,
)
from rbsim.errors import InputError
from rbsim.robust import robust_width
from rbsim.schema import MASK
from rbsim.sources import grow
from rbsim.stack import clipped_mean
from rbsim.tomoe.standard import standard_header

BLOCK_VALUES = 8_000_000
"""Values in memory at a time, whatever the number of frames."""
MAX_DEAD_LINES = 0.02
"""Share of lines without a signal by which a frame may exceed the middle one."""


@dataclass(frozen=True)
class Cube:
    """Where the single frames of a mean are, and by what rule it was taken.

    Attributes
    ----------
    path : Path
    hdu : int
        Number of the HDU.
    n_frames : int
    shape : (ny, nx)
    sky_adu, sigma_adu : float
        Median and noise of a single frame; they set what is clipped.
    detector : Detector
        Of a single frame.
    """

    path: Path
    hdu: int
    n_frames: int
    shape: tuple[int, int]
    sky_adu: float
    sigma_adu: float
    detector: Detector


@dataclass(frozen=True, eq=False)
class CubeMean:
    """The mean of a cube: image in raw ADU, mask, header, zero point, detector of the mean, the cube."""

    image: np.ndarray
    mask: np.ndarray
    header: fits.Header
    zero_point_mag: float | None
    detector: Detector
    cube: Cube


def of_mean(detector: Detector, n_frames: int) -> Detector:
    """Electronics of the mean of frames: so many times the electrons per ADU, the same full well."""
    return replace(
        detector,
        gain_e_per_adu=detector.gain_e_per_adu * n_frames,
        read_noise_e=detector.read_noise_e * np.sqrt(n_frames),
        is_integer=False,
    )


def n_frames_of(header: fits.Header) -> int:
    """Frames in an image HDU: 1 unless it is a cube."""
    return int(header["NAXIS3"]) if header.get("NAXIS") == 3 else 1


@dataclass(frozen=True, eq=False)
class Correction:
    """Dark and flat of a cube's frames: calibrated ADU are (raw - dark) / flat.

    Attributes
    ----------
    x0_pix, y0_pix : int
        First pixel of a frame that is lit; the others are left out.
    dark_adu, flat : ndarray, shape (ny, nx), float32
        Of the lit pixels; NaN where a pixel is bad.
    """

    x0_pix: int
    y0_pix: int
    dark_adu: np.ndarray
    flat: np.ndarray


def read_cube(path: Path, extension: str | int | None, options: DetectorOptions) -> CubeMean | None:
    """Clipped mean of a cube, shape (n, ny, nx); None if the file has a 2-D image.

    Gain, read noise and saturation in header and options are those of a single frame. Mask as of
    `average_cube`.

    Raises
    ------
    InputError
        If the file is missing, not FITS, truncated, or has no image, or as `average_cube`.
    """
    with hdus.opened(path) as opened:
        hdu = hdus.choose_hdu(opened, extension, path)
        if hdu.header["NAXIS"] != 3:
            return None
        header = standard_header(hdu.header, path)
        detector, zero_point = interpret_header(header, options, path)
        return average_cube(hdu, path, opened.index(hdu), header, detector, zero_point)


def average_cube(
    hdu: fits.ImageHDU,
    path: Path,
    number: int,
    header: fits.Header,
    detector: Detector,
    zero_point_mag: float | None,
    *,
    correction: Correction | None = None,
) -> CubeMean:
    """Clipped mean of the frames of an HDU, read block by block.

    A pixel that is saturated in any frame, in raw ADU, is SATURATED, before the mean hides it; one that a
    single frame dominates, or would without clipping, is ONE_FRAME.

    Parameters
    ----------
    hdu : fits.ImageHDU
        With three axes.
    path : Path
    number : int
        Of the HDU in its file.
    header : fits.Header
    detector : Detector
        Of a single frame.
    zero_point_mag : float or None
    correction : Correction, optional
        Calibrates every frame before they are averaged.

    Raises
    ------
    InputError
        If there are no pixels, or a frame is damaged.
    """
    n, ny, nx = (int(hdu.header[f"NAXIS{axis}"]) for axis in (3, 2, 1))
    if not n * ny * nx:
        raise InputError(f"{path}: the cube is {nx} x {ny} px with {n} frames; it holds nothing")
    is_integer = correction is None and np.dtype(hdu.section[0, :1, :1].dtype).kind in "iu"
    detector = replace(detector, is_integer=is_integer)
    x0 = y0 = 0
    if correction is not None:
        (ny, nx), x0, y0 = correction.flat.shape, correction.x0_pix, correction.y0_pix
    sky, sigma = _sky_of(hdu, n, correction)
    cube = Cube(path, number, n, (ny, nx), sky, sigma, detector)
    image, top = np.empty((ny, nx), np.float32), np.empty((ny, nx), np.float32)
    mask = np.zeros((ny, nx), np.uint8)
    n_dead_lines = np.zeros(n, int)
    rows = max(1, BLOCK_VALUES // (n * nx))
    for start in range(0, ny, rows):
        stop = min(start + rows, ny)
        low, high = max(start - 1, 0), min(stop + 1, ny)  # clipping looks at the neighbours
        planes = _values(hdu.section[:, y0 + low : y0 + high, x0 : x0 + nx])
        inner = slice(start - low, stop - low)
        with np.errstate(invalid="ignore"):
            top[start:stop] = np.fmax.reduce(planes[:, inner], axis=0)
            differ = np.fmax.reduce(planes[:, inner], axis=2) > np.fmin.reduce(planes[:, inner], axis=2)
        n_dead_lines += (~differ).sum(axis=1)
        mean, one_frame = mean_of(cube, _corrected(planes, correction, slice(low, high)))
        image[start:stop] = mean[inner]
        mask[start:stop][one_frame[inner]] |= MASK["ONE_FRAME"]
    _refuse_damaged(n_dead_lines / ny, path)
    masked_from = detector.saturation_adu
    values = top[np.isfinite(top)]
    if np.isnan(masked_from) and values.size:
        level, floor = find_saturation(values), median_of_finite(values)
        detector = replace(detector, saturation_adu=level)
        masked_from = floor + PILE_UP_SHARE * (level - floor)
    if not np.isnan(masked_from):
        mask[grow(top >= masked_from, 1)] |= MASK["SATURATED"]
    cube = replace(cube, detector=detector)
    return CubeMean(image, mask, header, zero_point_mag, of_mean(detector, n), cube)


def corrected_frames(hdu: fits.ImageHDU, correction: Correction) -> Iterator[np.ndarray]:
    """The calibrated frames of an HDU one by one, shape (ny, nx), float32; NaN where a pixel is bad."""
    (ny, nx), x0, y0 = correction.flat.shape, correction.x0_pix, correction.y0_pix
    for number in range(int(hdu.header["NAXIS3"])):
        lit = _values(hdu.section[number, y0 : y0 + ny, x0 : x0 + nx])
        yield _corrected(lit, correction, slice(None))


def _corrected(planes: np.ndarray, correction: Correction | None, rows: slice) -> np.ndarray:
    if correction is None:
        return planes
    return (planes - correction.dark_adu[rows]) / correction.flat[rows]


def _refuse_damaged(dead_share: np.ndarray, path: Path) -> None:
    """Refuse a frame with more lines of one value, or none, than the others have: it was not read out."""
    damaged = np.flatnonzero(dead_share > np.median(dead_share) + MAX_DEAD_LINES)
    if damaged.size:
        numbers, share = ", ".join(str(number + 1) for number in damaged[:8]), dead_share[damaged[0]]
        raise InputError(
            f"{path}: frame {numbers} of {len(dead_share)} is damaged"
            f" ({share:.0%} of its lines hold one value or none); get the cube again"
        )


def read_box(cube: Cube, y: slice, x: slice) -> np.ndarray:
    """Raw ADU of all frames in a box, read from the file anew, shape (n, height, width), float32.

    Raises
    ------
    InputError
        If the file is gone or is no longer this cube.
    """
    with hdus.opened(cube.path) as opened:
        hdu = opened[cube.hdu]
        if (n_frames_of(hdu.header), hdu.header.get("NAXIS2"), hdu.header.get("NAXIS1")) != (
            cube.n_frames,
            *cube.shape,
        ):
            raise InputError(f"{cube.path}: has changed since it was read; start again")
        return _values(hdu.section[:, y, x])


def mean_of(cube: Cube, planes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The clipped mean by the rule of a cube, raw ADU, and which pixels one single frame stands out of.

    Parameters
    ----------
    cube : Cube
    planes : ndarray, shape (n, height, width), float32
        Raw ADU. The outermost pixels lack neighbours, which the rule looks at.
    """
    above = planes - np.float32(cube.sky_adu)
    variances = np.broadcast_to(np.float32(cube.sigma_adu**2), above.shape)
    mean, _, _, one_frame = clipped_mean(above, variances)
    return mean + np.float32(cube.sky_adu), one_frame


def _values(section: np.ndarray) -> np.ndarray:
    return np.asarray(section).astype(np.float32)


def _sky_of(hdu: fits.ImageHDU, n: int, correction: Correction | None) -> tuple[float, float]:
    """Median and noise of a single frame: of the difference of two, in which the stars vanish."""

    def frame(number: int) -> np.ndarray:
        if correction is None:
            return _values(hdu.section[number])
        (ny, nx), x0, y0 = correction.flat.shape, correction.x0_pix, correction.y0_pix
        lit = _values(hdu.section[number, y0 : y0 + ny, x0 : x0 + nx])
        return _corrected(lit, correction, slice(None))

    middle = frame(n // 2)
    good = middle[np.isfinite(middle)]
    if not good.size:
        return 0.0, 0.0
    sky = float(np.median(good))
    if n == 1:
        return sky, float(robust_width(good))
    change = middle - frame(n // 2 - 1)
    return sky, float(robust_width(change[np.isfinite(change)]) / np.sqrt(2))
