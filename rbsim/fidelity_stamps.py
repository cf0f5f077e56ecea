"""Stamps of stars with the local PSF fitted to each: the same treatment for real and injected ones."""

from dataclasses import dataclass

import numpy as np

from rbsim import psf as psf_model
from rbsim.frame import Frame
from rbsim.psf import Psf

N_STEPS = 5
MAX_STEP_PIX = 0.4
SLOPE_STEP_PIX = 0.05
MAX_SIGMA = 10.0
"""Residuals are clipped here, in units of their error: one cosmic ray must not rule a network."""


@dataclass(frozen=True, eq=False)
class StarStamps:
    """Stamps of n stars and the PSF fitted to each; size = 2 * half + 1.

    Attributes
    ----------
    light_adu : ndarray, shape (n, size, size), float32
        Less the fitted background.
    model_adu : ndarray, shape (n, size, size), float32
        The fitted PSF.
    sigma_adu : ndarray, shape (n, size, size), float32
        Noise that sky and fitted light let expect.
    x_pix, y_pix, flux_adu, background_adu : ndarray, shape (n,)
        The fit; NaN where it failed.
    chi2 : ndarray, shape (n,)
        Reduced, over the whole stamp.
    """

    light_adu: np.ndarray
    model_adu: np.ndarray
    sigma_adu: np.ndarray
    x_pix: np.ndarray
    y_pix: np.ndarray
    flux_adu: np.ndarray
    background_adu: np.ndarray
    chi2: np.ndarray

    @property
    def residual_sigma(self) -> np.ndarray:
        """What the PSF leaves, over its noise, clipped at `MAX_SIGMA`, shape (n, size, size)."""
        return np.clip((self.light_adu - self.model_adu) / self.sigma_adu, -MAX_SIGMA, MAX_SIGMA)

    @property
    def is_single_pixel(self) -> np.ndarray:
        """Whether one central pixel alone explains a stamp better than the PSF does, shape (n,), bool.

        Then it is a hot pixel or a cosmic ray; the sources of an undersampled frame cannot tell.
        """
        middle = slice(self.light_adu.shape[-1] // 2 - 1, self.light_adu.shape[-1] // 2 + 2)
        square = (self.light_adu / self.sigma_adu) ** 2
        alone = square.sum(axis=(1, 2)) - square[:, middle, middle].max(axis=(1, 2))
        fitted = (((self.light_adu - self.model_adu) / self.sigma_adu) ** 2).sum(axis=(1, 2))
        return np.asarray(alone < fitted)

    def select(self, rows: np.ndarray) -> "StarStamps":
        """Some of the stars."""
        return StarStamps(**{name: values[rows] for name, values in vars(self).items()})


def concatenate(parts: list[StarStamps]) -> StarStamps:
    """Stamps of several frames in one value."""
    return StarStamps(**{name: np.concatenate([getattr(p, name) for p in parts]) for name in vars(parts[0])})


def channels(stamps: StarStamps, fwhm_pix: np.ndarray) -> np.ndarray:
    """What a network looks at: the star's shape, and what the PSF leaves of it.

    Parameters
    ----------
    stamps : StarStamps
    fwhm_pix : ndarray, shape (n,)
        Of the PSF of each star's frame; scales the shape to a peak of about 1.

    Returns
    -------
    ndarray, shape (n, 2, size, size), float32
        Light over flux, and residual over noise.
    """
    shape = stamps.light_adu / (stamps.flux_adu / fwhm_pix**2)[:, None, None]
    return np.stack([np.clip(shape, -MAX_SIGMA, MAX_SIGMA), stamps.residual_sigma], axis=1).astype(np.float32)


def inside(frame: Frame, x_pix: np.ndarray, y_pix: np.ndarray, half: int) -> np.ndarray:
    """Whether the stamp around each position lies in the frame and has no bad or saturated pixel, (n,)."""
    ny, nx = frame.shape
    column, row = np.rint(x_pix).astype(int), np.rint(y_pix).astype(int)
    on = (column >= half) & (row >= half) & (column < nx - half) & (row < ny - half)
    unusable = frame.bad | frame.saturated
    span = np.arange(-half, half + 1)
    rows = np.clip(row[:, None, None] + span[:, None], 0, ny - 1)
    columns = np.clip(column[:, None, None] + span, 0, nx - 1)
    return np.asarray(on & ~unusable[rows, columns].any(axis=(1, 2)))


def fit_stamps(frame: Frame, psf: Psf, x_pix: np.ndarray, y_pix: np.ndarray, *, half: int) -> StarStamps:
    """Cut a stamp around the pixel nearest to each position, and fit centre, flux and background.

    Least squares by Gauss-Newton steps. The weights are those of the sky in the first two steps, of sky and
    fitted star afterwards: never those of the pixels' own values, which would make fluxes low.

    Parameters
    ----------
    frame : Frame
        With known gain.
    psf : Psf
    x_pix, y_pix : ndarray, shape (n,)
        Measured positions, whose stamps are `inside`.
    half : int
        Half size of the stamps; at most `psf.half_pix`.

    Returns
    -------
    StarStamps
        A star whose fit left the middle of its stamp or has no positive flux is NaN throughout.
    """
    n, size = len(x_pix), 2 * half + 1
    column, row = np.rint(x_pix).astype(int), np.rint(y_pix).astype(int)
    span = np.arange(-half, half + 1)
    at = (row[:, None, None] + span[:, None], column[:, None, None] + span)
    data = frame.image[at].astype(float)
    edge = np.hypot(span[:, None], span) > 0.8 * half
    sky_variance = np.median(frame.variance[at][:, edge], axis=1)[:, None, None]
    gain = frame.detector.gain_e_per_adu
    dx, dy = x_pix - column, y_pix - row
    variance = np.broadcast_to(sky_variance, data.shape).copy()
    flux, background, model = np.ones(n), np.zeros(n), np.zeros_like(data)
    for step in range(N_STEPS):
        profile = _profile(psf, column, row, dx, dy, half)
        left = _profile(psf, column, row, dx - SLOPE_STEP_PIX, dy, half)
        right = _profile(psf, column, row, dx + SLOPE_STEP_PIX, dy, half)
        down = _profile(psf, column, row, dx, dy - SLOPE_STEP_PIX, half)
        up = _profile(psf, column, row, dx, dy + SLOPE_STEP_PIX, half)
        slope_x, slope_y = (right - left) / (2 * SLOPE_STEP_PIX), (up - down) / (2 * SLOPE_STEP_PIX)
        design = np.stack([profile, slope_x, slope_y, np.ones_like(profile)], axis=1).reshape(n, 4, size**2)
        weighted = design / variance.reshape(n, 1, size**2)
        gram = weighted @ design.transpose(0, 2, 1) + 1e-15 * np.eye(4)
        solution = np.linalg.solve(gram, weighted @ data.reshape(n, size**2, 1))[:, :, 0]
        flux, background = solution[:, 0], solution[:, 3]
        safe = np.where(flux > 0, flux, np.inf)
        move_x, move_y = (np.clip(solution[:, k] / safe, -MAX_STEP_PIX, MAX_STEP_PIX) for k in (1, 2))
        if step < N_STEPS - 1:  # in the last step the flux belongs to the centre that is kept
            dx, dy = dx + move_x, dy + move_y
        model = profile * flux[:, None, None]
        if step:
            variance = sky_variance + np.maximum(model, 0) / gain
    light = data - background[:, None, None]
    chi2 = ((light - model) ** 2 / variance).sum(axis=(1, 2)) / (size**2 - 4)
    failed = ~((flux > 0) & (np.hypot(dx, dy) < 1.5) & np.isfinite(chi2))
    for values in (light, model, flux, background, chi2):
        values[failed] = np.nan
    x, y = (np.where(failed, np.nan, nearest + d) for nearest, d in ((column, dx), (row, dy)))
    return StarStamps(
        light.astype(np.float32),
        model.astype(np.float32),
        np.sqrt(variance).astype(np.float32),
        x,
        y,
        flux,
        background,
        chi2,
    )


def _profile(
    psf: Psf, column: np.ndarray, row: np.ndarray, dx: np.ndarray, dy: np.ndarray, half: int
) -> np.ndarray:
    """The PSF of flux 1 on the pixels of the stamps, shape (n, size, size)."""
    cut = psf.half_pix - half
    whole = psf_model.sample(psf, column.astype(float), row.astype(float), dx_pix=dx, dy_pix=dy)
    return whole[:, cut : cut + 2 * half + 1, cut : cut + 2 * half + 1]
