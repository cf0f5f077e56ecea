r"""Are degraded frames what their condition says? Noise, FWHM and depth, measured over predicted.

    RBSIM_REAL_FRAMES=/path/to/frames python benchmarks/conditions.py [--markdown] [--stars]

Frames: three of `hatp32`, two of `decam`, one of the emulated night «demo». Each is degraded to every
condition of catalogs/conditions.toml; on the result noise and PSF are measured anew, with nothing known of
the condition. `--stars` instead injects the same stars into 6 frames of `hatp32` under several conditions
and compares them star by star.
"""

import argparse
import dataclasses
import os
import tempfile
from pathlib import Path

import numpy as np
from scipy.special import ndtr
from threadpoolctl import threadpool_limits

import catalogs
from rbsim.condition import load_condition
from rbsim.config import InjectConfig
from rbsim.degrade import degrade, measure_depth
from rbsim.emulate.night import emulate_night, load_night
from rbsim.errors import InputError
from rbsim.frame import Frame, read_frame, with_gain
from rbsim.inputs import find_gain, frame_tasks
from rbsim.psf import Psf
from rbsim.reference import psf_of, sources_of, stack_reference
from rbsim.run import run_injection
from rbsim.seeding import stream
from rbsim.sources import star_radius

SEED = 7
STAR_CONDITIONS = ("as observed", "cirrus", "bright-moon", "poor-seeing")


def psf_and_stars(frame: Frame) -> Psf:
    sources = sources_of(frame)
    return psf_of(frame, sources, star_radius(sources))


def frames_to_degrade(folder: Path | None, cache: Path) -> list[tuple[str, Frame]]:
    night = dataclasses.replace(load_night("demo"), n_exposures=1)
    emulate_night(cache / "night", night, seed=SEED)
    found = [("emulated", read_frame(next((cache / "night" / "science").glob("*.fits"))))]
    if folder is None:
        return found
    hatp32 = sorted(str(path) for path in (folder / "hatp32").glob("*.fits"))
    gain = find_gain(frame_tasks(hatp32, InjectConfig(), None, None, ""), InjectConfig(), lambda *_: None)
    assert gain is not None
    for number in (7, 20, 40):
        frame = read_frame(hatp32[number])
        found.append((f"hatp32 {number}", with_gain(frame, gain.gain_e_per_adu, gain.gain_err_e_per_adu)))
    decam = ((name, folder / "decam" / f"DEC-OBS{name}.fits") for name in ("04a", "18b"))
    found += [(f"decam {name}", read_frame(path)) for name, path in decam]
    return found


def table(frames: list[tuple[str, Frame]], *, markdown: bool) -> None:
    names = [name for name in catalogs.read_toml("conditions.toml") if not load_condition(name).is_neutral]
    head = ("frame", "condition", "noise", "FWHM px", "FWHM", "mag lost", "depth", "PSF stars")
    print_row(head, markdown=markdown)
    if markdown:
        print("|" + "---|" * len(head))
    for label, frame in frames:
        psf = psf_and_stars(frame)
        before = measure_depth(frame, psf)
        for name in names:
            made = degrade(frame, psf, load_condition(name), rng=stream(SEED, "condition", len(name)))
            wanted = made.predicted
            try:
                after = psf_and_stars(made.frame)
            except InputError as error:
                print_row((label, name, f"no PSF: {error}"), markdown=markdown)
                continue
            measured = measure_depth(made.frame, after)
            deep = 10 ** (-0.4 * (measured.limit_mag - wanted.limit_mag))
            cells = (
                label,
                name,
                f"{measured.noise_adu / wanted.noise_adu:.3f}",
                f"{wanted.fwhm_pix:.2f}",
                f"{measured.fwhm_pix / wanted.fwhm_pix:.3f}",
                f"{before.limit_mag - wanted.limit_mag:.2f}",
                f"{deep:.3f}",
                str(after.n_stars),
            )
            print_row(cells, markdown=markdown)


def print_row(cells: tuple[str, ...], *, markdown: bool) -> None:
    print(f"| {' | '.join(cells)} |" if markdown else "  ".join(f"{cell:<14}" for cell in cells))


def star_by_star(folder: Path, cache: Path, *, markdown: bool) -> None:
    """Inject the same stars into the same frames under each condition."""
    hatp32 = sorted(str(path) for path in (folder / "hatp32").glob("*.fits"))
    reference = cache / "reference.fits"
    stack_reference(hatp32[:16], reference, rng=stream(SEED, "gain"))
    gain = find_gain(frame_tasks(hatp32, InjectConfig(), None, None, ""), InjectConfig(), lambda *_: None)
    assert gain is not None  # 6 frames do not have enough different skies to estimate it
    head = (
        "condition",
        "stars",
        "of them flagged",
        "S/N left",
        "of limit mag",
        "detected",
        "expected",
        "found though lost before",
    )
    print_row(head, markdown=markdown)
    if markdown:
        print("|" + "---|" * len(head))
    first: dict[str, np.ndarray] = {}
    for name in STAR_CONDITIONS:
        config = InjectConfig(
            seed=SEED,
            stars_per_frame=60,
            realisations=3,
            snr_max=40.0,
            condition=load_condition(name),
            n_blocks=2,
            gain_e_per_adu=gain.gain_e_per_adu,
        )
        store = run_injection(hatp32[20:26], reference, cache / f"{name.replace(' ', '-')}.zarr", config)
        star = store.column("truth/injection_id") >= 0
        truth = {
            column: store.column(f"truth/{column}")[star]
            for column in (
                "injection_id",
                "x_pix",
                "mag",
                "snr",
                "snr_expected",
                "detected",
                "injection_flag",
            )
        }
        first = first or truth
        for same in ("injection_id", "x_pix"):
            assert np.array_equal(truth[same], first[same]), f"other stars under {name}"
        assert np.allclose(truth["mag"], first["mag"]), f"other magnitudes under {name}"
        both = (truth["injection_flag"] == 0) & (first["injection_flag"] == 0)
        known = both & np.isfinite(truth["snr_expected"])
        ok = store.column("frames/ok")
        lost = store.column("frames/limit_predicted_mag")[ok]
        before = [measure_depth(*as_observed(path, gain.gain_e_per_adu)).limit_mag for path in hatp32[20:26]]
        share = 10 ** (-0.4 * (np.array(before)[ok] - lost)) if np.isfinite(lost).all() else np.ones(1)
        new = both & truth["detected"] & ~first["detected"]
        cells = (
            name,
            str(len(both)),
            str(int((~both).sum())),
            f"{np.median(truth['snr'][both] / first['snr'][both]):.3f}",
            f"{np.median(share):.3f}",
            f"{truth['detected'][known].mean():.3f}",
            f"{ndtr(truth['snr_expected'][known] - config.threshold_snr).mean():.3f}",
            str(int(new.sum())),
        )
        print_row(cells, markdown=markdown)


def as_observed(path: str, gain_e_per_adu: float) -> tuple[Frame, Psf]:
    frame = with_gain(read_frame(path), float(gain_e_per_adu), 0.0)
    return frame, psf_and_stars(frame)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--stars", action="store_true", help="compare injected stars instead")
    given = parser.parse_args()
    real = os.environ.get("RBSIM_REAL_FRAMES")
    folder = Path(real) if real else None
    with tempfile.TemporaryDirectory() as cache, threadpool_limits(1):
        if not given.stars:
            table(frames_to_degrade(folder, Path(cache)), markdown=given.markdown)
        elif folder is None:
            print("not measured: RBSIM_REAL_FRAMES is not set")
        else:
            star_by_star(folder, Path(cache), markdown=given.markdown)


if __name__ == "__main__":
    main()
