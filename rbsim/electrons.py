"""Light in electrons and in whole ADU: its photon noise, what is taken away, what the camera rounds."""

import math
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from scipy.special import ndtr, ndtri

from rbsim.detector import Detector

FEW_PHOTONS = 0.5
"""Pixels with fewer photons than this in the mean get them one by one, see `_photons`."""
ROW_PIXELS, MOST_ROWS = 1000, 64
"""Layout of the running sums in `_photons`; for speed alone."""
FINE_SIGMA_ADU = 10.0
"""From this noise on the digit hardly matters: a uniform fraction adds at most 0.25 ADU2, 0.25 % of it."""
SAMPLE_PIXELS = 40_000
"""Of a frame, to learn how its values are distributed: enough, however large it is."""
REACH_SIGMA = 8.0
LEAST_COUNT = 20


def add_noise(stars: np.ndarray, gain_e_per_adu: float, *, rng: np.random.Generator) -> np.ndarray:
    """Photon noise of the stars alone; that of sky and detector is in the frame already.

    Parameters
    ----------
    stars : ndarray
        Expected ADU; what is negative (far wings of the PSF model) gets no noise.
    gain_e_per_adu : float
    rng : numpy.random.Generator

    Returns
    -------
    ndarray
        ADU, of the same shape.
    """
    n_rows = min(max(stars.size // ROW_PIXELS, 1), MOST_ROWS)
    mean = np.zeros((n_rows, -(-stars.size // n_rows)))
    np.multiply(stars.reshape(-1), gain_e_per_adu, out=mean.reshape(-1)[: stars.size])
    np.maximum(mean, 0, out=mean)
    light = _photons(mean, rng=rng)[: stars.size].reshape(stars.shape)
    light /= gain_e_per_adu
    negative = stars < 0
    if negative.any():
        light[negative] += stars[negative]
    return light


def _photons(mean: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Poisson deviates of means of shape (n, m), as floats of shape (n * m,); the means are overwritten.

    Most pixels of a star are in its far wings and get no photon. Those of a mean below `FEW_PHOTONS` share
    one deviate for all of them, whose photons then fall on them in proportion to their means. By the
    splitting of Poisson processes that is the same law, and costs as much as there are photons.
    """
    n, m = mean.shape
    flat = mean.reshape(-1)
    counts = np.zeros(len(flat))
    many = np.flatnonzero(flat >= FEW_PHOTONS)
    counts[many] = rng.poisson(np.take(flat, many))
    flat[many] = 0
    # Sums over all pixels, column by column: adding rows is several times faster than one running sum.
    for above, row in pairwise(mean):
        np.add(row, above, out=row)
    ends = np.cumsum(mean[-1])
    mean[:, 1:] += ends[:-1]
    total = ends[-1] if m else 0.0
    n_photons = rng.poisson(total)
    if n_photons:
        # A deviate that rounds up to the whole would fall behind the last pixel.
        fall = np.minimum(rng.random(n_photons) * total, np.nextafter(total, 0))
        fall.sort()
        column, row_number = np.divmod(np.searchsorted(mean.T.reshape(-1), fall, side="right"), n)
        counts += np.bincount(row_number * m + column, minlength=len(counts))
    return counts


def take_away(
    lost_e: np.ndarray, expected_e: np.ndarray, present_e: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """Electrons that a fainter star would not have made, drawn from those that are there.

    If each of N electrons, N being Poisson with mean ``e``, is lost with probability ``l / e``, what is left
    is Poisson with mean ``e - l``: the frame of the fainter star, its smaller noise included. The mean ``e``
    must come from elsewhere than N itself, else the noise of N stays.

    Parameters
    ----------
    lost_e : ndarray
        Mean number to take away, 0 or more.
    expected_e : ndarray
        Mean number of electrons made by light, star and sky.
    present_e : ndarray
        Number in the frame; rounded, below 0 counts as 0.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of int
    """
    probability = np.divide(lost_e, expected_e, out=np.ones_like(lost_e), where=expected_e > lost_e)
    probability[lost_e <= 0] = 0
    return rng.binomial(np.maximum(np.rint(present_e), 0).astype(np.int64), probability)


@dataclass(frozen=True, eq=False)
class Values:
    """How the whole ADU of a frame are distributed about its sky.

    Attributes
    ----------
    above_sky_adu : ndarray, shape (n,)
        Rising.
    log_slope : ndarray, shape (n,)
        Of the number of pixels there, per ADU; 0 beyond the last.
    """

    above_sky_adu: np.ndarray
    log_slope: np.ndarray

    def expected(self, raw: np.ndarray, sky: np.ndarray, sigma: np.ndarray) -> np.ndarray:
        """Mean of pixels before rounding, as far as their own values tell it.

        A pixel two sigma above the sky may be noise or a faint star. Taken for noise alone it would always
        seem to have been rounded up. Tweedie's formula, see Efron (2011, JASA 106, 1602).

        Parameters
        ----------
        raw, sky, sigma : ndarray
            ADU.
        """
        return raw + sigma**2 * np.interp(raw - sky, self.above_sky_adu, self.log_slope)


def values_of(image: np.ndarray, sky: np.ndarray, variance: np.ndarray) -> Values | None:
    """Learn from a sample of its pixels how the values of a frame of whole ADU are distributed.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        ADU above the sky; NaN is ignored.
    sky, variance : ndarray, shape (ny, nx)
        ADU, ADU squared.

    Returns
    -------
    Values or None
        None where the digit does not matter (`FINE_SIGMA_ADU`), or too few pixels tell.
    """
    step = max(1, image.size // SAMPLE_PIXELS)
    while math.gcd(step, image.shape[1]) > 1:  # else some columns would never be in it
        step += 1
    above, level, noise = (plane.reshape(-1)[::step].astype(float) for plane in (image, sky, variance))
    known = np.isfinite(above) & np.isfinite(noise)
    typical = np.sqrt(np.median(noise[known])) if known.any() else np.inf
    if not typical < FINE_SIGMA_ADU:
        return None
    known &= np.abs(above) < REACH_SIGMA * typical
    above, level = above[known], level[known]
    above = np.rint(above + level) - level
    group = np.rint(above).astype(int)
    group -= group.min(initial=0)
    count = np.bincount(group)
    enough = count >= LEAST_COUNT
    enough[[0, -1]] = False  # cut through by the limit
    if np.count_nonzero(enough) < 2:
        return None
    place = np.bincount(group, above)[enough] / count[enough]
    slope = np.diff(np.log(count[enough])) / np.diff(place)
    middle = (place[1:] + place[:-1]) / 2
    return Values(np.append(middle, middle[-1] + 1), np.append(slope, 0.0))


def undo_rounding(
    raw: np.ndarray, expected: np.ndarray, sigma: np.ndarray, *, rng: np.random.Generator
) -> np.ndarray:
    """A value that the camera may have rounded to each pixel's whole ADU.

    The fraction is drawn from a normal distribution cut to the pixel's last digit.

    Parameters
    ----------
    raw : ndarray
        Pixel values, whole ADU.
    expected, sigma : ndarray
        Mean and standard deviation of `raw` before rounding. Where `raw` is more than 4 sigma off (a
        source), or the noise is so large that the digit does not matter, the fraction is uniform.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray
        ADU; rounding it gives `raw` back.
    """
    share = rng.random(raw.shape)
    near = (sigma < FINE_SIGMA_ADU) & (np.abs(raw - expected) < 4 * sigma)
    middle, width = expected[near], sigma[near]
    low, high = ndtr((raw[near] - 0.5 - middle) / width), ndtr((raw[near] + 0.5 - middle) / width)
    fraction = share - 0.5
    fraction[near] = middle + width * ndtri(low + share[near] * (high - low)) - raw[near]
    return raw + np.clip(fraction, -0.4999, 0.4999)


def expose(
    light: np.ndarray,
    raw: np.ndarray,
    expected: np.ndarray,
    sigma: np.ndarray,
    detector: Detector,
    *,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Raw ADU that pixels gain if light falls on them too.

    The response is that of the sum of sky, host and star. The camera rounds it once: the fraction that the
    frame's own rounding took away is drawn anew (`undo_rounding`), the light is added, and the sum is
    rounded. Rounding the light by itself would cut the wings of faint stars wherever they are below half
    an ADU, or count the noise of rounding twice. What passes saturation is clipped, without bleeding;
    pixels at or above it stay as they are.

    Parameters
    ----------
    light : ndarray, shape (n,)
        Linear ADU to add, with their photon noise.
    raw : ndarray, shape (n,)
        Finite values of the frame.
    expected, sigma : ndarray, shape (n,)
        See `undo_rounding`; used where the pixels are whole numbers.
    detector : Detector
    rng : numpy.random.Generator

    Returns
    -------
    added : ndarray, shape (n,)
        Raw ADU; 0 where the light is 0.
    unclipped : ndarray, shape (n,)
        The same before rounding and clipping.
    clipped : ndarray of bool, shape (n,)
    """
    if detector.is_integer:
        raw = np.rint(raw)
        before = undo_rounding(raw, expected, sigma, rng=rng)
    else:
        before = raw
    after = before + light if detector.is_linear else detector.raw_of(detector.light_of(before) + light)
    unclipped = after - before
    added = np.rint(after) - raw if detector.is_integer else unclipped
    clipped = np.zeros(light.shape, bool)
    limit = detector.saturation_adu
    if not np.isnan(limit):
        room = np.maximum((np.floor(limit) if detector.is_integer else limit) - raw, 0)
        clipped = added > room
        added = np.minimum(added, room)
    return np.where(light == 0, 0.0, added), unclipped, clipped
