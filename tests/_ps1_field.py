"""Small sensors, stars and PS1 files for the tests; the FITS files are not made by the emulator."""

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from rbsim.emulate.tomoe.scene import Galaxies, Stars

RA, DEC = 332.6, 2.2
SCALE_ARCSEC = 1.189


def sensor_wcs(shape, ra=RA, dec=DEC, angle_deg=0.0, *, flip=False):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    turn = np.array([[cos, -sin], [sin, cos]]) @ np.diag([1 if flip else -1, 1])
    wcs.wcs.cd = SCALE_ARCSEC / 3600 * turn
    return wcs


def stars(x_pix, y_pix, mag, wcs, *, colour_mag=0.0, pm_ra=0.0, pm_dec=0.0):
    """Stars at pixels of a sensor, at the epoch of the night."""
    ra, dec = wcs.pixel_to_world_values(np.asarray(x_pix, float), np.asarray(y_pix, float))
    n = len(ra)
    return Stars(
        np.asarray(ra),
        np.asarray(dec),
        np.broadcast_to(np.asarray(mag, float), n),
        np.full(n, colour_mag),
        np.full(n, pm_ra),
        np.full(n, pm_dec),
    )


def galaxies(x_pix, y_pix, mag, wcs, *, radius_arcsec=2.0, bulge=0.0, shear1=0.0):
    ra, dec = wcs.pixel_to_world_values(np.asarray(x_pix, float), np.asarray(y_pix, float))
    n = len(ra)
    full = {name: np.full(n, value) for name, value in (("r", radius_arcsec), ("b", bulge), ("g", shear1))}
    return Galaxies(
        np.asarray(ra),
        np.asarray(dec),
        np.broadcast_to(np.asarray(mag, float), n),
        np.zeros(n),
        full["r"],
        full["b"],
        np.full(n, 4.0),
        full["r"] / 2,
        full["g"],
        np.zeros(n),
    )


def no_galaxies(wcs):
    return galaxies([], [], [], wcs)


def write_stack(folder, values, *, crpix, exposure_s=400.0, mask=None, variance=None, name="1405.053"):
    """A stack image with cards as in the header of skycell.1405.053, linear as a cut-out; its path."""
    folder.mkdir(parents=True, exist_ok=True)
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = 332.0, 2.0
    header["CRPIX1"], header["CRPIX2"] = crpix
    header["CDELT1"] = header["CDELT2"] = 6.94444461259988e-05
    header["PC001001"], header["PC001002"] = -1.0, 0.0
    header["PC002001"], header["PC002002"] = 0.0, 1.0
    header["SKYCELL"] = f"skycell.{name}"
    header["EXPTIME"] = exposure_s
    stem = f"rings.v3.skycell.{name}.stk.r.unconv"
    path = folder / f"{stem}.fits"
    planes = {"": np.asarray(values, np.float32), ".mask": mask, ".wt": variance}
    for part, plane in planes.items():
        if plane is not None:
            fits.writeto(folder / f"{stem}{part}.fits", plane, header, overwrite=True)
    return path
