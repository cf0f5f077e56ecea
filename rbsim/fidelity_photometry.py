"""Aperture photometry of injected stars: their flux should be there, with the noise it should have."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.spatial import cKDTree
from scipy.stats import poisson

from rbsim import psf as psf_model
from rbsim.fidelity_sample import lights_at, without_photon_noise
from rbsim.fidelity_stamps import inside
from rbsim.frame import Frame
from rbsim.inject import inject_frame
from rbsim.psf import Psf
from rbsim.robust import robust_width
from rbsim.sources import Sources

APERTURE_FWHM, ANNULUS_FWHM, MIN_APERTURE_PIX = 2.0, 4.0, 3.0
SNR_LOW, SNR_HIGH = 10.0, 300.0
SUBSAMPLES = 8
"""Samples per pixel and axis at the rim of an aperture."""

FILL_SHARE = 0.7
"""A star's peak reaches at most this share of the room between sky and saturation."""

BIAS_SNR, MIN_STARS, OUTLIER_SIGMA = 20.0, 100, 5.0
FIGURES = (
    *("flux_bias", "flux_bias_err", "flux_pull_mean", "flux_pull_std", "flux_pull_std_err"),
    *("found_pull_std", "found_outliers", "noiseless_pull_std", "noiseless_sigma"),
)
HOT_SIGMA = 5.0
N_DRAWS = 60
"""Random places per star wanted, before those on sources and near each other are left out."""


@dataclass(frozen=True, eq=False)
class Photometry:
    """Injected stars, measured in apertures; all arrays have shape (n,), fluxes are ADU.

    Attributes
    ----------
    x_share, y_share : ndarray
        Position over the frame's size, 0 to 1.
    mag : ndarray
    snr : ndarray
        Flux over the noise of sky and star in the aperture.
    flux_adu : ndarray
        As asked for.
    gained_adu, gained_err_adu : ndarray
        Flux after less before the injection, with the encircled energy of the PSF; the error is that of the
        star's photons and of the digitisation, for the frame's own noise cancels.
    found_adu, found_err_adu : ndarray
        Flux above an annulus, after the injection alone; the error is the frame's variance.
    noiseless_adu : ndarray
        As `gained_adu` for injection without photon noise: a control.
    """

    x_share: np.ndarray
    y_share: np.ndarray
    mag: np.ndarray
    snr: np.ndarray
    flux_adu: np.ndarray
    gained_adu: np.ndarray
    gained_err_adu: np.ndarray
    found_adu: np.ndarray
    found_err_adu: np.ndarray
    noiseless_adu: np.ndarray


def concatenate(parts: list[Photometry]) -> Photometry:
    """Photometry of several frames in one value."""
    return Photometry(
        **{
            field: np.concatenate([getattr(part, field) for part in parts])
            for field in Photometry.__dataclass_fields__
        }
    )


def summary(photometry: Photometry) -> dict[str, Any]:
    """Bias and pulls of the stars with S/N above `BIAS_SNR`, with standard errors.

    Returns
    -------
    dict
        ``flux_bias`` (mean of recovered over injected less one), ``flux_pull_std``; the pull of the flux
        found without the frame before (``found_pull_std``, a robust width, and how many are beyond 5);
        the pull without photon noise and by how many sigma its width is off 1. None with fewer than
        `MIN_STARS` stars, then with a ``reason``.
    """
    facts: dict[str, Any] = dict.fromkeys(FIGURES)
    bright = photometry.snr > BIAS_SNR
    n = int(bright.sum())
    facts |= {"n_injected": len(photometry.snr), "n_bright": n, "snr_above": BIAS_SNR, "reason": ""}
    if n < MIN_STARS:
        return facts | {"reason": f"{n} injected stars with S/N above {BIAS_SNR:g}; {MIN_STARS} are needed"}
    flux, err = photometry.flux_adu[bright], photometry.gained_err_adu[bright]
    gained = photometry.gained_adu[bright]
    pull, noiseless = (gained - flux) / err, (photometry.noiseless_adu[bright] - flux) / err
    found = (photometry.found_adu[bright] - flux) / photometry.found_err_adu[bright]
    # The width of n normal values has this error; it says how far a width is from 1.
    width_err = 1 / np.sqrt(2 * (n - 1))
    ratio = gained / flux - 1
    return facts | {
        "flux_bias": float(ratio.mean()),
        "flux_bias_err": float(ratio.std(ddof=1) / np.sqrt(n)),
        "flux_pull_mean": float(pull.mean()),
        "flux_pull_std": float(pull.std(ddof=1)),
        "flux_pull_std_err": float(width_err),
        "found_pull_std": robust_width(found),
        "found_outliers": int(np.sum(np.abs(found) >= OUTLIER_SIGMA)),
        "noiseless_pull_std": float(noiseless.std(ddof=1)),
        "noiseless_sigma": float(abs(noiseless.std(ddof=1) - 1) / width_err),
    }


def measure_photometry(
    frame: Frame, psf: Psf, sources: Sources, *, n_stars: int, rng: np.random.Generator
) -> Photometry:
    """Inject stars at empty places of a frame, log-uniform in S/N, and measure them in apertures.

    The aperture correction is the encircled energy of the PSF model, evaluated directly at the star's
    sub-pixel position, so that drawing, noise, clipping and digitisation are what is tested.

    Parameters
    ----------
    frame : Frame
        With known gain.
    psf : Psf
    sources : Sources
        Everything that was found on the frame.
    n_stars : int
        Wanted; fewer where empty places are few.
    rng : numpy.random.Generator
    """
    fwhm = psf.fwhm_pix
    radius = max(APERTURE_FWHM * fwhm, MIN_APERTURE_PIX)
    outer = min(float(psf.half_pix), max(ANNULUS_FWHM * fwhm, radius + 2))
    half = int(np.ceil(outer))
    x, y = _empty_places(frame, sources, n_stars, half, outer + fwhm, rng=rng)
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    dx, dy = x - column, y - row
    cut = psf.half_pix - half
    profile = psf_model.sample(psf, x, y, dx_pix=dx, dy_pix=dy)[:, cut:, cut:][
        :, : 2 * half + 1, : 2 * half + 1
    ]
    aperture = aperture_weights(dx, dy, radius, half)
    annulus = aperture_weights(dx, dy, outer, half) - aperture_weights(dx, dy, radius + 1, half)
    sky_variance = _sum(_stamps(frame.variance, column, row, half), aperture)
    gain = frame.detector.gain_e_per_adu
    flux = _fluxes(frame, profile, sky_variance, column, row, rng=rng)

    own = aperture / _sum(profile, aperture)[:, None, None]
    light = flux[:, None, None] * profile
    variance = light / gain
    if frame.detector.is_integer:
        variance = variance + digitisation_variance(light, gain)
    before = _stamps(frame.image, column, row, half)
    after_frame = inject_frame(frame, psf, lights_at(x, y, flux), rng=rng).science
    after = _stamps(after_frame.image, column, row, half)
    still = inject_frame(without_photon_noise(frame), psf, lights_at(x, y, flux), rng=rng).science
    noiseless = _stamps(still.image, column, row, half)

    # Aperture less its share of the annulus, corrected for the star's own light in both.
    net = aperture - annulus * (aperture.sum(axis=(1, 2)) / annulus.sum(axis=(1, 2)))[:, None, None]
    net /= _sum(profile, net)[:, None, None]
    ny, nx = frame.shape
    return Photometry(
        x_share=x / nx,
        y_share=y / ny,
        mag=frame.zero_point_mag - 2.5 * np.log10(flux),
        snr=flux / np.sqrt(sky_variance + flux / gain),
        flux_adu=flux,
        gained_adu=_sum(after - before, own),
        gained_err_adu=np.sqrt(_sum(variance, own**2)),
        found_adu=_sum(after, net),
        found_err_adu=np.sqrt(_sum(_stamps(after_frame.variance, column, row, half), net**2)),
        noiseless_adu=_sum(noiseless - before, own),
    )


def aperture_weights(dx_pix: np.ndarray, dy_pix: np.ndarray, radius_pix: float, half: int) -> np.ndarray:
    """Share of each pixel of a stamp in a circle about a position near its middle, (n, size, size)."""
    fine = (np.arange((2 * half + 1) * SUBSAMPLES) + 0.5) / SUBSAMPLES - 0.5 - half
    x2, y2 = (fine - dx_pix[:, None]) ** 2, (fine - dy_pix[:, None]) ** 2
    within = x2[:, None, :] + y2[:, :, None] <= radius_pix**2
    size = 2 * half + 1
    return within.reshape(len(dx_pix), size, SUBSAMPLES, size, SUBSAMPLES).mean(axis=(2, 4))


def digitisation_variance(light_adu: np.ndarray, gain_e_per_adu: float) -> np.ndarray:
    """Variance that rounding to whole ADU adds to the light of a star, beyond its photons.

    The sky below spreads the sum evenly over the digit, so light with the fractional part f becomes one of
    the two neighbouring whole numbers: a variance of f (1 - f), averaged over the Poisson distribution of the
    electrons. It is 1/6 for bright pixels and vanishes with the light.

    Parameters
    ----------
    light_adu : ndarray
        Expected.
    gain_e_per_adu : float

    Returns
    -------
    ndarray
        ADU squared, of the same shape.
    """
    electrons = np.maximum(light_adu, 0) * gain_e_per_adu
    if gain_e_per_adu > 1e3:  # practically continuous
        fraction = light_adu % 1
        return np.asarray(fraction * (1 - fraction))
    reach = max(12 * gain_e_per_adu, 60.0)
    nodes = np.r_[0.0, np.geomspace(1e-6, reach, 400)]
    count = np.arange(int(reach + 8 * np.sqrt(reach)) + 2)
    fraction = (count / gain_e_per_adu) % 1
    table = poisson.pmf(count, nodes[:, None]) @ (fraction * (1 - fraction))
    return np.asarray(np.interp(electrons, nodes, table, right=float(table[-1])))


def _sum(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted sum of each stamp in float64, shape (n,)."""
    return np.asarray(np.einsum("nyx,nyx->n", values, weights, dtype=float))


def _stamps(image: np.ndarray, column: np.ndarray, row: np.ndarray, half: int) -> np.ndarray:
    span = np.arange(-half, half + 1)
    return image[row[:, None, None] + span[:, None], column[:, None, None] + span].astype(float)


def _fluxes(
    frame: Frame,
    profile: np.ndarray,
    sky_variance: np.ndarray,
    column: np.ndarray,
    row: np.ndarray,
    *,
    rng: np.random.Generator,
) -> np.ndarray:
    """Fluxes log-uniform in S/N, but for those that would come near saturation, shape (n,)."""
    gain, limit = frame.detector.gain_e_per_adu, frame.detector.saturation_adu
    snr = np.exp(rng.uniform(np.log(SNR_LOW), np.log(SNR_HIGH), len(column)))
    # flux = snr sqrt(sky variance + flux / gain), solved for the flux
    flux = snr**2 / (2 * gain) * (1 + np.sqrt(1 + 4 * sky_variance * (gain / snr) ** 2))
    if not np.isnan(limit):
        room = FILL_SHARE * np.maximum(limit - frame.sky_adu[row, column], 0)
        flux = np.minimum(flux, room / profile.max(axis=(1, 2), initial=1e-9))
    return np.asarray(flux)


def _empty_places(
    frame: Frame, sources: Sources, n_stars: int, half: int, clear_pix: float, *, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Places at least two stamps apart, without a source within `clear_pix`, a bad or a hot pixel."""
    ny, nx = frame.shape
    spacing = 2 * (2 * half + 1)
    n_stars = min(n_stars, int(nx * ny / spacing**2) + 1)  # no more would fit
    x, y = rng.uniform(0, nx, n_stars * N_DRAWS), rng.uniform(0, ny, n_stars * N_DRAWS)
    free = inside(frame, x, y, half)
    # Hot pixels are no sources, so the catalogue does not know them.
    hot = frame.image > HOT_SIGMA * np.sqrt(frame.variance)
    reach = 2 * half + 1
    touched = uniform_filter(hot.astype(np.float32), reach, mode="constant") > 0.5 / reach**2
    free &= ~touched[np.clip(np.rint(y).astype(int), 0, ny - 1), np.clip(np.rint(x).astype(int), 0, nx - 1)]
    if len(sources):
        tree = cKDTree(np.column_stack([sources.x_pix, sources.y_pix]))
        free &= tree.query(np.column_stack([x, y]))[0] > clear_pix
    x, y = x[free], y[free]
    chosen: list[int] = []
    for i in range(len(x)):
        if len(chosen) == n_stars:
            break
        apart = np.maximum(np.abs(x[chosen] - x[i]), np.abs(y[chosen] - y[i]))
        if apart.min(initial=np.inf) > spacing:
            chosen.append(i)
    return x[chosen], y[chosen]
