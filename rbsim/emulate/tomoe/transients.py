"""Light that earlier images do not have: supernovae, dwarf novae, flares, asteroids; and stars that vary.

All are drawn with the true PSF, frame by frame, and never pass through `rbsim.inject`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from astropy.wcs import WCS

from rbsim.emulate.tomoe.settings import NightSettings
from rbsim.emulate.tomoe.sky import Sky

FLARE_SEARCH_S = 60.0
"""Flares peak from this long before an exposure begins until it ends."""
M_DWARF_FAINT_MAG = 20.0
FLARE_NUMBERS = 100_000
"""Flares of exposure i have numbers from (i + 1) times this."""
MARGIN_PIX = 12.0


@dataclass(frozen=True, eq=False)
class Slow:
    """Transients of a night that outlast an exposure; arrays of shape (n,).

    Attributes
    ----------
    kind : ndarray of str
    ra_deg, dec_deg : ndarray
        At the start of the night.
    rate_ra_deg_per_s, rate_dec_deg_per_s : ndarray
        Of right ascension itself, without cos(dec).
    mag, fade_mag_per_s : ndarray
        At the start of the night, and its change.
    host_offset_arcsec : ndarray
        NaN without host.
    """

    kind: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    rate_ra_deg_per_s: np.ndarray
    rate_dec_deg_per_s: np.ndarray
    mag: np.ndarray
    fade_mag_per_s: np.ndarray
    host_offset_arcsec: np.ndarray


@dataclass(frozen=True, eq=False)
class Flares:
    """Outbursts of M dwarfs around one exposure; arrays of shape (n,).

    Attributes
    ----------
    star : ndarray of int
        Row of the sky's stars.
    peak_s : ndarray
        Time of the maximum in seconds of the night.
    rise_s, fall_s : ndarray
        Linear rise, and time over which the flux falls by e.
    contrast : ndarray
        Flux at maximum over that of the star.
    """

    star: np.ndarray
    peak_s: np.ndarray
    rise_s: np.ndarray
    fall_s: np.ndarray
    contrast: np.ndarray

    def flux_ratio(self, time_s: np.ndarray) -> np.ndarray:
        """Added flux over that of the star at times of shape (n, times)."""
        since = time_s - self.peak_s[:, None]
        rising = 1 + since / self.rise_s[:, None]
        falling = np.exp(-np.maximum(since, 0) / self.fall_s[:, None])
        shape = np.where(since < 0, np.maximum(rising, 0), falling)
        return np.asarray(self.contrast[:, None] * shape)


@dataclass(frozen=True, eq=False)
class Lights:
    """Points of light of one exposure that its references lack.

    Attributes
    ----------
    kind : ndarray of str, shape (n,)
    number : ndarray of int, shape (n,)
        The same for a transient in all exposures of a sensor.
    ra_deg, dec_deg : ndarray, shape (n, frames)
    relative : ndarray, shape (n, frames)
        Flux over that of magnitude 0; negative for a star fainter than its mean.
    host_offset_arcsec : ndarray, shape (n,)
    """

    kind: np.ndarray
    number: np.ndarray
    ra_deg: np.ndarray
    dec_deg: np.ndarray
    relative: np.ndarray
    host_offset_arcsec: np.ndarray


def draw_slow(
    sky: Sky, wcs: WCS, shape: tuple[int, int], settings: NightSettings, *, rng: np.random.Generator
) -> Slow:
    """Draw supernovae, dwarf novae and asteroids of a sensor and night.

    Supernovae lie near galaxies, brighter ones more often, at offsets that follow the disc's light;
    dwarf novae, whose quiescent star nobody sees, lie anywhere and fade by a magnitude a day or so.
    Asteroids lie anywhere and move in any direction.

    Parameters
    ----------
    sky : Sky
    wcs : WCS
        Of the sensor without dither.
    shape : (ny, nx)
    settings : NightSettings
    rng : numpy.random.Generator
        Of the sensor and night.
    """
    config = settings.transients
    n_sn, n_dn, n_asteroids = (
        int(rng.poisson(mean)) for mean in (config.supernovae, config.dwarf_novae, config.asteroids)
    )
    galaxies = sky.galaxies
    gx, gy = wcs.wcs_world2pix(galaxies.ra_deg, galaxies.dec_deg, 0)
    hosts = np.flatnonzero(_inside(gx, gy, shape))
    n_sn = n_sn if len(hosts) else 0
    weight = 10 ** (-0.2 * (galaxies.mag[hosts] - 18))
    host = rng.choice(hosts, n_sn, p=weight / weight.sum()) if n_sn else np.empty(0, int)
    # Radius of an exponential disc's light: the sum of two exponential deviates, scale r_half / 1.678.
    offset = galaxies.radius_arcsec[host] / 1.678 * rng.gamma(2.0, 1.0, n_sn)
    angle = rng.uniform(0, 2 * np.pi, n_sn)
    dec = galaxies.dec_deg[host] + offset * np.sin(angle) / 3600
    ra = galaxies.ra_deg[host] + offset * np.cos(angle) / 3600 / np.cos(np.radians(dec))
    n_free = n_dn + n_asteroids
    x = rng.uniform(MARGIN_PIX, shape[1] - MARGIN_PIX, n_free)
    y = rng.uniform(MARGIN_PIX, shape[0] - MARGIN_PIX, n_free)
    free_ra, free_dec = wcs.wcs_pix2world(x, y, 0)
    low, high = config.asteroid_low_arcsec_per_s, config.asteroid_high_arcsec_per_s
    rate = np.exp(rng.uniform(math.log(low), math.log(high), n_asteroids))
    direction = rng.uniform(0, 2 * np.pi, n_asteroids)
    still = np.zeros(n_sn + n_dn)
    all_dec = np.concatenate([dec, free_dec])
    rate_dec = np.concatenate([still, rate * np.sin(direction) / 3600])
    rate_ra = np.concatenate([still, rate * np.cos(direction) / 3600]) / np.cos(np.radians(all_dec))
    return Slow(
        kind=np.array(["supernova"] * n_sn + ["dwarf_nova"] * n_dn + ["asteroid"] * n_asteroids, "U16"),
        ra_deg=np.concatenate([ra, free_ra]),
        dec_deg=all_dec,
        rate_ra_deg_per_s=rate_ra,
        rate_dec_deg_per_s=rate_dec,
        mag=np.concatenate(
            [
                rng.uniform(config.supernova_bright_mag, config.supernova_faint_mag, n_sn),
                rng.uniform(config.dwarf_nova_bright_mag, config.dwarf_nova_faint_mag, n_dn),
                rng.uniform(config.asteroid_bright_mag, config.asteroid_faint_mag, n_asteroids),
            ]
        ),
        fade_mag_per_s=np.concatenate(
            [
                rng.uniform(-0.1, 0.1, n_sn) / 86400,
                rng.uniform(-0.5, 1.5, n_dn) / 86400,
                np.zeros(n_asteroids),
            ]
        ),
        host_offset_arcsec=np.concatenate([offset, np.full(n_free, np.nan)]),
    )


def draw_flares(
    sky: Sky,
    wcs: WCS,
    shape: tuple[int, int],
    settings: NightSettings,
    start_s: float,
    *,
    rng: np.random.Generator,
) -> Flares:
    """Draw the flares that peak around one exposure, on red dwarfs of the field.

    Rises and contrasts are those of Aizawa et al. (2022), a second's resolution: 5 to 100 s and 0.5 to 20,
    contrasts falling as a power law; here rises start at 1 s, and falls take 1 to 5 times as long.

    Parameters
    ----------
    sky : Sky
    wcs : WCS
        Of the exposure.
    shape : (ny, nx)
    settings : NightSettings
    start_s : float
        Of the exposure, in seconds of the night.
    rng : numpy.random.Generator
        Of the sensor and exposure.
    """
    stars = sky.stars
    x, y = wcs.wcs_world2pix(stars.ra_deg, stars.dec_deg, 0)
    dwarfs = sky.red_dwarfs
    dwarfs = dwarfs[((stars.mag < M_DWARF_FAINT_MAG) & _inside(x, y, shape))[dwarfs]]
    n = min(int(rng.poisson(settings.transients.flares_per_exposure)), len(dwarfs))
    duration_s = settings.mode.n_taken * settings.mode.frame_s
    before_s = min(FLARE_SEARCH_S, settings.mode.interval_s - duration_s)  # those before draw their own
    low, high = 0.5**-0.5, 20.0**-0.5  # dn/dcontrast ~ contrast^-1.5
    rise = 10 ** rng.uniform(0, 1.5, n)
    return Flares(
        star=rng.choice(dwarfs, n, replace=False) if n else np.empty(0, int),
        peak_s=rng.uniform(start_s - before_s, start_s + duration_s, n),
        rise_s=rise,
        fall_s=rise * rng.uniform(1, 5, n),
        contrast=rng.uniform(high, low, n) ** -2.0,
    )


def lights_at(
    slow: Slow | None,
    flares: Mapping[int, Flares],
    sky: Sky,
    time_s: np.ndarray,
    *,
    star_delay_s: np.ndarray,
) -> Lights:
    """What shines, and changes, in the frames of one exposure.

    Parameters
    ----------
    slow : Slow or None
        None: as on nights before any of them.
    flares : mapping of int to Flares
        By the number of the exposure that they were drawn for: of this one and of those shortly before.
    sky : Sky
    time_s : ndarray, shape (frames,)
        Middles of the frames in the first line, in seconds of the night.
    star_delay_s : ndarray, shape (stars,)
        How much later the lines of the stars are exposed (rolling shutter). Only flares are that fast.
    """
    n = len(time_s)
    parts: list[tuple[np.ndarray, ...]] = []
    if slow is not None:
        mag = slow.mag[:, None] + slow.fade_mag_per_s[:, None] * time_s
        parts.append(
            (
                slow.kind,
                np.arange(len(slow.mag)),
                slow.ra_deg[:, None] + slow.rate_ra_deg_per_s[:, None] * time_s,
                slow.dec_deg[:, None] + slow.rate_dec_deg_per_s[:, None] * time_s,
                10 ** (-0.4 * mag),
                slow.host_offset_arcsec,
            )
        )
    first = 0 if slow is None else len(slow.mag)
    stars, variables = sky.stars, sky.variables
    ratio = 10 ** (-0.4 * variables.change_mag(float(time_s.mean()))) - 1
    flux = np.repeat((10 ** (-0.4 * stars.mag[variables.star]) * ratio)[:, None], n, axis=1)
    parts.append(_of_stars("variable", variables.star, first + np.arange(len(ratio)), flux, sky))
    for exposure, some in flares.items():
        flux = some.flux_ratio(time_s + star_delay_s[some.star, None])
        flux = flux * 10 ** (-0.4 * stars.mag[some.star, None])
        number = FLARE_NUMBERS * (exposure + 1) + np.arange(len(some.star))
        parts.append(_of_stars("flare", some.star, number, flux, sky))
    return Lights(*(np.concatenate(values) for values in zip(*parts, strict=True)))


def _of_stars(
    kind: str, star: np.ndarray, number: np.ndarray, relative: np.ndarray, sky: Sky
) -> tuple[np.ndarray, ...]:
    shape = relative.shape
    return (
        np.full(len(star), kind, "U16"),
        number,
        np.broadcast_to(sky.stars.ra_deg[star, None], shape),
        np.broadcast_to(sky.stars.dec_deg[star, None], shape),
        relative,
        np.full(len(star), np.nan),
    )


def _inside(x_pix: np.ndarray, y_pix: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    return np.asarray(
        (x_pix > MARGIN_PIX)
        & (x_pix < shape[1] - MARGIN_PIX)
        & (y_pix > MARGIN_PIX)
        & (y_pix < shape[0] - MARGIN_PIX)
    )
