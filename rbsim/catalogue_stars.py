"""The stars of a catalogue on one frame: fluxes from magnitudes, places, flags."""

import numpy as np
from scipy.spatial import cKDTree

from rbsim.aperture import encircled_energy
from rbsim.asked import AskedStars, ask
from rbsim.catalogue import InjectionCatalogue, pixel_scale_arcsec
from rbsim.chain import Subtracted
from rbsim.config import InjectConfig
from rbsim.on_frame import flux_error_at, flux_in_science, given_or, has_cube, usable_pixels
from rbsim.place import Places, half_size_of_trails, place_catalogue
from rbsim.schema import INJECTED_IN, INJECTION_FLAG


def stars_of_catalogue(
    frame: Subtracted, config: InjectConfig, catalogue: InjectionCatalogue
) -> list[AskedStars]:
    """Every row of the catalogue once; those that cannot be drawn are in the first realisation, flagged."""
    science, flag = frame.science, catalogue.flag.copy()
    x, y = catalogue.positions_in(science)
    length = catalogue.trail_length
    if catalogue.is_arcsec:
        length = length / given_or(config.pixel_scale_arcsec, pixel_scale_arcsec(science))
        flag[np.isnan(length)] |= INJECTION_FLAG["NO_SCALE"]
        length = np.nan_to_num(length)
    if not has_cube(frame):
        flag[catalogue.n_cube_frames > 0] |= INJECTION_FLAG["NO_CUBE"]
    flux = 10 ** (-0.4 * (catalogue.mag - science.zero_point_mag)) * np.where(length > 0, length, 1)
    if config.zero_point_aperture_pix is not None:
        flux = flux / encircled_energy(frame.psf, x, y, radius_pix=config.zero_point_aperture_pix)
    added, to_reference, star_flux, lost = _catalogue_fluxes(catalogue, np.where(np.isfinite(flux), flux, 0))
    on = (flag == 0) & np.isfinite(x + y)
    no_star = np.zeros(len(flag), bool)
    no_star[on] = lost[on] > _light_there(frame, x[on], y[on])
    flag[no_star & np.isfinite(star_flux)] |= INJECTION_FLAG["NO_STAR"]
    placed = place_catalogue(
        x,
        y,
        flag,
        usable_pixels(frame),
        realisations=config.realisations,
        fwhm_pix=frame.psf.fwhm_pix,
        half_pix=half_size_of_trails(length, catalogue.trail_angle_deg),
    )

    def one(places: Places) -> AskedStars:
        row = places.row
        net = added[row] - to_reference[row]
        return ask(
            places.x_pix,
            places.y_pix,
            catalogue.kind[row],
            added[row],
            net / flux_error_at(frame, places.x_pix, places.y_pix),
            reference_flux_adu=to_reference[row],
            injected_in=catalogue.injected_in[row],
            trail_length_pix=length[row],
            trail_angle_deg=catalogue.trail_angle_deg[row],
            n_cube_frames=catalogue.n_cube_frames[row],
            delta_mag=catalogue.delta_mag[row],
            star_flux_adu=star_flux[row],
            catalogue_id=catalogue.injection_id[row],
            flag=places.flag,
        )

    return [one(places) for places in placed]


def _catalogue_fluxes(
    catalogue: InjectionCatalogue, flux: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Fluxes to add to science and reference, flux of the star that changes (else NaN), light it may lose.

    In one image and without `delta_mag`, a star of `mag` is added to it. With `delta_mag`, a star of `mag`
    is there, and is changed in that image so that science minus reference is `delta_mag`. In both images,
    a new star is added with `mag` in science and ``mag - delta_mag`` in the reference.
    """
    delta = np.nan_to_num(catalogue.delta_mag)
    changes = np.isfinite(catalogue.delta_mag)
    in_science = catalogue.injected_in == INJECTED_IN["science"]
    in_both = catalogue.injected_in == INJECTED_IN["both"]
    varies = changes & ~in_both
    science = np.where(varies, flux * (10 ** (-0.4 * delta) - 1), flux)
    reference = np.where(varies, flux * (10 ** (0.4 * delta) - 1), flux * 10 ** (0.4 * delta))
    added = np.where(in_science | in_both, science, 0.0)
    to_reference = np.where(in_science, 0.0, reference)
    star_flux = np.where(varies, flux, np.nan)
    # A star that gets brighter must be there too, if only just.
    lost = np.where(varies, np.maximum(-np.minimum(added, to_reference), 0), -1.0)
    return added, to_reference, star_flux, lost


def _light_there(frame: Subtracted, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
    """Flux of the reference's source within one FWHM, in ADU of the science frame; -1 without one."""
    sources = frame.reference_sources
    if not len(sources):
        return np.full(len(x_pix), -1.0)
    tree = cKDTree(np.column_stack([sources.x_pix, sources.y_pix]))
    distance, nearest = tree.query(np.column_stack([x_pix, y_pix]))
    return np.where(distance <= max(frame.psf.fwhm_pix, 1.0), flux_in_science(frame, sources)[nearest], -1.0)
