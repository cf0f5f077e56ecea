r"""What a subtraction leaves of stars: chi-square per pixel and flux, by S/N, for every engine there is.

    RBSIM_HOTPANTS=/path/to/hotpants RBSIM_REAL_FRAMES=/path/to/frames \
        python benchmarks/star_residuals.py [--json]

Stars that both images have, unsaturated, alone and not extended. Within 1.5 FWHM of the wider PSF, the mean
of difference^2 / propagated variance; in an aperture of 1.75 FWHM, the sum of the difference over that of
the science frame. Beside it a yardstick: the reduced chi-square of the same pixels of the *science frame
alone* when the frame's own PSF is fitted to the star (flux, background, position). It needs no reference and
no kernel; where it is far above 1, stars of this frame are not copies of one smooth profile.
"""

import argparse
import json
import math
import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from astropy.table import Table
from scipy import fft
from scipy.spatial import cKDTree
from threadpoolctl import threadpool_limits

from rbsim.chain import Subtracted, subtract_frame
from rbsim.config import InjectConfig, SubtractConfig
from rbsim.emulate.night import emulate_night, load_night
from rbsim.errors import InputError
from rbsim.external.hotpants import find_hotpants
from rbsim.external.sfft import check_sfft
from rbsim.frame import Frame, read_frame, with_gain
from rbsim.inputs import find_gain, frame_tasks
from rbsim.psf import sample
from rbsim.reference import Reference, load_reference, sources_of, stack_reference

CHI2_RADIUS_FWHM, APERTURE_FWHM, ALONE_FWHM = 1.5, 1.75, 3.0
NEIGHBOUR_SHARE = 0.01
CLASSES = ((10.0, 50.0), (50.0, 300.0), (300.0, math.inf))
CHI2_LIMIT, FLUX_LIMIT = 1.3, 0.01
EXTERNAL = {"hotpants": find_hotpants, "sfft": check_sfft}
SEED = 7


@dataclass(frozen=True, eq=False)
class Residuals:
    """One value per star, shape (n,): what a subtraction leaves, and the yardstick.

    Attributes
    ----------
    x_pix, y_pix : position in the science frame.
    snr : S/N of the PSF's flux in the science frame, the star's photons included.
    chi2 : of the difference, per pixel.
    flux_left : sum of the difference over that of the science frame, signed.
    psf_chi2 : reduced, of the PSF fitted to the science frame.
    """

    x_pix: np.ndarray
    y_pix: np.ndarray
    snr: np.ndarray
    chi2: np.ndarray
    flux_left: np.ndarray
    psf_chi2: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--frames", type=int, default=8, help="frames of hatp32 (default 8 of 32)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "rbsim-benchmark")
    parser.add_argument("--markdown", action="store_true", help="print the table of docs/subtraction.md")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1):
        result = measure(options.cache, options.frames)
    if options.json:
        print(json.dumps(result, indent=1))
    else:
        print(as_markdown(result) if options.markdown else as_text(result))


def measure(cache: Path, n_frames: int) -> dict:
    """All data sets and engines; figures per class of S/N."""
    missing = {}
    for name, find in EXTERNAL.items():
        try:
            find()
        except InputError as error:
            missing[name] = str(error)
    sets = {name: emulated_pairs(cache, fwhm) for name, fwhm in (("emulated", 3.0), ("emulated, sharp", 1.8))}
    real = os.environ.get("RBSIM_REAL_FRAMES")
    if real:
        sets["hatp32"] = hatp32_pairs(Path(real), cache, n_frames)
        sets["decam"] = decam_pairs(Path(real))
    result: dict = {
        "engines_not_measured": missing,
        "real_frames": real or "not measured: set RBSIM_REAL_FRAMES to the folder with hatp32/ and decam/",
        "data": {},
    }
    for data, pairs in sets.items():
        block: dict = {"n_frames": len(pairs), "engines": {}}
        for engine in ("rbsim", *(name for name in EXTERNAL if name not in missing)):
            found, done, failed = [], [], []
            for science, reference, artefacts_xy in pairs:
                try:
                    frame = subtract_frame(science, reference, SubtractConfig(backend=engine))
                except InputError as error:
                    failed.append(str(error))
                    continue
                done.append(frame)
                found.append(star_residuals(frame, reference, artefacts_xy))
            block["engines"][engine] = summary(found, done) | {"failed": failed}
        result["data"][data] = block
    return result


def emulated_pairs(cache: Path, fwhm_pix: float) -> list[tuple[Frame, Reference, np.ndarray]]:
    """Frames of a night whose stars neither move nor change, with the places of artefacts and transients."""
    folder = cache / f"still-night-{fwhm_pix:g}"
    if not folder.exists():
        demo = load_night("demo")
        still = {"colour_scatter": 0.0, "colour_tail_fraction": 0.0, "shift_scatter_arcsec": 0.0}
        sky = replace(demo.sky, **still, shift_fast_fraction=0.0)
        reference_fwhm = min(demo.optics.reference_fwhm_pix, fwhm_pix)
        optics = replace(demo.optics, fwhm_pix=fwhm_pix, reference_fwhm_pix=reference_fwhm)
        emulate_night(folder, replace(demo, n_exposures=3, sky=sky, optics=optics), seed=SEED)
    reference = load_reference(folder / "reference.fits")
    tables = [Table.read(folder / name) for name in ("artefacts.ecsv", "truth.ecsv")]
    pairs = []
    for path in sorted((folder / "science").glob("*.fits")):
        here = [table[np.asarray(table["frame"]) == path.name] for table in tables]
        xy = np.concatenate([np.column_stack([rows["x_pix"], rows["y_pix"]]) for rows in here])
        pairs.append((read_frame(path), reference, np.asarray(xy, float)))
    return pairs


def hatp32_pairs(folder: Path, cache: Path, n_frames: int) -> list[tuple[Frame, Reference, np.ndarray]]:
    """Some of the last 32 frames, a stack of the first 16, and the gain that `rbsim subtract` finds."""
    paths = [str(path) for path in sorted((folder / "hatp32").glob("*.fits"))]
    stacked = cache / "hatp32-stack.fits"
    if not stacked.exists():
        stack_reference(paths[:16], stacked, rng=np.random.default_rng(1))
    reference = load_reference(stacked)
    config = InjectConfig()
    gain = find_gain(frame_tasks(paths[16:], config, None, None, stacked.name), config, lambda *_: None)
    rows = np.linspace(16, len(paths) - 1, min(n_frames, len(paths) - 16)).round().astype(int)
    frames = (read_frame(paths[row]) for row in rows)
    if gain is not None:
        frames = (with_gain(frame, gain.gain_e_per_adu, gain.gain_err_e_per_adu) for frame in frames)
    return [(frame, reference, np.empty((0, 2))) for frame in frames]


def decam_pairs(folder: Path) -> list[tuple[Frame, Reference, np.ndarray]]:
    """Three dithers of one field, a year apart."""
    return [
        (
            read_frame(folder / "decam" / f"DEC-OBS18{dither}.fits"),
            load_reference(folder / "decam" / f"DEC-OBS04{dither}.fits"),
            np.empty((0, 2)),
        )
        for dither in "abc"
    ]


def star_residuals(frame: Subtracted, reference: Reference, avoid_xy: np.ndarray) -> Residuals:
    """Measure the stars of one difference."""
    fwhm = max(frame.psf.fwhm_pix, reference.fwhm_pix)
    x, y = choose_stars(frame, fwhm, avoid_xy)
    half = math.ceil(APERTURE_FWHM * fwhm) + 1
    column, row = np.rint(x).astype(int), np.rint(y).astype(int)
    ny, nx = frame.science.shape
    inside = (column >= half) & (column < nx - half) & (row >= half) & (row < ny - half)
    x, y, column, row = x[inside], y[inside], column[inside], row[inside]
    axis = np.arange(-half, half + 1)
    index = (row[:, None, None] + axis[:, None], column[:, None, None] + axis)
    radius = np.hypot(index[1] - x[:, None, None], index[0] - y[:, None, None])
    disc, aperture = radius <= CHI2_RADIUS_FWHM * fwhm, radius <= APERTURE_FWHM * fwhm
    difference, variance = frame.difference.image[index], frame.difference.variance[index]
    seen, noise = frame.science.image[index].astype(float), frame.science.variance[index]
    usable = np.isfinite(difference) & np.isfinite(seen)
    usable &= ~frame.science.saturated[index] & ~frame.reference.saturated[index]
    whole = (usable | ~aperture).all(axis=(1, 2))
    snr, psf_chi2 = psf_fit(frame, x, y, column, row, seen, noise, disc & whole[:, None, None])
    flux = np.where(aperture, seen, 0).sum(axis=(1, 2))
    keep = whole & (snr >= CLASSES[0][0]) & (flux > 0)
    chi2 = np.where(disc, difference**2 / variance, 0).sum(axis=(1, 2)) / disc.sum(axis=(1, 2))
    left = np.where(aperture, difference, 0).sum(axis=(1, 2)) / np.where(flux > 0, flux, 1)
    return Residuals(x[keep], y[keep], snr[keep], chi2[keep], left[keep], psf_chi2[keep])


def choose_stars(frame: Subtracted, fwhm: float, avoid_xy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of unsaturated stars in both images, alone within `ALONE_FWHM`, not extended."""
    found, before = sources_of(frame.science), frame.reference_sources
    tree = cKDTree(np.column_stack([found.x_pix, found.y_pix]))
    distance, partner = tree.query(np.column_stack([before.x_pix, before.y_pix]))
    stars = (distance < 1) & ~before.saturated & ~found.saturated[partner]
    hosts = np.column_stack([frame.hosts.x_pix, frame.hosts.y_pix])
    x, y = found.x_pix[partner], found.y_pix[partner]
    xy = np.column_stack([x, y])
    for places, reach in ((hosts, 2.0), (avoid_xy, 2 * ALONE_FWHM * fwhm)):
        if len(places):
            stars &= cKDTree(places).query(xy)[0] > reach
    neighbours = cKDTree(np.column_stack([before.x_pix, before.y_pix]))
    for i in np.flatnonzero(stars):
        near = neighbours.query_ball_point((before.x_pix[i], before.y_pix[i]), ALONE_FWHM * fwhm)
        others = [k for k in near if k != i]
        stars[i] = not np.any(before.flux_adu[others] > NEIGHBOUR_SHARE * before.flux_adu[i])
    return x[stars], y[stars]


def psf_fit(
    frame: Subtracted,
    x: np.ndarray,
    y: np.ndarray,
    column: np.ndarray,
    row: np.ndarray,
    seen: np.ndarray,
    noise: np.ndarray,
    disc: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:
    """S/N of the flux and reduced chi-square of the frame's PSF in the science frame, star by star."""
    n, size = len(x), seen.shape[-1]
    dx, dy = x - column, y - row
    good = disc & np.isfinite(noise)
    weight = np.where(good, 1 / np.where(good, noise, 1), 0).reshape(n, -1)
    data = np.where(good, seen, 0).reshape(n, -1)
    for _ in range(8):
        stamps = sample(frame.psf, x, y, dx_pix=dx, dy_pix=dy)
        cut = (stamps.shape[-1] - size) // 2
        spectrum = fft.rfft2(stamps)
        frequency = 2j * np.pi * fft.fftfreq(stamps.shape[-1])
        slopes = (spectrum * frequency[: spectrum.shape[-1]], spectrum * frequency[:, None])
        planes = [stamps, *(-fft.irfft2(slope, stamps.shape[1:]) for slope in slopes)]
        planes = [plane[:, cut : cut + size, cut : cut + size].reshape(n, -1) for plane in planes]
        design = np.stack([*planes, np.ones((n, size * size))], axis=2)
        gram = (design * weight[:, :, None]).transpose(0, 2, 1) @ design
        ridge = 1e-10 * np.trace(gram, axis1=1, axis2=2)[:, None, None] + 1e-30
        right = (design * (weight * data)[:, :, None]).sum(axis=1)
        solution = np.linalg.solve(gram + ridge * np.eye(4), right[:, :, None])[:, :, 0]
        flux = np.where(solution[:, 0] > 0, solution[:, 0], np.inf)
        dx = dx + np.clip(solution[:, 1] / flux, -0.2, 0.2)
        dy = dy + np.clip(solution[:, 2] / flux, -0.2, 0.2)
    model = (design @ solution[:, :, None])[:, :, 0]
    chi2 = (weight * (data - model) ** 2).sum(axis=1) / np.maximum(good.sum(axis=(1, 2)) - 4, 1)
    return solution[:, 0] * np.sqrt((planes[0] ** 2 * weight).sum(axis=1)), chi2


def summary(found: list[Residuals], frames: list[Subtracted]) -> dict:
    """Figures per class of S/N over all frames."""
    if not found:
        return {"classes": {}}
    snr, chi2, left, psf_chi2 = (
        np.concatenate([getattr(r, name) for r in found]) for name in ("snr", "chi2", "flux_left", "psf_chi2")
    )
    classes = {}
    for low, high in CLASSES:
        here = (snr >= low) & (snr < high)
        name = f"{low:g}-{high:g}" if math.isfinite(high) else f">{low:g}"
        classes[name] = {"n_stars": int(here.sum())}
        if here.any():
            classes[name] |= {
                **{
                    f"chi2_{int(100 * q)}": float(np.quantile(chi2[here], q))
                    for q in (0.1, 0.25, 0.5, 0.75, 0.9)
                },
                "share_below_limit": float(np.mean(chi2[here] < CHI2_LIMIT)),
                "psf_chi2_50": float(np.median(psf_chi2[here])),
                "psf_share_below_limit": float(np.mean(psf_chi2[here] < CHI2_LIMIT)),
                "flux_left_50": float(np.median(left[here])),
                "abs_flux_left_50": float(np.median(np.abs(left[here]))),
                "abs_flux_left_90": float(np.quantile(np.abs(left[here]), 0.9)),
                "share_flux_below_limit": float(np.mean(np.abs(left[here]) <= FLUX_LIMIT)),
            }
    return {
        "convolved": sorted({frame.difference.convolved for frame in frames}),
        "fwhm_pix": float(np.median([frame.psf.fwhm_pix for frame in frames])),
        "sky_chi2": float(np.median([frame.quality.pixel_noise_ratio for frame in frames])) ** 2,
        "star_residual": float(np.median([frame.quality.star_residual for frame in frames])),
        "classes": classes,
    }


COLUMNS = (
    ("stars", "n_stars", "{:d}"),
    ("chi2", "chi2_50", "{:.2f}"),
    ("10 %", "chi2_10", "{:.2f}"),
    ("90 %", "chi2_90", "{:.2f}"),
    ("< 1.3", "share_below_limit", "{:.0%}"),
    ("PSF chi2", "psf_chi2_50", "{:.2f}"),
    ("< 1.3", "psf_share_below_limit", "{:.0%}"),
    ("left", "flux_left_50", "{:+.2%}"),
    ("|left|", "abs_flux_left_50", "{:.2%}"),
    ("90 %", "abs_flux_left_90", "{:.2%}"),
    ("< 1 %", "share_flux_below_limit", "{:.0%}"),
)


def as_text(result: dict) -> str:
    lines = [f"{name}: not measured: {reason}" for name, reason in result["engines_not_measured"].items()]
    lines.append(f"real frames: {result['real_frames']}")
    for data, block in result["data"].items():
        for engine, figures in block["engines"].items():
            lines += [f"\n{data}, {engine}: failed: {reason}" for reason in figures["failed"]]
            if not figures["classes"]:
                continue
            lines.append(
                f"\n{data}, {engine}: {block['n_frames']} frames, FWHM {figures['fwhm_pix']:.2f} px,"
                f" {' or '.join(figures['convolved'])} convolved,"
                f" chi2 of empty sky {figures['sky_chi2']:.2f}, star residual {figures['star_residual']:.1%}"
            )
            lines.append(f"{'S/N':<8}" + "".join(f"{title:>9}" for title, _, _ in COLUMNS))
            for name, row in figures["classes"].items():
                cells = (form.format(row[key]) if key in row else "-" for _, key, form in COLUMNS)
                lines.append(f"{name:<8}" + "".join(f"{cell:>9}" for cell in cells))
    return "\n".join(lines)


def as_markdown(result: dict) -> str:
    """The bright classes only: below S/N 50 noise hides what is left."""
    lines = [
        "| frames | S/N | engine | stars | chi2 | below 1.3 | PSF alone | left | at most 1 % |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for data, block in result["data"].items():
        for name in [f"{CLASSES[1][0]:g}-{CLASSES[1][1]:g}", f">{CLASSES[2][0]:g}"]:
            for engine, figures in block["engines"].items():
                row = figures["classes"].get(name, {"n_stars": 0})
                if row["n_stars"]:
                    line = (
                        f"| {data}, {figures['fwhm_pix']:.1f} px | {name} | {engine} | {row['n_stars']}"
                        f" | {row['chi2_50']:.3g} | {row['share_below_limit']:.0%} | {row['psf_chi2_50']:.2f}"
                        f" | {row['abs_flux_left_50']:.2%} | {row['share_flux_below_limit']:.0%} |"
                    )
                    lines.append(line.replace("%", " %"))
    lines += [f"\n{name}: not measured: {reason}" for name, reason in result["engines_not_measured"].items()]
    for data, block in result["data"].items():
        for engine, figures in block["engines"].items():
            lines += [f"\n{data}, {engine}: failed: {reason}" for reason in figures["failed"]]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
