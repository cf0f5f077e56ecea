"""One frame, as observed or degraded: subtracted, its detections found and judged. No injection."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rbsim import schema, tables
from rbsim.chain import Subtracted, subtract_frame
from rbsim.config import InjectConfig
from rbsim.degrade import Degraded, degrade, measure_depth
from rbsim.detect import Detections, detect
from rbsim.difference import Difference
from rbsim.errors import InputError, OutputError
from rbsim.features import Features, measure_features
from rbsim.frame import DetectorOptions, Frame, read_frame, split_extension, with_gain
from rbsim.inputs import FrameTask, Gain
from rbsim.judge import Judged, judge
from rbsim.known import KnownInFrame, KnownObjects, known_in
from rbsim.references import ReferenceCache, find_reference
from rbsim.seeding import stream
from rbsim.significance import MatchedFilter
from rbsim.stamps import Stamps, cut_stamps
from rbsim.tables import FrameContext, Tiling

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Observed:
    """A subtracted frame and what is detected on it.

    Attributes
    ----------
    frame : Subtracted
        Under the condition of the run.
    as_observed : Subtracted
        The same frame as the telescope took it; `frame` itself where the condition changes nothing. Stars are
        drawn from it, so that they are the same under every condition.
    degraded : Degraded or None
        None where the condition changes nothing.
    context : FrameContext
    judged : Judged
    known : KnownInFrame or None
    """

    frame: Subtracted
    as_observed: Subtracted
    degraded: Degraded | None
    context: FrameContext
    judged: Judged
    known: KnownInFrame | None


def observe(
    task: FrameTask,
    references: ReferenceCache,
    config: InjectConfig,
    *,
    gain: Gain | None,
    tiling: Tiling,
    known: KnownObjects | None,
) -> Observed:
    """Read a frame, degrade it, subtract the reference of its field and sensor, detect and judge.

    A frame that is to be degraded is subtracted twice: as observed first, for its PSF and for the places
    and fluxes of stars; if that fails, the frame fails.

    Parameters
    ----------
    task : FrameTask
    references : ReferenceCache
    config : InjectConfig
        Its parts on detector, subtraction, detection and matching.
    gain : Gain or None
        For frames without gain in header and options.
    tiling : Tiling
    known : KnownObjects or None
        Detections on them are not bogus.

    Raises
    ------
    InputError
        If any step is impossible on this frame.
    """
    return observe_all(task, {"": references}, config, gain=gain, tiling=tiling, known=known)[0]


def observe_all(
    task: FrameTask,
    references: Mapping[str, ReferenceCache],
    config: InjectConfig,
    *,
    gain: Gain | None,
    tiling: Tiling,
    known: KnownObjects | None,
) -> tuple[Observed, ...]:
    """`observe` with every one of several references: the same frame, read and degraded once.

    The first one leads: its PSF of the frame is the one that the frame is degraded with, and positions on
    its grid give the sky tiles of all. A frame that fails with one fails with all: there is no pair.
    """
    options = DetectorOptions(
        config.gain_e_per_adu,
        config.read_noise_e,
        config.saturation_adu,
        config.zero_point_mag,
        config.nonlinearity,
        config.bias_adu,
    )
    science = read_frame(task.path, options=options)
    if np.isnan(science.detector.gain_e_per_adu):
        if gain is None:
            raise InputError(f"{task.path}: no gain in the header; give --gain (electrons per ADU)")
        science = with_gain(science, gain.gain_e_per_adu, gain.gain_err_e_per_adu)
    known_here = None if known is None else known_in(known, science)
    out: list[Observed] = []
    for name, cache in references.items():
        try:
            out.append(_subtracted(task, science, cache, config, tiling, known_here, out))
        except InputError as error:
            if len(references) == 1 or isinstance(error, OutputError):
                raise
            raise InputError(f"{error} (reference {name})") from error
    return tuple(out)


def _subtracted(
    task: FrameTask,
    science: Frame,
    references: ReferenceCache,
    config: InjectConfig,
    tiling: Tiling,
    known: KnownInFrame | None,
    before: Sequence[Observed],
) -> Observed:
    """A frame with its reference; `before`: the same with those that come first."""
    number = find_reference(references.cards, science)
    file_name = split_extension(references.cards[number].path)[0].name
    as_observed = subtract_frame(science, references.get(number), config.subtract)
    frame, degraded = as_observed, None
    if not config.condition.is_neutral:
        if before:
            degraded = before[0].degraded
        else:
            rng = stream(config.seed, "condition", task.key)
            degraded = degrade(science, as_observed.psf, config.condition, rng=rng)
        assert degraded is not None
        frame = subtract_frame(degraded.frame, references.get(number), config.subtract)
    context = FrameContext(
        science=frame.science,
        transform=before[0].context.transform if before else frame.transform,
        tiling=tiling,
        block=task.block,
        # Tiles of the same number on two references are different sky.
        group_block=before[0].context.group_block if before else number * config.n_blocks + task.block,
        fwhm_pix=frame.psf.fwhm_pix,
        psf=frame.psf,
        zero_point_aperture_pix=config.zero_point_aperture_pix,
        reference=len(before),
    )
    detections = detect(
        frame.filtered,
        frame.difference.bad,
        threshold_snr=config.threshold_snr,
        psf_at=frame.difference.psf_at,
    )
    judged = judge(
        frame,
        detections,
        config,
        known=known,
        transients=task.transients,
        artefacts=task.artefacts,
        reference_artefacts=task.reference_artefacts.get(file_name),
    )
    return Observed(frame, as_observed, degraded, context, judged, known)


def name_of(path: str) -> str:
    """File name of a frame, perhaps with ``[EXT]``."""
    return path.rsplit("/", 1)[-1]


def reason_of(error: Exception, path: str) -> str:
    """Why a frame failed, in one line that names it; what rbsim does not know is logged whole."""
    if not isinstance(error, InputError):
        log.error("%s: failed in a way that rbsim does not know", path, exc_info=error)
    text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
    reason = text if path in text else f"{path}: {text.removeprefix(name_of(path) + ': ')}"
    log.info("%s", reason)
    return reason


def observed_columns(
    observed: Observed, rows: np.ndarray, config: InjectConfig
) -> tuple[Stamps, tables.Columns]:
    """Stamps and candidate columns of some of the detections, an index array."""
    frame, judged = observed.frame, observed.judged
    chosen = judged.detections.select(rows)
    cut = stamps_of(frame, frame.science, frame.difference, chosen)
    none = np.zeros(len(rows), bool)
    return cut, tables.candidate_columns(
        observed.context,
        chosen,
        cut,
        features_of(frame, frame.difference, frame.filtered, chosen, config),
        kind=judged.kind[rows],
        realisation=-1,
        injection_id=np.full(len(rows), -1),
        host_offset_pix=np.full(len(rows), np.nan),
        ambiguous=none,
        nonlinear=none,
        known_row=judged.known_row[rows],
        cause=judged.cause[rows],
        fit=frame.difference.fit,
    )


def observed_row(task: FrameTask, observed: Observed, *, n_asked: int, n_common: int = -1) -> dict[str, Any]:
    """Values of schema.FRAME_COLUMNS, but for the counts of stamps and injected stars."""
    detections, kind = observed.judged.detections, observed.judged.kind
    false = kind == schema.KIND_CODES["artefact"]
    return tables.frame_row(
        observed.frame,
        observed.context,
        exposure=task.exposure,
        n_asked=n_asked,
        n_common=n_common,
        n_positive=int(np.count_nonzero(detections.is_positive)),
        n_negative=int(np.count_nonzero(~detections.is_positive)),
        n_known=int(np.count_nonzero(kind == schema.KIND_CODES["known_object"])),
        n_false=tables.count_false(None if task.artefacts is None else observed.judged.cause[false]),
    ) | _degradation(observed)


def _degradation(observed: Observed) -> dict[str, float]:
    """What the condition predicts for this frame, and what is measured on it."""
    if observed.degraded is None:
        return {}
    predicted = observed.degraded.predicted
    measured = measure_depth(observed.frame.science, observed.frame.psf)
    return {
        "white_noise_adu": measured.noise_adu,
        "white_noise_predicted_adu": predicted.noise_adu,
        "fwhm_predicted_pix": predicted.fwhm_pix,
        "limit_mag": measured.limit_mag,
        "limit_predicted_mag": predicted.limit_mag,
        "jitter_angle_deg": observed.degraded.jitter_angle_deg,
    }


def features_of(
    frame: Subtracted,
    difference: Difference,
    filtered: MatchedFilter,
    detections: Detections,
    config: InjectConfig,
) -> Features:
    """Features of detections on a difference of this frame, with or without injected stars."""
    return measure_features(
        difference,
        filtered,
        detections,
        reference_sources=frame.reference_sources,
        hosts=frame.hosts,
        one_frame=((frame.science.mask | frame.reference.mask) & schema.MASK["ONE_FRAME"]) != 0,
        fwhm_pix=frame.psf.fwhm_pix,
        threshold_snr=config.threshold_snr,
    )


def stamps_of(frame: Subtracted, science: Frame, difference: Difference, detections: Detections) -> Stamps:
    """Stamps of detections, the reference brought to the science frame's flux scale."""
    return cut_stamps(
        frame.reference.image * np.float32(difference.flux_scale),
        science.image,
        difference,
        detections.x_pix,
        detections.y_pix,
        fwhm_pix=frame.psf.fwhm_pix,
    )
