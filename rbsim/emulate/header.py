"""FITS cards of the emulated images."""

import math

from astropy.io import fits
from astropy.time import Time, TimeDelta

from rbsim.emulate.optics import Projection
from rbsim.emulate.settings import Night


def _common_header(night: Night, projection: Projection) -> fits.Header:
    header = fits.Header()
    header["OBJECT"] = night.object
    header["TELESCOP"] = ("EMULATED", "made by rbsim.emulate, not a telescope")
    header["FILTER"] = "BLANK"
    header["DET_ID"] = (night.detector.det_id, "sensor number")
    header["BUNIT"] = "ADU"
    header.update(projection.to_wcs().to_header())
    return header


def science_header(
    night: Night, index: int, *, projection: Projection, zero_point_e_mag: float
) -> fits.Header:
    """Cards of exposure `index`, with the projection as the header is to state it."""
    camera = night.detector
    start = Time(night.start_utc, scale="utc") + TimeDelta(
        index * (camera.exposure_s + camera.dead_time_s), format="sec"
    )
    header = _common_header(night, projection)
    header["EXP_ID"] = (index, "exposure number")
    header["EXPTIME"] = (camera.exposure_s, "[s]")
    header["DATE-OBS"] = (start.isot, "UTC, start")
    header["MJD-OBS"] = (start.mjd, "[d] UTC, start")
    header["GAIN"] = (camera.gain_e_per_adu, "[electron/ADU]")
    header["RDNOISE"] = (camera.read_noise_e, "[electron]")
    header["SATURATE"] = (camera.saturate_adu, "[ADU] just below the full well")
    magzero = zero_point_e_mag - 2.5 * math.log10(camera.gain_e_per_adu)
    header["MAGZERO"] = (round(magzero, 4), "magnitude of 1 ADU per exposure")
    return header


def reference_header(night: Night, *, projection: Projection) -> fits.Header:
    """Cards of the reference; gain and saturation are those of the long exposure it stands for."""
    camera = night.detector
    header = _common_header(night, projection)
    header["FILTER"] = "r"
    header["EXPTIME"] = (camera.exposure_s * camera.reference_depth, "[s] as if")
    header["GAIN"] = (camera.reference_gain_e_per_adu, "[electron/ADU]")
    header["RDNOISE"] = (0.0, "[electron]")
    header["SATURATE"] = (
        camera.reference_well_e * camera.reference_depth / camera.reference_gain_e_per_adu,
        "[ADU]",
    )
    header["MAGZERO"] = (camera.reference_zero_point_mag, "magnitude of 1 ADU per exposure")
    return header
