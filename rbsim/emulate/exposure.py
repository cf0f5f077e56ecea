"""One image of a night with its truth: a science exposure or the reference."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.io import fits

from rbsim import seeding
from rbsim.emulate import artefacts, detector, optics, sky
from rbsim.emulate.header import reference_header, science_header
from rbsim.emulate.settings import Night

REFERENCE_OFFSET_PIX = (3.4, -2.6)
WCS_TWIST_PIX = 0.03
"""Error of the header's rotation, at the corners."""


@dataclass(frozen=True, eq=False)
class Conditions:
    """How one exposure was taken.

    Attributes
    ----------
    projection, header_projection : optics.Projection
        The truth, and what the header says.
    psf : optics.PsfField
    zero_point_e_mag : float
        Magnitude of one electron per exposure through the clouds.
    background_e : ndarray, shape (ny, nx)
        Expected electrons of sky and dark current.
    """

    projection: optics.Projection
    header_projection: optics.Projection
    psf: optics.PsfField
    zero_point_e_mag: float
    background_e: np.ndarray


@dataclass(frozen=True, eq=False)
class EmulatedFrame:
    """One image as it will be written, and its truth.

    Attributes
    ----------
    file_name : str
    image : ndarray, shape (ny, nx)
        int16 whole ADU of a science frame, or float32 with NaN holes of the reference.
    header : fits.Header
    transients : list of dict
        Rows with the keys of `night.TRUTH_UNITS`.
    artefacts : list of artefacts.Row
    """

    file_name: str
    image: np.ndarray
    header: fits.Header
    transients: list[dict[str, Any]]
    artefacts: list[artefacts.Row]


def _rng(night: Night, seed: int, part: str, index: int = 0) -> np.random.Generator:
    return seeding.stream(seed, "emulate", seeding.key_of_name(night.name), seeding.key_of_name(part), index)


def _half_arcsec(night: Night) -> tuple[float, float]:
    """Half height and width of the chip."""
    ny, nx = night.detector.shape
    return ny * night.optics.pixel_scale_arcsec / 2, nx * night.optics.pixel_scale_arcsec / 2


def make_sky(night: Night, *, seed: int) -> sky.Sky:
    """Draw what the frames of a night will see."""
    margin_arcsec = (2 * night.optics.dither_pix + optics.LARGEST_HALF_PIX) * night.optics.pixel_scale_arcsec
    half = max(_half_arcsec(night)) + margin_arcsec
    area_mpix = (2 * half / night.optics.pixel_scale_arcsec) ** 2 / 1e6
    stars = sky.draw_stars(
        half, n=round(night.sky.star_per_mpix * area_mpix), config=night.sky, rng=_rng(night, seed, "stars")
    )
    galaxies = sky.draw_galaxies(
        half,
        n=round(night.sky.galaxy_per_mpix * area_mpix),
        config=night.sky,
        rng=_rng(night, seed, "galaxies"),
    )
    noise = _point_noise_e(
        night, optics.PsfField(night.detector.shape, night.optics.fwhm_pix, night.optics.moffat_beta)
    )
    transients = sky.draw_transients(
        _half_arcsec(night),
        n_exposures=night.n_exposures,
        noise_mag=night.detector.zero_point_e_mag - 2.5 * math.log10(noise),
        galaxies=galaxies,
        config=night.sky,
        rng=_rng(night, seed, "transients"),
    )
    return sky.Sky(stars, galaxies, transients)


def _point_noise_e(night: Night, psf: optics.PsfField) -> float:
    """Matched-filter flux error of a faint point source in a clear, average sky."""
    background = night.detector.sky_e(night.optics.pixel_scale_arcsec) + night.detector.dark_e
    return math.sqrt(psf.noise_area_pix * (background + night.detector.read_noise_e**2))


def draw_conditions(night: Night, index: int, *, seed: int) -> Conditions:
    """Draw pointing, seeing, clouds and sky brightness of exposure `index`."""
    config, (ny, nx) = night.optics, night.detector.shape
    rng = _rng(night, seed, "conditions", index)
    dither = rng.uniform(-config.dither_pix, config.dither_pix, 2)
    projection = _projection(night, (ny, nx), dither, 0.0)
    header_projection = _misplaced(projection, (ny, nx), config=config, rng=rng)
    fwhm_pix = config.fwhm_pix * math.exp(config.fwhm_scatter * rng.normal())
    psf = optics.draw_psf_field((ny, nx), fwhm_pix=fwhm_pix, beta=config.moffat_beta, config=config, rng=rng)
    extinction_mag = abs(config.extinction_scatter_mag * rng.normal())
    sky_e = night.detector.sky_e(config.pixel_scale_arcsec) * math.exp(config.sky_scatter * rng.normal())
    slope_x, slope_y = config.sky_gradient * rng.uniform(-1, 1, 2)
    tilt = np.add.outer(slope_y * np.linspace(-1, 1, ny), slope_x * np.linspace(-1, 1, nx))
    return Conditions(
        projection=projection,
        header_projection=header_projection,
        psf=psf,
        zero_point_e_mag=night.detector.zero_point_e_mag - extinction_mag,
        background_e=sky_e * (1 + tilt) + night.detector.dark_e,
    )


def emulate_frame(night: Night, night_sky: sky.Sky, index: int, *, seed: int) -> EmulatedFrame:
    """Make science exposure `index`; the same whatever else is made before or after it.

    Parameters
    ----------
    night : Night
    night_sky : sky.Sky
        From `make_sky` with the same night and seed.
    index : int
        Exposure from 0.
    seed : int
    """
    shape = night.detector.shape
    now = draw_conditions(night, index, seed=seed)
    stars = night_sky.stars
    star_e = np.asarray(detector.flux_e(stars.mag, now.zero_point_e_mag))
    star_x, star_y = now.projection.to_pix(
        stars.east_arcsec + stars.shift_east_arcsec, stars.north_arcsec + stars.shift_north_arcsec
    )
    scene = now.background_e + optics.draw_points(
        shape, star_x, star_y, star_e * stars.flux_ratio, psf=now.psf
    )
    scene += _draw_galaxies(shape, night_sky.galaxies, now.projection, now.psf, now.zero_point_e_mag)

    file_name = f"EXP{index:03d}.fits"
    rows = _transient_rows(night, night_sky.transients, index, scene=scene, now=now)
    rows = [{"frame": file_name, **row} for row in rows]
    at = {key: np.array([row[key] for row in rows]) for key in ("x_pix", "y_pix", "flux_e")}
    scene = scene + optics.draw_points_exactly(shape, at["x_pix"], at["y_pix"], at["flux_e"], psf=now.psf)

    layers = _artefact_layers(night, index, fwhm_pix=now.psf.fwhm_pix, seed=seed)
    artefact_rows = [row for layer in layers for row in layer.rows]
    artefact_rows += artefacts.star_residuals(
        shape,
        star_x,
        star_y,
        flux_e=star_e,
        flux_ratio=stars.flux_ratio,
        shift_pix=np.hypot(stars.shift_east_arcsec, stars.shift_north_arcsec)
        / night.optics.pixel_scale_arcsec,
        fwhm_pix=now.psf.fwhm_pix,
        noise_e=_point_noise_e(night, now.psf),
        config=night.artefacts,
    )
    expected = scene + np.sum([layer.electrons for layer in layers], axis=0)
    image = detector.expose(expected, config=night.detector, rng=_rng(night, seed, "noise", index))
    header = science_header(
        night, index, projection=now.header_projection, zero_point_e_mag=now.zero_point_e_mag
    )
    return EmulatedFrame(file_name, image, header, rows, artefact_rows)


def _artefact_layers(night: Night, index: int, *, fwhm_pix: float, seed: int) -> list[artefacts.Layer]:
    shape = night.detector.shape
    return [
        artefacts.hot_pixels(shape, config=night.artefacts, rng=_rng(night, seed, "hot")),
        artefacts.flicker_pixels(
            shape,
            config=night.artefacts,
            detector_rng=_rng(night, seed, "flicker"),
            rng=_rng(night, seed, "flicker of frame", index),
        ),
        artefacts.bad_columns(
            shape,
            config=night.artefacts,
            detector_rng=_rng(night, seed, "columns"),
            rng=_rng(night, seed, "columns of frame", index),
        ),
        artefacts.cosmic_rays(shape, config=night.artefacts, rng=_rng(night, seed, "cosmic rays", index)),
        artefacts.satellite_streak(
            shape, fwhm_pix=fwhm_pix, config=night.artefacts, rng=_rng(night, seed, "streak", index)
        ),
    ]


def emulate_reference(night: Night, night_sky: sky.Sky, *, seed: int) -> EmulatedFrame:
    """Make the reference: all of the field, deeper and sharper, rotated a little, without transients."""
    camera, config = night.detector, night.optics
    border = math.ceil(config.dither_pix)
    shape = camera.ny_pix + 2 * border, camera.nx_pix + 2 * border
    projection = _projection(night, shape, np.array(REFERENCE_OFFSET_PIX), config.reference_rotation_deg)
    psf = optics.draw_psf_field(
        shape,
        fwhm_pix=config.reference_fwhm_pix,
        beta=config.reference_moffat_beta,
        config=config,
        rng=_rng(night, seed, "reference conditions"),
    )
    stars = night_sky.stars
    x, y = projection.to_pix(stars.east_arcsec, stars.north_arcsec)
    star_e = np.asarray(detector.flux_e(stars.mag, camera.zero_point_e_mag))
    scene = optics.draw_points(shape, x, y, star_e, psf=psf)
    scene += _draw_galaxies(shape, night_sky.galaxies, projection, psf, camera.zero_point_e_mag)
    image = detector.expose_reference(
        scene,
        camera.sky_e(config.pixel_scale_arcsec),
        config=camera,
        rng=_rng(night, seed, "reference noise"),
    )
    # Dead areas choose among stars that a science frame can show.
    bright = star_e > 10 * _point_noise_e(night, psf)
    image, rows = artefacts.mask_in_reference(
        image, x[bright], y[bright], config=night.artefacts, rng=_rng(night, seed, "reference mask")
    )
    return EmulatedFrame("reference.fits", image, reference_header(night, projection=projection), [], rows)


def _projection(
    night: Night, shape: tuple[int, int], offset_pix: np.ndarray, rotation_deg: float
) -> optics.Projection:
    ny, nx = shape
    x0_pix, y0_pix = (nx - 1) / 2 + float(offset_pix[0]), (ny - 1) / 2 + float(offset_pix[1])
    return optics.Projection(
        night.ra_deg, night.dec_deg, x0_pix, y0_pix, rotation_deg, night.optics.pixel_scale_arcsec
    )


def _misplaced(
    projection: optics.Projection,
    shape: tuple[int, int],
    *,
    config: optics.OpticsConfig,
    rng: np.random.Generator,
) -> optics.Projection:
    """Projection that the header will state: shifted as a whole, and twisted by at most `WCS_TWIST_PIX`."""
    shift = rng.uniform(config.wcs_error_low_pix, config.wcs_error_high_pix)
    angle = rng.uniform(0, 2 * np.pi)
    twist_deg = math.degrees(WCS_TWIST_PIX / (math.hypot(*shape) / 2)) * rng.uniform(-1, 1)
    return dataclasses.replace(
        projection,
        x0_pix=projection.x0_pix + shift * math.cos(angle),
        y0_pix=projection.y0_pix + shift * math.sin(angle),
        rotation_deg=projection.rotation_deg + twist_deg,
    )


def _draw_galaxies(
    shape: tuple[int, int],
    galaxies: sky.Galaxies,
    projection: optics.Projection,
    psf: optics.PsfField,
    zero_point_e_mag: float,
) -> np.ndarray:
    x, y = projection.to_pix(galaxies.east_arcsec, galaxies.north_arcsec)
    return optics.draw_galaxies(
        shape,
        x,
        y,
        np.asarray(detector.flux_e(galaxies.mag, zero_point_e_mag)),
        radius_pix=galaxies.radius_arcsec / projection.scale_arcsec,
        bulge_fraction=galaxies.bulge_fraction,
        shear=np.stack([galaxies.shear1, galaxies.shear2]),
        psf=psf,
    )


def _transient_rows(
    night: Night, transients: sky.Transients, index: int, *, scene: np.ndarray, now: Conditions
) -> list[dict[str, Any]]:
    """Truth of the transients that shine in this exposure; S/N from the local variance of `scene`."""
    x, y = now.projection.to_pix(transients.east_arcsec, transients.north_arcsec)
    mag = transients.mag[:, index]
    inside = (x > -0.5) & (x < scene.shape[1] - 0.5) & (y > -0.5) & (y < scene.shape[0] - 0.5)
    rows: list[dict[str, Any]] = []
    half = 12
    variance = np.pad(scene + night.detector.read_noise_e**2, half, constant_values=np.inf)
    wcs = now.projection.to_wcs()
    for i in np.flatnonzero(np.isfinite(mag) & inside):
        flux_e = float(detector.flux_e(mag[i], now.zero_point_e_mag))
        stamp = optics.unit_stamp(now.psf, x[i], y[i], half_pix=half)
        column, row = round(x[i]), round(y[i])
        local = variance[row : row + 2 * half + 1, column : column + 2 * half + 1]
        ra_deg, dec_deg = wcs.wcs_pix2world(x[i], y[i], 0)
        rows.append(
            {
                "kind": "emulated_transient",
                "transient_id": int(i),
                "x_pix": float(x[i]),
                "y_pix": float(y[i]),
                "ra_deg": float(ra_deg),
                "dec_deg": float(dec_deg),
                "mag": float(mag[i]),
                "flux_e": flux_e,
                "snr_expected": flux_e * math.sqrt(float(np.sum(stamp**2 / local))),
                "host_offset_pix": float(transients.host_offset_arcsec[i]) / now.projection.scale_arcsec,
            }
        )
    return rows
