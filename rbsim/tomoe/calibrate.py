"""RAW frames of Tomo-e become stacks: dark subtracted, flat divided, bad pixels marked, clipped mean."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from scipy import ndimage

from rbsim import __version__, hdus
from rbsim.cube import Correction, CubeMean, average_cube, corrected_frames
from rbsim.detector import Detector
from rbsim.errors import InputError
from rbsim.locations import written_whole
from rbsim.robust import robust_width
from rbsim.schema import MASK
from rbsim.tomoe.header import TomoeHeader, parse_header
from rbsim.tomoe.read import CalibrationFile, find_lit, read_pixels
from rbsim.tomoe.standard import as_stack, warn_of_assumptions

NEIGHBOURS_PIX = 5
HOT_SIGMA = 8.0
"""A pixel whose dark is so far from its neighbours' median is hot; its noise is larger than theirs too."""
FLAT_DEVIATION = 0.3
"""A pixel that answers to light so much more or less than its neighbours is bad."""


@dataclass(frozen=True, eq=False)
class Calibration:
    """Dark and flat of a sensor, made ready for its frames.

    Attributes
    ----------
    dark_adu : ndarray, shape (ny, nx), float32
        Of a single frame.
    flat : ndarray, shape (ny, nx), float32
        Median 1 over the good pixels, so that a sensor keeps its vignetting and its electrons per ADU.
    bad : ndarray of bool, shape (ny, nx)
        Hot, dead, without a value. In dark and flat they are NaN.
    dark_name, flat_name : str
    """

    dark_adu: np.ndarray
    flat: np.ndarray
    bad: np.ndarray
    dark_name: str
    flat_name: str


def make_calibration(dark: CalibrationFile, flat: CalibrationFile) -> Calibration:
    """Read a dark and a flat and find the bad pixels.

    Raises
    ------
    InputError
        If their shapes differ, the flat has zeros or no light, or more than half of the pixels are bad.
    """
    dark_adu, level = read_pixels(dark), read_pixels(flat)
    if dark_adu.shape != level.shape:
        raise InputError(
            f"{flat.path}: has {level.shape[1]} x {level.shape[0]} px, the dark {dark.path.name}"
            f" {dark_adu.shape[1]} x {dark_adu.shape[0]}; give those of one readout"
        )
    if not np.isfinite(dark_adu).any():
        raise InputError(f"{dark.path}: the dark has no values; give another")
    n_zero = int(np.count_nonzero(level == 0))
    if n_zero:
        raise InputError(
            f"{flat.path}: {n_zero} pixels of the flat are 0, by which nothing can be divided;"
            " give another flat, or make them NaN if they are dead"
        )
    middle = float(np.nanmedian(level)) if np.isfinite(level).any() else 0.0
    if not middle > 0:
        raise InputError(f"{flat.path}: the median of the flat is {middle:g}; give one with light")
    card = dark.card
    noise_adu = card.read_noise_e / card.gain_e_per_adu / np.sqrt(card.n_frames)
    bad = _hot(dark_adu, noise_adu) | _odd(level / middle)
    if bad.mean() > 0.5:
        raise InputError(
            f"{dark.path}: {bad.mean():.0%} of the pixels are bad by it and {flat.path.name}; give others"
        )
    middle = float(np.median(level[~bad]))
    nan = np.float32(np.nan)
    return Calibration(
        dark_adu=np.where(bad, nan, dark_adu),
        flat=np.where(bad, nan, level / np.float32(middle)),
        bad=bad,
        dark_name=dark.path.name,
        flat_name=flat.path.name,
    )


def _hot(dark_adu: np.ndarray, noise_adu: float) -> np.ndarray:
    """Pixels whose dark is not that of their neighbours, shape (ny, nx), bool."""
    above = _against_neighbours(dark_adu)[0]
    width = np.fmax(robust_width(above[np.isfinite(above)]), noise_adu)
    return np.asarray(~(np.abs(above) <= HOT_SIGMA * width))


def _odd(flat: np.ndarray) -> np.ndarray:
    """Pixels that answer to light unlike their neighbours, or not at all, shape (ny, nx), bool."""
    above, middle = _against_neighbours(flat)
    return np.asarray(~((np.abs(above) <= FLAT_DEVIATION * middle) & (flat > 0)))


def _against_neighbours(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """An image above the median of the neighbours, and that; NaN stays NaN in the first."""
    finite = np.isfinite(image)
    filled = np.where(finite, image, np.median(image[finite]) if finite.any() else 0)
    middle = ndimage.median_filter(filled, NEIGHBOURS_PIX)
    return np.where(finite, image - middle, np.nan), middle


def calibrate_cube(
    path: Path,
    calibration: Calibration | None,
    *,
    first_pixel: tuple[int, int] | None = None,
    cube_path: Path | None = None,
) -> tuple[TomoeHeader, CubeMean]:
    """Clipped mean of a RAW file's calibrated frames, or of a cube's, which are calibrated already.

    Saturation is marked before dark and flat, in the ADU of single frames.

    Parameters
    ----------
    path : Path
    calibration : Calibration or None
        Needed for RAW.
    first_pixel : (y, x), optional
        First lit pixel of RAW frames, if neither header nor light tell.
    cube_path : Path, optional
        Where to write the calibrated frames of RAW too, as a cube; made under another name first.

    Returns
    -------
    card : TomoeHeader
    mean : CubeMean
        NaN and BAD where a pixel is bad; its header is that of the file.

    Raises
    ------
    InputError
        If the file is unreadable, damaged or of another kind, or does not fit dark and flat.
    """
    with hdus.opened(path) as opened:
        hdu = hdus.choose_hdu(opened, None, path)
        card = parse_header(hdu.header, path)
        if card.kind not in ("raw", "cube"):
            raise InputError(f"{path}: is a {card.kind}; RAW files and cubes are calibrated")
        warn_of_assumptions(hdu.header, card, path)
        correction = None
        if card.kind == "raw":
            if calibration is None:
                raise InputError(f"{path}: is RAW; give --dark and --flat")
            shape = calibration.bad.shape
            y0, x0 = first_pixel or find_lit(hdu, card, shape, path)
            if y0 + shape[0] > card.shape[0] or x0 + shape[1] > card.shape[1]:
                raise InputError(
                    f"{path}: from pixel {x0},{y0} on its {card.shape[1]} x {card.shape[0]} px do not hold"
                    f" the {shape[1]} x {shape[0]} of dark and flat"
                )
            correction = Correction(x0, y0, calibration.dark_adu, calibration.flat)
        detector = Detector(card.gain_e_per_adu, 0.0, card.read_noise_e, card.saturation_adu, False)
        number, header = opened.index(hdu), hdu.header.copy()
        if correction is not None:
            _move_wcs(header, correction)
        mean = average_cube(hdu, path, number, header, detector, None, correction=correction)
        if correction is not None and cube_path is not None:
            _write_cube(cube_path, _complete(header, card), corrected_frames(hdu, correction), mean)
    mean.mask[~np.isfinite(mean.image)] |= MASK["BAD"]
    return card, mean


def _move_wcs(header: fits.Header, correction: Correction) -> None:
    """The reference pixel counts from the first one that is kept; cards on what is lit are void then."""
    for name, first in (("CRPIX1", correction.x0_pix), ("CRPIX2", correction.y0_pix)):
        if name in header:
            header[name] -= first
    for name in ("EFP-MIN1", "EFP-MIN2", "EFP-RNG1", "EFP-RNG2"):
        header.remove(name, ignore_missing=True)


def write_stack(path: Path, card: TomoeHeader, mean: CubeMean, calibration: Calibration | None) -> None:
    """Write a mean as a stack: the image, and MASK (schema.MASK_PLANES).

    Its header is that of the frames, with what `rbsim.tomoe.standard.standard_header` needs to read it.

    Parameters
    ----------
    path : Path
        Made under another name and renamed when whole; a file of this name is replaced.
    card : TomoeHeader
    mean : CubeMean
    calibration : Calibration or None
        For the names of dark and flat.
    """
    header = _complete(as_stack(mean.header, mean.cube.n_frames), card)
    header["FMTTYPE"] = "TOMOE-IMAGE-STACK"
    header["BUNIT"] = ("ADU", "of the mean single frame")
    if calibration is not None and card.kind == "raw":
        header["DARKFILE"], header["FLATFILE"] = calibration.dark_name, calibration.flat_name
    header["NBAD"] = (int(((mean.mask & MASK["BAD"]) != 0).sum()), "bad pixels")
    header["CREATOR"] = f"rbsim {__version__}"
    parts = fits.HDUList([fits.PrimaryHDU(mean.image, header), fits.ImageHDU(mean.mask, name="MASK")])
    with written_whole(path) as temporary:
        parts.writeto(temporary, overwrite=True)


def _write_cube(path: Path, header: fits.Header, frames: Iterator[np.ndarray], mean: CubeMean) -> None:
    """Write calibrated frames as a cube, one after the other."""
    n, (ny, nx) = mean.cube.n_frames, mean.cube.shape
    for name in ("CHECKSUM", "DATASUM", "BZERO", "BSCALE"):
        header.remove(name, ignore_missing=True)
    header["FMTTYPE"], header["BITPIX"] = "TOMOE-IMAGE-CUBE", -32
    header["NAXIS1"], header["NAXIS2"], header["NAXIS3"] = nx, ny, n
    header["BUNIT"], header["CREATOR"] = "ADU", f"rbsim {__version__}"
    # Its header may be that of an extension; of a primary one the first card is another.
    empty = fits.PrimaryHDU(np.empty((1, 1, 1), np.float32), header).header
    empty["NAXIS1"], empty["NAXIS2"], empty["NAXIS3"] = nx, ny, n
    with written_whole(path) as temporary, closing(fits.StreamingHDU(temporary, empty)) as stream:
        for frame in frames:
            stream.write(frame)


def _complete(header: fits.Header, card: TomoeHeader) -> fits.Header:
    """A copy of a header with what was made up for."""
    header = header.copy()
    if np.isfinite(card.frame_exposure_s):
        header["EXPTIME"] = (card.n_frames * card.frame_exposure_s, "[s] net, of all frames")
        header["EXPTIME1"] = (card.frame_exposure_s, "[s] of a single frame")
    if card.gain_setting:
        header["GAINCNFG"] = card.gain_setting
    if card.det_id:
        header["DET_ID"] = card.det_id
    if card.frame_id is not None:
        header["FRAME_ID"] = card.frame_id.text
    return header
