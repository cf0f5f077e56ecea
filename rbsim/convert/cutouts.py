"""Cut-outs of alerts: a gzipped FITS image of at most 63 x 63 px -> the pixels of a stamp."""

import io
import warnings
import zlib

import numpy as np
from astropy.io import fits

from rbsim import schema
from rbsim.errors import InputError

CUTOUT_SIZE_PIX = 63
CUTOUT_HALF_PIX = CUTOUT_SIZE_PIX // 2

MAX_FITS_BYTES = 262_144
"""A cut-out of 63 x 63 float32 has 20,160 bytes; ten times that is no cut-out."""

_BITPIX_OF_FLOATS = (-32, -64)


def read_cutout(content: bytes) -> np.ndarray:
    """The image of a gzipped FITS file, shape (ny, nx), float64; NaN without pixel.

    The content may come from anywhere: no more than `MAX_FITS_BYTES` is unpacked, and sizes are checked
    before pixels are touched.

    Raises
    ------
    InputError
        If it is no such file, is larger, or holds no 2-D image of floats of at most 63 x 63 px.
    """
    stream = zlib.decompressobj(wbits=31)
    try:
        raw = stream.decompress(content, MAX_FITS_BYTES)
    except zlib.error as error:
        raise InputError(f"a cut-out is no gzip file ({error})") from error
    if stream.unconsumed_tail or not stream.eof:
        raise InputError(f"a cut-out is cut or holds more than {MAX_FITS_BYTES:,} bytes")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # ZTF writes SIMPLE in a form of its own
            with fits.open(io.BytesIO(raw), memmap=False, do_not_scale_image_data=True) as hdus:
                header = hdus[0].header
                shape = (int(header["NAXIS2"]), int(header["NAXIS1"])) if header["NAXIS"] == 2 else ()
                is_small = len(shape) == 2 and all(1 <= n <= CUTOUT_SIZE_PIX for n in shape)
                if not is_small or header["BITPIX"] not in _BITPIX_OF_FLOATS:
                    raise InputError(
                        f"a cut-out has axes {shape} and BITPIX {header['BITPIX']!r}; floats of at most"
                        f" {CUTOUT_SIZE_PIX} x {CUTOUT_SIZE_PIX} px are wanted"
                    )
                image = np.array(hdus[0].data, np.float64)
    except InputError:
        raise
    except Exception as error:  # astropy raises many kinds on bytes that are no FITS
        what = (str(error).splitlines() or [type(error).__name__])[0]
        raise InputError(f"a cut-out is no FITS image ({what})") from error
    if image.shape != shape:
        raise InputError(f"a cut-out is cut: its header says {shape}")
    image[~np.isfinite(image)] = np.nan
    return image


def pad_cutout(image: np.ndarray, *, x_pix: float, y_pix: float) -> np.ndarray:
    """A cut-out that the border of its frame cut, with the source in the central pixel again.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        At most 63 x 63 px.
    x_pix, y_pix : float
        0-based position of the source in the frame: a source within 31 px of the first column lacks pixels
        on that side, any other on the far side.

    Returns
    -------
    ndarray, shape (63, 63)
        NaN outside the frame.

    Raises
    ------
    InputError
        If the image is smaller and the position is not known.
    """
    if image.shape == (CUTOUT_SIZE_PIX, CUTOUT_SIZE_PIX):
        return image
    if not (np.isfinite(x_pix) and np.isfinite(y_pix)):
        raise InputError(
            f"a cut-out has {image.shape} px and xpos, ypos are not known to tell which are missing"
        )
    out = np.full((CUTOUT_SIZE_PIX, CUTOUT_SIZE_PIX), np.nan)
    first = [max(0, CUTOUT_HALF_PIX - int(np.floor(position + 0.5))) for position in (y_pix, x_pix)]
    # A side with all its pixels starts at 0; one that does not fit was cut elsewhere than we think.
    first = [min(f, CUTOUT_SIZE_PIX - n) for f, n in zip(first, image.shape, strict=True)]
    out[first[0] : first[0] + image.shape[0], first[1] : first[1] + image.shape[1]] = image
    return out


def crop(image: np.ndarray) -> np.ndarray:
    """The central 29 x 29 of 63 x 63 px."""
    low = CUTOUT_HALF_PIX - schema.STAMP_HALF_PIX
    return image[low : low + schema.STAMP_SIZE_PIX, low : low + schema.STAMP_SIZE_PIX]


def resample(image: np.ndarray) -> np.ndarray:
    """All of 63 x 63 px as 29 x 29 px of 63/29 the size; the sum of the pixels is kept.

    Each new pixel is the sum of the old ones, weighted with the share of their area in it (drizzling with
    full pixels). NaN where a part of it has no value.
    """
    weight = _overlap(CUTOUT_SIZE_PIX, schema.STAMP_SIZE_PIX)  # (29, 63)
    known = np.isfinite(image)
    summed = weight @ np.where(known, image, 0.0) @ weight.T
    missing = weight @ (~known).astype(float) @ weight.T
    return np.where(missing > 1e-9, np.nan, summed)


def _overlap(n_old: int, n_new: int) -> np.ndarray:
    """Share of each old pixel's length in each new one, shape (n_new, n_old); columns sum to 1."""
    edges = np.arange(n_new + 1) * (n_old / n_new)
    old = np.arange(n_old)
    low = np.maximum(edges[:-1, None], old)
    high = np.minimum(edges[1:, None], old + 1)
    return np.clip(high - low, 0, None)
