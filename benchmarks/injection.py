r"""Stars per second of one core through injection, beside GalSim's bare drawing of the same PSF images.

    RBSIM_REAL_FRAMES=/path/to/frames python benchmarks/injection.py [--json] [--cache DIR]

Bare means the loop that only draws: one `InterpolatedImage` of the frame's PSF per star, oversampled as its
FWHM needs, and `drawImage(method="no_pixel")` into a stamp of the same size. Its two parts are timed apart,
because images can be made once and drawn often; the ratio is to the drawing alone, the faster of the two.
Timed calls are interleaved, so that a busy machine is busy for all, and the fastest of each counts.
"""

import argparse
import json
import os
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import galsim
import numpy as np
from threadpoolctl import threadpool_limits

from rbsim import psf as psf_model
from rbsim.chain import Subtracted, subtract_frame
from rbsim.config import SubtractConfig
from rbsim.draw import draw_stars
from rbsim.emulate.night import emulate_night, load_night
from rbsim.frame import DetectorOptions, read_frame
from rbsim.inject import inject, inject_frame
from rbsim.lights import Lights, point_lights
from rbsim.place import place
from rbsim.psf import Psf
from rbsim.reference import load_reference, stack_reference

SEED = 7
N_STARS = {"emulated": (150, 600), "hatp32": (100,)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of a table")
    parser.add_argument("--repeats", type=int, default=7, help="timed calls of each (default 7)")
    parser.add_argument("--cache", type=Path, default=Path(tempfile.gettempdir()) / "rbsim-benchmark")
    options = parser.parse_args()
    options.cache.mkdir(parents=True, exist_ok=True)
    with threadpool_limits(1):
        rows = [
            measure(name, frame, n_stars, options.repeats)
            for name, frame in cases(options.cache)
            for n_stars in N_STARS[name.split(",")[0]]
        ]
    print(json.dumps(rows, indent=1) if options.json else as_text(rows))


def cases(cache: Path) -> list[tuple[str, Subtracted]]:
    """Subtracted frames: an emulated one of 2000 x 1128 px, and hatp32 in both directions."""
    folder = cache / "night3"
    if not folder.exists():
        demo = load_night("demo")
        detector = replace(demo.detector, nx_pix=2000, ny_pix=1128)
        emulate_night(folder, replace(demo, n_exposures=3, detector=detector), seed=SEED)
    science = sorted((folder / "science").glob("*.fits"))[0]
    reference = load_reference(folder / "reference.fits")
    pairs = [("emulated", read_frame(science), reference, "reference")]
    real = os.environ.get("RBSIM_REAL_FRAMES")
    if real:
        paths = sorted((Path(real) / "hatp32").glob("*.fits"))
        gain = DetectorOptions(gain_e_per_adu=27.0)
        stacked = cache / "hatp32.fits"
        if not stacked.exists():
            stack_reference(paths[:16], stacked, options=gain, rng=np.random.default_rng(1))
        frame, reference = read_frame(paths[30], options=gain), load_reference(stacked)
        pairs += [("hatp32", frame, reference, direction) for direction in ("reference", "science")]
    return [
        (f"{name}, {direction} convolved", subtract_frame(frame, ref, SubtractConfig(convolve=direction)))
        for name, frame, ref, direction in pairs
    ]


def measure(name: str, frame: Subtracted, n_stars: int, repeats: int) -> dict:
    """Stars per second of each way, for one set of stars."""
    lights = stars_for(frame, n_stars)
    n_stars = len(lights)
    made = galsim_images(frame.psf, lights)
    ways: dict[str, Callable[[], object]] = {
        "galsim_images": lambda: galsim_images(frame.psf, lights),
        "galsim_draw": lambda: galsim_draw(made, frame.psf, lights),
        "draw_stars": lambda: draw_stars(frame.psf, lights.x_pix, lights.y_pix, lights.flux_adu),
        "inject_frame": lambda: inject_frame(
            frame.science, frame.psf, lights, rng=np.random.default_rng(SEED)
        ),
        "inject": lambda: inject(
            frame.science, frame.psf, frame.difference, lights, rng=np.random.default_rng(SEED)
        ),
    }
    seconds = dict.fromkeys(ways, np.inf)
    for _ in range(repeats):
        for way, call in ways.items():
            start = time.process_time()
            call()
            seconds[way] = min(seconds[way], time.process_time() - start)
    rates = {way: n_stars / taken for way, taken in seconds.items()}
    return {
        "case": name,
        "shape": list(frame.science.shape),
        "fwhm_pix": round(frame.psf.fwhm_pix, 2),
        "stamp_pix": 2 * frame.psf.half_pix + 1,
        "n_stars": n_stars,
        **{f"{way}_per_s": round(rate) for way, rate in rates.items()},
        "bare_per_s": round(1 / (1 / rates["galsim_images"] + 1 / rates["galsim_draw"])),
        "inject_frame_to_draw": round(rates["inject_frame"] / rates["galsim_draw"], 2),
        "inject_to_draw": round(rates["inject"] / rates["galsim_draw"], 2),
        "memory_mb": round(peak_memory(ways["inject"]) / 1e6, 1),
    }


def stars_for(frame: Subtracted, n_stars: int) -> Lights:
    """Stars as rbsim inject draws them: apart, log-uniform in S/N; fewer if they do not fit."""
    rng = np.random.default_rng(SEED)
    places = place(
        ~frame.difference.bad & np.isfinite(frame.filtered.flux_err_adu),
        frame.hosts,
        n_stars=n_stars,
        near_galaxy=0.0,
        fwhm_pix=frame.psf.fwhm_pix,
        rng=rng,
    )
    line, column = np.rint(places.y_pix).astype(int), np.rint(places.x_pix).astype(int)
    snr = np.exp(rng.uniform(np.log(5), np.log(100), len(line)))
    return point_lights(places.x_pix, places.y_pix, snr * frame.filtered.flux_err_adu[line, column])


def galsim_images(psf: Psf, lights: Lights) -> list[galsim.InterpolatedImage]:
    """GalSim's objects of the PSF at each star; the profiles themselves are not timed apart."""
    oversample = 4 if psf.fwhm_pix < 3 else 2
    size = 2 * psf.half_pix + 1
    key = (id(psf), lights.x_pix.tobytes())
    if key not in _PROFILES:
        _PROFILES[key] = psf_model.sample(psf, lights.x_pix, lights.y_pix, oversample=oversample)
    return [
        galsim.InterpolatedImage(
            galsim.Image(profile, scale=1 / oversample),
            x_interpolant="quintic",
            normalization="flux",
            flux=flux,
            pad_factor=1,  # only Fourier methods need more
            _force_stepk=np.pi / size,
            _force_maxk=np.pi * oversample,
        )
        for profile, flux in zip(_PROFILES[key], lights.flux_adu, strict=True)
    ]


_PROFILES: dict = {}


def galsim_draw(stars: list[galsim.InterpolatedImage], psf: Psf, lights: Lights) -> np.ndarray:
    size = 2 * psf.half_pix + 1
    out = np.empty((len(stars), size, size))
    corner_x = np.rint(lights.x_pix).astype(int) - psf.half_pix
    corner_y = np.rint(lights.y_pix).astype(int) - psf.half_pix
    for i, star in enumerate(stars):
        star.drawImage(
            galsim.Image(out[i], xmin=1, ymin=1, scale=1.0),
            method="no_pixel",
            center=galsim.PositionD(lights.x_pix[i] - corner_x[i] + 1, lights.y_pix[i] - corner_y[i] + 1),
        )
    return out


def peak_memory(call: Callable[[], object]) -> int:
    """Highest number of bytes that a call holds at a time."""
    tracemalloc.start()
    call()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak


def as_text(rows: list[dict]) -> str:
    columns = {
        "case": "frame",
        "n_stars": "stars",
        "fwhm_pix": "FWHM px",
        "stamp_pix": "stamp px",
        "bare_per_s": "bare /s",
        "galsim_draw_per_s": "draw only /s",
        "draw_stars_per_s": "draw_stars /s",
        "inject_frame_per_s": "inject_frame /s",
        "inject_per_s": "inject /s",
        "inject_frame_to_draw": "frame : draw",
        "inject_to_draw": "inject : draw",
        "memory_mb": "peak MB",
    }
    lines = ["| " + " | ".join(columns.values()) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(row[name]) for name in columns) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
