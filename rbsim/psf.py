"""The effective PSF of a frame: its value at any position, sub-pixel offset and oversampling.

The model is the pixel-convolved profile (Anderson & King 2000, PASP 112, 1360) as a function of the
offset from the star: Gauss-Hermite functions for the core, wider ones and a Moffat for the wings, with
coefficients that are polynomials in position. It is smooth, so it can be evaluated at any sub-pixel
offset and drawn with any oversampling. `rbsim.psf_fit` fits it.
"""

from dataclasses import dataclass

import numpy as np

from rbsim import profile, spatial


@dataclass(frozen=True)
class PsfQuality:
    """How well the PSF is known; NaN where there are too few stars to tell.

    Attributes
    ----------
    n_stars : int
    chi2_per_pixel : float
        Median over the stars of the reduced chi-square in the inner 2 FWHM, the model error of the fit
        included.
    fwhm_err_pix : float
        Standard error of the FWHM, from the scatter of the stars' own widths.
    shape_scatter_pix2 : tuple of 3 floats
        How stars differ from the PSF of their place and from one another, beyond noise (colour,
        companions): standard deviations of the coefficients of ``P_xx + P_yy``, ``P_xx - P_yy`` and
        ``2 P_xy``, the second derivatives of the PSF. 0 where nothing is seen.
    aperture_ratio, aperture_ratio_err : float
        Flux of the stars in an aperture of 2.5 FWHM radius over that of the model there, median.
    is_moffat : bool
        Too little light for more than a Moffat profile.
    """

    n_stars: int
    chi2_per_pixel: float
    fwhm_err_pix: float
    shape_scatter_pix2: tuple[float, float, float]
    aperture_ratio: float
    aperture_ratio_err: float
    is_moffat: bool


@dataclass(frozen=True, eq=False)
class Psf:
    """Spatially varying effective PSF.

    Attributes
    ----------
    coefficients : ndarray, shape (n_terms, n_functions)
    order : int
        Degree of the polynomial in position.
    frame_shape : (ny, nx)
    scale_pix : float
        Standard deviation of the core functions.
    half_pix : int
        Half size of the support; stamps have 2 * half_pix + 1 pixels a side. The flux of a star is that
        within the support, a circle of 5 FWHM radius (at most 40 px).
    fwhm_pix : float
        At the frame's centre, pixel included: diameter of the circle with the area above half maximum.
    quality : PsfQuality
    """

    coefficients: np.ndarray
    order: int
    frame_shape: tuple[int, int]
    scale_pix: float
    half_pix: int
    fwhm_pix: float
    quality: PsfQuality

    @property
    def n_stars(self) -> int:
        """Stars behind the fit."""
        return self.quality.n_stars

    @property
    def ellipticity(self) -> tuple[float, float]:
        """``(I_xx - I_yy, 2 I_xy) / (I_xx + I_yy)`` at the centre, moments under a Gaussian of the FWHM."""
        ny, nx = self.frame_shape
        image = sample(self, np.array([nx / 2]), np.array([ny / 2]), oversample=2)[0]
        offset = stamp_axis(self.half_pix, 2)[0]
        x, y = offset[None, :], offset[:, None]
        weighted = image * np.exp(-0.5 * (x**2 + y**2) / (self.fwhm_pix / 2.355) ** 2)
        xx, yy, xy = (float((weighted * moment).sum()) for moment in (x**2, y**2, x * y))
        return (xx - yy) / (xx + yy), 2 * xy / (xx + yy)


def stamp_axis(half_pix: int, oversample: int = 1) -> np.ndarray:
    """Offsets of the pixel centres of a stamp along one axis, shape (1, size)."""
    return (np.arange(-half_pix * oversample, half_pix * oversample + 1) / oversample)[None, :]


def sample(
    psf: Psf,
    x_pix: np.ndarray,
    y_pix: np.ndarray,
    *,
    oversample: int = 1,
    dx_pix: np.ndarray | None = None,
    dy_pix: np.ndarray | None = None,
    shape_pix2: np.ndarray | None = None,
) -> np.ndarray:
    """The PSF at positions of the frame, flux 1.

    Parameters
    ----------
    x_pix, y_pix : ndarray, shape (n,)
        Positions where the shape is wanted.
    oversample : int
        Samples per pixel; the values stay flux per pixel area, so they sum to oversample squared.
    dx_pix, dy_pix : ndarray, shape (n,), optional
        Sub-pixel shift of the star from the central sample; default 0.
    shape_pix2 : ndarray, shape (n, 3), optional
        How each star differs from the PSF of its place, see `draw_shapes`.

    Returns
    -------
    ndarray, shape (n, size, size), float64
        size = 2 * half_pix * oversample + 1; the star is at the central sample plus the shift.
    """
    axis = stamp_axis(psf.half_pix, oversample)
    x = axis if dx_pix is None else axis - dx_pix[:, None]
    y = axis if dy_pix is None else axis - dy_pix[:, None]
    on = profile.grid(x, y, scale_pix=psf.scale_pix, half_pix=psf.half_pix)
    weights = spatial.terms(x_pix, y_pix, psf.frame_shape, psf.order) @ psf.coefficients
    values = np.maximum(profile.values(on, weights, shape_pix2), 0)  # far wings are noise
    values *= oversample**2 / values.sum(axis=(1, 2), keepdims=True)
    return values


def draw_shapes(psf: Psf, n: int, *, rng: np.random.Generator) -> np.ndarray:
    """How n stars differ from the PSF as the frame's own stars do, shape (n, 3), px squared.

    Normal deviates with the standard deviations `PsfQuality.shape_scatter_pix2`: a star is
    ``P + s0 (P_xx + P_yy) + s1 (P_xx - P_yy) + 2 s2 P_xy``, the first order of a convolution.
    """
    return rng.standard_normal((n, 3)) * psf.quality.shape_scatter_pix2


def weights_at(psf: Psf, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
    """Weights of the functions in the PSF of flux 1 at positions, shape (n, n_functions)."""
    axis = stamp_axis(psf.half_pix)
    centred = profile.grid(axis, axis, scale_pix=psf.scale_pix, half_pix=psf.half_pix)
    terms = spatial.terms(x_pix, y_pix, psf.frame_shape, psf.order)
    weights = terms @ psf.coefficients
    return weights / (weights @ profile.sums(centred)[0])[:, None]
