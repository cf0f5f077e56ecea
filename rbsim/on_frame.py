"""What a subtracted frame says at the places of stars: where they may go, how bright is how significant."""

import numpy as np

from rbsim.catalogue import pixel_scale_arcsec
from rbsim.chain import Subtracted
from rbsim.config import InjectConfig
from rbsim.sources import Sources


def usable_pixels(frame: Subtracted) -> np.ndarray:
    """Pixels that may hold the centre of a star, shape (ny, nx), bool."""
    return np.asarray(~frame.difference.bad & np.isfinite(frame.filtered.flux_err_adu))


def flux_error_at(frame: Subtracted, x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
    """Standard error of the matched-filter flux at positions; outside, and for NaN, that of some pixel."""
    x, y = pixel_of(frame, x_pix, y_pix)
    return np.asarray(frame.filtered.flux_err_adu[y, x].astype(float))


def pixel_of(frame: Subtracted, x_pix: np.ndarray, y_pix: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Column and line of positions; those outside, and NaN, get some pixel of the frame."""
    ny, nx = frame.science.shape
    x = np.clip(np.nan_to_num(np.rint(x_pix)), 0, nx - 1).astype(int)
    y = np.clip(np.nan_to_num(np.rint(y_pix)), 0, ny - 1).astype(int)
    return x, y


def flux_in_science(frame: Subtracted, sources: Sources) -> np.ndarray:
    """Fluxes of reference sources in ADU of the science frame, with the local ratio of the two."""
    x, y = pixel_of(frame, sources.x_pix, sources.y_pix)
    ratio = frame.difference.kernel_sum[y, x].astype(float)
    return sources.flux_adu * (ratio if frame.difference.convolved == "reference" else 1 / ratio)


def has_cube(frame: Subtracted) -> bool:
    """Whether the frame is the stack of a cube whose single frames can be had."""
    return frame.science.cube is not None


def pixels_per_rate(frame: Subtracted, config: InjectConfig) -> float:
    """Length in pixels of a trail of 1 arcsec per second; NaN if scale or exposure time is not known."""
    scale = given_or(config.pixel_scale_arcsec, pixel_scale_arcsec(frame.science))
    return given_or(config.exposure_s, frame.science.exposure_s) / scale


def given_or(given: float | None, measured: float) -> float:
    """What the user gives, else what was measured."""
    return measured if given is None else given
