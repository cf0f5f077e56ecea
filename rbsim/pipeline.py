"""One frame end to end: read, register, subtract, detect, inject, match, cut. Read it top to bottom."""

from collections.abc import Mapping

import numpy as np

from rbsim import schema, tables
from rbsim.asked import AskedStars
from rbsim.build import Partition
from rbsim.catalogue import InjectionCatalogue
from rbsim.config import InjectConfig
from rbsim.errors import OutputError, out_of_memory
from rbsim.injected_files import ImageFolder, write_injected
from rbsim.inputs import FrameTask, Gain
from rbsim.known import KnownObjects
from rbsim.observe import Observed, name_of, observe_all, observed_columns, observed_row, reason_of
from rbsim.paired import Sites, as_pairs, common_ground, find_sites, force, pair_of_site, site_radius
from rbsim.population import ask_for_stars
from rbsim.population_settings import Population
from rbsim.realisation import inject_realisation, reference_psf, star_stamps, star_truth
from rbsim.references import ReferenceCache
from rbsim.seeding import stream
from rbsim.stamps import choose_apart
from rbsim.tables import Tiling


def process_frame(
    task: FrameTask,
    references: Mapping[str, ReferenceCache],
    config: InjectConfig,
    *,
    gain: Gain | None,
    tiling: Tiling,
    population: Population,
    catalogue: InjectionCatalogue | None,
    known: KnownObjects | None = None,
    images: ImageFolder | None = None,
) -> list[Partition]:
    """Everything that one frame contributes to the store; a failed frame gives its reason.

    Parameters
    ----------
    task : FrameTask
    references : mapping of str to ReferenceCache
        By name; of each the frame takes that of its field and sensor. The stars of a realisation, their
        photons and the frame are the same for all.
    config : InjectConfig
    gain : Gain or None
        For frames without gain in header and options.
    tiling : Tiling
    population : Population
        Kinds of stars.
    catalogue : InjectionCatalogue or None
        Replaces the population.
    known : KnownObjects or None
        Detections on them are not bogus.
    images : ImageFolder or None
        Where to write the frames with their stars.

    Returns
    -------
    list of Partition
        One for each reference; with no rows and a reason if the frame cannot be used.
    """
    try:
        observed = observe_all(task, references, config, gain=gain, tiling=tiling, known=known)
        # The same stars under every condition: drawn from the frame as observed.
        asked = ask_for_stars(common_ground(observed), config, population, catalogue, key=task.key)
        return _sample(task, observed, config, asked, catalogue is None, images)
    except OutputError:
        raise
    except MemoryError as error:
        raise out_of_memory(task.path) from error
    except Exception as error:
        reason = reason_of(error, task.path)
        return [
            tables.failed_partition(
                name_of(task.path), reason, exposure=task.exposure, block=task.block, reference=code
            )
            for code in range(len(references))
        ]


def _sample(
    task: FrameTask,
    observed: tuple[Observed, ...],
    config: InjectConfig,
    asked_stars: list[AskedStars],
    n_fixed: bool,
    images: ImageFolder | None,
) -> list[Partition]:
    """Inject, detect, match and cut, one realisation after the other; `n_fixed`: the number is configured."""
    sites, n_common = _bogus_sites(observed, config, key=task.key)
    pieces = [_of_sites(sites, observed, code, config, index=task.index) for code in range(len(observed))]
    truths: list[list[tables.Columns]] = [[] for _ in observed]
    n_asked = 0
    reference_psfs = [reference_psf(one.frame, asked_stars) for one in observed]
    for realisation, as_drawn in enumerate(asked_stars):
        rounds = inject_realisation(task, observed, config, as_drawn, reference_psfs, realisation)
        first = rounds[0]
        n_asked += config.stars_per_frame if n_fixed else len(first.asked)
        if images is not None:
            write_injected(
                images, task, first.observed.frame, first.observed.context, first.asked, first.stars, config,
                realisation=realisation,
            )  # fmt: skip
        for code, one in enumerate(rounds):
            n_before = sum(len(pixels) for pixels, _ in pieces[code])
            pieces[code] += star_stamps(rounds, code, config, key=task.key)
            stamp = np.full(len(one.asked), -1)
            stamp[one.stamped] = n_before + np.arange(len(one.stamped))
            truths[code].append(star_truth(one, stamp))
    return [
        tables.join(
            name_of(task.path),
            observed_row(task, one, n_asked=n_asked, n_common=n_common),
            pieces[code],
            truths[code],
        )
        for code, one in enumerate(observed)
    ]


def _bogus_sites(observed: tuple[Observed, ...], config: InjectConfig, *, key: int) -> tuple[Sites, int]:
    """Places of detections without injection, whose stamps do not overlap; negatives where there is room.

    With several references each has a stamp of every place. The number is that of the places where all
    detect a positive source, before the choice; -1 with one reference.
    """
    detections = [one.judged.detections for one in observed]
    radius_pix = site_radius(observed)
    positive = find_sites(detections, is_positive=True, radius_pix=radius_pix)
    transient = np.zeros(len(positive.row), bool)
    for code, one in enumerate(observed):
        row = positive.row[:, code]
        emulated = np.append(one.judged.kind == schema.KIND_CODES["emulated_transient"], False)
        transient |= emulated[row]
    chosen = choose_apart(
        positive.x_pix, positive.y_pix, first=transient, rng=stream(config.seed, "thin", key)
    )
    sites = positive.select(chosen)
    if config.negatives:
        negative = find_sites(detections, is_positive=False, radius_pix=radius_pix)
        more = choose_apart(
            negative.x_pix,
            negative.y_pix,
            first=np.zeros(len(negative.row), bool),
            rng=stream(config.seed, "thin", key, 1),
            taken=np.stack([sites.x_pix, sites.y_pix], axis=-1),
        )
        sites = sites.with_more(negative.select(more))
    n_common = int(np.count_nonzero((positive.row >= 0).all(axis=1))) if len(observed) > 1 else -1
    return sites, n_common


def _of_sites(
    sites: Sites, observed: tuple[Observed, ...], code: int, config: InjectConfig, *, index: int
) -> list[tuple[np.ndarray, tables.Columns]]:
    """Stamps of places with one reference: what it detects, and those of which only others show something."""
    one, frame = observed[code], observed[code].frame
    pair = pair_of_site(index, np.arange(len(sites.row)))

    def paired(columns: tables.Columns, rows: np.ndarray) -> tables.Columns:
        return as_pairs(columns, observed, sites.anchor, rows, pair, sites.found_with)

    detected = np.flatnonzero(sites.row[:, code] >= 0)
    cut, columns = observed_columns(one, sites.row[detected, code], config)
    pieces = [(cut.pixels, paired(columns, detected))]
    elsewhere = np.flatnonzero(sites.row[:, code] < 0)
    if len(elsewhere):
        pixels, forced, kept = force(
            one, frame, frame.science, frame.difference, frame.filtered, sites.anchor[elsewhere], config,
            realisation=-1, injection_id=np.full(len(elsewhere), -1),
        )  # fmt: skip
        pieces.append((pixels, paired(forced, elsewhere[kept])))
    return pieces
