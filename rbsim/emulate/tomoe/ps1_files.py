"""Emulated PS1 images as files: skycells as the archive has them, references as rbsim reads them."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from rbsim import __version__
from rbsim.emulate.tomoe.ps1_images import EmulatedSkycell, WarpedImage
from rbsim.ps1.mask_bits import BAD, BITS

BAND = "r"
SOFTENING_SIGMA = 2.5
"""Softening of the asinh scaling, in units of the noise of a pixel."""
QUANTIZE_LEVEL = 16.0


def write_skycell(folder: Path, cell: EmulatedSkycell, *, band: str = BAND) -> Path:
    """Write a stack image, its mask, variance and number of inputs; the path of the image.

    The image is asinh-scaled, with BSOFTEN and BOFFSET; headers have PC001001-style cards and no RADESYS; the
    pixels are in a compressed extension.

    Parameters
    ----------
    folder : Path
        Is made if it is not there.
    cell : EmulatedSkycell
    band : str
        For the file name.
    """
    folder.mkdir(parents=True, exist_ok=True)
    header = _archive_header(cell, band)
    soften = SOFTENING_SIGMA * float(np.sqrt(np.nanmedian(cell.variance[::9, ::9])))
    scaled = header.copy()
    scaled["BSOFTEN"], scaled["BOFFSET"] = soften, 0.0
    values = np.arcsinh(cell.counts / np.float32(2 * soften)) * np.float32(2.5 / np.log(10))
    masked = header.copy()
    for number, (name, value) in enumerate(BITS.items()):
        masked[f"MSKNAM{number:02d}"], masked[f"MSKVAL{number:02d}"] = name, value
    masked[f"MSKNAM{len(BITS):02d}"], masked[f"MSKVAL{len(BITS):02d}"] = "MASK.VALUE", BAD
    stem = f"rings.v3.{cell.part.name}.stk.{band}.unconv"
    image = folder / f"{stem}.fits"
    _write_compressed(folder / f"{stem}.wt.fits", cell.variance, header, "RICE_1")
    _write_compressed(folder / f"{stem}.mask.fits", cell.mask, masked, "GZIP_1")
    _write_compressed(folder / f"{stem}.num.fits", cell.n_inputs, header, "GZIP_1")
    _write_compressed(image, values, scaled, "RICE_1")  # last: where it is, all is
    return image


def _archive_header(cell: EmulatedSkycell, band: str) -> fits.Header:
    wcs, header = cell.part.wcs.wcs, fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = wcs.crval[0], wcs.crval[1]
    header["CRPIX1"], header["CRPIX2"] = wcs.crpix[0], wcs.crpix[1]
    header["CDELT1"], header["CDELT2"] = wcs.cdelt[0], wcs.cdelt[1]
    for row in (0, 1):
        for column in (0, 1):
            header[f"PC00{row + 1}00{column + 1}"] = wcs.pc[row, column]
    header["TESS_ID"], header["SKYCELL"] = "RINGS.V3", cell.part.name
    header["EXPTIME"] = cell.exposure_s
    header["HIERARCH FPA.FILTERID"] = f"{band}.00000"
    header["HIERARCH FPA.ZP"] = 25.0
    header["EMULFWHM"] = (cell.fwhm_arcsec, "[arcsec] seeing; emulated image")
    header["EMULEPOC"] = (cell.epoch_yr, "[yr] mean epoch; emulated image")
    header["CREATOR"] = f"rbsim {__version__} emulator"
    return header


def _write_compressed(path: Path, values: np.ndarray, header: fits.Header, method: str) -> None:
    hdu = fits.CompImageHDU(values, header, compression_type=method, quantize_level=QUANTIZE_LEVEL)
    _replace(path, fits.HDUList([fits.PrimaryHDU(), hdu]))


def write_warped(path: Path, warped: WarpedImage, wcs: WCS, *, field: str, sensor: int) -> None:
    """Write a warped reference, to be given as ``--reference``.

    Parameters
    ----------
    path : Path
        Its folder is made if it is not there.
    warped : WarpedImage
    wcs : astropy.wcs.WCS
        For which it was drawn.
    field, sensor
        Of the frames that it serves: OBJECT and DET_ID.
    """
    header = wcs.to_header(relax=True)
    header["OBJECT"], header["DET_ID"] = field, sensor
    header["MAGZERO"] = (warped.zero_point, "[mag] AB, of 1 count, PS1 r band")
    header["BUNIT"] = "ADU"
    header["CREATOR"] = f"rbsim {__version__} emulator"
    planes: Iterable[tuple[str, np.ndarray]] = (("VARIANCE", warped.variance), ("MASK", warped.mask))
    extensions = [fits.ImageHDU(plane, name=name) for name, plane in planes]
    path.parent.mkdir(parents=True, exist_ok=True)
    _replace(path, fits.HDUList([fits.PrimaryHDU(warped.image, header), *extensions]))


def _replace(path: Path, hdus: fits.HDUList) -> None:
    """Write under another name first: a file is whole or not there."""
    temporary = path.with_name(path.name + ".tmp")
    hdus.writeto(temporary, overwrite=True)
    temporary.replace(path)
