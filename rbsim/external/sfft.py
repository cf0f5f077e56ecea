"""sfft (Hu et al. 2022, ApJ 936, 157): a delta-function kernel fitted in Fourier space, on the CPU.

An optional package: ``pip install rbsim[sfft]``.
"""

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import signal
from threadpoolctl import threadpool_limits

from rbsim.convolve import KernelAt
from rbsim.errors import InputError
from rbsim.external import ExternalDifference, science_minus_reference, source_and_target
from rbsim.frame import Frame
from rbsim.kernel_basis import affordable_order

log = logging.getLogger(__name__)

MIN_STAMPS = 3
MAX_ORDER = 3
LOST_WEIGHT = 0.01
"""Share of the kernel's absolute weight that may fall on bad pixels; the same in HOTPANTS."""
QUIET = -1


def subtract_sfft(
    science: Frame,
    reference: Frame,
    *,
    direction: str,
    fwhm_from_pix: float,
    fwhm_to_pix: float,
    kernel_order: int,
    background_order: int,
    stars_x_pix: np.ndarray,
    stars_y_pix: np.ndarray,
) -> ExternalDifference:
    """Subtract a registered reference with sfft.

    The kernel is fitted to both images with everything but boxes around the stars set to zero, every pixel
    weighing the same, and then applied to the whole image.

    Parameters
    ----------
    science, reference : Frame
        On the same pixels. Bad pixels count as background and are lost, saturated ones are subtracted.
    direction : str
        ``reference`` or ``science``: which image is convolved.
    fwhm_from_pix, fwhm_to_pix : float
        Of the image that is convolved and the one that stays.
    kernel_order, background_order : int
        Highest degrees in position, 0 to 3; that of the kernel is lowered where there are few stars. The
        kernel sum is constant over the frame.
    stars_x_pix, stars_y_pix : ndarray, shape (n,)
        Stars to fit; those with a bad or saturated pixel in their box are left out.

    Returns
    -------
    ExternalDifference
        Without a chi-square: sfft knows no variances. Its polynomial in position is taken where light comes
        from, `kernel_at` where it goes to: they differ by a few thousandths of a star's peak at most.

    Raises
    ------
    InputError
        If the package is missing, an order is too high, or fewer than 3 stars are usable.
    """
    source, target = source_and_target(science, reference, direction)
    if not (0 <= kernel_order <= MAX_ORDER and 0 <= background_order <= MAX_ORDER):
        raise InputError(
            f"sfft: orders are {kernel_order} (kernel) and {background_order} (background);"
            f" allowed are 0 to {MAX_ORDER}"
        )
    check_sfft()
    ny, nx = science.shape
    widest = max(fwhm_from_pix, fwhm_to_pix)
    half = int(np.clip(np.ceil(2 * widest), 4, 15))
    stamp_half = int(np.clip(np.ceil(4 * widest), half, 25))
    bad = source.bad | target.bad
    x, y = _usable_stars(
        stars_x_pix, stars_y_pix, bad | source.saturated | target.saturated, stamp_half, science.name
    )
    order = affordable_order(kernel_order, len(x))
    fitted = _boxes(x, y, stamp_half, (ny, nx))
    images = [np.where(bad, 0, frame.image).astype(float).T.copy() for frame in (source, target)]
    masked = [image * fitted.T for image in images]
    with _alone():
        from sfft.sfftcore.SFFTSubtract import GeneralSFFTSubtract

        config = _compiled(nx, ny, half, order, background_order)
        try:
            solution, difference, _ = GeneralSFFTSubtract.GSS(
                PixA_I=images[0],
                PixA_J=images[1],
                PixA_mI=masked[0],
                PixA_mJ=masked[1],
                SFFTConfig=config,
                BACKEND_4SUBTRACT="Numpy",
                NUM_CPU_THREADS_4SUBTRACT=1,
                VERBOSE_LEVEL=QUIET,
            )
        except np.linalg.LinAlgError as error:
            raise InputError(
                f"{science.name}: sfft cannot solve for the kernel ({error}); {len(x)} stars are too few"
            ) from error
    kernel_at = _kernel(solution, half, order, background_order, (ny, nx))
    kernel = kernel_at(np.array([nx / 2]), np.array([ny / 2]))[0]
    flux_scale = float(kernel.sum())
    lost = _spread(source.bad, kernel) | target.bad
    target_minus_model = np.asarray(difference.T, np.float32)
    lost |= ~np.isfinite(target_minus_model)
    try:
        image = science_minus_reference(target_minus_model, lost, direction=direction, flux_scale=flux_scale)
    except InputError as error:
        raise InputError(f"{science.name}: sfft: {error}") from error
    return ExternalDifference(
        image=image,
        lost=lost,
        flux_scale=flux_scale,
        chi2_per_pixel=float("nan"),
        n_stamps=len(x),
        stamp_x_pix=x,
        stamp_y_pix=y,
        stamp_half_pix=stamp_half,
        kernel_at=kernel_at,
    )


def check_sfft() -> None:
    """Import sfft's CPU engine.

    Raises
    ------
    InputError
        If it or what it needs is not installed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a package's warnings about itself are not the user's
            import numba  # noqa: F401
            import pyfftw  # noqa: F401
            import sfft.sfftcore.SFFTSubtract  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"sfft cannot be used ({error}); install it with `pip install rbsim[sfft]` (needs a C compiler)"
            " or use the backend rbsim"
        ) from error


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """One thread, nothing on stdout, and the libraries left as they were found.

    sfft 1.7 assigns a number to ``numba.set_num_threads``, and pyfftw's plan cache runs a thread.
    """
    import numba
    import pyfftw

    set_num_threads = numba.set_num_threads
    n_threads, fft_threads = numba.get_num_threads(), pyfftw.config.NUM_THREADS
    said = io.StringIO()
    try:
        set_num_threads(1)
        with warnings.catch_warnings(), contextlib.redirect_stdout(said), threadpool_limits(1):
            warnings.simplefilter("ignore")
            yield
    finally:
        numba.set_num_threads = set_num_threads
        set_num_threads(n_threads)
        pyfftw.interfaces.cache.disable()
        pyfftw.config.NUM_THREADS = fft_threads
        if said.getvalue().strip():
            log.debug("sfft: %s", said.getvalue().strip())


@lru_cache(maxsize=4)
def _compiled(nx: int, ny: int, half: int, kernel_order: int, background_order: int) -> Any:
    """The compiled functions for one shape and kernel; compiling takes longer than a small frame."""
    from sfft.sfftcore.SFFTConfigure import SingleSFFTConfigure

    return SingleSFFTConfigure.SSC(
        NX=nx,
        NY=ny,
        KerHW=half,
        KerPolyOrder=kernel_order,
        BGPolyOrder=background_order,
        ConstPhotRatio=True,
        BACKEND_4SUBTRACT="Numpy",
        NUM_CPU_THREADS_4SUBTRACT=1,
        VERBOSE_LEVEL=QUIET,
    )


def _usable_stars(
    x_pix: np.ndarray, y_pix: np.ndarray, unusable: np.ndarray, half: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Centres (integers) of stars whose whole box is inside and good."""
    ny, nx = unusable.shape
    x, y = np.rint(x_pix).astype(int), np.rint(y_pix).astype(int)
    inside = (x >= half) & (x < nx - half) & (y >= half) & (y < ny - half)
    x, y = x[inside], y[inside]
    # Number of unusable pixels in a box from the sums over its four corners.
    total = np.pad(np.cumsum(np.cumsum(unusable, axis=0, dtype=np.int64), axis=1), ((1, 0), (1, 0)))
    low_x, high_x, low_y, high_y = x - half, x + half + 1, y - half, y + half + 1
    n_bad = total[high_y, high_x] - total[low_y, high_x] - total[high_y, low_x] + total[low_y, low_x]
    x, y = x[n_bad == 0], y[n_bad == 0]
    if len(x) < MIN_STAMPS:
        raise InputError(
            f"{name}: only {len(x)} usable stars for the kernel of sfft; {MIN_STAMPS} are needed, better 20"
        )
    return x, y


def _boxes(x: np.ndarray, y: np.ndarray, half: int, shape: tuple[int, int]) -> np.ndarray:
    """Pixels within a box around any star, shape (ny, nx), bool."""
    fitted = np.zeros(shape, bool)
    span = np.arange(-half, half + 1)
    fitted[y[:, None, None] + span[None, :, None], x[:, None, None] + span[None, None, :]] = True
    return fitted


def _spread(bad: np.ndarray, kernel: np.ndarray) -> np.ndarray:
    """Where more than `LOST_WEIGHT` of the kernel's absolute weight falls on bad pixels or outside.

    The Fourier transform would take the opposite border for what is outside.
    """
    half = kernel.shape[0] // 2
    weight = np.abs(kernel) / np.abs(kernel).sum()
    padded = np.pad(bad, half, constant_values=True).astype(np.float32)
    share = signal.oaconvolve(padded, weight.astype(np.float32), mode="valid")
    return np.asarray(share > LOST_WEIGHT) | bad


def _kernel(
    solution: np.ndarray, half: int, kernel_order: int, background_order: int, shape: tuple[int, int]
) -> KernelAt:
    """Kernels from sfft's solution, through its own reader."""
    from sfft.utils.SFFTSolutionReader import Realize_MatchingKernel

    ny, nx = shape
    size = 2 * half + 1

    def at(x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        # sfft counts from 1 and its arrays are (x, y).
        positions = np.column_stack([np.atleast_1d(x_pix), np.atleast_1d(y_pix)]) + 1.0
        n_background = (background_order + 1) * (background_order + 2) // 2
        kernels = Realize_MatchingKernel(XY_q=positions).FromArray(
            Solution=solution, N0=nx, N1=ny, L0=size, L1=size, DK=kernel_order, Fpq=n_background
        )
        return np.asarray(kernels).transpose(0, 2, 1)

    return at
