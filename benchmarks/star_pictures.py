"""Pictures of subtractions of real frames for docs/subtraction.md.

    RBSIM_REAL_FRAMES=/path/to/frames python benchmarks/star_pictures.py --out docs/

Stars, their difference in sigma and the S/N map; the whole difference; what is left of all stars by S/N.
"""

import argparse
import os
import tempfile
from pathlib import Path

import matplotlib as mpl

mpl.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image
from star_residuals import CHI2_LIMIT, FLUX_LIMIT, Residuals, decam_pairs, hatp32_pairs, star_residuals
from threadpoolctl import threadpool_limits

from rbsim.chain import Subtracted, subtract_frame
from rbsim.config import SubtractConfig

WANTED_SNR = (60, 150, 400)
HALF_PIX = 13
DIFFERENCE_SIGMA, MAP_SNR = 5.0, 10.0
N_COLOURS = 240


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--frames", type=int, default=8, help="frames of hatp32 in the lower panels")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "rbsim-benchmark")
    options = parser.parse_args()
    folder = Path(os.environ["RBSIM_REAL_FRAMES"])
    options.cache.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1):
        for name, pairs in (
            ("hatp32", hatp32_pairs(folder, options.cache, options.frames)),
            ("decam", decam_pairs(folder)),
        ):
            done = [subtract_frame(science, reference, SubtractConfig()) for science, reference, _ in pairs]
            stars = [
                star_residuals(frame, reference, avoid)
                for frame, (_, reference, avoid) in zip(done, pairs, strict=True)
            ]
            residual = [frame.quality.star_residual for frame in done]
            middle = int(np.argsort(residual)[len(residual) // 2])  # neither the best nor the worst
            draw(done[middle], stars[middle], stars, options.out / f"subtraction_{name}.png", name)


def draw(frame: Subtracted, own: Residuals, everything: list[Residuals], path: Path, name: str) -> None:
    places = [
        (own.x_pix[k], own.y_pix[k], f"S/N {own.snr[k]:.0f}, $\\chi^2$ {own.chi2[k]:.1f}")
        for k in dict.fromkeys(int(np.argmin(np.abs(np.log(own.snr / wanted)))) for wanted in WANTED_SNR)
    ]
    saturated = saturated_star(frame)
    if saturated is not None:
        places.append((*saturated, "saturated"))
    figure = plt.figure(figsize=(7.4, 2.0 * len(places) + 3.9), dpi=100, layout="constrained")
    upper, lower = figure.subfigures(2, 1, height_ratios=(1.95 * len(places), 3.8))
    axes = upper.subplots(len(places), 4, squeeze=False)
    for row, (x, y, label) in zip(axes, places, strict=True):
        cutouts(row, frame, x, y)
        row[0].set_ylabel(label, fontsize=8)
    for axis, title in zip(
        axes[0],
        (
            "science",
            "reference, registered",
            f"difference, ±{DIFFERENCE_SIGMA:g} sigma",
            f"S/N map, ±{MAP_SNR:g}",
        ),
        strict=True,
    ):
        axis.set_title(title, fontsize=9)
    upper.suptitle(f"{name}: {frame.science.name}, {frame.difference.convolved} convolved", fontsize=9)
    left, right = lower.subfigures(1, 2, width_ratios=(1, 1.1))
    axis = left.subplots()
    whole = frame.difference.image / np.sqrt(frame.difference.variance)
    axis.imshow(shown(whole), origin="lower", cmap="RdBu_r", vmin=-DIFFERENCE_SIGMA, vmax=DIFFERENCE_SIGMA)
    axis.set_title(f"whole difference, ±{DIFFERENCE_SIGMA:g} sigma; grey: no value", fontsize=9)
    axis.set_facecolor("0.75")
    axis.tick_params(labelsize=7)
    residual_panels(right.subplots(2, 1, sharex=True), everything)
    figure.savefig(path)
    plt.close(figure)
    Image.open(path).convert("RGB").quantize(N_COLOURS, dither=Image.Dither.NONE).save(path, optimize=True)


def cutouts(axes: np.ndarray, frame: Subtracted, x: float, y: float) -> None:
    """Science, reference, difference and S/N map around a star; bad pixels stay grey."""
    ny, nx = frame.science.shape
    column, row = round(x), round(y)
    box = (
        slice(max(row - HALF_PIX, 0), min(row + HALF_PIX + 1, ny)),
        slice(max(column - HALF_PIX, 0), min(column + HALF_PIX + 1, nx)),
    )
    science = frame.science.image[box]
    noise = float(np.sqrt(np.median(frame.science.variance[np.isfinite(frame.science.variance)])))
    top = float(np.nanmax(science))
    for axis, image in zip(
        axes[:2], (science, frame.reference.image[box] * frame.difference.flux_scale), strict=True
    ):
        axis.imshow(
            np.arcsinh(image / (3 * noise)),
            origin="lower",
            cmap="gray",
            vmin=np.arcsinh(-1),
            vmax=np.arcsinh(top / (3 * noise)),
        )
    sigma = np.sqrt(frame.difference.variance[box])
    snr = np.where(frame.difference.bad, np.nan, frame.filtered.snr)[box]
    for axis, image, limit in (
        (axes[2], frame.difference.image[box] / sigma, DIFFERENCE_SIGMA),
        (axes[3], snr, MAP_SNR),
    ):
        axis.imshow(shown(image), origin="lower", cmap="RdBu_r", vmin=-limit, vmax=limit)
    for axis in axes:
        axis.set_facecolor("0.75")
        axis.set_xticks([])
        axis.set_yticks([])


def shown(image: np.ndarray) -> np.ma.MaskedArray:
    return np.ma.masked_invalid(image)


def saturated_star(frame: Subtracted) -> tuple[float, float] | None:
    """The brightest saturated star away from the border."""
    stars = frame.reference_sources
    ny, nx = frame.science.shape
    x, y = np.rint(stars.x_pix).astype(int), np.rint(stars.y_pix).astype(int)
    inside = (x > HALF_PIX) & (x < nx - HALF_PIX) & (y > HALF_PIX) & (y < ny - HALF_PIX)
    good = inside & stars.saturated
    good[inside] &= frame.science.saturated[y[inside], x[inside]]
    rows = np.flatnonzero(good)
    return None if not len(rows) else (float(stars.x_pix[rows[0]]), float(stars.y_pix[rows[0]]))


def residual_panels(axes: np.ndarray, everything: list[Residuals]) -> None:
    """Chi-square per pixel and flux left against S/N, with the targets."""
    snr, chi2, left, psf_chi2 = (
        np.concatenate([getattr(r, name) for r in everything])
        for name in ("snr", "chi2", "flux_left", "psf_chi2")
    )
    size = 3 if len(snr) > 200 else 14
    axes[0].scatter(snr, chi2, s=size, c="tab:blue", lw=0, alpha=0.5, label="difference")
    axes[0].scatter(snr, psf_chi2, s=size, c="tab:orange", lw=0, alpha=0.5, label="PSF fit, science alone")
    axes[0].plot([50, 300], [CHI2_LIMIT] * 2, "k", lw=1.5, label=f"target {CHI2_LIMIT:g}")
    axes[0].set_ylabel("$\\chi^2$ per pixel", fontsize=8)
    axes[1].scatter(snr, np.maximum(np.abs(left), 1e-4), s=size, c="tab:blue", lw=0, alpha=0.5)
    grid = np.geomspace(snr.min(), snr.max(), 50)
    axes[1].plot(grid, 1 / grid, "0.5", lw=1, label="1 / (S/N)")
    axes[1].plot([300, max(snr.max(), 1000)], [FLUX_LIMIT] * 2, "k", lw=1.5, label="target 1 %")
    axes[1].set_ylabel("|flux left|", fontsize=8)
    axes[1].set_xlabel("S/N in the science frame", fontsize=8)
    bins = np.geomspace(10, snr.max() * 1.001, 9)
    if len(snr) > 200:
        which = np.digitize(snr, bins)
        rows = [which == k for k in range(1, len(bins)) if np.count_nonzero(which == k) > 5]
        middle = [np.median(snr[here]) for here in rows]
        for axis, values, colour in (
            (axes[0], chi2, "navy"),
            (axes[0], psf_chi2, "saddlebrown"),
            (axes[1], np.abs(left), "navy"),
        ):
            axis.plot(middle, [np.median(values[here]) for here in rows], c=colour, lw=1.5)
    for axis in axes:
        axis.set_xscale("log")
        axis.set_yscale("log")
        axis.tick_params(labelsize=7)
        axis.legend(fontsize=6, loc="upper left" if axis is axes[0] else "lower left", framealpha=0.8)


if __name__ == "__main__":
    main()
