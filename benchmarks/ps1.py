r"""Seconds and memory of PS1 references: skycells of one sensor emulated, written, warped; drawn at once.

    OMP_NUM_THREADS=1 taskset -c 0 python benchmarks/ps1.py [--json] [--shift]

One sensor of 2000 x 1128 px is 51 Mpx of 0.25" skycells. The field has 6,000 stars and 20,000 galaxies per
square degree (high Galactic latitude). With ``--shift``: what moving a warped reference by a fraction of a
pixel does to its stars, with and without the smoothing of `rbsim.ps1.warp`.
"""

import argparse
import json
import platform
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
from astropy.wcs import WCS

from rbsim.emulate.tomoe.ps1_files import write_skycell
from rbsim.emulate.tomoe.ps1_images import draw_warped, emulate_skycells, skycell_parts
from rbsim.emulate.tomoe.ps1_settings import Ps1Settings
from rbsim.emulate.tomoe.scene import Galaxies, Stars
from rbsim.ps1.skycell import find_skycells
from rbsim.ps1.warp import warp
from rbsim.resample import interpolant, resample
from rbsim.transform import Transform

SHAPE = (1128, 2000)
RA_DEG, DEC_DEG = 50.3, 22.0
STARS_PER_DEG2, GALAXIES_PER_DEG2 = 6000, 20000
SCALE_DEG = 1.189 / 3600


def sensor() -> WCS:
    """The grid of a sensor, turned by 5 deg against the skycells."""
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [RA_DEG, DEC_DEG]
    wcs.wcs.crpix = [(SHAPE[1] + 1) / 2, (SHAPE[0] + 1) / 2]
    cos, sin = np.cos(np.radians(5)), np.sin(np.radians(5))
    wcs.wcs.cd = SCALE_DEG * np.array([[-cos, sin], [sin, cos]])
    return wcs


def magnitudes(n: int, bright: float, faint: float, slope: float, rng: np.random.Generator) -> np.ndarray:
    """Counts that rise by `slope` dex per magnitude."""
    return bright + np.log10(rng.uniform(size=n) * (10 ** (slope * (faint - bright)) - 1) + 1) / slope


def field(rng: np.random.Generator) -> tuple[Stars, Galaxies]:
    """Stars and galaxies over a square a little larger than the sensor."""
    half = 0.6 * SHAPE[1] * SCALE_DEG

    def places(n: int) -> tuple[np.ndarray, np.ndarray]:
        ra, dec = rng.uniform(-half, half, (2, n))
        return RA_DEG + ra / np.cos(np.radians(DEC_DEG)), DEC_DEG + dec

    n, m = (int(4 * half**2 * density) for density in (STARS_PER_DEG2, GALAXIES_PER_DEG2))
    moves = rng.normal(0, 5, (2, n))
    stars = Stars(*places(n), magnitudes(n, 8, 22, 0.25, rng), rng.normal(0, 0.3, n), *moves)
    galaxies = Galaxies(
        *places(m),
        magnitudes(m, 14, 22.5, 0.5, rng),
        rng.normal(0, 0.2, m),
        rng.lognormal(0.2, 0.5, m),
        rng.uniform(0, 0.6, m),
        np.full(m, 4.0),
        rng.lognormal(-0.5, 0.4, m),
        *rng.normal(0, 0.15, (2, m)),
    )
    return stars, galaxies


def measure() -> dict[str, float | str]:
    """Seconds of each step, one process."""
    wcs, rng = sensor(), np.random.default_rng(1)
    stars, galaxies = field(rng)
    parts = skycell_parts([(wcs, SHAPE)])
    facts: dict[str, float | str] = {
        "machine": platform.processor() or platform.machine(),
        "stars": len(stars.mag),
        "galaxies": len(galaxies.mag),
        "skycells": len(parts),
        "emulated_mpx": sum(part.shape[0] * part.shape[1] for part in parts) / 1e6,
    }
    with tempfile.TemporaryDirectory() as folder:
        emulated = written = 0.0
        cells = emulate_skycells(stars, galaxies, parts, rng=rng, epoch_yr=2023.0)
        while True:
            began = time.perf_counter()
            cell = next(cells, None)
            emulated += time.perf_counter() - began
            if cell is None:
                break
            began = time.perf_counter()
            write_skycell(Path(folder), cell)
            written += time.perf_counter() - began
        facts |= {"emulate_s": emulated, "write_s": written}
        began = time.perf_counter()
        result = warp(find_skycells(Path(folder), "r"), wcs, SHAPE)
        facts["warp_s"] = time.perf_counter() - began
        facts["masked_share"] = float(np.isnan(result.image).mean())
    began = time.perf_counter()
    draw_warped(stars, galaxies, wcs, SHAPE, rng=rng, epoch_yr=2023.0)
    facts["draw_warped_s"] = time.perf_counter() - began
    facts["peak_memory_gb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    return facts


def shift_error(smoothing_fwhm_pix: float, seeing_arcsec: float, shift_pix: float) -> float:
    """Largest error of a star's pixel, as a share of its flux, after a shift of the reference.

    The same field is drawn on two grids that differ by the shift, and the one is brought to the other.
    """
    shape, at = (200, 400), np.arange(20, 380, 24.37)
    settings = Ps1Settings(
        fwhm_arcsec=seeing_arcsec,
        fwhm_scatter=0,
        epoch_scatter_yr=0,
        n_inputs_scatter=0,
        depth_mag=30,
        gaps_per_deg2=0,
        holes_per_deg2=0,
        cosmic_rays_per_deg2=0,
        smoothing_fwhm_pix=smoothing_fwhm_pix,
    )
    wcs = sensor()
    ra, dec = wcs.pixel_to_world_values(at, np.linspace(20, 180, len(at)))
    n = len(at)
    stars = Stars(ra, dec, np.full(n, 16.0), *np.zeros((3, n)))
    none = Galaxies(*np.zeros((10, 0)))
    moved = wcs.deepcopy()
    moved.wcs.crpix += [shift_pix, shift_pix]
    images = [
        draw_warped(stars, none, w, shape, rng=np.random.default_rng(1), epoch_yr=2012.3, settings=settings)
        for w in (wcs, moved)
    ]
    ny, nx = shape
    half_x, half_y = (nx - 1) / 2, (ny - 1) / 2
    transform = Transform(
        np.array([half_x + shift_pix, half_x, 0.0]),
        np.array([half_y + shift_pix, 0.0, half_y]),
        1,
        shape,
        0,
        float("nan"),
    )
    back = resample(interpolant(images[1].image, images[1].variance, images[1].mask), transform)[0]
    flux = 10 ** (0.4 * (images[0].zero_point - 16))
    return float(np.nanmax(np.abs(back - images[0].image)) / flux)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--shift", action="store_true")
    asked = parser.parse_args()
    if asked.shift:
        for seeing in (1.0, 1.19, 1.4):
            for smoothing in (0.0, 1.0, 1.6, 2.0):
                worst = max(shift_error(smoothing, seeing, shift) for shift in (0.2, 0.5))
                print(
                    f"seeing {seeing:.2f} arcsec, smoothing {smoothing:.1f} px: {100 * worst:.2f} % of flux"
                )
        return
    facts = measure()
    if asked.json:
        print(json.dumps(facts, indent=1))
        return
    for name, value in facts.items():
        print(f"{name:16}  {value if isinstance(value, str) else f'{value:,.4g}'}")


if __name__ == "__main__":
    main()
