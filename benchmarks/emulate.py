"""What an emulated Tomo-e exposure of 2000 x 1128 px costs on one core, and how deep it is.

    OMP_NUM_THREADS=1 python benchmarks/emulate.py [--json FILE] [--conditions dark,crowded] [--n 5] [--depth]

Processor time of one process: what a sensor's exposures share (sky, pixels), a stack drawn at once with and
without artefacts, its parts, the FITS file, and a stack as the mean of its frames. With ``--depth`` also
the 5-sigma depth of a frame and of a stack under every condition, from the scatter of matched-filter fluxes.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rbsim.emulate.tomoe import exposure
from rbsim.emulate.tomoe.products import header_of, write_image
from rbsim.emulate.tomoe.sensor_night import SensorNight, Visit, make_sensor_night, weather_of
from rbsim.emulate.tomoe.settings import load_settings
from rbsim.emulate.tomoe.sky import Galaxies, Glow, Sky, Stars, Variables
from rbsim.emulate.tomoe.view import psf_of
from rbsim.tomoe.sensors import read_sensors

CONDITIONS = ("dark", "bright-moon", "cirrus", "poor-seeing", "windy", "warm-sensor", "crowded", "field-edge")
SENSOR = 111
EDGE_SENSOR = 115
HALF_PIX = 12
PROBE_MAG = 17.0


def timed(function: Callable[[], object], n: int) -> float:
    """Processor seconds of one call, median of `n`."""
    seconds = []
    for _ in range(n):
        start = time.process_time()
        function()
        seconds.append(time.process_time() - start)
    return float(np.median(seconds))


def measure(condition: str, n: int) -> dict[str, float | str]:
    """Seconds of the parts of one exposure."""
    settings = load_settings("all-sky", condition)
    number = EDGE_SENSOR if condition == "field-edge" else SENSOR
    sensor = read_sensors()[number]
    night = make_sensor_night(settings, sensor, seed=1)
    row: dict[str, float | str] = {"condition": condition, "n_stars": len(night.sky.stars.mag)}
    row["sensor_s"] = timed(lambda: make_sensor_night(settings, sensor, seed=1), max(1, n // 2))
    visits = iter(range(10**6))
    row["stack_s"] = timed(lambda: exposure.emulate_exposure(night, Visit(next(visits))), n)
    row["cube_s"] = timed(lambda: exposure.emulate_exposure(night, Visit(next(visits)), with_cube=True), 1)
    row["psf_s"] = timed(lambda: psf_of(night, weather_of(settings, Visit(0), seed=1)), n)
    made = exposure.emulate_exposure(night, Visit(0))
    header = header_of(
        made.name,
        made.wcs,
        kind="STACK",
        n_frames=settings.mode.n_stacked,
        mode=settings.mode,
        camera=settings.camera,
        temperature_k=made.weather.temperature_k,
        pointing=made.pointing,
    )
    with tempfile.TemporaryDirectory() as folder:
        paths = iter(range(10**6))
        row["write_s"] = timed(
            lambda: write_image(Path(folder) / f"{next(paths)}.fits", made.stack, header), n
        )
    kept, exposure.artefacts.all_layers = exposure.artefacts.all_layers, lambda *_args, **_kwargs: []
    try:
        row["stack_without_artefacts_s"] = timed(
            lambda: exposure.emulate_exposure(night, Visit(next(visits))), n
        )
    finally:
        exposure.artefacts.all_layers = kept
    return row


def probe_night(condition: str) -> tuple[SensorNight, np.ndarray, np.ndarray, np.ndarray]:
    """A sensor with a grid of equal stars, every second place of it empty, and nothing else in the sky."""
    settings = load_settings("all-sky", condition)
    number = EDGE_SENSOR if condition == "field-edge" else SENSOR
    night = make_sensor_night(settings, read_sensors()[number], seed=1)
    settings = dataclasses.replace(
        settings,
        mode=dataclasses.replace(settings.mode, dither_arcsec=0.0),
        optics=dataclasses.replace(settings.optics, wcs_shift_pix=0.0, wcs_corner_pix=0.0),
        transients=dataclasses.replace(settings.transients, flares_per_exposure=0.0),
    )
    ny, nx = night.shape
    y, x = (grid.ravel() for grid in np.mgrid[40 : ny - 40 : 45, 40 : nx - 40 : 45])
    is_star = (x // 45 + y // 45) % 2 == 0
    ra, dec = night.wcs.wcs_pix2world(x[is_star], y[is_star], 0)
    none = np.empty(0)
    zero = np.zeros(is_star.sum())
    sky = Sky(
        Stars(ra, dec, zero + PROBE_MAG, zero, zero, zero),
        Variables(np.empty(0, int), none, none, none),
        Galaxies(*np.zeros((10, 0))),
        Glow(none, none, np.empty(0, int), none),
        red_dwarfs=np.empty(0, int),
    )
    slow = dataclasses.replace(night.slow, **{key: value[:0] for key, value in vars(night.slow).items()})
    return dataclasses.replace(night, settings=settings, sky=sky, slow=slow), x, y, is_star


def depth(condition: str) -> dict[str, float | str]:
    """5-sigma magnitudes of a frame and a stack, of a field without anything that disturbs."""
    night, x, y, is_star = probe_night(condition)
    kept, exposure.artefacts.all_layers = exposure.artefacts.all_layers, lambda *_args, **_kwargs: []
    try:
        made = exposure.emulate_exposure(night, Visit(0), with_cube=True)
    finally:
        exposure.artefacts.all_layers = kept
    assert made.cube is not None
    psf = psf_of(night, made.weather).stamp(night.shape[1] / 2, night.shape[0] / 2, half_pix=HALF_PIX)
    row: dict[str, float | str] = {"condition": condition, "fwhm_arcsec": made.weather.fwhm_arcsec}
    for name, image in (("frame_mag", made.cube[5]), ("stack_mag", made.stack)):
        boxes = np.array(
            [
                image[v - HALF_PIX : v + HALF_PIX + 1, u - HALF_PIX : u + HALF_PIX + 1]
                for v, u in zip(y, x, strict=True)
            ]
        )
        # A filter of zero sum: the sky has a gradient.
        weight = psf - psf.mean()
        fluxes = np.sum(boxes * weight, axis=(1, 2)) / np.sum(weight * psf)
        signal, noise = np.mean(fluxes[is_star]), np.std(fluxes[~is_star])
        row[name] = PROBE_MAG + 2.5 * np.log10(signal / (5 * noise))
    return row


def table(rows: list[dict[str, float | str]]) -> str:
    """As markdown."""
    names = list(rows[0])
    lines = [names, ["---"] * len(names)]
    lines += [[f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--conditions", default="dark,crowded")
    parser.add_argument("--n", type=int, default=5)
    parser.add_argument("--depth", action="store_true")
    options = parser.parse_args()
    found = {"seconds": [measure(name, options.n) for name in options.conditions.split(",")]}
    print(table(found["seconds"]))
    if options.depth:
        found["depth"] = [depth(name) for name in CONDITIONS]
        print()
        print(table(found["depth"]))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
