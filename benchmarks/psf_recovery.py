r"""How well a known PSF is recovered, from 0.7 to 8 px FWHM and from few to many stars.

    python benchmarks/psf_recovery.py [--markdown] [--repeats 3] [--max-order 3] \
        [--area-per-star 2500] [--widths 0.7 1 ...]

Fields of round Moffat stars (beta 3.5) that GalSim integrates over the pixels, with photon noise; the stars
are found and chosen by rbsim itself. FWHM is that before the pixel; the error of the FWHM is against the
pixel-convolved profile, measured on the true profile in the same way. The error of the profile is the largest
deviation in any pixel over the peak of the true star, at three sub-pixel phases. Both are medians over fields
of different noise and places, at the frame's centre. The S/N of the stars is log-uniform from 20 to 400.
"""

import argparse
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import galsim
import numpy as np
from astropy.io import fits
from threadpoolctl import threadpool_limits

from rbsim.errors import InputError
from rbsim.frame import read_frame
from rbsim.moffat import fwhm_of
from rbsim.psf import Psf, sample
from rbsim.reference import psf_of, sources_of
from rbsim.sources import star_radius

WIDTHS_PIX = (0.7, 1.0, 1.4, 2.0, 3.0, 5.0, 8.0)
N_STARS = (10, 80, 400)
PHASES = ((0.0, 0.0), (0.5, 0.5), (-0.25, 0.4))
SKY_ADU, GAIN_E_PER_ADU = 200.0, 2.0
BETA = 3.5
AREA_PER_STAR_PIX2 = 2500
"""Sparse, so that the figures are those of the fit; frames are at least `MIN_SIDE_PIX` wide."""
MIN_SIDE_PIX = 450
SNR_LIMITS = (20.0, 400.0)
OVERSAMPLE = 8


@dataclass(frozen=True)
class Recovery:
    """One field: errors of FWHM in per cent and of the profile over its peak at the phases, seconds."""

    n_used: int
    order: int
    fwhm_error_percent: float
    profile_errors_percent: tuple[float, ...]
    seconds: float


def draw_field(star: galsim.GSObject, n_stars: int, side_pix: int, *, rng: np.random.Generator) -> np.ndarray:
    """Stars with a log-uniform S/N against the sky, at random places, with photon noise, ADU."""
    half = 40
    centred = star.drawImage(nx=2 * half + 1, ny=2 * half + 1, scale=1.0).array
    # S/N against the sky alone; that of bright stars is lower by their own photons.
    error = np.sqrt(SKY_ADU / GAIN_E_PER_ADU / (centred**2).sum())
    fluxes = error * np.exp(rng.uniform(*np.log(SNR_LIMITS), n_stars))
    image = galsim.ImageD(side_pix, side_pix)
    for (x, y), flux in zip(rng.uniform(0, side_pix, (n_stars, 2)), fluxes, strict=True):
        stamp = star.withFlux(flux).drawImage(
            nx=2 * half + 1, ny=2 * half + 1, scale=1.0, center=galsim.PositionD(x + 1, y + 1)
        )
        both = stamp.bounds & image.bounds
        image[both] += stamp[both]
    electrons = rng.poisson(np.maximum(image.array + SKY_ADU, 0) * GAIN_E_PER_ADU)
    return (electrons / GAIN_E_PER_ADU).astype(np.float32)


def recover(
    fwhm_pix: float, n_stars: int, *, max_order: int, area_per_star_pix2: float, rng: np.random.Generator
) -> Recovery:
    """Draw a field, fit its PSF, compare."""
    star = galsim.Moffat(beta=BETA, fwhm=fwhm_pix)
    side = max(MIN_SIDE_PIX, int(np.sqrt(n_stars * area_per_star_pix2)))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "frame.fits"
        image = draw_field(star, n_stars, side, rng=rng)
        fits.PrimaryHDU(image, fits.Header({"GAIN": GAIN_E_PER_ADU})).writeto(path)
        frame = read_frame(path)
    sources = sources_of(frame)
    start = time.process_time()
    psf = psf_of(frame, sources, star_radius(sources), max_order=max_order)
    seconds = time.process_time() - start
    return Recovery(
        psf.n_stars,
        psf.order,
        100 * (psf.fwhm_pix / true_fwhm(star, psf.half_pix) - 1),
        tuple(100 * profile_error(psf, star, side, *phase) for phase in PHASES),
        seconds,
    )


def true_fwhm(star: galsim.GSObject, half_pix: int) -> float:
    """FWHM of the pixel-convolved star, measured as that of a PSF."""
    size = 2 * half_pix * OVERSAMPLE + 1
    effective = galsim.Convolve(star, galsim.Pixel(1.0))
    image = effective.drawImage(nx=size, ny=size, scale=1 / OVERSAMPLE, method="no_pixel").array
    return fwhm_of(image, OVERSAMPLE)


def profile_error(psf: Psf, star: galsim.GSObject, side_pix: int, dx_pix: float, dy_pix: float) -> float:
    """Largest deviation in a pixel over the peak, for a star off a pixel's centre."""
    at = np.array([side_pix / 2])
    found = sample(psf, at, at, dx_pix=np.array([dx_pix]), dy_pix=np.array([dy_pix]))[0]
    size = len(found)
    true = star.drawImage(nx=size, ny=size, scale=1.0, offset=(dx_pix, dy_pix)).array
    return float(np.abs(found - true).max() / true.max())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--max-order", type=int, default=3)
    parser.add_argument("--area-per-star", type=float, default=AREA_PER_STAR_PIX2, help="px squared")
    parser.add_argument("--widths", type=float, nargs="+", default=WIDTHS_PIX, help="FWHM in px")
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    at = [f"profile at ({x:g}, {y:g}) %" for x, y in PHASES]
    header = ["FWHM px", "stars drawn", "used", "order", "FWHM %", "worst of FWHM %", *at, "cpu s"]
    print("| " + " | ".join(header) + " |\n|" + "---:|" * len(header) if options.markdown else header)
    with threadpool_limits(1):
        for fwhm_pix in options.widths:
            for n_stars in N_STARS:
                rows, reason = [], ""
                for repeat in range(options.repeats):
                    rng = np.random.default_rng([options.seed, repeat, n_stars, int(10 * fwhm_pix)])
                    try:
                        rows.append(
                            recover(
                                fwhm_pix,
                                n_stars,
                                max_order=options.max_order,
                                area_per_star_pix2=options.area_per_star,
                                rng=rng,
                            )
                        )
                    except InputError as error:
                        reason = str(error)
                cells = [f"{fwhm_pix:g}", f"{n_stars}"]
                if rows:
                    errors = np.array([row.fwhm_error_percent for row in rows])
                    profile = np.median([row.profile_errors_percent for row in rows], axis=0)
                    cells += [
                        f"{np.median([row.n_used for row in rows]):.0f}",
                        "-".join(f"{order}" for order in sorted({row.order for row in rows})),
                        f"{errors[np.argsort(np.abs(errors))[len(errors) // 2]]:+.2f}",
                        f"{errors[np.argmax(np.abs(errors))]:+.2f}",
                        *(f"{value:.2f}" for value in profile),
                        f"{np.median([row.seconds for row in rows]):.2f}",
                    ]
                if len(rows) < options.repeats:
                    cells.append(f"{options.repeats - len(rows)} failed: {reason}")
                print("| " + " | ".join(cells) + " |" if options.markdown else cells, flush=True)


if __name__ == "__main__":
    main()
