"""How often labels are wrong at each score of a classifier: measured where the truth is known, and read."""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.stats import binom_conf_interval
from astropy.table import Table

from rbsim import schema
from rbsim.errors import InputError

RATE_COLUMNS = ("score_low", "score_high", "rate_bogus", "rate_real")
RUN_ARRAYS = (("train_row", "train_oof_score"), ("test_row", "test_score"))
"""Arrays of a run of `rbsim benchmark`: rows of the store and scores, out of the fold and of the test."""
MAX_BINS = 10_000


@dataclass(frozen=True, eq=False)
class Rates:
    """Shares of wrong labels in bins of score; all arrays of shape (n_bins,).

    Attributes
    ----------
    score_low, score_high : the bin is score_low <= score < score_high.
    rate_bogus, rate_real : fraction of the given bogus that are real, and of the given real that are bogus;
        NaN if not known.
    """

    score_low: np.ndarray
    score_high: np.ndarray
    rate_bogus: np.ndarray
    rate_real: np.ndarray


def read_rates(path: Path) -> Rates:
    """Read a table of rates: ECSV, CSV, or what else astropy reads.

    Raises
    ------
    InputError
        If it cannot be read, lacks a column, or bins overlap or rates are no fractions.
    """
    table = _read_table(path)
    missing = [name for name in RATE_COLUMNS if name not in table.colnames]
    if missing or not len(table):
        raise InputError(
            f"{path}: {'lacks ' + ', '.join(missing) if missing else 'has no rows'}; a table of rates has the"
            f" columns {', '.join(RATE_COLUMNS)}, e.g. from rbsim relabel --measure-rates"
        )
    columns = [_numbers(table, name, path) for name in RATE_COLUMNS]
    order = np.argsort(columns[0], kind="stable")
    low, high, of_bogus, of_real = (column[order] for column in columns)
    if not ((low < high).all() and (high[:-1] <= low[1:]).all()):
        raise InputError(f"{path}: bins of score must have score_low below score_high and not overlap")
    for name, rate in (("rate_bogus", of_bogus), ("rate_real", of_real)):
        wrong = (rate < 0) | (rate > 1)
        if wrong.any():
            raise InputError(f"{path}: {name} is {rate[wrong][0]:g}; rates are fractions from 0 to 1, or NaN")
    return Rates(low, high, of_bogus, of_real)


def read_scores(path: Path, n_stamps: int) -> np.ndarray:
    """Scores of the stamps of a store, shape (n_stamps,), float64, NaN where there is none.

    Parameters
    ----------
    path : Path
        A table with the columns ``row`` and ``score``, such as that of `rbsim score`; ``.npy`` with one score
        per stamp; or ``.npz`` of a run of `rbsim benchmark`, whose held-out scores of stage 1 and of the test
        are taken.
    n_stamps : int

    Raises
    ------
    InputError
        If it cannot be read, or belongs to another store.
    """
    if path.suffix in (".npy", ".npz"):
        try:
            # No pickles: they run what they like.
            with path.open("rb") as file:
                loaded = np.load(file, allow_pickle=False)
                if isinstance(loaded, np.ndarray):
                    return _one_per_stamp(loaded, path, n_stamps)
                found = [(loaded[row], loaded[score]) for row, score in RUN_ARRAYS if score in loaded.files]
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(f"{path}: cannot be read as arrays without pickles ({error})") from error
        if not found:
            names = " or ".join(f"{row} with {score}" for row, score in RUN_ARRAYS)
            raise InputError(f"{path}: has no scores; a run of rbsim benchmark has {names}")
        rows, scores = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    else:
        table = _read_table(path, ("row", "score"))
        missing = [name for name in ("row", "score") if name not in table.colnames]
        if missing:
            raise InputError(f"{path}: lacks {', '.join(missing)}; scores are a table of row and score")
        rows, scores = _numbers(table, "row", path), _numbers(table, "score", path)
    if not np.array_equal(rows, np.rint(rows)) or (
        len(rows) and not (0 <= rows.min() <= rows.max() < n_stamps)
    ):
        raise InputError(f"{path}: rows must be whole numbers from 0 to {n_stamps - 1}, those of the store")
    if len(np.unique(rows)) < len(rows):
        raise InputError(f"{path}: a row has two scores; give one for each stamp")
    out = np.full(n_stamps, np.nan)
    out[rows.astype(np.int64)] = scores
    return out


def survey_labels(
    kind: np.ndarray, label_true: np.ndarray, flags: np.ndarray, *, lost: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """Labels as a survey gives them on an emulated night, and the truth.

    What is detected without injection is given bogus, emulated transients too; injected stars are given real,
    lost ones too if they are wanted. Known objects, negatives and ambiguous matches have no label.

    Parameters
    ----------
    kind, label_true, flags : ndarray, shape (n,)
        Columns of the store.
    lost : tuple of str
        Which lost stars the survey calls real, of schema.LOST_REASONS.

    Returns
    -------
    label_given, label_true : ndarray, shape (n,), int8
        -1 without a label.

    Raises
    ------
    InputError
        If the bogus are those of real frames, of which nobody knows the truth.
    """
    if (kind == schema.KIND_CODES["detection"]).any():
        raise InputError(
            "detections on real frames are only assumed to be bogus, so their rates cannot be measured;"
            " inject into a night of rbsim emulate, with --truth"
        )
    given = np.full(len(kind), schema.LABEL_EXCLUDED, np.int8)
    given[np.isin(kind, [schema.KIND_CODES[name] for name in ("artefact", "emulated_transient")])] = 0
    injected = [k.code for k in schema.KINDS if k.label_true_source == "injected" and k.label_true == 1]
    ambiguous = (flags.astype(np.int64) & schema.CANDIDATE_FLAG["AMBIGUOUS"]) != 0
    given[np.isin(kind, injected) & (label_true == schema.LABEL_REAL) & ~ambiguous] = schema.LABEL_REAL
    is_lost = kind == schema.KIND_CODES["injected_lost"]
    wanted = [schema.LOST_REASONS.index(name) for name in lost]
    given[is_lost & np.isin(schema.lost_reason(flags), wanted)] = schema.LABEL_REAL
    return given, np.where(given >= 0, label_true, schema.LABEL_EXCLUDED).astype(np.int8)


def measure_rates(
    label_given: np.ndarray, label_true: np.ndarray, score: np.ndarray, *, bin_width: float
) -> Table:
    """Shares of wrong labels in bins of score, with counts and errors.

    Parameters
    ----------
    label_given, label_true : ndarray, shape (n,)
        -1 is left out.
    score : ndarray, shape (n,)
        NaN is left out.
    bin_width : float
        Edges are its multiples.

    Returns
    -------
    Table
        As `read_rates` reads it. Beside every rate the number of given and of wrong labels, and the 68 %
        interval of a binomial share (Jeffreys, see astropy.stats.binom_conf_interval); NaN without any.

    Raises
    ------
    InputError
        If nothing has a score and a label, or the bins are too narrow.
    """
    if not 0 < bin_width < np.inf:
        raise InputError(f"bin-width is {bin_width}; it must be positive and finite")
    used = np.isfinite(score) & (label_given >= 0) & (label_true >= 0)
    if not used.any():
        raise InputError("no stamp has a score and a label of the survey; give scores of this store")
    given, wrong = label_given[used], label_given[used] != label_true[used]
    place = np.floor(score[used] / bin_width).astype(np.int64)
    first, n_bins = place.min(), place.max() - place.min() + 1
    if n_bins > MAX_BINS:
        raise InputError(f"bin-width {bin_width:g} makes {n_bins} bins; give a larger --bin-width")
    low = (first + np.arange(n_bins)) * bin_width
    columns = {"score_low": low, "score_high": (first + 1 + np.arange(n_bins)) * bin_width}
    for name, label in (("bogus", schema.LABEL_BOGUS), ("real", schema.LABEL_REAL)):
        rows = given == label
        n_given = np.bincount(place[rows] - first, minlength=n_bins)
        n_wrong = np.bincount(place[rows & wrong] - first, minlength=n_bins)
        rate, below, above = (np.full(n_bins, np.nan) for _ in range(3))
        some = n_given > 0
        rate[some] = n_wrong[some] / n_given[some]
        below[some], above[some] = binom_conf_interval(n_wrong[some], n_given[some], interval="jeffreys")
        columns |= {
            f"n_given_{name}": n_given,
            f"n_wrong_{name}": n_wrong,
            f"rate_{name}": rate,
            f"rate_{name}_low": below,
            f"rate_{name}_high": above,
        }
    return Table(columns)


def _one_per_stamp(scores: np.ndarray, path: Path, n_stamps: int) -> np.ndarray:
    if scores.shape != (n_stamps,) or scores.dtype.kind not in "fiu":
        raise InputError(
            f"{path}: holds {scores.dtype} of shape {scores.shape}; it must be one number for each of the"
            f" {n_stamps} stamps"
        )
    return scores.astype(float)


def _read_table(path: Path, names: tuple[str, ...] = ()) -> Table:
    """A table; of a parquet file only the columns named, for it may have others by the million."""
    try:
        if names and path.suffix == ".parquet":
            return Table.read(path, include_names=names)
        return Table.read(path)
    except ImportError as error:
        raise InputError(f'{path}: needs a package for this format; pip install "rbsim[convert]"') from error
    except Exception as error:  # readers raise what they like
        raise InputError(
            f"{path}: cannot be read as a table ({' '.join(str(error).split())[:200]})"
        ) from error


def _numbers(table: Table, name: str, path: Path) -> np.ndarray:
    """A column as float64, NaN where it is masked."""
    column = np.ma.asarray(table[name])
    if column.dtype.kind not in "fiu" or column.ndim != 1:
        raise InputError(f"{path}: column {name} must be numbers, one in every row")
    return np.asarray(np.ma.filled(column.astype(float), np.nan))
