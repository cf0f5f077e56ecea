r"""What is left of real stars when the frame's PSF is subtracted, and whether it is the star's own.

    RBSIM_REAL_FRAMES=/path/to/frames python benchmarks/psf_residuals.py [--gain 29.4] [--out docs/]

For frames of `hatp32`: figures that are kept with every frame, and more. `same star`: rank correlation of the
stars' own widths, the coefficient of P_xx + P_yy in each star, with those of the same stars in the middle
frame; noise does not correlate. `by place`: share of the variance of these widths that a cubic polynomial in
position, fitted to one half of the stars, takes from the other half; negative if it helps nothing. `largest`:
largest residual of the picture within 4 px, over the peak. `+8 px`: light of one pixel in the star's row,
8 px to its right, over the star's flux: median over the stars. The picture is the median of
(star - PSF) / flux, pixel by pixel, over isolated stars with S/N above 50 about their nearest pixel, from
PSFs fitted to the other half of the stars.
"""

import argparse
import os
from dataclasses import dataclass
from pathlib import Path

import matplotlib as mpl
import numpy as np
from matplotlib import pyplot as plt
from psf_piff import hatp32_frame
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from rbsim import psf_stars, spatial
from rbsim.frame import Frame, read_frame, with_gain
from rbsim.psf import Psf, sample
from rbsim.psf_quality import star_shapes
from rbsim.psf_stars import Positions
from rbsim.reference import psf_of, sources_of
from rbsim.register import register
from rbsim.sources import Sources, star_radius

MIN_SNR = 50.0
ISOLATED_FWHM = 5.0
HALF_PIX = 7
CORE_PIX = 4
TRAIL_PIX = (8, 15)
N_STEPS = 3


@dataclass(frozen=True, eq=False)
class Measured:
    """One frame: its PSF, isolated bright stars (rows), their own widths, median residual over flux."""

    name: str
    psf: Psf
    sources: Sources
    shape: tuple[int, int]
    rows: np.ndarray
    width_pix2: np.ndarray
    residual: np.ndarray
    peak: float
    trail_percent: dict[int, float]

    @property
    def largest_percent(self) -> float:
        """Largest residual within `CORE_PIX`, in per cent of the peak."""
        offset = np.arange(-HALF_PIX, HALF_PIX + 1)
        core = np.hypot(offset, offset[:, None]) <= CORE_PIX
        return float(100 * np.abs(self.residual[core]).max() / self.peak)


def measure(frame: Frame) -> Measured:
    """Fit the PSF to all stars, and to halves for the residuals of the others."""
    sources = sources_of(frame)
    radius = star_radius(sources)
    psf = psf_of(frame, sources, radius)
    position = np.column_stack([sources.x_pix, sources.y_pix])
    ny, nx = frame.shape
    margin = psf.half_pix + 2
    alone = psf_stars.find_candidates(sources, radius, frame.shape) & (sources.snr > MIN_SNR)
    alone &= cKDTree(position).query(position, k=2)[0][:, 1] > ISOLATED_FWHM * psf.fwhm_pix
    alone &= (position > margin).all(axis=1) & (position < np.array([nx, ny]) - margin).all(axis=1)
    half = np.arange(len(sources)) % 2
    widths, chosen, maps = [], [], []
    for side in (0, 1):
        rows = np.flatnonzero(alone & (half == side))
        other = psf_of(frame, sources, radius, among=half != side)
        at = _centred(other, frame, sources, rows)
        cut = psf_stars.cut(frame.image, frame.variance, frame.bad | frame.saturated, at, rows, HALF_PIX)
        widths.append(star_shapes(other, cut, at)[0][:, 0])
        chosen.append(rows)
        maps.append(_left(other, cut, at))
    peak = float(sample(psf, np.array([nx / 2]), np.array([ny / 2])).max())
    return Measured(
        frame.name,
        psf,
        sources,
        frame.shape,
        np.concatenate(chosen),
        np.concatenate(widths),
        np.median(np.concatenate(maps), axis=0),
        peak,
        _trail(frame, sources, np.concatenate(chosen)),
    )


def _trail(frame: Frame, sources: Sources, rows: np.ndarray) -> dict[int, float]:
    """Light of a pixel in the star's row over its flux, per cent, by its offset in x: median over stars."""
    x, y = (np.rint(place[rows]).astype(int) for place in (sources.x_pix, sources.y_pix))
    kept = (x >= max(TRAIL_PIX)) & (x < frame.shape[1] - max(TRAIL_PIX))
    x, y, flux = x[kept], y[kept], sources.flux_adu[rows][kept]
    offsets = [sign * step for step in TRAIL_PIX for sign in (1, -1)]
    return {step: float(100 * np.nanmedian(frame.image[y, x + step] / flux)) for step in offsets}


def _centred(psf: Psf, frame: Frame, sources: Sources, rows: np.ndarray) -> Positions:
    """Centres and fluxes with this PSF, by linear steps."""
    at = Positions(sources.x_pix.copy(), sources.y_pix.copy(), sources.flux_adu.copy())
    step = 0.05
    for _ in range(N_STEPS):
        cut = psf_stars.cut(frame.image, frame.variance, frame.bad | frame.saturated, at, rows, HALF_PIX)
        star, right, left, up, down = (
            _model(psf, cut, at, dx, dy) for dx, dy in ((0, 0), (step, 0), (-step, 0), (0, step), (0, -step))
        )
        slopes = (right - left) / (2 * step), (up - down) / (2 * step)
        design = np.stack([star, *slopes, np.ones_like(star)], axis=-1).reshape(len(rows), -1, 4)
        weight = cut.weight.reshape(len(rows), -1, 1)
        gram = design.transpose(0, 2, 1) @ (weight * design)
        solution = np.linalg.solve(
            gram, design.transpose(0, 2, 1) @ (weight * cut.data.reshape(len(rows), -1, 1))
        )[..., 0]
        at.flux[rows] = solution[:, 0]
        at.x[rows] += np.clip(solution[:, 1] / solution[:, 0], -0.3, 0.3)
        at.y[rows] += np.clip(solution[:, 2] / solution[:, 0], -0.3, 0.3)
    return at


def _model(psf: Psf, cut: psf_stars.PsfStars, at: Positions, dx: float, dy: float) -> np.ndarray:
    """Stars of flux 1 on their stamps, moved by (dx, dy)."""
    x, y = at.x[cut.rows], at.y[cut.rows]
    whole = sample(
        psf, x, y, dx_pix=x + dx - cut.corner_x - cut.half, dy_pix=y + dy - cut.corner_y - cut.half
    )
    trim = psf.half_pix - cut.half
    return whole[:, trim : trim + 2 * cut.half + 1, trim : trim + 2 * cut.half + 1]


def _left(psf: Psf, cut: psf_stars.PsfStars, at: Positions) -> np.ndarray:
    """(star - PSF) / flux less the median of the rim, NaN-free, shape (n, size, size)."""
    flux = at.flux[cut.rows][:, None, None]
    left = np.where(cut.weight > 0, cut.data / flux - _model(psf, cut, at, 0.0, 0.0), 0)
    rim = np.hypot(*np.mgrid[-cut.half : cut.half + 1, -cut.half : cut.half + 1]) > cut.half - 1
    return left - np.median(left[:, rim], axis=1)[:, None, None]


def correlation(one: Measured, other: Measured) -> tuple[float, int]:
    """Of the widths of the stars that both frames have, and their number."""
    to = register(one.sources, None, one.shape, other.sources, None)
    x, y = to.apply(one.sources.x_pix[one.rows], one.sources.y_pix[one.rows])
    place = np.column_stack([other.sources.x_pix[other.rows], other.sources.y_pix[other.rows]])
    distance, partner = cKDTree(place).query(np.column_stack([x, y]))
    same = distance < 1
    pair = one.width_pix2[same], other.width_pix2[partner[same]]
    # Ranks: a few companions would decide alone.
    ranks = [np.argsort(np.argsort(values)) for values in pair]
    return float(np.corrcoef(*ranks)[0, 1]), int(same.sum())


def share_by_place(one: Measured, order: int = 3) -> float:
    """Variance of widths that a polynomial of the other half of the stars explains, over all of it."""
    limit = np.quantile(np.abs(one.width_pix2), 0.95)
    kept = np.abs(one.width_pix2) < limit
    width = one.width_pix2[kept] - np.mean(one.width_pix2[kept])
    rows = one.rows[kept]
    terms = spatial.terms(one.sources.x_pix[rows], one.sources.y_pix[rows], one.shape, order)
    left = np.empty_like(width)
    half = np.random.default_rng(7).permutation(len(width)) % 2
    for side in (0, 1):
        fitted = np.linalg.lstsq(terms[half != side], width[half != side], rcond=None)[0]
        left[half == side] = width[half == side] - terms[half == side] @ fitted
    return float(1 - np.mean(left**2) / np.mean(width**2))


def draw(measured: list[Measured], path: Path) -> None:
    """Median residual maps in per cent of the peak, one panel per frame."""
    mpl.use("Agg")
    figure, axes = plt.subplots(
        1, len(measured), figsize=(2.1 * len(measured) + 0.8, 2.6), layout="constrained"
    )
    for axis, one in zip(axes, measured, strict=True):
        shown = axis.imshow(100 * one.residual / one.peak, origin="lower", cmap="RdBu_r", vmin=-1, vmax=1)
        axis.set_title(f"{one.psf.fwhm_pix:.2f} px, {len(one.rows)} stars", fontsize=9)
        axis.set_xticks([])
        axis.set_yticks([])
    figure.colorbar(shown, ax=axes, label="median residual, % of peak", shrink=0.8)
    figure.savefig(path, dpi=90)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--gain", type=float, help="e-/ADU; without it the whole night is read")
    parser.add_argument("--frames", type=int, default=6)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    folder = Path(os.environ["RBSIM_REAL_FRAMES"])
    with threadpool_limits(1):
        gain = hatp32_frame(folder, options.gain).detector.gain_e_per_adu
        paths = sorted((folder / "hatp32").glob("*.fits"))
        numbers = np.linspace(0, len(paths) - 1, options.frames).round().astype(int)
        measured = [measure(with_gain(read_frame(paths[n]), gain, 0.0)) for n in numbers]
        middle = measured[len(measured) // 2]
        print("| frame | FWHM px | order | e1, e2 | chi2 | scatter width, e1, e2 px2 |", end="")
        print(" aperture ratio | same star (n) | by place | largest % |", end="")
        print("".join(f" {step:+d} px % |" for step in middle.trail_percent) + "\n|---|" + 13 * "---:|")
        for one in measured:
            quality, (e1, e2) = one.psf.quality, one.psf.ellipticity
            same, n = correlation(one, middle)
            cells = [
                one.name,
                f"{one.psf.fwhm_pix:.3f} +- {quality.fwhm_err_pix:.3f}",
                f"{one.psf.order}",
                f"{e1:+.3f}, {e2:+.3f}",
                f"{quality.chi2_per_pixel:.2f}",
                ", ".join(f"{value:.4f}" for value in quality.shape_scatter_pix2),
                f"{quality.aperture_ratio:.4f} +- {quality.aperture_ratio_err:.4f}",
                "-" if one is middle else f"{same:.2f} ({n})",
                f"{share_by_place(one):+.2f}",
                f"{one.largest_percent:.2f}",
                *(f"{value:+.3f}" for value in one.trail_percent.values()),
            ]
            print("| " + " | ".join(cells) + " |", flush=True)
        if options.out is not None:
            draw(measured, options.out / "psf_residuals.png")


if __name__ == "__main__":
    main()
