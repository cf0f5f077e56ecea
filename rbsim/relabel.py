"""Label settings of a store: which mechanisms spoil its labels, from options and files to arrays on disk."""

import hashlib
import logging
import tomllib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from rbsim import __version__, schema
from rbsim.errors import InputError
from rbsim.label_mechanisms import ClassConditional, Labelled, LeftAndLost, Part, ScoreBinned, spoil
from rbsim.label_noise import REASON_CODES, NoisyLabels, contamination_of
from rbsim.label_sets import LabelSet, check_free, write_labels
from rbsim.score_rates import measure_rates, read_rates, read_scores, survey_labels
from rbsim.seeding import key_of_name, stream
from rbsim.store import Store, open_store

log = logging.getLogger(__name__)

MIXED = "mixed"
PARTS: dict[str, type] = {
    "class-conditional": ClassConditional,
    "score-binned": ScoreBinned,
    "mechanism": LeftAndLost,
}
"""Names of the mechanisms."""
FROM_FILES = ("score", "rates")
MISLABEL_BOGUS, MISLABEL_REAL = 0.006, 0.010
"""What was found at Tomo-e Gozen (Takahashi et al. 2022)."""


@dataclass(frozen=True)
class RelabelConfig:
    """What to make of the labels; what is None was not given.

    Attributes
    ----------
    mechanism : str
        A name of `PARTS`, or ``mixed``.
    mislabel_bogus, mislabel_real : float or None
        Contaminations of the given classes.
    scores, rates : Path or None
        Files of the score-binned mechanism, see `rbsim.score_rates`.
    multiple : float or None
        Of the rates.
    left, lost : tuple of str or None
        See `rbsim.label_mechanisms.LeftAndLost`.
    mix : Path or None
        TOML with one table per mechanism of a mixed setting.
    seed : int
    """

    mechanism: str
    mislabel_bogus: float | None = None
    mislabel_real: float | None = None
    scores: Path | None = None
    rates: Path | None = None
    multiple: float | None = None
    left: tuple[str, ...] | None = None
    lost: tuple[str, ...] | None = None
    mix: Path | None = None
    seed: int = 1

    def __post_init__(self) -> None:
        """Refuse a mechanism that is not known, and options of another one."""
        if self.mechanism not in (*PARTS, MIXED):
            raise InputError(f"mechanism is {self.mechanism!r}; choose one of {', '.join((*PARTS, MIXED))}")
        allowed = {
            "class-conditional": {"mislabel_bogus", "mislabel_real"},
            "score-binned": {"scores", "rates", "multiple"},
            "mechanism": {"mislabel_bogus", "mislabel_real", "left", "lost"},
            MIXED: {"mix", "scores", "rates"},
        }[self.mechanism]
        given = {field.name for field in fields(self) if getattr(self, field.name) is not None}
        for name in sorted(given - allowed - {"mechanism", "seed"}):
            raise InputError(
                f"--{name.replace('_', '-')} is not for the mechanism {self.mechanism}; drop it"
                + (f", or write it into {self.mix}" if self.mix else "")
            )


def relabel(store_path: Path, name: str, config: RelabelConfig, *, overwrite: bool = False) -> LabelSet:
    """Make a label setting and write it beside the pixels of a store.

    Parameters
    ----------
    store_path : Path
    name : str
    config : RelabelConfig
    overwrite : bool
        Replace a setting of this name.

    Raises
    ------
    InputError
        If options or files do not fit, the stamps cannot give the contaminations, or the name is taken.
    """
    store = open_store(store_path)
    check_free(store, name, overwrite=overwrite)
    parts = make_parts(config, store.n_stamps)
    labelled = Labelled(*(store.column(column) for column in ("label_given", "kind", "flags")))
    if not np.any(labelled.label_given >= 0):
        raise InputError(f"{store_path}: none of its {store.n_stamps} stamps has a label; none can be wrong")
    rng = stream(config.seed, "label", key_of_name("relabel"))
    noisy = spoil(labelled, list(parts.values()), rng=rng)
    arrays = {key: getattr(noisy, key) for key in ("label_given", "reason", "flip_probability")}
    attributes = _attributes(store, parts, config, noisy)
    for key in ("mislabel_bogus", "mislabel_real"):
        log.info("%s: %s is %.4g", name, key, attributes["got"][key])
    return write_labels(store, name, arrays, attributes, overwrite=overwrite)


def make_parts(config: RelabelConfig, n_stamps: int) -> dict[str, Part]:
    """The mechanisms of a setting by name, their files read.

    Raises
    ------
    InputError
        If an option, a key of the TOML file, or another file is missing or makes no sense.
    """
    if config.mechanism != MIXED:
        keys = {field.name for field in fields(PARTS[config.mechanism])} - set(FROM_FILES)
        given = {key: getattr(config, key) for key in keys if getattr(config, key) is not None}
        if config.mechanism == "score-binned":
            given.setdefault("multiple", 1.0)
        else:
            given = {"mislabel_bogus": MISLABEL_BOGUS, "mislabel_real": MISLABEL_REAL} | given
        return {config.mechanism: _part(config.mechanism, given, config, n_stamps)}
    if config.mix is None:
        raise InputError("the mechanism mixed needs --mix FILE.toml with a table for each mechanism")
    try:
        tables = tomllib.loads(config.mix.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{config.mix}: cannot be read as text ({error})") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{config.mix}: is not valid TOML ({error})") from error
    if not tables or set(tables) - set(PARTS):
        raise InputError(
            f"{config.mix}: has the tables {', '.join(tables) or 'none'}; known: {', '.join(PARTS)}"
        )
    if "score-binned" not in tables and (config.scores or config.rates):
        raise InputError(f"{config.mix}: has no table score-binned; drop --scores and --rates")
    try:
        return {name: _part(name, _checked(name, table), config, n_stamps) for name, table in tables.items()}
    except InputError as error:
        raise InputError(f"{config.mix}: {error}") from error


def _part(name: str, given: Mapping[str, Any], config: RelabelConfig, n_stamps: int) -> Part:
    if name != "score-binned":
        part: Part = PARTS[name](**given)
        return part
    if config.scores is None or config.rates is None:
        raise InputError(
            "the mechanism score-binned needs --scores and --rates; rates are measured on an emulated night"
            " with --measure-rates"
        )
    score = read_scores(config.scores, n_stamps)
    if not np.isfinite(score).any():
        raise InputError(f"{config.scores}: has no finite score")
    return ScoreBinned(score, read_rates(config.rates), float(given["multiple"]))


def _checked(name: str, table: Any) -> dict[str, Any]:
    """Values of a TOML table, of the right types; contaminations that are not given are 0, the multiple 1."""
    known = [field.name for field in fields(PARTS[name]) if field.name not in FROM_FILES]
    if not isinstance(table, dict) or set(table) - set(known):
        raise InputError(f"{name} is {table!r}; it must be a table of {', '.join(known)}")
    out: dict[str, Any] = {}
    for key in known:
        is_list = key in ("left", "lost")
        if key not in table:
            if not is_list:
                out[key] = 1.0 if key == "multiple" else 0.0
            continue
        value = table[key]
        good = (
            isinstance(value, list) and all(isinstance(one, str) for one in value)
            if is_list
            else isinstance(value, int | float) and not isinstance(value, bool)
        )
        if not good:
            raise InputError(
                f"{name}: {key} is {value!r}; it must be {'a list of names' if is_list else 'a number'}"
            )
        out[key] = tuple(value) if is_list else float(value)
    return out


def _attributes(
    store: Store, parts: Mapping[str, Part], config: RelabelConfig, noisy: NoisyLabels
) -> dict[str, Any]:
    """What a setting says of itself, JSON-ready."""
    got = contamination_of(noisy.label_given, noisy.reason != 0)
    counts = np.bincount(noisy.reason, minlength=len(REASON_CODES))
    return {
        "mechanism": config.mechanism,
        "parameters": {name: _parameters(part) for name, part in parts.items()},
        "seed": config.seed,
        "n_stamps": store.n_stamps,
        "asked": {
            key: sum(getattr(part, key, 0.0) for part in parts.values())
            for key in ("mislabel_bogus", "mislabel_real")
        },
        "got": asdict(got) | {"mislabel_bogus": got.mislabel_bogus, "mislabel_real": got.mislabel_real},
        "n_by_reason": {name: int(counts[code]) for name, code in REASON_CODES.items() if counts[code]},
        "reasons": REASON_CODES,
        "versions": {"rbsim": __version__},
    }


def _parameters(part: Part) -> dict[str, Any]:
    if not isinstance(part, ScoreBinned):
        return {
            key: list(value) if isinstance(value, tuple) else value for key, value in asdict(part).items()
        }
    # JSON has no NaN.
    rates = {
        key: [None if np.isnan(one) else one for one in values.tolist()]
        for key, values in vars(part.rates).items()
    }
    return {
        "multiple": part.multiple,
        "n_scored": int(np.isfinite(part.score).sum()),
        "scores_sha256": hashlib.sha256(part.score.tobytes()).hexdigest(),
        "rates": rates,
    }


def measure_store_rates(
    store_path: Path,
    scores: Path,
    out: Path,
    *,
    bin_width: float = 1.0,
    lost: tuple[str, ...] = schema.LOST_REASONS,
    overwrite: bool = False,
) -> dict[str, Any]:
    """Measure how often the labels of a survey are wrong at each score, on a store of an emulated night.

    Parameters
    ----------
    store_path, scores : Path
    out : Path
        Table to write, ECSV or what its name says.
    bin_width : float
    lost : tuple of str
        Which lost stars the survey calls real.
    overwrite : bool

    Returns
    -------
    dict
        ``n_bins``, ``n_unscored``, and of both classes ``n_given_*``, ``n_wrong_*``, ``rate_*``.

    Raises
    ------
    InputError
        If the store is of real frames, or files cannot be read or written.
    """
    LeftAndLost(0.0, 0.0, lost=lost)  # checks the names
    store = open_store(store_path)
    if out.exists() and not overwrite:
        raise InputError(f"{out}: exists already; give --overwrite to replace it")
    try:
        given, true = survey_labels(
            *(store.column(name) for name in ("kind", "label_true", "flags")), lost=lost
        )
        score = read_scores(scores, store.n_stamps)
        table = measure_rates(given, true, score, bin_width=bin_width)
    except InputError as error:
        raise InputError(f"{store_path}: {error}") from error
    table.meta |= {"CREATOR": f"rbsim {__version__}", "lost": list(lost), "bin_width": bin_width}
    temporary = out.with_name("partial_" + out.name)
    try:
        table.write(temporary, overwrite=True)
        temporary.replace(out)
    except Exception as error:  # writers raise what they like
        with suppress(OSError):  # of a disk that is read only
            temporary.unlink(missing_ok=True)
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{out}: cannot be written ({reason}); give a name like rates.ecsv") from error
    facts: dict[str, Any] = {
        "n_bins": len(table),
        "n_unscored": int(np.count_nonzero((given >= 0) & ~np.isfinite(score))),
    }
    for name in ("bogus", "real"):
        n_given, n_wrong = int(table[f"n_given_{name}"].sum()), int(table[f"n_wrong_{name}"].sum())
        facts |= {f"n_given_{name}": n_given, f"n_wrong_{name}": n_wrong}
        facts[f"rate_{name}"] = n_wrong / n_given if n_given else None
    return facts


def rates_text(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What `measure_store_rates` found, as label and value lines for people."""
    lines = []
    for name, other in (("bogus", "real"), ("real", "bogus")):
        rate = facts[f"rate_{name}"]
        share = "" if rate is None else f" ({100 * rate:.3g} %)"
        text = f"{facts[f'n_wrong_{name}']:,} of {facts[f'n_given_{name}']:,} are {other}{share}"
        lines.append((f"given {name}", text))
    lines.append(
        ("bins of score", f"{facts['n_bins']}; {facts['n_unscored']:,} labelled stamps have no score")
    )
    return lines
