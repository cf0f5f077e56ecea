"""What the stars say about the PSF that was fitted to them: its error, their own shapes, their apertures."""

import numpy as np

from rbsim import profile
from rbsim.errors import InputError
from rbsim.psf import Psf, PsfQuality, stamp_axis, weights_at
from rbsim.psf_stars import Positions, PsfStars
from rbsim.robust import robust_width

MIN_SHAPE_SNR, MIN_SHAPE_STARS, MAX_SHAPE_STARS = 50.0, 10, 40
"""The brightest: fainter stars have shapes of noise and unseen neighbours, which injected ones meet too."""
MEDIAN_CHI2 = 0.4549
"""Of one degree of freedom."""
SHAPE_FWHM, APERTURE_FWHM = 2.0, 2.5

MAX_ELLIPTICITY_SCATTER = 0.25
"""Of stars per component, beyond noise. Frames of `hatp32` have 0.01 to 0.02, galaxies 0.3 to 0.5."""


def measure_quality(
    psf: Psf, stars: PsfStars, at: Positions, snr: np.ndarray, chi2_per_pixel: float, *, is_moffat: bool
) -> PsfQuality:
    """Figures of a fit, from its stars.

    Parameters
    ----------
    psf : Psf
    stars : PsfStars
        Their stamps, neighbours subtracted.
    at : Positions
        Fitted centres and fluxes.
    snr : ndarray, shape (n,)
    chi2_per_pixel : float
    is_moffat : bool
    """
    nan = float("nan")
    ratio, ratio_err = _aperture_ratio(psf, stars, at)
    bright = np.flatnonzero(snr > MIN_SHAPE_SNR)
    bright = bright[np.argsort(-snr[bright], kind="stable")[:MAX_SHAPE_STARS]]
    if len(bright) < MIN_SHAPE_STARS:
        return PsfQuality(len(snr), chi2_per_pixel, nan, (0.0, 0.0, 0.0), ratio, ratio_err, is_moffat)
    shapes, errors = star_shapes(psf, stars.select(bright), at)
    scatter = tuple(_intrinsic(shapes[:, k], errors[:, k]) for k in range(3))
    width_err = np.sqrt(np.mean(1 / (errors[:, 0] ** 2 + scatter[0] ** 2))) ** -1 / np.sqrt(len(shapes))
    # Adding a (P_xx + P_yy) adds 2 a to the variance along each axis.
    fwhm_err = psf.fwhm_pix * width_err / (psf.fwhm_pix / 2.355) ** 2
    return PsfQuality(
        len(snr),
        chi2_per_pixel,
        float(fwhm_err),
        (scatter[0], scatter[1], scatter[2]),
        ratio,
        ratio_err,
        is_moffat,
    )


def check_stars(psf: Psf) -> None:
    """Refuse a PSF of sources that are no stars: galaxies, which differ in shape from one another.

    With fewer than `MIN_SHAPE_STARS` bright ones nothing is known, and nothing refused.

    Raises
    ------
    InputError
        With the scatter of their ellipticity, and its limit.
    """
    _, *of_shape = psf.quality.shape_scatter_pix2
    # Adding a (P_xx - P_yy) to a variance v along each axis makes an ellipticity of 2 a / v.
    scatter = 2 * float(np.sqrt(np.mean(np.square(of_shape)))) / (psf.fwhm_pix / 2.355) ** 2
    if scatter > MAX_ELLIPTICITY_SCATTER:
        raise InputError(
            f"no stars for the PSF: the ellipticity of its {psf.n_stars} sources of the most frequent size"
            f" scatters by {scatter:.2f}, allowed {MAX_ELLIPTICITY_SCATTER}; are they galaxies?"
        )


def star_shapes(psf: Psf, stars: PsfStars, at: Positions) -> tuple[np.ndarray, np.ndarray]:
    """How each star differs from the PSF: coefficients as of `rbsim.psf.draw_shapes`, errors, (n, 3) each.

    Centre, flux and background are fitted along, within 2 FWHM.
    """
    axis = stamp_axis(stars.half)
    inner = (np.hypot(axis, axis.T) < SHAPE_FWHM * psf.fwhm_pix).ravel()
    on = stars.grid(at, psf.scale_pix, psf.half_pix)
    weights = weights_at(psf, at.x[stars.rows], at.y[stars.rows])
    n = len(stars.rows)
    flux = at.flux[stars.rows]
    star = profile.values(on, weights)
    design = np.ones((n, 7, star[0].size))
    design[:, 0] = star.reshape(n, -1)
    for k, slope in enumerate(profile.slopes(on, weights)):
        design[:, 1 + k] = slope.reshape(n, -1)
    for k in range(3):
        one = np.broadcast_to(np.eye(3)[k], (n, 3))
        design[:, 4 + k] = (profile.values(on, weights, one) - star).reshape(n, -1)
    weight = stars.weight.reshape(n, 1, -1).astype(float) * inner
    weighted = design * weight
    inverse = np.linalg.inv(weighted @ design.transpose(0, 2, 1) + 1e-12 * np.eye(7))
    solution = (inverse @ (weighted @ stars.data.reshape(n, -1, 1)))[:, 4:, 0]
    error = np.sqrt(np.maximum(np.einsum("nii->ni", inverse)[:, 4:], 0))
    return solution / flux[:, None], error / np.abs(flux[:, None])


def _intrinsic(values: np.ndarray, errors: np.ndarray) -> float:
    """Scatter beyond the errors: with it the median of the squared pulls is that of chi-square."""
    values = values - np.median(values)

    def excess(scatter: float) -> bool:
        return bool(np.median(values**2 / (errors**2 + scatter**2)) > MEDIAN_CHI2)

    low, high = 0.0, 2 * float(robust_width(values)) + 1e-12
    if not excess(low):
        return 0.0
    for _ in range(30):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) else (low, middle)
    return low


def _aperture_ratio(psf: Psf, stars: PsfStars, at: Positions) -> tuple[float, float]:
    """Flux in an aperture over that of the model there: median and its error; NaN if there is none."""
    axis = stamp_axis(stars.half)
    aperture = np.hypot(axis, axis.T) < APERTURE_FWHM * psf.fwhm_pix
    on = stars.grid(at, psf.scale_pix, psf.half_pix)
    weights = weights_at(psf, at.x[stars.rows], at.y[stars.rows]) * at.flux[stars.rows, None]
    model = profile.values(on, weights)
    ring = ~aperture & (np.hypot(axis, axis.T) < stars.half + 0.5)
    whole = (stars.weight[:, aperture] > 0).all(axis=1) & (stars.weight[:, ring] > 0).any(axis=1)
    if np.count_nonzero(whole) < 3:
        return float("nan"), float("nan")
    left = (stars.data - model)[whole]
    level = np.nanmedian(np.where(stars.weight[whole][:, ring] > 0, left[:, ring], np.nan), axis=1)
    total = model[whole][:, aperture].sum(axis=1)
    ratio = 1 + (left[:, aperture] - level[:, None]).sum(axis=1) / total
    return float(np.median(ratio)), float(1.2533 * robust_width(ratio) / np.sqrt(len(ratio)))
