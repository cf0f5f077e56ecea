"""HOTPANTS (A. Becker, ascl:1504.004), an Alard-Lupton subtraction in C, as a separate process.

It is in no package index; see benchmarks/README.md for how to build it. Nothing of it is part of rbsim.
"""

import logging
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
from astropy.io import fits

from rbsim.convolve import KernelAt
from rbsim.errors import InputError
from rbsim.external import ExternalDifference, science_minus_reference, source_and_target
from rbsim.frame import Frame
from rbsim.kernel_basis import affordable_order

log = logging.getLogger(__name__)

PROGRAM_VARIABLE = "RBSIM_HOTPANTS"
TIMEOUT_S = 900.0
SIGMA_PER_FWHM = 1 / 2.3548

DEGREES = (6, 4, 2)
MIN_SIGMAS_PIX = (0.7, 1.5, 3.0)
"""The program's own basis; its widths grow with the PSF difference and never shrink."""
N_STAMPS = 60
MIN_STAMP_PIX = 55
FILL = np.float32(1e-30)

MASK_BAD = 0x80
MASK_NOT_FOR_FIT = 0x02
"""Any bit keeps a pixel out of the fit; only the first one costs it its value in the difference."""


def find_hotpants() -> Path:
    """The program, from $RBSIM_HOTPANTS or PATH.

    Raises
    ------
    InputError
        If it is not there.
    """
    given = os.environ.get(PROGRAM_VARIABLE)
    if given:
        if not os.access(given, os.X_OK) or Path(given).is_dir():
            raise InputError(f"${PROGRAM_VARIABLE} is {given}, which is no executable file")
        return Path(given).resolve()
    found = shutil.which("hotpants")
    if found is None:
        raise InputError(
            f"hotpants is not on PATH; build it (benchmarks/README.md) and set ${PROGRAM_VARIABLE},"
            " or use the backend rbsim"
        )
    return Path(found).resolve()


def subtract_hotpants(
    science: Frame,
    reference: Frame,
    *,
    direction: str,
    fwhm_from_pix: float,
    fwhm_to_pix: float,
    kernel_order: int,
    background_order: int,
    stars_x_pix: np.ndarray,  # noqa: ARG001
    stars_y_pix: np.ndarray,  # noqa: ARG001
) -> ExternalDifference:
    """Subtract a registered reference with HOTPANTS.

    Parameters
    ----------
    science, reference : Frame
        On the same pixels. Bad pixels are masked; saturated ones are kept out of the fit and subtracted.
    direction : str
        ``reference`` or ``science``: which image is convolved.
    fwhm_from_pix, fwhm_to_pix : float
        Of the image that is convolved and the one that stays.
    kernel_order, background_order : int
        Highest degrees in position; that of the kernel is lowered where there are few stamps. The kernel
        sum is constant over the frame in any case.
    stars_x_pix, stars_y_pix : ndarray, shape (n,)
        Not used: HOTPANTS chooses its stamps on the image that is convolved, so a bright transient may be
        on one where that is the science frame. Its list of centres (``-ssf``) is no remedy: it marks used
        pixels with x and y exchanged and so loses stars by chance.

    Returns
    -------
    ExternalDifference

    Raises
    ------
    InputError
        If the program is missing, fails, writes nothing or finds no stamps, with its own last words.
    """
    source, target = source_and_target(science, reference, direction)
    program = find_hotpants()
    ny, nx = science.shape
    sigmas = gaussian_widths(fwhm_from_pix, fwhm_to_pix)
    half = int(np.clip(np.ceil(2.5 * max(fwhm_from_pix, fwhm_to_pix)), 10, 25))
    stamp_half = half + 5
    columns, rows = stamp_grid(nx, ny, half, stamp_half)
    arguments = [
        *("-inim", "science.fits", "-tmplim", "reference.fits", "-outim", "difference.fits"),
        *("-ini", "science.noise.fits", "-tni", "reference.noise.fits"),
        *("-imi", "science.mask.fits", "-tmi", "reference.mask.fits"),
        # Background-subtracted images: half of the good pixels are negative.
        *("-il", "-1e9", "-tl", "-1e9", "-iu", "1e9", "-tu", "1e9"),
        *("-iuk", _brightest(science), "-tuk", _brightest(reference)),
        *("-c", "t" if direction == "reference" else "i", "-n", "u"),
        *("-bgo", str(background_order), "-nsx", str(columns), "-nsy", str(rows)),
        *("-r", str(half), "-rss", str(stamp_half)),
        *("-ng", str(len(sigmas)), *(f"{v:.6g}" for pair in zip(DEGREES, sigmas, strict=True) for v in pair)),
        *("-hki", "-savexy", "stamps.txt", "-v", "0"),
    ]
    order = affordable_order(kernel_order, columns * rows)
    with tempfile.TemporaryDirectory(prefix="rbsim-hotpants-") as name:
        folder = Path(name)
        for role, frame in (("science", science), ("reference", reference)):
            _write(folder, role, frame)
        while True:
            output = _run(program, [*arguments, "-ko", str(order)], folder, science.name)
            image, header, solution = _read_difference(folder / "difference.fits", output, science.name)
            stamp_x, stamp_y = _read_stamps(folder / "stamps.txt", direction)
            if affordable_order(order, len(stamp_x)) == order:
                break
            order = affordable_order(order, len(stamp_x))
            log.debug("%s: %d stamps; once more with a kernel of order %d", science.name, len(stamp_x), order)
    if image.shape != science.shape:
        raise InputError(f"{science.name}: hotpants wrote {image.shape} px (ny, nx), not {science.shape}")
    lost = (image == FILL) | ~np.isfinite(image) | target.bad | source.bad
    kernel_at = _kernel(solution, sigmas, half, order, (ny, nx))
    flux_scale = float(solution[1])
    # The program always writes science minus reference; undo that for the common function.
    target_minus_model = image if direction == "reference" else -image
    try:
        difference = science_minus_reference(
            target_minus_model, lost, direction=direction, flux_scale=flux_scale
        )
    except InputError as error:
        raise InputError(f"{science.name}: hotpants: {error}") from error
    return ExternalDifference(
        image=difference,
        lost=lost,
        flux_scale=flux_scale,
        chi2_per_pixel=float(header.get("FSIG00", "nan")),
        n_stamps=len(stamp_x),
        stamp_x_pix=stamp_x,
        stamp_y_pix=stamp_y,
        stamp_half_pix=stamp_half,
        kernel_at=kernel_at,
    )


def gaussian_widths(fwhm_from_pix: float, fwhm_to_pix: float) -> tuple[float, ...]:
    """Standard deviations of the basis, px: half, once and twice what matches two Gaussian PSFs."""
    match = np.sqrt(max(fwhm_to_pix**2 - fwhm_from_pix**2, 0.0)) * SIGMA_PER_FWHM
    return tuple(
        float(max(floor, factor * match)) for floor, factor in zip(MIN_SIGMAS_PIX, (0.5, 1, 2), strict=True)
    )


def stamp_grid(nx: int, ny: int, half: int, stamp_half: int) -> tuple[int, int]:
    """Columns and rows of about 60 stamps, none too small for star and kernel: 10 x 6 for 2000 x 1128 px."""
    smallest = max(MIN_STAMP_PIX, 2 * (half + stamp_half) + 5)
    side = max(smallest, np.sqrt(nx * ny / N_STAMPS))
    columns, rows = (max(1, min(round(n / side), n // smallest)) for n in (nx, ny))
    return columns, rows


def _brightest(frame: Frame) -> str:
    """Just above the brightest pixel that may be fitted: the search for stars starts there."""
    values = frame.image[~frame.bad & ~frame.saturated]
    return f"{1.01 * max(float(values.max(initial=0)), 0.0) + 1:.6g}"


def _write(folder: Path, role: str, frame: Frame) -> None:
    """Image, noise (standard deviation) and mask of a frame, free of NaN and infinity."""
    good = ~frame.bad & np.isfinite(frame.image) & np.isfinite(frame.variance)
    image = np.where(good, frame.image, 0).astype(np.float32)
    noise = np.sqrt(np.where(good, frame.variance, 0)).astype(np.float32)
    mask = np.where(good, 0, MASK_BAD).astype(np.uint8)
    mask[frame.saturated] |= MASK_NOT_FOR_FIT
    for suffix, data in (("", image), (".noise", noise), (".mask", mask)):
        fits.PrimaryHDU(data).writeto(folder / f"{role}{suffix}.fits")


def _run(program: Path, arguments: list[str], folder: Path, name: str) -> list[str]:
    """Run the program and return what it said, line by line."""
    try:
        done = subprocess.run(  # noqa: S603
            [str(program), *arguments],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise InputError(f"{name}: {program} did not end within {TIMEOUT_S:.0f} s") from error
    except OSError as error:
        raise InputError(f"{name}: {program} cannot be run ({error.strerror})") from error
    lines = [line.strip() for line in done.stdout.decode(errors="replace").splitlines() if line.strip()]
    log.debug("%s: hotpants %s", name, " ".join(arguments))
    if done.returncode != 0:
        raise InputError(f"{name}: {program} failed (exit status {done.returncode}): {_last_words(lines)}")
    return lines


def _last_words(lines: list[str]) -> str:
    return lines[-1][:200] if lines else "it said nothing"


def _read_difference(path: Path, output: list[str], name: str) -> tuple[np.ndarray, fits.Header, np.ndarray]:
    """Image, header and kernel solution."""
    try:
        with fits.open(path, memmap=False) as hdus:
            header = hdus[0].header.copy()
            image = np.asarray(hdus[0].data, np.float32)
            table = hdus[-1]
            solution = np.asarray(table.data.field(0), float) if "KSUM00" in header else None
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{name}: hotpants wrote no difference; its last line: {_last_words(output)}"
        ) from error
    if solution is None or not np.all(np.isfinite(solution)):
        raise InputError(
            f"{name}: hotpants found no stamps for the kernel; too few unsaturated stars away from bad pixels"
        )
    return image, header, solution


def _read_stamps(path: Path, direction: str) -> tuple[np.ndarray, np.ndarray]:
    """Centres of the stamps of the last fit, 0-based, from the region file."""
    text = path.read_text() if path.exists() else ""
    centres = np.array(re.findall(r"box\(\s*(\d+),\s*(\d+),", text), int).reshape(-1, 2)
    # The program counts from 1, and from 2 where the science image is convolved.
    first = 1 if direction == "reference" else 2
    return centres[:, 0] - first, centres[:, 1] - first


def _kernel(
    solution: np.ndarray, sigmas_pix: tuple[float, ...], half: int, order: int, shape: tuple[int, int]
) -> KernelAt:
    """Kernels from the program's solution.

    Its vector is: unused, the kernel sum, then for every further basis function the coefficients of its
    polynomial in position (x slowest), then the background.
    """
    ny, nx = shape
    basis = _basis(sigmas_pix, half)
    powers = [(i, j) for i in range(order + 1) for j in range(order + 1 - i)]
    n_varying = (len(basis) - 1) * len(powers)
    varying = solution[2 : 2 + n_varying].reshape(len(basis) - 1, len(powers))

    def at(x_pix: np.ndarray, y_pix: np.ndarray) -> np.ndarray:
        u = 2 * np.atleast_1d(x_pix) / nx - 1
        v = 2 * np.atleast_1d(y_pix) / ny - 1
        terms = np.stack([u**i * v**j for i, j in powers], axis=-1)
        weights = np.column_stack([np.full(len(u), solution[1]), terms @ varying.T])
        return np.tensordot(weights, basis, axes=1)

    return at


def _basis(sigmas_pix: tuple[float, ...], half: int) -> np.ndarray:
    """The program's basis functions, shape (n, k, k): Gaussians times powers of x and y.

    Those even in both have sum 1, and all but the very first of them have that one subtracted, so that it
    alone carries the kernel sum.
    """
    u = np.arange(-half, half + 1, dtype=float)
    functions: list[np.ndarray] = []
    for sigma, degree in zip(sigmas_pix, DEGREES, strict=True):
        gauss = np.exp(-0.5 * (u / np.float32(sigma)) ** 2)
        for i in range(degree + 1):
            for j in range(degree + 1 - i):
                along_x, along_y = gauss * u**i, gauss * u**j
                even = i % 2 == 0 and j % 2 == 0
                if even:
                    along_x, along_y = along_x / along_x.sum(), along_y / along_y.sum()
                function = along_y[:, None] * along_x[None, :]
                functions.append(function - functions[0] if even and functions else function)
    return np.array(functions)
