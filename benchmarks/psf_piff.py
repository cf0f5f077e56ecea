r"""Our PSF beside Piff's (Jarvis et al. 2021, MNRAS 501, 1282), fitted to the same stars of the same frames.

    python -m venv --system-site-packages /tmp/venv-piff && /tmp/venv-piff/bin/pip install piff -e .
    RBSIM_REAL_FRAMES=/path/to/frames \
        /tmp/venv-piff/bin/python benchmarks/psf_piff.py [--gain 29.4] [--real-only]

Piff is never a dependency of rbsim: give it an environment of its own, as above. Frames: a GalSim field whose
PSF is known and varies, and one of `hatp32`. All get the stars that rbsim would take for its fit, less a
quarter of the isolated ones with S/N 50 to 150, which nobody sees. Piff gets the background-subtracted
pixels and inverse variances of rbsim, without the pixels within 1.5 FWHM of other sources; rbsim subtracts
these sources. Piff's models: a PixelGrid with pixels of half a detector pixel, as one of detector pixels
aliases at such widths, and an elliptical Moffat (beta 2.5), both with polynomials of order 2 in position.

Compared at the places of the held-out stars: adaptive moments of the pixel-convolved profiles, drawn with
four samples per pixel. On the held-out stars themselves: reduced chi-square within 2 FWHM, with flux, centre
and background fitted to each star by one and the same code, for every model.
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import galsim
import numpy as np
from astropy.io import fits
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from rbsim import psf_stars
from rbsim.config import InjectConfig
from rbsim.frame import Frame, read_frame, with_gain
from rbsim.inputs import find_gain, frame_tasks
from rbsim.psf import sample
from rbsim.psf_fit import MAX_HALF_PIX, SUPPORT_FWHM, fit_psf
from rbsim.reference import sources_of
from rbsim.sources import Sources, star_radius

HELD_OUT_SNR = (50.0, 150.0)
HELD_OUT_SHARE = 4
ISOLATED_FWHM = 5.0
PIFF_ORDER = 2
PIFF_MAX_SNR = 100.0
PIFF_MAX_ITER = 10
"""Not the default of 30: on `hatp32` some fits do not settle, and take many minutes."""
GRID_SCALE_PIX = 0.5
MOFFAT_BETA = 2.5
PIFF_HALF_FWHM = 2.5
OVERSAMPLE = 4
N_STEPS = 3

Draw = Callable[[float, float, float, float, int, int], np.ndarray]
"""Image of a star of flux 1: x_pix, y_pix, dx_pix, dy_pix, half size in pixels, samples per pixel."""


@dataclass(frozen=True, eq=False)
class Stars:
    """A frame, its sources, and which of these are fitted and which held out (row numbers)."""

    frame: Frame
    sources: Sources
    radius_pix: float
    fwhm_pix: float
    fitted: np.ndarray
    held_out: np.ndarray


@dataclass(frozen=True, eq=False)
class Model:
    """A fitted PSF: how it draws a star, and what it cost."""

    name: str
    draw: Draw
    seconds: float
    n_stars: int
    order: int


def known_field(folder: Path, *, fwhm_pix: float = 1.7, seed: int = 7) -> tuple[Frame, Model]:
    """Frame of stars whose width and ellipticity change over it, and the true PSF."""
    shape = (1000, 1000)
    rng = np.random.default_rng(seed)
    n = 450
    x, y = rng.uniform(0, shape[1], n), rng.uniform(0, shape[0], n)
    flux = np.exp(rng.uniform(np.log(1_000), np.log(40_000), n))

    def star(x_pix: float, y_pix: float) -> galsim.GSObject:
        u, v = x_pix / shape[1] - 0.5, y_pix / shape[0] - 0.5
        moffat = galsim.Moffat(beta=3.0, fwhm=fwhm_pix * (1 + 0.2 * u + 0.3 * v * v))
        return moffat.shear(g1=0.12 * u, g2=-0.10 * v + 0.03)

    image = galsim.ImageD(shape[1], shape[0])
    for at_x, at_y, light in zip(x, y, flux, strict=True):
        centre = galsim.PositionD(at_x + 1, at_y + 1)
        stamp = star(at_x, at_y).withFlux(light).drawImage(nx=61, ny=61, scale=1.0, center=centre)
        both = stamp.bounds & image.bounds
        if both.isDefined():
            image[both] += stamp[both]
    gain, sky_adu = 2.0, 200.0
    electrons = rng.poisson(np.maximum(image.array + sky_adu, 0) * gain)
    path = folder / "known.fits"
    fits.PrimaryHDU((electrons / gain).astype(np.float32), fits.Header({"GAIN": gain})).writeto(path)

    def draw(x_pix: float, y_pix: float, dx: float, dy: float, half: int, oversample: int) -> np.ndarray:
        return _drawn(star(x_pix, y_pix), "auto", dx, dy, half, oversample)

    return read_frame(path), Model("truth", draw, float("nan"), 0, 2)


def hatp32_frame(folder: Path, gain_e_per_adu: float | None) -> Frame:
    """One frame of the night, with the gain given or, as the headers have none, that of its noise."""
    paths = sorted((folder / "hatp32").glob("*.fits"))
    frame = read_frame(paths[len(paths) // 2])
    if gain_e_per_adu is not None:
        return with_gain(frame, gain_e_per_adu, 0.0)
    gain = find_gain(frame_tasks(paths, InjectConfig(), None, None, ""), InjectConfig(), lambda *_: None)
    return frame if gain is None else with_gain(frame, gain.gain_e_per_adu, gain.gain_err_e_per_adu)


def split(frame: Frame) -> Stars:
    """The stars rbsim would take, less every fourth of the isolated ones in the S/N range."""
    sources = sources_of(frame)
    radius = star_radius(sources)
    fwhm = 2 * radius
    candidates = psf_stars.find_candidates(sources, radius, frame.shape)
    half = int(min(np.ceil(SUPPORT_FWHM * fwhm) + 2, MAX_HALF_PIX))
    position = np.column_stack([sources.x_pix, sources.y_pix])
    distance = cKDTree(position).query(position, k=2)[0][:, 1]
    x, y = position.T
    ny, nx = frame.shape
    inside = (x > half + 1) & (x < nx - half - 2) & (y > half + 1) & (y < ny - half - 2)
    alone = candidates & inside & (distance > ISOLATED_FWHM * fwhm)
    alone &= (sources.snr > HELD_OUT_SNR[0]) & (sources.snr < HELD_OUT_SNR[1])
    held_out = np.flatnonzero(alone)[::HELD_OUT_SHARE]
    rest = candidates.copy()
    rest[held_out] = False
    fitted = psf_stars.choose(sources, rest, frame.shape, half, fwhm / 2.355)
    return Stars(frame, sources, radius, fwhm, fitted, held_out)


def ours(stars: Stars, *, max_order: int = 3) -> Model:
    """Our fit."""
    frame, sources = stars.frame, stars.sources
    candidates = np.zeros(len(sources), bool)
    candidates[stars.fitted] = True
    start = time.process_time()
    psf = fit_psf(
        frame.image,
        frame.variance,
        frame.bad | frame.saturated,
        sources,
        candidates,
        fwhm_guess_pix=2 * stars.radius_pix,
        max_order=max_order,
    )
    seconds = time.process_time() - start

    def draw(x_pix: float, y_pix: float, dx: float, dy: float, half: int, oversample: int) -> np.ndarray:
        at = [np.array([value]) for value in (x_pix, y_pix, dx, dy)]
        image = sample(psf, *at[:2], oversample=oversample, dx_pix=at[2], dy_pix=at[3])[0]
        image = image / oversample**2
        pad = oversample * max(half - psf.half_pix, 0)
        cut = oversample * max(psf.half_pix - half, 0)
        image = np.pad(image, pad)
        return image[cut : len(image) - cut, cut : len(image) - cut]

    return Model(f"rbsim, order {psf.order}", draw, seconds, psf.n_stars, psf.order)


def of_piff(stars: Stars, *, is_grid: bool) -> Model:
    """Piff's fit with a PixelGrid or a Moffat."""
    import piff  # noqa: PLC0415 - not a dependency; the docstring says how to get it

    frame, sources = stars.frame, stars.sources
    ny, nx = frame.shape
    half = int(np.ceil(PIFF_HALF_FWHM * stars.fwhm_pix))

    def place(x_pix: float, y_pix: float) -> dict[str, float]:
        return {"along_x": 2 * x_pix / nx - 1, "along_y": 2 * y_pix / ny - 1}

    at = psf_stars.Positions(sources.x_pix.copy(), sources.y_pix.copy(), sources.flux_adu.copy())
    cut = psf_stars.cut(frame.image, frame.variance, frame.bad | frame.saturated, at, stars.fitted, half)
    neighbours = psf_stars.find_neighbours(sources, cut, stars.fwhm_pix)
    for blind in (True, False):
        free = psf_stars.free_of(cut, sources, neighbours, stars.fwhm_pix, blind=blind)
        cut = replace(cut, weight=cut.weight * free)
    # As Piff's own reader does by default: brighter stars than this weigh no more.
    snr = np.sqrt((cut.data.astype(float) ** 2 * cut.weight).sum(axis=(1, 2)))
    cut = replace(cut, weight=cut.weight * (np.minimum(PIFF_MAX_SNR / snr, 1) ** 2)[:, None, None])
    given = []
    for k, row in enumerate(stars.fitted):
        x_pix, y_pix = float(sources.x_pix[row]), float(sources.y_pix[row])
        # GalSim counts pixels from 1.
        corner = {"xmin": int(cut.corner_x[k]) + 1, "ymin": int(cut.corner_y[k]) + 1}
        wcs = galsim.PixelScale(1.0)
        data = piff.StarData(
            galsim.Image(cut.data[k].astype(float), wcs=wcs, **corner),
            galsim.PositionD(x_pix + 1, y_pix + 1),
            weight=galsim.Image(cut.weight[k].astype(float), wcs=wcs, **corner),
            properties={"chipnum": 0, **place(x_pix, y_pix)},
        )
        given.append(piff.Star(data, None))
    if is_grid:
        size = 2 * round(PIFF_HALF_FWHM * stars.fwhm_pix / GRID_SCALE_PIX) - 1
        model = piff.PixelGrid(GRID_SCALE_PIX, size)
        interpolation = piff.BasisPolynomial(PIFF_ORDER, keys=("along_x", "along_y"))
    else:
        model = piff.Moffat(MOFFAT_BETA)
        interpolation = piff.Polynomial(PIFF_ORDER)  # in the image's own coordinates only
    outliers = piff.ChisqOutliers(nsigma=4, max_remove=0.01)
    psf = piff.SimplePSF(model, interpolation, outliers=[outliers], max_iter=PIFF_MAX_ITER)
    psf.set_context({0: galsim.PixelScale(1.0)}, None, None)
    start = time.process_time()
    psf.fit(given)
    seconds = time.process_time() - start

    def draw(x_pix: float, y_pix: float, dx: float, dy: float, half: int, oversample: int) -> np.ndarray:
        star, method = psf.get_profile(x_pix + 1, y_pix + 1, **(place(x_pix, y_pix) if is_grid else {}))
        return _drawn(star, method, dx, dy, half, oversample)

    name = f"Piff PixelGrid {GRID_SCALE_PIX:g} px" if is_grid else f"Piff Moffat {MOFFAT_BETA:g}"
    n_used = sum(not star.is_flagged for star in psf.stars)
    return Model(f"{name}, order {PIFF_ORDER}", draw, seconds, n_used, PIFF_ORDER)


def _drawn(
    star: galsim.GSObject, method: str, dx: float, dy: float, half: int, oversample: int
) -> np.ndarray:
    """A profile sampled at the pixel-convolved values, which a method of "auto" says it has not yet."""
    if method == "auto":
        star = galsim.Convolve(star, galsim.Pixel(1.0))
    size = 2 * half * oversample + 1
    drawn = star.drawImage(
        nx=size,
        ny=size,
        scale=1 / oversample,
        offset=(dx * oversample, dy * oversample),
        method="no_pixel",
    )
    return np.asarray(drawn.array)


def shapes(model: Model, stars: Stars) -> np.ndarray:
    """Adaptive moments at the held-out places: sigma in px, e1, e2, shape (n, 3)."""
    half = int(np.ceil(PIFF_HALF_FWHM * stars.fwhm_pix)) - 1
    rows = []
    for row in stars.held_out:
        image = model.draw(stars.sources.x_pix[row], stars.sources.y_pix[row], 0.0, 0.0, half, OVERSAMPLE)
        found = galsim.hsm.FindAdaptiveMom(galsim.Image(np.ascontiguousarray(image)))
        rows.append((found.moments_sigma / OVERSAMPLE, found.observed_shape.e1, found.observed_shape.e2))
    return np.array(rows)


def chi_squares(model: Model, stars: Stars) -> np.ndarray:
    """Reduced chi-square of the held-out stars within 2 FWHM, the star's four parameters fitted, (n,)."""
    frame, sources = stars.frame, stars.sources
    half = int(np.ceil(2 * stars.fwhm_pix))
    axis = np.arange(-half, half + 1)
    step = 0.05
    out = []
    for row in stars.held_out:
        x_pix, y_pix = float(sources.x_pix[row]), float(sources.y_pix[row])
        column, line = round(x_pix), round(y_pix)
        box = (slice(line - half, line + half + 1), slice(column - half, column + half + 1))
        used = ~(frame.bad | frame.saturated)[box] & (np.hypot(axis, axis[:, None]) <= 2 * stars.fwhm_pix)
        data, weight = frame.image[box][used].astype(float), 1 / np.sqrt(frame.variance[box][used])
        dx, dy = x_pix - column, y_pix - line
        for _ in range(N_STEPS + 1):
            at = [
                model.draw(x_pix, y_pix, dx + sx, dy + sy, half, 1)[used]
                for sx, sy in ((0, 0), (step, 0), (-step, 0), (0, step), (0, -step))
            ]
            slopes = (at[1] - at[2]) / (2 * step), (at[3] - at[4]) / (2 * step)
            design = np.column_stack([at[0], *slopes, np.ones_like(data)]) * weight[:, None]
            solution = np.linalg.lstsq(design, data * weight, rcond=None)[0]
            dx += float(np.clip(solution[1] / solution[0], -0.5, 0.5))
            dy += float(np.clip(solution[2] / solution[0], -0.5, 0.5))
        left = data * weight - design @ solution
        out.append(float(left @ left / (len(data) - 4)))
    return np.array(out)


def row_of(model: Model, stars: Stars, against: np.ndarray) -> list[str]:
    """Stars, seconds, chi-square, and differences of shapes from those given."""
    chi2 = chi_squares(model, stars)
    difference = shapes(model, stars) - against
    difference[:, 0] *= 100 / against[:, 0]
    cells = [
        f"{np.mean(values):+.{digits}f} +- {np.std(values):.{digits}f}"
        for values, digits in zip(difference.T, (2, 4, 4), strict=True)
    ]
    return [
        model.name,
        f"{model.n_stars}" if model.n_stars else "",
        f"{model.seconds:.2f}" if np.isfinite(model.seconds) else "",
        f"{np.median(chi2):.3f}",
        f"{np.mean(chi2):.3f}",
        *(cells if difference.any() else ["-"] * 3),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gain", type=float, help="of hatp32, e-/ADU; without it the whole night is read")
    parser.add_argument("--real-only", action="store_true", help="leave the field of known PSF out")
    options = parser.parse_args()
    real = os.environ.get("RBSIM_REAL_FRAMES")
    header = ["PSF", "stars", "cpu s", "chi2 median", "chi2 mean", "size %", "e1", "e2"]
    with threadpool_limits(1), tempfile.TemporaryDirectory() as folder:
        fields: list[tuple[str, Frame, Model | None]] = []
        if not options.real_only:
            fields.append(("known PSF", *known_field(Path(folder))))
        if real:
            fields.append(("hatp32", hatp32_frame(Path(real), options.gain), None))
        for name, frame, true in fields:
            stars = split(frame)
            print(
                f"\n{name}: {len(stars.fitted)} stars given, {len(stars.held_out)} held out;"
                f" half-light diameter {stars.fwhm_pix:.2f} px; shapes against"
                f" {'rbsim' if true is None else 'the truth'} (mean +- scatter over places)\n"
            )
            print("| " + " | ".join(header) + " |\n|---|" + "---:|" * (len(header) - 1))
            first = ours(stars)
            against = shapes(true or first, stars)
            for fit in (
                lambda first=first: first,
                lambda stars=stars: ours(stars, max_order=PIFF_ORDER),
                lambda stars=stars: of_piff(stars, is_grid=True),
                lambda stars=stars: of_piff(stars, is_grid=False),
                lambda true=true: true,
            ):
                model = fit()
                if model is not None:
                    print("| " + " | ".join(row_of(model, stars, against)) + " |", flush=True)


if __name__ == "__main__":
    main()
