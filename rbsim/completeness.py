"""Detected fraction of injected stars, and false positives per frame, from the truth of stores."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy.stats import binom_conf_interval

from rbsim import schema
from rbsim.efficiency import Efficiency, fit_efficiency
from rbsim.errors import InputError
from rbsim.false_positives import measure_false_positives
from rbsim.one_reference import by_reference
from rbsim.store import Store
from rbsim.store_groups import Group, group_of, threshold_of

PLACES = ("all", "away_from_hosts", "near_hosts", "near_hosts_bright")
"""Near hosts: placed near an extended source, or on light of the reference. Bright: expected S/N of at least
1.5 times the threshold, where nearly all stars away from hosts are found."""

BRIGHT = 1.5
FITTED_PLACES = ("all", "away_from_hosts")
BINOMIAL_INTERVAL = "jeffreys"
LEFT_OUT = ("not_drawn", "on_mask", "saturated", "ambiguous")
"""Why a star does not count, the first reason that holds."""


@dataclass(frozen=True)
class Variable:
    """What the detected fraction is binned against; `step` is in dex where `log`."""

    name: str
    unit: str
    step: float
    log: bool = False
    rising: bool | None = None
    """Whether the fraction rises with it; None: no curve is fitted."""

    def is_at(self, place: str) -> bool:
        """Whether stars at a place are binned in it: distances and light of hosts only near hosts."""
        return (
            place in ("near_hosts", "near_hosts_bright")
            if self.rising is None
            else place != "near_hosts_bright"
        )

    def bins(self, values: np.ndarray) -> np.ndarray:
        """Bin numbers on a grid that is the same for all stores."""
        return np.floor((np.log10(values) if self.log else values) / self.step + 1e-6).astype(int)

    def edge(self, number: int) -> float:
        """Lower edge of a bin."""
        return float(10 ** (number * self.step)) if self.log else float(number * self.step)


VARIABLES = (
    Variable("snr_expected", "", 0.04, log=True, rising=True),
    Variable("snr", "", 0.04, log=True, rising=True),
    Variable("mag", "mag", 0.25, rising=False),
    Variable("host_sb_mag_per_pix2", "mag/pix2", 0.5),
    Variable("host_sb_mag_per_arcsec2", "mag/arcsec2", 0.5),
    Variable("host_offset_pix", "pix", 1.0),
    Variable("host_offset_radii", "", 0.25),
)


@dataclass(frozen=True, eq=False)
class Stars:
    """All stars asked for of one group, arrays of shape (n,).

    Attributes
    ----------
    values : dict of str to ndarray
        One array per `VARIABLES`, NaN where unknown.
    detected : ndarray of bool
    left_out : ndarray of int
        Index into `LEFT_OUT` of the first reason that holds, -1 for stars that count.
    near_host, bright : ndarray of bool
        See `PLACES`.
    """

    values: dict[str, np.ndarray]
    detected: np.ndarray
    left_out: np.ndarray
    near_host: np.ndarray
    bright: np.ndarray

    def at(self, place: str) -> np.ndarray:
        """Which stars are at one of `PLACES`."""
        return {
            "all": np.ones(len(self.detected), bool),
            "away_from_hosts": ~self.near_host,
            "near_hosts": self.near_host,
            "near_hosts_bright": self.near_host & self.bright,
        }[place]


@dataclass(frozen=True, eq=False)
class Curve:
    """The fitted efficiency of one group, place and variable; None if it cannot be fitted."""

    group: Group
    place: str
    variable: str
    counts: dict[str, int]
    efficiency: Efficiency | None


@dataclass(frozen=True, eq=False)
class Completeness:
    """Everything measured: rows of the tables in long format, curves, and what to be wary of."""

    n_stores: int
    fractions: list[dict[str, Any]]
    curves: list[Curve]
    false_positives: list[dict[str, Any]]
    warnings: list[str]


def measure_completeness(stores: Sequence[Store]) -> Completeness:
    """Detected fractions, 50 % and 90 % points and false positives of stores.

    Stars of the same condition, reference, threshold and sensor count together, whatever store they
    are in; in addition those of all sensors. Left out, and counted, are stars that were not drawn, on a
    mask, lifted to saturation, or matched ambiguously: those are neither found nor lost. Binomial
    intervals are Jeffreys (Brown, Cai & DasGupta 2001, Stat. Sci. 16, 101). The curves are fitted to
    the single stars, not to the bins; see `rbsim.efficiency`.

    Parameters
    ----------
    stores : sequence of Store
        A paired one counts as one for each reference.

    Raises
    ------
    InputError
        If no star was injected, or the detection threshold of a store is not known.
    """
    parts: dict[Group, list[Stars]] = {}
    n_stores = len(stores)
    stores = [one for store in stores for one in by_reference(store)]
    for store in stores:
        for group, stars in _stars_of(store):
            for key in (group, group.pooled):
                parts.setdefault(key, []).append(stars)
    if not any(
        np.any(stars.left_out != LEFT_OUT.index("not_drawn")) for some in parts.values() for stars in some
    ):
        names = ", ".join(str(store.path) for store in stores)
        raise InputError(
            f"{names}: no stars were injected; see rbsim info for why, or give more --stars-per-frame"
        )
    fractions, curves, warnings = [], [], []
    for group in sorted(parts):
        stars = _join(parts[group])
        for place in PLACES:
            here = stars.at(place)
            for variable in VARIABLES:
                if not variable.is_at(place):
                    continue
                usable = here & (stars.left_out < 0) & np.isfinite(stars.values[variable.name])
                values, detected = stars.values[variable.name][usable], stars.detected[usable]
                fractions += [_row(group, place) | row for row in _fractions(variable, values, detected)]
                if variable.rising is not None and place in FITTED_PLACES and here.any():
                    fit = fit_efficiency(values, detected, rising=variable.rising)
                    counts = _counts(stars, here, usable)
                    curves.append(Curve(group, place, variable.name, counts, fit))
        warnings += _warnings(group, curves)
    return Completeness(n_stores, fractions, curves, measure_false_positives(stores), warnings)


def _row(group: Group, place: str) -> dict[str, Any]:
    return vars(group) | {"place": place}


def _stars_of(store: Store) -> Iterator[tuple[Group, Stars]]:
    """Stars of each sensor of a store."""
    bright_snr = BRIGHT * threshold_of(store)
    truth = {spec.name: store.column(f"truth/{spec.name}") for spec in schema.TRUTH_COLUMNS}
    # Light that fades and glints of satellites are not transients that a survey wants to find.
    wanted = [kind.code for kind in schema.KINDS if kind.label_true == schema.LABEL_REAL]
    star = (truth["injection_id"] >= 0) & np.isin(truth["kind"], wanted)
    star &= truth["flux_adu"] >= truth["reference_flux_adu"]
    truth = {name: values[star] for name, values in truth.items()}
    scale = store.column("frames/pixel_scale_arcsec").astype(float)[truth["frame"]]
    scale = np.where(scale > 0, scale, np.nan)
    sensors = store.column("frames/sensor")[truth["frame"]]
    values = {v.name: truth[v.name].astype(float) for v in VARIABLES if v.name in truth}
    values["host_sb_mag_per_arcsec2"] = values["host_sb_mag_per_pix2"] + 5 * np.log10(scale)
    values["host_offset_radii"] = values["host_offset_pix"] / truth["host_radius_pix"]
    for name in ("snr", "snr_expected"):  # on a log axis
        values[name] = np.where(values[name] > 0, values[name], np.nan)
    flag = truth["injection_flag"]
    reasons = (
        ~truth["injected"] & ((flag & schema.INJECTION_FLAG["ON_MASK"]) == 0),
        (flag & schema.INJECTION_FLAG["ON_MASK"]) != 0,
        (flag & schema.INJECTION_FLAG["SATURATED"]) != 0,
        truth["ambiguous"],
    )
    left_out = np.select(reasons, range(len(LEFT_OUT)), -1)
    near = (truth["kind"] == schema.KIND_CODES["injected_near_galaxy"]) | np.isfinite(
        values["host_sb_mag_per_pix2"]
    )
    for sensor in np.unique(sensors):
        rows = sensors == sensor
        yield (
            group_of(store, int(sensor)),
            Stars(
                {name: column[rows] for name, column in values.items()},
                truth["detected"][rows],
                left_out[rows],
                near[rows],
                values["snr_expected"][rows] >= bright_snr,
            ),
        )


def _join(parts: Sequence[Stars]) -> Stars:
    return Stars(
        {v.name: np.concatenate([part.values[v.name] for part in parts]) for v in VARIABLES},
        np.concatenate([part.detected for part in parts]),
        np.concatenate([part.left_out for part in parts]),
        np.concatenate([part.near_host for part in parts]),
        np.concatenate([part.bright for part in parts]),
    )


def _fractions(variable: Variable, values: np.ndarray, detected: np.ndarray) -> list[dict[str, Any]]:
    """One row per bin that holds stars."""
    if not values.size:
        return []
    numbers, inverse, n = np.unique(variable.bins(values), return_inverse=True, return_counts=True)
    n_detected = np.bincount(inverse, weights=detected).astype(int)
    low, high = binom_conf_interval(n_detected, n, confidence_level=0.95, interval=BINOMIAL_INTERVAL)
    low68, high68 = binom_conf_interval(n_detected, n, confidence_level=0.6827, interval=BINOMIAL_INTERVAL)
    return [
        {
            "variable": variable.name,
            "low": variable.edge(number),
            "high": variable.edge(number + 1),
            "n": int(n[i]),
            "n_detected": int(n_detected[i]),
            "fraction": float(n_detected[i] / n[i]),
            "fraction_low": float(low[i]),
            "fraction_high": float(high[i]),
            "fraction_low_68": float(low68[i]),
            "fraction_high_68": float(high68[i]),
        }
        for i, number in enumerate(numbers.tolist())
    ]


def _counts(stars: Stars, here: np.ndarray, usable: np.ndarray) -> dict[str, int]:
    left_out = {f"n_{name}": int(np.sum(here & (stars.left_out == i))) for i, name in enumerate(LEFT_OUT)}
    n = int(usable.sum())
    return {
        "n_asked": int(here.sum()),
        "n": n,
        "n_detected": int(np.sum(stars.detected & usable)),
        **left_out,
        "n_unknown": int(here.sum()) - n - sum(left_out.values()),
    }


def _warnings(group: Group, curves: Sequence[Curve]) -> list[str]:
    """What the S/N curve of a group of all places cannot tell."""
    curve = next(c for c in curves if (c.group, c.place, c.variable) == (group, "all", "snr_expected"))
    if curve.efficiency is None:
        return [
            f"{group.label}: {curve.counts['n']} usable stars, too few or none detected: no curve was fitted"
        ]
    return [
        f"{group.label}: {100 * point.level:.0f} % point not bracketed by the S/N of the stars"
        + (
            f" (asymptote {curve.efficiency.asymptote:.3f})"
            if curve.efficiency.asymptote <= point.level
            else "; inject with lower --snr-min"
            if curve.counts["n_detected"] > point.level * curve.counts["n"]
            else "; inject with higher --snr-max"
        )
        for point in curve.efficiency.points
        if not point.bracketed
    ]
