"""What a person asks for when looking at a bogus: shape, sharpness, fit of the PSF, sign, neighbourhood."""

from dataclasses import dataclass

import numpy as np
from scipy import fft
from scipy.spatial import cKDTree

from rbsim.detect import Detections, psfs_by_tile
from rbsim.difference import Difference
from rbsim.schema import CANDIDATE_FLAG, MASK
from rbsim.significance import MatchedFilter
from rbsim.sources import Sources

MODEL_ERROR = 0.02
"""Relative error of the PSF in the chi-square: without it, every bright star would be a bad fit."""

SIGNIFICANT_SNR = 3.0
"""Pixels of the S/N map beyond this count for `negative_share`: the sum over mere noise would be half."""

STAR_RESIDUAL = 0.01
"""Share of a bright star's profile that a subtraction may leave."""

WEIGHT_WIDTH = 1.2
"""Width of the weight of the second moments over that of the PSF."""

MAX_ELONGATION = 20.0
MIN_MOMENT_PIX2 = 0.01


@dataclass(frozen=True, eq=False)
class Features:
    """One value per detection, shape (n,); columns of the same name in schema.CANDIDATE_COLUMNS.

    Attributes
    ----------
    shape_fwhm_pix, elongation, position_angle_deg
        Of the Gaussian with the source's second moments; NaN where the weighted flux is not positive.
    sharpness, psf_chi2, negative_share : NaN where there is nothing to measure.
    n_bad : pixels without value in the central 5 x 5.
    reference_distance_pix, reference_flux_ratio, bright_star_distance_pix : NaN without such a source.
    edge_distance_pix : from the outer side of the border pixels.
    flags : bits of schema.CANDIDATE_FLAGS that follow from the neighbourhood.
    """

    shape_fwhm_pix: np.ndarray
    elongation: np.ndarray
    position_angle_deg: np.ndarray
    sharpness: np.ndarray
    psf_chi2: np.ndarray
    negative_share: np.ndarray
    n_bad: np.ndarray
    reference_distance_pix: np.ndarray
    reference_flux_ratio: np.ndarray
    bright_star_distance_pix: np.ndarray
    edge_distance_pix: np.ndarray
    flags: np.ndarray


def measure_features(
    difference: Difference,
    filtered: MatchedFilter,
    detections: Detections,
    *,
    reference_sources: Sources,
    hosts: Sources,
    one_frame: np.ndarray,
    fwhm_pix: float,
    threshold_snr: float,
) -> Features:
    """Features of detections in a difference.

    Parameters
    ----------
    difference : Difference
    filtered : MatchedFilter
        Of the difference.
    detections : Detections
    reference_sources : Sources
        All sources of the reference, on the pixels of the difference.
    hosts : Sources
        The extended ones among them.
    one_frame : ndarray of bool, shape (ny, nx)
        Pixels that one single frame dominates, in science or reference.
    fwhm_pix : float
        FWHM of the science PSF.
    threshold_snr : float
        Detection threshold: decides which reference stars count as bright.

    Returns
    -------
    Features
    """
    x, y, n = detections.x_pix, detections.y_pix, len(detections)
    ny, nx = difference.image.shape
    half = max(3, int(np.ceil(2 * fwhm_pix)))
    psf, row = psfs_by_tile(difference.psf_at, x, y) if n else (np.zeros((0, 1, 1)), np.zeros(0, int))
    x0, y0 = np.rint(x).astype(int), np.rint(y).astype(int)
    sign = np.where(detections.is_positive, 1.0, -1.0)
    image = _cutouts(difference.image, x0, y0, half, np.nan) * sign[:, None, None]
    variance = _cutouts(difference.variance, x0, y0, half, np.inf)
    snr = _cutouts(filtered.snr, x0, y0, half, 0.0) * sign[:, None, None]
    models = _shifted(_resize(psf, half)[row], x - x0, y - y0)
    axis = np.arange(-half, half + 1.0)
    away_x, away_y = (
        axis[None, None, :] - (x - x0)[:, None, None],
        axis[None, :, None] - (y - y0)[:, None, None],
    )
    radius = np.hypot(away_x, away_y)
    size, elongation, angle = _moments(image, away_x, away_y, fwhm_pix)
    centre = (slice(None), half, half)
    profile = np.abs(detections.flux_adu) * models[0][centre]
    nearest, partner = _nearest(reference_sources, x, y)
    flux_reference = np.abs(reference_sources.flux_adu) * difference.flux_scale
    ratio = np.full(n, np.nan)
    if len(reference_sources):
        ratio = np.abs(detections.flux_adu) / np.maximum(flux_reference[partner], 1e-30)
    bright, reach = _bright_stars(difference, filtered, reference_sources, threshold_snr, fwhm_pix)
    to_bright, _ = _nearest(reference_sources.select(bright), x, y)
    flags = _neighbourhood(
        difference, x, y, hosts, reference_sources.select(bright), reach, one_frame, fwhm_pix
    )
    return Features(
        shape_fwhm_pix=size,
        elongation=elongation,
        position_angle_deg=angle,
        sharpness=image[centre] / np.where(profile > 0, profile, np.nan),
        psf_chi2=_chi2(image, variance, models, radius <= 1.5 * fwhm_pix),
        negative_share=_negative_share(snr, radius <= 2 * fwhm_pix),
        n_bad=np.isnan(image[:, half - 2 : half + 3, half - 2 : half + 3]).sum(axis=(1, 2)),
        reference_distance_pix=nearest,
        reference_flux_ratio=ratio,
        bright_star_distance_pix=to_bright,
        edge_distance_pix=np.minimum.reduce([x + 0.5, y + 0.5, nx - 0.5 - x, ny - 0.5 - y]),
        flags=flags,
    )


def _cutouts(image: np.ndarray, x0: np.ndarray, y0: np.ndarray, half: int, outside: float) -> np.ndarray:
    """Squares around pixels, shape (n, 2 half + 1, 2 half + 1), float64."""
    ny, nx = image.shape
    span = np.arange(-half, half + 1)
    rows, columns = y0[:, None] + span, x0[:, None] + span
    inside_y, inside_x = (rows >= 0) & (rows < ny), (columns >= 0) & (columns < nx)
    values = image[np.clip(rows, 0, ny - 1)[:, :, None], np.clip(columns, 0, nx - 1)[:, None, :]].astype(
        float
    )
    return np.where(inside_y[:, :, None] & inside_x[:, None, :], values, outside)


def _resize(psf: np.ndarray, half: int) -> np.ndarray:
    """PSF stamps cut or filled up to a half size."""
    own = psf.shape[-1] // 2
    if own >= half:
        cut = slice(own - half, own + half + 1)
        return psf[:, cut, cut]
    width = half - own
    return np.pad(psf, ((0, 0), (width, width), (width, width)))


def _shifted(psf: np.ndarray, dx: np.ndarray, dy: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """PSFs moved by fractions of a pixel, and their derivatives with x and y, by Fourier transform."""
    k = psf.shape[-1]
    frequency_y, frequency_x = fft.fftfreq(k), fft.rfftfreq(k)
    phase = np.exp(
        -2j * np.pi * (frequency_y[None, :, None] * dy[:, None, None] + frequency_x * dx[:, None, None])
    )
    spectrum = fft.rfft2(psf) * phase
    moved = fft.irfft2(spectrum, (k, k))
    slope_x = fft.irfft2(spectrum * (2j * np.pi * frequency_x), (k, k))
    slope_y = fft.irfft2(spectrum * (2j * np.pi * frequency_y[:, None]), (k, k))
    return moved, slope_x, slope_y


def _chi2(
    image: np.ndarray,
    variance: np.ndarray,
    models: tuple[np.ndarray, np.ndarray, np.ndarray],
    inner: np.ndarray,
) -> np.ndarray:
    """Reduced chi-square of flux and position fitted together; NaN with fewer than two degrees of freedom."""
    n, n_pixels = len(image), image[0].size if len(image) else 0
    good = np.isfinite(image) & np.isfinite(variance) & (variance > 0) & inner
    data = np.where(good, image, 0).reshape(n, n_pixels)
    weight = np.where(good, 1 / np.where(good, variance, 1), 0).reshape(n, n_pixels)
    design = np.stack(models, axis=-1).reshape(n, n_pixels, 3)
    weighted = design * weight[:, :, None]
    gram = weighted.transpose(0, 2, 1) @ design
    ridge = (1e-9 * np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1e-30) * np.eye(3)
    solution = np.linalg.solve(gram + ridge, weighted.transpose(0, 2, 1) @ data[:, :, None])
    model = (design @ solution)[:, :, 0]
    model_error2 = (MODEL_ERROR * solution[:, 0] * design[:, :, 0]) ** 2
    chi2 = ((data - model) ** 2 * weight / (1 + model_error2 * weight)).sum(axis=1)
    freedom = good.sum(axis=(1, 2)) - 3
    return np.where(freedom >= 2, chi2 / np.maximum(freedom, 1), np.nan)


def _negative_share(snr: np.ndarray, inner: np.ndarray) -> np.ndarray:
    """Opposite sign over all, in the significant pixels of the S/N map."""
    counted = np.where(inner & (np.abs(snr) > SIGNIFICANT_SNR), snr, 0)
    total = np.abs(counted).sum(axis=(1, 2))
    opposite = np.maximum(-counted, 0).sum(axis=(1, 2))
    return np.where(total > 0, opposite / np.where(total > 0, total, 1), np.nan)


def _moments(
    image: np.ndarray, away_x: np.ndarray, away_y: np.ndarray, fwhm_pix: float
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """FWHM, elongation and position angle from second moments under a Gaussian weight.

    The weight, a little wider than the PSF, keeps the noise of the outer pixels away. Of a Gaussian with
    covariance C it leaves one with C^-1 + W^-1, so C follows without iteration.
    """
    sigma2 = (WEIGHT_WIDTH * fwhm_pix / 2.3548) ** 2
    weight = np.exp(-0.5 * (away_x**2 + away_y**2) / sigma2)
    light = np.where(np.isfinite(image), image, 0) * weight
    total = light.sum(axis=(1, 2))
    flux = np.where(total > 0, total, np.nan)
    xx, yy, xy = ((light * a).sum(axis=(1, 2)) / flux for a in (away_x**2, away_y**2, away_x * away_y))
    # A hot pixel has no width, and noise or the dark side of a dipole make it negative: a tenth of a pixel.
    xx, yy = np.maximum(xx, MIN_MOMENT_PIX2), np.maximum(yy, MIN_MOMENT_PIX2)
    xy = np.clip(xy, -0.99 * np.sqrt(xx * yy), 0.99 * np.sqrt(xx * yy))
    determinant = xx * yy - xy**2
    # Inverse of the moments less that of the weight.
    a, b, c = yy / determinant - 1 / sigma2, xx / determinant - 1 / sigma2, -xy / determinant
    middle, spread = (a + b) / 2, np.hypot((a - b) / 2, c)
    low = np.maximum(middle - spread, 1e-3 / sigma2)  # wider than the weight can tell
    high = np.maximum(middle + spread, low)
    elongation = np.minimum(np.sqrt(high / low), MAX_ELONGATION)
    # The major axis lies along the smaller eigenvalue of the inverse.
    angle = np.degrees(0.5 * np.arctan2(-2 * c, b - a)) % 180
    return 2.3548 * (high * low) ** -0.25, elongation, angle


def _nearest(sources: Sources, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Distance to the nearest source, NaN without one, and its row."""
    if not len(sources) or not len(x):
        return np.full(len(x), np.nan), np.zeros(len(x), int)
    return cKDTree(np.column_stack([sources.x_pix, sources.y_pix])).query(np.column_stack([x, y]))


def _bright_stars(
    difference: Difference, filtered: MatchedFilter, sources: Sources, threshold_snr: float, fwhm_pix: float
) -> tuple[np.ndarray, np.ndarray]:
    """Reference stars whose residual may be detected, and out to which radius, px.

    A subtraction may leave `STAR_RESIDUAL` of a star: PSFs are modelled to about that. In the S/N map
    this has the shape of the PSF's autocorrelation, whose height over the threshold gives the radius. A
    saturated star is brighter than its flux says: it always counts, out to 3 FWHM at least.
    """
    ny, nx = difference.image.shape
    column = np.clip(np.rint(sources.x_pix).astype(int), 0, nx - 1)
    line = np.clip(np.rint(sources.y_pix).astype(int), 0, ny - 1)
    known = np.isfinite(filtered.flux_err_adu)
    typical = float(np.median(filtered.flux_err_adu[known])) if known.any() else np.inf
    error = np.where(known[line, column], filtered.flux_err_adu[line, column], typical)
    # The star's own photons make its centre noisier than its wings, where the residual has to be told.
    error = np.minimum(error, typical)
    height = STAR_RESIDUAL * sources.flux_adu * difference.flux_scale / (threshold_snr * error)
    bright = np.flatnonzero((height > 1) | sources.saturated)
    psf = difference.psf_at(np.array([nx / 2]), np.array([ny / 2]))[0]
    k = psf.shape[0]
    size = fft.next_fast_len(2 * k, real=True)
    correlation = fft.irfft2(np.abs(fft.rfft2(psf, (size, size))) ** 2, (size, size))
    profile = np.maximum.accumulate((correlation[0, :k] / correlation[0, 0])[::-1])[::-1]
    reach = np.array([np.count_nonzero(profile * h >= 1) for h in height[bright]], float)
    return bright, np.where(sources.saturated[bright], np.maximum(reach, 3 * fwhm_pix), reach)


def _neighbourhood(
    difference: Difference,
    x: np.ndarray,
    y: np.ndarray,
    hosts: Sources,
    bright: Sources,
    bright_reach: np.ndarray,
    one_frame: np.ndarray,
    fwhm_pix: float,
) -> np.ndarray:
    """Flags that follow from what lies around, shape (n,), uint32."""
    flags = np.zeros(len(x), np.uint32)
    saturated = (difference.mask & (MASK["SATURATED"] | MASK["SATURATED_REFERENCE"])) != 0
    for name, hit in (
        ("NEAR_SATURATED", _near_pixels(saturated, x, y, 3 * fwhm_pix)),
        ("NEAR_BRIGHT_STAR", _within(bright, bright_reach, x, y)),
        ("ON_GALAXY_CORE", _within(hosts, np.maximum(hosts.radius_half_pix, 1.0), x, y)),
        ("ONE_FRAME", _near_pixels(one_frame, x, y, 1.0)),
    ):
        flags[hit] |= np.uint32(CANDIDATE_FLAG[name])
    return flags


def _near_pixels(plane: np.ndarray, x: np.ndarray, y: np.ndarray, radius_pix: float) -> np.ndarray:
    """Which positions have a pixel of the plane within a radius."""
    at_y, at_x = np.nonzero(plane)
    if not len(at_x) or not len(x):
        return np.zeros(len(x), bool)
    distance, _ = cKDTree(np.column_stack([at_x, at_y])).query(
        np.column_stack([x, y]), distance_upper_bound=radius_pix * (1 + 1e-9)
    )
    return np.isfinite(distance)


def _within(sources: Sources, radius_pix: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Which positions lie within the radius of any source."""
    hit = np.zeros(len(x), bool)
    if len(sources) and len(x):
        tree = cKDTree(np.column_stack([x, y]))
        lists = tree.query_ball_point(np.column_stack([sources.x_pix, sources.y_pix]), radius_pix)
        hit[np.concatenate([np.array(found, int) for found in lists])] = True
    return hit
