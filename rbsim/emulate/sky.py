"""What is in the sky of a night: stars, galaxies, transients, on the tangent plane of the field."""

from dataclasses import dataclass

import numpy as np

from rbsim.errors import InputError


@dataclass(frozen=True)
class SkyConfig:
    """Counts, brightnesses and changes of the sources.

    Densities are per 10^6 pixels. ``colour_*`` are relative changes of a star's flux between the
    bands of reference and science, ``shift_*`` displacements between their epochs.
    """

    star_per_mpix: float
    star_mag_bright: float
    star_mag_faint: float
    star_slope_dex_per_mag: float
    colour_scatter: float
    colour_tail_fraction: float
    colour_tail_scatter: float
    shift_scatter_arcsec: float
    shift_fast_fraction: float
    shift_fast_low_arcsec: float
    shift_fast_high_arcsec: float
    galaxy_per_mpix: float
    galaxy_mag_bright: float
    galaxy_mag_faint: float
    galaxy_slope_dex_per_mag: float
    galaxy_radius_arcsec: float
    galaxy_radius_mag: float
    transient_per_frame: float
    transient_snr_low: float
    transient_snr_high: float
    transient_near_galaxy_fraction: float
    transient_brief_fraction: float
    transient_brief_exposures: int
    transient_drift_mag: float
    transient_separation_arcsec: float
    transient_margin_arcsec: float


@dataclass(frozen=True, eq=False)
class Stars:
    """Positions at the reference's epoch and band, and what has changed since; arrays of shape (n,)."""

    east_arcsec: np.ndarray
    north_arcsec: np.ndarray
    mag: np.ndarray
    flux_ratio: np.ndarray
    shift_east_arcsec: np.ndarray
    shift_north_arcsec: np.ndarray


@dataclass(frozen=True, eq=False)
class Galaxies:
    """Discs with bulges; arrays of shape (n,). The bulge has a third of the disc's radius."""

    east_arcsec: np.ndarray
    north_arcsec: np.ndarray
    mag: np.ndarray
    radius_arcsec: np.ndarray
    bulge_fraction: np.ndarray
    shear1: np.ndarray
    shear2: np.ndarray


@dataclass(frozen=True, eq=False)
class Transients:
    """Point sources that the reference does not have.

    Attributes
    ----------
    east_arcsec, north_arcsec : ndarray, shape (n,)
    host_offset_arcsec : ndarray, shape (n,)
        Distance to the centre of the host; NaN without host.
    mag : ndarray, shape (n, exposures)
        NaN where the transient is off.
    """

    east_arcsec: np.ndarray
    north_arcsec: np.ndarray
    host_offset_arcsec: np.ndarray
    mag: np.ndarray


@dataclass(frozen=True, eq=False)
class Sky:
    """Everything that the frames of a night look at."""

    stars: Stars
    galaxies: Galaxies
    transients: Transients


def power_law_mags(
    n: int, *, bright: float, faint: float, slope_dex_per_mag: float, rng: np.random.Generator
) -> np.ndarray:
    """Draw magnitudes whose cumulative counts grow by `slope_dex_per_mag`, between two limits."""
    low, high = 10 ** (slope_dex_per_mag * bright), 10 ** (slope_dex_per_mag * faint)
    return np.log10(rng.uniform(low, high, n)) / slope_dex_per_mag


def draw_stars(half_arcsec: float, *, n: int, config: SkyConfig, rng: np.random.Generator) -> Stars:
    """Draw `n` stars in a square of half width `half_arcsec` around the tangent point."""
    east, north = rng.uniform(-half_arcsec, half_arcsec, (2, n))
    mag = power_law_mags(
        n,
        bright=config.star_mag_bright,
        faint=config.star_mag_faint,
        slope_dex_per_mag=config.star_slope_dex_per_mag,
        rng=rng,
    )
    in_tail = rng.random(n) < config.colour_tail_fraction
    scatter = np.where(in_tail, config.colour_tail_scatter, config.colour_scatter)
    is_fast = rng.random(n) < config.shift_fast_fraction
    slow = np.abs(rng.normal(0, config.shift_scatter_arcsec, n))
    fast = rng.uniform(config.shift_fast_low_arcsec, config.shift_fast_high_arcsec, n)
    shift, angle = np.where(is_fast, fast, slow), rng.uniform(0, 2 * np.pi, n)
    return Stars(
        east_arcsec=east,
        north_arcsec=north,
        mag=mag,
        flux_ratio=np.exp(scatter * rng.normal(size=n)),
        shift_east_arcsec=shift * np.cos(angle),
        shift_north_arcsec=shift * np.sin(angle),
    )


def draw_galaxies(half_arcsec: float, *, n: int, config: SkyConfig, rng: np.random.Generator) -> Galaxies:
    """Draw `n` galaxies in a square of half width `half_arcsec`; brighter ones are larger."""
    east, north = rng.uniform(-half_arcsec, half_arcsec, (2, n))
    mag = power_law_mags(
        n,
        bright=config.galaxy_mag_bright,
        faint=config.galaxy_mag_faint,
        slope_dex_per_mag=config.galaxy_slope_dex_per_mag,
        rng=rng,
    )
    # Radius at constant surface brightness grows by 0.2 dex per magnitude; scatter as for field galaxies.
    radius = config.galaxy_radius_arcsec * 10 ** (
        0.2 * (config.galaxy_radius_mag - mag) + rng.normal(0, 0.15, n)
    )
    shear, angle = rng.uniform(0, 0.45, n), rng.uniform(0, np.pi, n)
    return Galaxies(
        east_arcsec=east,
        north_arcsec=north,
        mag=mag,
        radius_arcsec=radius,
        bulge_fraction=rng.uniform(0, 0.6, n),
        shear1=shear * np.cos(2 * angle),
        shear2=shear * np.sin(2 * angle),
    )


def draw_transients(
    half_size_arcsec: tuple[float, float],
    *,
    n_exposures: int,
    noise_mag: float,
    galaxies: Galaxies,
    config: SkyConfig,
    rng: np.random.Generator,
) -> Transients:
    """Draw transients that stay apart from each other.

    Parameters
    ----------
    half_size_arcsec : tuple of float
        Half height and half width of the area that every exposure sees.
    n_exposures : int
    noise_mag : float
        Magnitude of a point source with a signal-to-noise ratio of 1 in a typical exposure.
    galaxies : Galaxies
        Possible hosts.

    Raises
    ------
    InputError
        If the area is too small for so many transients that stay apart.
    """
    long_share = 1 - config.transient_brief_fraction
    n_long = round(config.transient_per_frame * long_share)
    brief = min(config.transient_brief_exposures, n_exposures)
    n_brief = round(config.transient_per_frame * config.transient_brief_fraction * n_exposures / brief)
    half = np.array(half_size_arcsec[::-1]) - config.transient_margin_arcsec
    east, north, offset = _place(n_long + n_brief, half, galaxies, config, rng)
    n = len(east)
    snr = np.exp(rng.uniform(np.log(config.transient_snr_low), np.log(config.transient_snr_high), n))
    time = np.linspace(-0.5, 0.5, n_exposures)  # (exposure,)
    drift_mag = rng.uniform(-config.transient_drift_mag, config.transient_drift_mag, (n, 1))
    mag = noise_mag - 2.5 * np.log10(snr)[:, None] + drift_mag * time  # (transient, exposure)
    start = rng.integers(0, n_exposures, n_brief)
    # Cyclic, so that every exposure sees the same number on average.
    age = (np.arange(n_exposures) - start[:, None]) % n_exposures
    mag[n_long:][age >= brief] = np.nan
    return Transients(east_arcsec=east, north_arcsec=north, host_offset_arcsec=offset, mag=mag)


def _place(
    n: int, half_arcsec: np.ndarray, galaxies: Galaxies, config: SkyConfig, rng: np.random.Generator
) -> np.ndarray:
    """East, north and host offset, shape (3, n), by rejection of what is too close or outside."""
    hosts = np.stack([galaxies.east_arcsec, galaxies.north_arcsec], axis=1)
    visible = np.flatnonzero(np.all(np.abs(hosts) < half_arcsec, axis=1))
    placed = np.empty((0, 3))
    for _ in range(200 * max(n, 1)):
        if len(placed) == n:
            break
        if rng.random() < config.transient_near_galaxy_fraction and len(visible):
            host = rng.choice(visible)
            offset = galaxies.radius_arcsec[host] * rng.rayleigh(1.0)
            angle = rng.uniform(0, 2 * np.pi)
            position = hosts[host] + offset * np.array([np.cos(angle), np.sin(angle)])
        else:
            offset, position = np.nan, rng.uniform(-half_arcsec, half_arcsec)
        distance = np.hypot(*(placed[:, :2] - position).T)
        if np.all(np.abs(position) < half_arcsec) and np.all(distance > config.transient_separation_arcsec):
            placed = np.vstack([placed, [*position, offset]])
    if len(placed) < n:
        raise InputError(
            f"transient_per_frame needs {n} places in the night but only {len(placed)} stay apart;"
            " lower it or transient_separation_arcsec"
        )
    return placed.T
