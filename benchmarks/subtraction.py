r"""Our difference imaging beside HOTPANTS and sfft, one core each, in one run; then our whole path.

    RBSIM_HOTPANTS=/path/to/hotpants RBSIM_REAL_FRAMES=/path/to/frames \
        python benchmarks/subtraction.py [--json]

Every engine gets the same registered frames, stars and direction. Timed calls are interleaved, so that a
busy machine is busy for all. HOTPANTS is timed as what it is, a process that reads and writes FITS (in RAM
where there is /dev/shm); the share of the process itself is a column of its own. Residual noise is taken
over the pixels that all engines have. What is missing is «not measured», with the way to get it.
"""

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from rbsim.chain import Registered, register_frame, subtract_frame
from rbsim.config import SubtractConfig
from rbsim.convolve import convolve_varying
from rbsim.detect import detect
from rbsim.emulate.night import emulate_night, load_night
from rbsim.errors import InputError
from rbsim.external.hotpants import find_hotpants, subtract_hotpants
from rbsim.external.sfft import check_sfft, subtract_sfft
from rbsim.frame import DetectorOptions, Frame, read_frame
from rbsim.reference import (
    Reference,
    load_reference,
    measure_reference,
    stack_reference,
)
from rbsim.sources import Sources
from rbsim.subtract import subtract

KERNEL_ORDER = 2
BACKGROUND_ORDER = 1
SLOW_S = 10.0
EXTERNAL = {"hotpants": (subtract_hotpants, find_hotpants), "sfft": (subtract_sfft, check_sfft)}
SEED = 7


@dataclass(frozen=True, eq=False)
class Case:
    """A registered pair, ready to be subtracted by any engine."""

    data: str
    pair: Registered

    @property
    def direction(self) -> str:
        """Which image is convolved: the sharper one."""
        return "reference" if self.pair.reference_fwhm_pix <= self.pair.psf.fwhm_pix else "science"

    @property
    def config(self) -> SubtractConfig:
        """Of our own engine."""
        return SubtractConfig(
            convolve=self.direction, kernel_order=KERNEL_ORDER, background_order=BACKGROUND_ORDER
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of tables")
    parser.add_argument("--frames", type=int, default=3, help="emulated frames (default 3)")
    parser.add_argument("--repeats", type=int, default=5, help="timed calls per frame and engine (default 5)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "rbsim-benchmark")
    parser.add_argument("--whole-path", nargs="+", metavar="FITS", help=argparse.SUPPRESS)
    options = parser.parse_args()
    with threadpool_limits(1):
        if options.whole_path:
            print(json.dumps(whole_path(*options.whole_path)))
            return
        options.cache.mkdir(parents=True, exist_ok=True)
        if Path("/dev/shm").is_dir():  # noqa: S108
            tempfile.tempdir = "/dev/shm"  # noqa: S108
        result = measure(options.cache, options.frames, options.repeats)
    print(json.dumps(result, indent=1) if options.json else as_text(result))


def measure(cache: Path, n_frames: int, repeats: int) -> dict:
    missing = {}
    for name, (_, find) in EXTERNAL.items():
        try:
            find()
        except InputError as error:
            missing[name] = str(error)
    engines = ["rbsim", *(name for name in EXTERNAL if name not in missing)]
    reference, frames = emulated(cache, n_frames)
    cases = [prepare("emulated", read_frame(path), load_reference(reference)) for path in frames]
    real = os.environ.get("RBSIM_REAL_FRAMES")
    if real:
        cases += real_cases(Path(real), cache)
    results = {}
    for data in dict.fromkeys(case.data for case in cases):
        these = [case for case in cases if case.data == data]
        figures, slow = quality(these, engines)
        seconds = timing(these, engines, slow, repeats)
        ny, nx = these[0].pair.science.shape
        results[data] = {
            "shape": [ny, nx],
            "n_frames": len(these),
            "direction": [case.direction for case in these],
            "engines": {
                name: summary(figures, seconds, name) if name in engines else {"not_measured": missing[name]}
                for name in ("rbsim", *EXTERNAL)
            },
        }
    command = [sys.executable, __file__, "--whole-path", str(reference), *map(str, frames)]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    path = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)  # noqa: S603
    return {
        "machine": machine(),
        "subtraction": results,
        "real_frames": real or "not measured: set RBSIM_REAL_FRAMES to the folder with hatp32/ and decam/",
        "whole_path": json.loads(path.stdout),
    }


def emulated(cache: Path, n_frames: int) -> tuple[Path, list[Path]]:
    """A night with frames of the survey's size, made once."""
    folder = cache / f"night{n_frames}"
    if not folder.exists():
        demo = load_night("demo")
        detector = replace(demo.detector, nx_pix=2000, ny_pix=1128)
        emulate_night(folder, replace(demo, n_exposures=n_frames, detector=detector), seed=SEED)
    return folder / "reference.fits", sorted((folder / "science").glob("*.fits"))


def real_cases(folder: Path, cache: Path) -> list[Case]:
    gain = DetectorOptions(gain_e_per_adu=27.0)
    paths = sorted((folder / "hatp32").glob("*.fits"))
    stacked = cache / "hatp32.fits"
    if not stacked.exists():
        stack_reference(paths[:16], stacked, options=gain, rng=np.random.default_rng(1))
    reference = load_reference(stacked)
    cases = [prepare("hatp32", read_frame(paths[i], options=gain), reference) for i in (20, 30, 44)]
    gain = DetectorOptions(gain_e_per_adu=4.0)
    for dither in "abc":
        old, new = (
            read_frame(folder / "decam" / f"DEC-OBS{n}{dither}.fits", options=gain) for n in ("04", "18")
        )
        cases.append(prepare("decam", new, measure_reference(old)))
    return cases


def prepare(data: str, science: Frame, reference: Reference) -> Case:
    return Case(data, register_frame(science, reference, SubtractConfig()))


def run_engine(name: str, case: Case) -> object:
    pair = case.pair
    if name == "rbsim":
        return subtract(
            pair.science, pair.psf, pair.reference, pair.reference_fwhm_pix, pair.stars, config=case.config
        )
    widths = (pair.reference_fwhm_pix, pair.psf.fwhm_pix)
    fwhm_from, fwhm_to = widths if case.direction == "reference" else widths[::-1]
    return EXTERNAL[name][0](
        pair.science,
        pair.reference,
        direction=case.direction,
        fwhm_from_pix=fwhm_from,
        fwhm_to_pix=fwhm_to,
        kernel_order=KERNEL_ORDER,
        background_order=BACKGROUND_ORDER,
        stars_x_pix=pair.stars.x_pix,
        stars_y_pix=pair.stars.y_pix,
    )


def image_and_sigma(name: str, case: Case, difference: object) -> tuple[np.ndarray, np.ndarray]:
    """Difference without its median, and its noise propagated through the kernel."""
    image = difference.image - np.nanmedian(difference.image)
    if name == "rbsim":
        return image, np.sqrt(difference.variance)
    frames = (case.pair.reference, case.pair.science)
    source, target = frames if case.direction == "reference" else frames[::-1]
    finite = np.where(np.isfinite(source.variance), source.variance, 0)
    variance = target.variance + convolve_varying(finite, lambda x, y: difference.kernel_at(x, y) ** 2)
    return image, np.sqrt(variance) / (1 if case.direction == "reference" else difference.flux_scale)


def quality(cases: list[Case], engines: list[str]) -> tuple[dict, set]:
    """Residual noise per frame and engine; also the first, untimed call: compiling and planning are done."""
    figures: dict = {name: [] for name in engines}
    slow = set()
    for case in cases:
        images = {}
        for name in engines:
            start = time.perf_counter()
            images[name] = image_and_sigma(name, case, run_engine(name, case))
            if time.perf_counter() - start > SLOW_S:
                slow.add(name)
        common = ~case.pair.science.saturated & ~case.pair.reference.saturated
        for image, sigma in images.values():
            common &= np.isfinite(image) & np.isfinite(sigma)
        stars = case.pair.common.select(~case.pair.common.saturated & (case.pair.common.snr > 20))
        near = np.zeros(case.pair.science.shape, bool)
        pixels = stamps(stars, 2 * case.pair.psf.fwhm_pix, case.pair.science.shape)
        near[pixels[0], pixels[1]] = True
        medium = stars.select((stars.snr > 50) & (stars.snr < 300))
        y, x = stamps(medium, case.pair.psf.fwhm_pix, case.pair.science.shape)
        for name, (image, sigma) in images.items():
            whitened = np.where(common, image / sigma, np.nan)
            cut = whitened[y, x]
            cut = cut[np.isfinite(cut).all(axis=1)]
            chi2 = np.mean(cut**2, axis=1) if len(cut) else np.array([np.nan])
            figures[name].append(
                {
                    "noise_adu": robust(image[common]),
                    "noise_sigma": robust(whitened[common]),
                    "noise_near_stars_adu": robust(image[common & near]),
                    "noise_near_stars_sigma": robust(whitened[common & near]),
                    "star_chi2_median": float(np.median(chi2)),
                    "star_chi2_90": float(np.quantile(chi2, 0.9)),
                    "n_stars": len(chi2),
                    "common": float(np.mean(common)),
                }
            )
    return figures, slow


def stamps(stars: Sources, radius_pix: float, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (y, x) within a radius of each star that is not at the border, shape (n_stars, n_pixels)."""
    reach = int(np.ceil(radius_pix))
    dy, dx = (v.ravel() for v in np.mgrid[-reach : reach + 1, -reach : reach + 1])
    disc = np.hypot(dy, dx) <= radius_pix
    x, y = np.rint(stars.x_pix).astype(int), np.rint(stars.y_pix).astype(int)
    inside = (x >= 30) & (x < shape[1] - 30) & (y >= 30) & (y < shape[0] - 30)
    return y[inside, None] + dy[None, disc], x[inside, None] + dx[None, disc]


def robust(values: np.ndarray) -> float:
    return float(1.4826 * np.median(np.abs(values - np.median(values)))) if values.size else float("nan")


def timing(cases: list[Case], engines: list[str], slow: set, repeats: int) -> dict:
    seconds: dict = {name: {"wall": [], "cpu": [], "process": []} for name in engines}
    for repeat in range(repeats):
        for case in cases:
            for name in engines:
                if name in slow and (repeat or case is not cases[0]):
                    continue
                before, start = os.times(), time.perf_counter()
                run_engine(name, case)
                wall, after = time.perf_counter() - start, os.times()
                process = after.children_user + after.children_system
                process -= before.children_user + before.children_system
                own = after.user + after.system - before.user - before.system
                seconds[name]["wall"].append(wall)
                seconds[name]["cpu"].append(own + process)
                seconds[name]["process"].append(process)
    return seconds


def summary(figures: dict, seconds: dict, name: str) -> dict:
    """Seconds, noise (means over frames), and both relative to HOTPANTS."""
    own = seconds[name]
    row = {
        "n_timed": len(own["wall"]),
        "wall_min_s": min(own["wall"]),
        "wall_median_s": float(np.median(own["wall"])),
        "cpu_min_s": min(own["cpu"]),
        "cpu_median_s": float(np.median(own["cpu"])),
        "process_cpu_min_s": min(own["process"]),
        **{key: float(np.mean([f[key] for f in figures[name]])) for key in figures[name][0]},
    }
    if "hotpants" in figures:
        theirs = seconds["hotpants"]
        row["times_faster_wall"] = float(np.median(theirs["wall"])) / row["wall_median_s"]
        row["times_faster_cpu"] = min(theirs["cpu"]) / row["cpu_min_s"]
        for key in ("noise_adu", "noise_sigma", "noise_near_stars_adu", "noise_near_stars_sigma"):
            ratios = [o[key] / t[key] for o, t in zip(figures[name], figures["hotpants"], strict=True)]
            row[f"{key}_ratio"] = float(np.mean(ratios))
    return row


def whole_path(reference: str, *frames: str) -> dict:
    """Read, register, PSF, subtract, filter, detect; in a process of its own for its peak memory."""
    start = time.perf_counter()
    loaded = load_reference(reference)
    first = time.perf_counter() - start
    wall, cpu, n_found = [], [], []
    for path in frames:
        start, start_cpu = time.perf_counter(), time.process_time()
        done = subtract_frame(read_frame(path), loaded, SubtractConfig())
        found = detect(done.filtered, done.difference.bad)
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - start_cpu)
        n_found.append(len(found))
    return {
        "reference_s": first,
        "wall_s": wall,
        "cpu_s": cpu,
        "cpu_min_s": min(cpu),
        "cpu_median_s": float(np.median(cpu)),
        "n_detections": n_found,
        "peak_rss_mb": peak_rss_mb(),
    }


def peak_rss_mb() -> float:
    """Largest resident memory of this process.

    On Linux ru_maxrss starts with that of the process that started this one, so the kernel's own mark of
    this address space is read where there is one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        marks = [line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM")]
        return float(marks[0]) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def machine() -> dict:
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1] for line in info.read_text().splitlines() if "model name" in line]
    return {
        "cpu": names[0].strip() if names else platform.machine(),
        "cores": os.cpu_count(),
        "load_1min": os.getloadavg()[0],
        "python": platform.python_version(),
        "blas": sorted({f"{p['internal_api']} {p['version']}" for p in threadpool_info()}),
        "packages": {name: package_version(name) for name in ("numpy", "scipy", "sep", "sfft", "numba")},
        "hotpants": os.environ.get("RBSIM_HOTPANTS", "on PATH"),
        "temporary_files": tempfile.gettempdir(),
    }


def package_version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


COLUMNS = (
    ("wall min", "wall_min_s", "{:.3f}"),
    ("median", "wall_median_s", "{:.3f}"),
    ("cpu min", "cpu_min_s", "{:.3f}"),
    ("process", "process_cpu_min_s", "{:.3f}"),
    ("x faster", "times_faster_cpu", "{:.2f}"),
    ("noise ADU", "noise_adu", "{:.4g}"),
    ("ratio", "noise_adu_ratio", "{:.4f}"),
    ("sigma", "noise_sigma", "{:.4f}"),
    ("stars ADU", "noise_near_stars_adu", "{:.4g}"),
    ("ratio", "noise_near_stars_adu_ratio", "{:.4f}"),
    ("sigma", "noise_near_stars_sigma", "{:.4f}"),
    ("chi2", "star_chi2_median", "{:.3f}"),
    ("90 %", "star_chi2_90", "{:.3f}"),
)


def as_text(result: dict) -> str:
    lines = [f"{key}: {value}" for key, value in result["machine"].items()]
    lines.append(f"real frames: {result['real_frames']}")
    for data, block in result["subtraction"].items():
        ny, nx = block["shape"]
        lines.append(
            f"\n{data}: {block['n_frames']} frames of {nx} x {ny} px, {set(block['direction'])} convolved"
        )
        lines.append(f"{'engine':<9}" + "".join(f"{title:>10}" for title, _, _ in COLUMNS))
        for name, row in block["engines"].items():
            if "not_measured" in row:
                lines.append(f"{name:<9} not measured: {row['not_measured']}")
                continue
            cells = (form.format(row[key]) if key in row else "-" for _, key, form in COLUMNS)
            lines.append(f"{name:<9}" + "".join(f"{cell:>10}" for cell in cells))
    path = result["whole_path"]
    lines.append(
        "\nwhole path of rbsim (read, sources, register, PSF, subtract, filter, detect), emulated frames:"
    )
    lines.append(
        f"  cpu {path['cpu_min_s']:.2f} s (min), {path['cpu_median_s']:.2f} s (median) per frame;"
        f" reference {path['reference_s']:.2f} s once; peak memory {path['peak_rss_mb']:.0f} MB"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
