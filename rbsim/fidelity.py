"""How well injected stars pass for real ones: `rbsim fidelity`, from frames to a folder with a report.

The network that tries to tell them apart is handed in by the command line, for nothing here knows torch.
"""

import json
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rbsim import __version__, fidelity_photometry, fidelity_stamps
from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.fidelity_facts import WIDE_FACTOR, control_facts, headline, named, residual_facts
from rbsim.fidelity_figures import auc_figure, photometry_figures, residual_figures
from rbsim.fidelity_gather import frame_stars, identify, load, sizes, survey
from rbsim.fidelity_page import write_page
from rbsim.fidelity_photometry import Photometry, measure_photometry
from rbsim.fidelity_sample import SNR_BINS, FrameStars, Pairs, concatenate_pairs, pair_stars, widened
from rbsim.folder import new_folder
from rbsim.frame import DetectorOptions
from rbsim.inputs import FrameTask, find_gain, frame_tasks, refuse_mix_ups
from rbsim.reference import Progress
from rbsim.seeding import stream

log = logging.getLogger(__name__)

MAX_PAIRS = 30_000
N_PHOTOMETRY, MAX_REALISATIONS = 3000, 20
PROOF = "fidelity.json"


class TellApart(Protocol):
    """What `rbmodel.two_sample.tell_apart` does: held-out scores, and a row with the AUC of each bin."""

    def __call__(  # noqa: D102
        self,
        stamps: np.ndarray,
        is_real: np.ndarray,
        star: np.ndarray,
        fold: np.ndarray,
        snr_bin: np.ndarray,
        n_bins: int,
        *,
        seed: int,
        progress: Progress | None = None,
    ) -> tuple[np.ndarray, list[dict[str, Any]]]: ...


@dataclass(eq=False)
class _Collected:
    """What the frames gave so far, in the order of the frames."""

    pairs: list[Pairs] = field(default_factory=list)
    wide: list[Pairs] = field(default_factory=list)
    photometry: list[Photometry] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)


def run_fidelity(
    frames: Sequence[str],
    out: Path,
    config: InjectConfig,
    *,
    tell_apart: TellApart,
    max_frames: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure the fidelity of injection on frames and write the report.

    Parameters
    ----------
    frames : sequence of str
        FITS files of one field, see `find_frames`; gain, saturation and so on as for an injection.
    out : Path
        Folder to make: ``index.html``, ``fidelity.json`` and the figures as PNG.
    config : InjectConfig
        Its seed, detector options and PSF order count.
    tell_apart : callable
        See `TellApart`.
    max_frames : int, optional
        Use at most so many, evenly spread over the night.
    overwrite : bool
    progress : callable, optional
        Called with (description, done, total).

    Returns
    -------
    dict
        What ``fidelity.json`` holds; None for what could not be measured, with a reason beside it.

    Raises
    ------
    InputError
        For unusable arguments, or if no frame could be used.
    """
    tell = progress or (lambda *_: None)
    with new_folder(out, overwrite=overwrite, proof=PROOF, command="rbsim fidelity") as work:
        tasks = frame_tasks(frames, config, None, None, "")
        refuse_mix_ups(tasks, (), out, None, None, None)
        collected, failed = _measure_frames(tasks, config, max_frames, tell)
        if not collected.rows:
            raise InputError(
                f"none of {len(tasks)} frames could be used; the first: {next(iter(failed.values()))}"
            )
        pairs, wide = concatenate_pairs(collected.pairs), concatenate_pairs(collected.wide)
        photometry = fidelity_photometry.concatenate(collected.photometry)
        scores, rows = _two_sample(pairs, tell_apart, config.seed, tell, "telling apart")
        _, wide_rows = _two_sample(wide, tell_apart, config.seed, tell, "telling a wide PSF apart")
        photometric = fidelity_photometry.summary(photometry)
        controls = control_facts(wide_rows, photometric)
        facts = headline(rows, controls) | {
            "flux_bias": photometric["flux_bias"],
            "flux_pull_std": photometric["flux_pull_std"],
            "bins": named(rows),
            "controls": controls,
            "photometry": photometric,
            "residuals": residual_facts(pairs),
            "frames": collected.rows,
            "failed": failed,
            "n_frames": len(collected.rows),
            "n_stars": len(np.unique(pairs.star)),
            "n_real": len(pairs.star),
            "n_without_partner": int(sum(row["n_selected"] - row["n_pairs"] for row in collected.rows)),
            "settings": _settings(config, pairs),
            "versions": {
                "rbsim": __version__,
                **{name: version(name) for name in ("numpy", "scipy", "galsim", "sep", "torch")},
            },
        }
        tell("writing the report", 0, 1)
        figures = [
            auc_figure(rows, wide_rows, work),
            *residual_figures(pairs, scores, work),
            *photometry_figures(photometry, work),
        ]
        (work / PROOF).write_text(json.dumps(facts, indent=1, allow_nan=False) + "\n")
        write_page(facts, figures, work / "index.html")
        tell("writing the report", 1, 1)
    return facts


def _measure_frames(
    tasks: Sequence[FrameTask], config: InjectConfig, max_frames: int | None, tell: Progress
) -> tuple[_Collected, dict[str, str]]:
    options = DetectorOptions(
        config.gain_e_per_adu, config.read_noise_e, config.saturation_adu, config.zero_point_mag
    )
    gain = find_gain(tasks, config, tell)  # of all frames, else a few would do that do not say it
    if max_frames is not None and len(tasks) > max_frames:
        tasks = [tasks[i * len(tasks) // max_frames] for i in range(max_frames)]
    surveyed, failed = survey(tasks, options, gain, tell)
    collected = _Collected()
    if not surveyed:
        return collected, failed
    names = identify(surveyed, rng=stream(config.seed, "split"))
    half, isolation = sizes(surveyed)
    n_most = max(1, MAX_PAIRS // (len(SNR_BINS) * len(surveyed)))
    for number, one in enumerate(surveyed):
        tell("injecting partners", number, len(surveyed))
        key = one.task.key
        try:
            frame = load(one.task, options, gain)
            stars = frame_stars(
                one,
                frame,
                names.star[number],
                names.fold[number],
                half=half,
                isolation_pix=isolation,
                n_most=n_most,
                psf_order=config.psf_order,
                rng=stream(config.seed, "thin", key),
            )
        except InputError as error:
            failed[one.task.path] = str(error)
            continue
        pairs = pair_stars(stars, psf=stars.psf, rng=stream(config.seed, "place", key))
        # The same stream: the control differs by the width of the PSF alone.
        wide = pair_stars(stars, psf=widened(stars.psf, WIDE_FACTOR), rng=stream(config.seed, "place", key))
        collected.pairs.append(pairs)
        collected.wide.append(wide)
        collected.photometry += _photometry(stars, len(surveyed), config.seed, key)
        collected.rows.append(_frame_row(stars, pairs))
    tell("injecting partners", len(surveyed), len(surveyed))
    return collected, failed


def _photometry(stars: FrameStars, n_frames: int, seed: int, key: int) -> list[Photometry]:
    """As many realisations as the frame's share of all stars takes."""
    wanted, parts = math.ceil(N_PHOTOMETRY / n_frames), []
    for realisation in range(MAX_REALISATIONS):
        rng = stream(seed, "flux", key, realisation)
        part = measure_photometry(stars.frame, stars.psf, stars.sources, n_stars=wanted, rng=rng)
        parts.append(part)
        wanted -= len(part.snr)
        if wanted <= 0:
            break
    return parts


def _frame_row(stars: FrameStars, pairs: Pairs) -> dict[str, Any]:
    detector, psf = stars.frame.detector, stars.psf
    chi2 = psf.quality.chi2_per_pixel
    return {
        "frame": stars.frame.name,
        "fwhm_pix": psf.fwhm_pix,
        "psf_stars": psf.n_stars,
        "psf_order": psf.order,
        "psf_chi2_per_pixel": chi2 if math.isfinite(chi2) else None,
        "folds_without_own_psf": sum(one is psf for one in stars.fold_psfs),
        "n_sources": len(stars.sources),
        "n_selected": pairs.n_selected,
        "n_pairs": len(pairs.star),
        "gain_e_per_adu": detector.gain_e_per_adu,
        "gain_err_e_per_adu": detector.gain_err_e_per_adu,
    }


def _two_sample(
    pairs: Pairs, tell_apart: TellApart, seed: int, tell: Progress, description: str
) -> tuple[np.ndarray, list[dict[str, Any]]]:
    """Scores of the real stamps, then of the injected ones, and the AUC of each bin."""
    n = len(pairs.star)
    both = [fidelity_stamps.channels(one, pairs.fwhm_pix) for one in (pairs.real, pairs.injected)]
    return tell_apart(
        np.concatenate(both),
        np.repeat([True, False], n),
        np.tile(pairs.star, 2),
        np.tile(pairs.fold, 2),
        np.tile(pairs.snr_bin, 2),
        len(SNR_BINS),
        seed=seed,
        progress=lambda _, done, total: tell(description, done, total),
    )


def _settings(config: InjectConfig, pairs: Pairs) -> dict[str, Any]:
    names = ("seed", "gain_e_per_adu", "read_noise_e", "saturation_adu", "zero_point_mag", "psf_order")
    chosen = {name: getattr(config, name) for name in names}
    return chosen | {
        "stamp_pix": int(pairs.real.light_adu.shape[-1]),
        "snr_bins": [list(one) for one in SNR_BINS],
        "interval": "95 %, bootstrap over stars",
    }
