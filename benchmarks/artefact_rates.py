r"""Does a subtraction find what the emulator spoils? Per class: instances, detected share, mean triplet.

    python benchmarks/artefact_rates.py NIGHT ... [--reference ps1] [--markdown] [--out docs/artefacts]
    python benchmarks/artefact_rates.py /tmp/dark --make dark --exposures 4 --sensors 111,222 --rich

`--reference tomoe` stacks each sensor's earlier epochs instead, and leaves out what only another survey has.
NIGHT is a folder of `rbsim emulate --mode`; with `--make CONDITION` it is made first, with `--rich` with
far more of what is rare (`RICH`).

Every frame goes the way of `rbsim subtract`: registration, subtraction, S/N map, detection at 5 sigma.
Every detection that is no transient is put down to an instance of the truth table or to none
(`rbsim.cause`); trails of near-Earth objects, which are transients too, stay. An instance is «detected» if a
detection is put down to it. What chance does is measured by the same with the instances of that class moved
by 50 px, and all others where they are: the column «by chance». Classes that mark a place where something
may be left (stars, edges) rather than added light have a share that says how often it is.

Pictures: one PNG per class: reference, science and difference, first the mean over all its
detections, then the typical one (of median S/N).
"""

import argparse
import dataclasses
import json
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from astropy.io import fits
from PIL import Image
from threadpoolctl import threadpool_limits

from rbsim.cause import TrueArtefacts, find_instances, joined, onto_frame, read_artefacts
from rbsim.chain import Subtracted, subtract_frame
from rbsim.config import InjectConfig
from rbsim.detect import Detections, detect
from rbsim.emulate.tomoe.night import NightPlan, choose_sensors, emulate_tomoe_night
from rbsim.emulate.tomoe.settings import load_settings
from rbsim.errors import InputError
from rbsim.frame import read_frame
from rbsim.inputs import find_frames
from rbsim.judge import find_transients, on_trail
from rbsim.observe import stamps_of
from rbsim.reference import stack_reference
from rbsim.references import ReferenceCache, find_reference, read_cards
from rbsim.schema import ARTEFACTS, STAMP_SIZE_PIX
from rbsim.true_transients import TrueTransients, read_truth

CHANCE_SHIFT_PIX = 50.0
RICH = {
    "satellite_glint": 2000.0,
    "satellite_streak": 200.0,
    "moving_object": 500.0,
    "cosmic_ray": 10.0,
    "banding": 10.0,
    "bad_column": 3.0,
    "clouds": 10.0,
    "ghost": 30.0,
    "crosstalk": 5.0,
    "image_edge": 4.0,
}
"""Rates over the natural ones; of ghosts, echoes and borders it is the strength."""
SEED = 2026
ZOOM = 3
MOST_STAMPS = 400
"""Of a class and frame; enough for a mean."""
LOW_SIGMA, HIGH_SIGMA = 2.0, 8.0


@dataclass
class Tally:
    """What was found of one class, over all frames."""

    n: int = 0
    n_detected: int = 0
    n_by_chance: int = 0
    n_detections: int = 0
    n_positive: int = 0
    snr: list[float] = field(default_factory=list)
    stamps: list[np.ndarray] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Explained:
    """A frame, what is in it, and what was detected: each bogus with its row in `artefacts`, or -1."""

    name: str
    frame: Subtracted
    artefacts: TrueArtefacts
    bogus: Detections
    instance: np.ndarray
    transients: Detections


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("nights", type=Path, nargs="+", help="folders of rbsim emulate")
    parser.add_argument("--reference", default="ps1", choices=("ps1", "tomoe"))
    parser.add_argument("--make", metavar="CONDITION", help="make the first night before")
    parser.add_argument("--exposures", type=int, default=4)
    parser.add_argument("--sensors", default="111,222")
    parser.add_argument("--rich", action="store_true", help="with more of what is rare")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--out", type=Path, help="folder for one PNG per class")
    options = parser.parse_args()
    if options.make:
        make_night(options.nights[0], options)
    tallies: dict[str, Tally] = defaultdict(Tally)
    n_frames = n_unexplained = 0
    with threadpool_limits(1):
        for night in options.nights:
            if options.reference == "tomoe":
                stack_epochs(night)
            some, unexplained = measure(night, options.reference, tallies)
            n_frames, n_unexplained = n_frames + some, n_unexplained + unexplained
    if options.out is not None:
        options.out.mkdir(parents=True, exist_ok=True)
        for name, tally in tallies.items():
            if tally.stamps:
                picture(tally, options.out / f"{name}.png")
    report(tallies, n_frames, n_unexplained, as_json=options.json, markdown=options.markdown)


def make_night(out: Path, options: argparse.Namespace) -> None:
    settings = load_settings("all-sky", options.make)
    if options.rich:
        condition = dataclasses.replace(settings.condition, artefact_rates=RICH)
        settings = dataclasses.replace(settings, condition=condition)
    sensors = choose_sensors(options.sensors, settings.condition)
    n_epochs = 8 if options.reference == "tomoe" else 0
    plan = NightPlan(settings, sensors, n_exposures=options.exposures, n_epochs=n_epochs, seed=SEED)
    emulate_tomoe_night(out, plan, overwrite=True)


def stack_epochs(night: Path) -> None:
    """A reference per sensor in ``tomoe/``."""
    by_sensor: dict[int, list[Path]] = defaultdict(list)
    for path in sorted((night / "epochs").glob("*.fits")):
        by_sensor[fits.getval(path, "DET_ID")].append(path)
    (night / "tomoe").mkdir(exist_ok=True)
    for sensor, paths in by_sensor.items():
        stack_reference(
            paths, night / "tomoe" / f"{sensor}.fits", overwrite=True, rng=np.random.default_rng(SEED)
        )


def measure(night: Path, reference: str, tallies: dict[str, Tally]) -> tuple[int, int]:
    """Add to the tallies (in place); number of frames, and of detections that nothing explains."""
    n_frames = n_unexplained = 0
    for one in explained(night, reference):
        frame, rows, found, instance = one.frame, one.artefacts, one.bogus, one.instance
        n_frames += 1
        n_unexplained += int(np.count_nonzero(instance < 0))
        stamps = stamps_of(frame, frame.science, frame.difference, found)
        for kind in ARTEFACTS:
            mine = np.flatnonzero(rows.code == kind.code)
            here = np.flatnonzero(np.isin(instance, mine))
            if not len(mine):
                continue
            tally = tallies[kind.name]
            tally.n += len(mine)
            tally.n_detected += len(np.unique(instance[here]))
            elsewhere = np.unique(caused(frame, found, moved(rows, mine, frame.science.shape)))
            tally.n_by_chance += int(np.isin(elsewhere, mine).sum())
            tally.n_detections += len(here)
            tally.n_positive += int(found.is_positive[here].sum())
            tally.snr += np.abs(found.snr[here]).tolist()
            whole = here[np.isfinite(stamps.noise_adu[here])][:MOST_STAMPS]
            sign = np.where(found.is_positive[whole], 1, -1)
            pixels = stamps.pixels[whole] / stamps.noise_adu[whole, None, None, None]
            # Negative ones are shown with their difference turned round, science and reference as they are.
            pixels[:, 2] *= sign[:, None, None]
            tally.stamps += list(pixels)
    return n_frames, n_unexplained


def explained(night: Path, reference: str) -> Iterator[Explained]:
    """Every frame that is not refused, against the folder `reference` of the night."""
    truth, artefacts = read_truth(night / "truth.ecsv"), read_artefacts(night / "artefacts.ecsv")
    for name, frame, reference_name in differences(night, night / reference):
        rows = artefacts[name]
        if reference_name in artefacts:
            rows = joined(rows, onto_frame(artefacts[reference_name], frame.transform))
        rows = selected(rows, on_sensor(rows, frame.science.shape))
        if reference == "tomoe":
            rows = selected(rows, ~np.isin(rows.code, [a.code for a in ARTEFACTS if a.other_survey]))
        transients = truth.get(name, TrueTransients.none())
        found, is_real = detected(frame, transients)
        instance = caused(frame, found.select(~is_real), rows)
        yield Explained(name, frame, rows, found.select(~is_real), instance, found.select(is_real))


def differences(night: Path, reference: Path) -> Iterator[tuple[str, Subtracted, str]]:
    """Name of each frame, its difference, and the name of the reference file."""
    references = ReferenceCache(read_cards(find_frames([reference])))
    for path in find_frames([night / "science"]):
        try:
            science = read_frame(path)
            number = find_reference(references.cards, science)
            frame = subtract_frame(science, references.get(number), InjectConfig().subtract)
        except InputError as error:
            print(f"{path}: left out: {error}")
            continue
        yield Path(path).name, frame, Path(references.cards[number].path).name


def on_sensor(rows: TrueArtefacts, shape: tuple[int, int]) -> np.ndarray:
    """Those whose middle is on the frame."""
    inside = (rows.x_pix > -0.5) & (rows.x_pix < shape[1] - 0.5)
    return inside & (rows.y_pix > -0.5) & (rows.y_pix < shape[0] - 0.5)


def moved(rows: TrueArtefacts, some: np.ndarray, shape: tuple[int, int]) -> TrueArtefacts:
    """The same with some instances displaced towards the middle of the frame, all others where they are."""
    x, y = rows.x_pix.copy(), rows.y_pix.copy()
    x[some] += np.where(x[some] < shape[1] / 2, CHANCE_SHIFT_PIX, -CHANCE_SHIFT_PIX)
    y[some] += np.where(y[some] < shape[0] / 2, CHANCE_SHIFT_PIX, -CHANCE_SHIFT_PIX)
    return dataclasses.replace(rows, x_pix=x, y_pix=y)


def selected(rows: TrueArtefacts, keep: np.ndarray) -> TrueArtefacts:
    return TrueArtefacts(**{name: values[keep] for name, values in vars(rows).items()})


def detected(frame: Subtracted, transients: TrueTransients) -> tuple[Detections, np.ndarray]:
    """Detections of both signs, and which of them are the emulator's transients, but for trails."""
    config = InjectConfig()
    found = detect(
        frame.filtered,
        frame.difference.bad,
        threshold_snr=config.threshold_snr,
        psf_at=frame.difference.psf_at,
    )
    real = find_transients(frame, transients, found, config)
    return found, real & ~on_trail(transients, found, reach_pix=frame.psf.fwhm_pix)


def caused(frame: Subtracted, found: Detections, rows: TrueArtefacts) -> np.ndarray:
    return find_instances(
        found.x_pix, found.y_pix, found.is_positive, rows, fwhm_pix=frame.psf.fwhm_pix, snr=found.snr
    )


def report(
    tallies: dict[str, Tally], n_frames: int, n_unexplained: int, *, as_json: bool, markdown: bool
) -> None:
    everywhere = {kind.name for kind in ARTEFACTS if kind.extent == "frame"}
    rows = [
        {
            "class": name,
            "instances": tally.n,
            "detected": tally.n_detected / tally.n,
            "by chance": float("nan") if name in everywhere else tally.n_by_chance / tally.n,
            "detections per frame": tally.n_detections / n_frames,
            "positive": tally.n_positive / max(tally.n_detections, 1),
            "median S/N": float(np.median(tally.snr)) if tally.snr else float("nan"),
        }
        for name, tally in sorted(tallies.items(), key=lambda item: -item[1].n_detections)
    ]
    total = sum(tally.n_detections for tally in tallies.values()) / n_frames
    left = n_unexplained / n_frames
    if as_json:
        print(json.dumps({"frames": n_frames, "unexplained per frame": left, "classes": rows}, indent=2))
        return
    cells = [list(rows[0])] if rows else []
    for row in rows:
        name, *numbers = row.values()
        cells.append([str(name), *(f"{value:.3g}" for value in numbers)])
    edge = "| " if markdown else ""
    for number, line in enumerate(cells):
        joint = " | " if markdown else "  "
        print(edge + joint.join(cell if markdown else f"{cell:>20}" for cell in line) + edge[::-1])
        if markdown and number == 0:
            print("|" + "---|" * len(line))
    print(f"{n_frames} frames: {total:.1f} detections per frame with a cause, {left:.1f} without")


def picture(tally: Tally, path: Path) -> None:
    """Mean triplet and that of median S/N, side by side, in units of the noise."""
    order = np.argsort([np.nanmax(stamp[2]) for stamp in tally.stamps])
    typical = tally.stamps[int(order[len(order) // 2])]
    # A saturated star would be the whole mean: each triplet counts with the peak of its difference as 1.
    scaled = [stamp / max(float(np.nanmax(np.abs(stamp[2, 11:18, 11:18]))), 1.0) for stamp in tally.stamps]
    total = np.nansum(scaled, axis=0)
    mean = total / np.maximum(np.isfinite(scaled).sum(axis=0), 1)
    mean *= HIGH_SIGMA / max(float(np.nanmax(np.abs(mean[2]))), 1e-6)
    gap = 2
    canvas = Image.new("L", (6 * (STAMP_SIZE_PIX * ZOOM + gap) + 6 * gap, STAMP_SIZE_PIX * ZOOM), 255)
    x = 0
    for triplet in (mean, typical):
        for number, plane in enumerate(triplet):
            canvas.paste(panel(plane, is_difference=number == 2), (x, 0))
            x += STAMP_SIZE_PIX * ZOOM + gap
        x += 5 * gap
    canvas.quantize(48).save(path, optimize=True)


def panel(plane: np.ndarray, *, is_difference: bool) -> Image.Image:
    """Sky images in asinh, differences linear about grey; pixels without value are white."""
    if is_difference:
        shown = plane / HIGH_SIGMA * 0.5 + 0.5
    else:
        shown = (np.arcsinh(plane / LOW_SIGMA) + 0.8) / (np.arcsinh(60 / LOW_SIGMA) + 0.8)
    grey = np.where(np.isfinite(shown), np.clip(shown, 0, 1) * 230, 255).astype(np.uint8)
    return Image.fromarray(np.kron(grey[::-1], np.ones((ZOOM, ZOOM), np.uint8)))


if __name__ == "__main__":
    main()
