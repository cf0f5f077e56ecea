"""Detection efficiency as a smooth function: fitted by maximum likelihood, with profile intervals."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import brentq, minimize
from scipy.special import expit, logit, ndtr, ndtri
from scipy.stats import chi2

MIN_STARS = 20
MAX_GROUPS = 400
"""More stars than this are summed up in groups of equal number: finer than any width that they can show."""

TINY = 1e-12


@dataclass(frozen=True)
class Point:
    """Where the efficiency passes a level, with its profile-likelihood interval; NaN if not bracketed."""

    level: float
    value: float
    low: float
    high: float

    @property
    def bracketed(self) -> bool:
        """Whether the data reach beyond both ends of the interval."""
        return bool(np.isfinite(self.value))


@dataclass(frozen=True)
class Efficiency:
    """``asymptote * Phi(+-(x - midpoint) / width)``, Phi the normal distribution function.

    Attributes
    ----------
    midpoint : float
        Where half of the asymptote is reached.
    width : float
    asymptote : float
        Fraction found where the star is bright; below 1 where artefacts, blends and masks hide stars.
    asymptote_low, asymptote_high : float
        Profile-likelihood interval.
    rising : bool
        Whether it rises with x (S/N) or falls (magnitude).
    points : tuple of Point
    """

    midpoint: float
    width: float
    asymptote: float
    asymptote_low: float
    asymptote_high: float
    rising: bool
    points: tuple[Point, ...]

    def at(self, x: np.ndarray) -> np.ndarray:
        """Efficiency at x."""
        sign = 1.0 if self.rising else -1.0
        return np.asarray(self.asymptote * ndtr(sign * (x - self.midpoint) / self.width))


@dataclass(frozen=True, eq=False)
class _Trials:
    """Stars in groups of like u = +-x, ascending: mean u, number, number found."""

    u: np.ndarray
    n: np.ndarray
    n_found: np.ndarray

    def deviance(self, mid: float, log_width: float, asymptote: float) -> tuple[float, np.ndarray]:
        """Minus twice the log-likelihood and its gradient in the three parameters."""
        width = np.exp(log_width)
        z = (self.u - mid) / width
        share, density = ndtr(z), np.exp(-0.5 * z**2) / np.sqrt(2 * np.pi)
        q = np.clip(asymptote * share, TINY, 1 - TINY)
        n_lost = self.n - self.n_found
        value = -2 * float(self.n_found @ np.log(q) + n_lost @ np.log1p(-q))
        slope = -2 * (self.n_found / q - n_lost / (1 - q))
        return value, np.array(
            [
                -(slope @ density) * asymptote / width,
                -(slope @ (density * z)) * asymptote,
                slope @ share,
            ]
        )


def fit_efficiency(
    x: np.ndarray,
    found: np.ndarray,
    *,
    rising: bool,
    levels: Sequence[float] = (0.5, 0.9),
    confidence: float = 0.95,
) -> Efficiency | None:
    """Fit the efficiency of independent trials, each found or lost.

    The intervals are where the profile likelihood falls by half the chi-square quantile with one degree
    of freedom (Wilks 1938). The order of the trials does not matter.

    Parameters
    ----------
    x : ndarray, shape (n,)
        Finite.
    found : ndarray of bool, shape (n,)
    rising : bool
    levels : sequence of float
        Efficiencies, as fractions of all trials, whose points are wanted.
    confidence : float

    Returns
    -------
    Efficiency or None
        None with fewer than 20 trials, or if none was found, or if all have the same x.
    """
    if len(x) < MIN_STARS or not found.any() or np.ptp(x) == 0:
        return None
    trials = _group(x if rising else -x, found)
    span = float(np.ptp(trials.u))
    log_width_bounds = (np.log(1e-3 * span), np.log(10 * span))
    starts = [
        (mid, np.log(width * span), 3.0)
        for mid in np.quantile(trials.u, (0.1, 0.35, 0.65))
        for width in (0.05, 0.3)
    ]
    bounds = [
        (trials.u[0] - 2 * span, trials.u[-1] + 2 * span),
        log_width_bounds,
        (-15.0, 15.0),
    ]
    whole = _whole(trials)
    starts = sorted(starts, key=lambda start: whole(np.array(start))[0])[:2]
    best = min((_minimise(whole, start, bounds) for start in starts), key=lambda result: result[0])
    lowest, (mid, log_width, a) = best
    limit = _Limit(lowest, float(chi2.ppf(confidence, 1)))
    width, asymptote = float(np.exp(log_width)), float(expit(a))
    asymptote_low, asymptote_high = _asymptote_interval(trials, asymptote, (mid, log_width), bounds, limit)
    sign = 1.0 if rising else -1.0
    points = tuple(
        _point(trials, level, (mid, log_width, asymptote), log_width_bounds, limit, sign) for level in levels
    )
    return Efficiency(float(sign * mid), width, asymptote, asymptote_low, asymptote_high, rising, points)


@dataclass(frozen=True)
class _Limit:
    """How far the deviance may rise above its lowest value."""

    lowest: float
    rise: float

    def reached(
        self, profile: Callable[[float], float], here: float, edge: float, step: float
    ) -> float | None:
        """Where the profile reaches the limit between the best value and an edge; None if nowhere."""

        def excess(value: float) -> float:
            # The root of the deviance is nearly linear away from the best value: few steps to the limit.
            return float(np.sqrt(max(profile(value) - self.lowest, 0)) - np.sqrt(self.rise))

        inner, at_edge = here, False
        while not at_edge:
            at_edge = step >= abs(edge - here)
            outer = edge if at_edge else here + float(np.sign(edge - here)) * step
            if excess(outer) >= 0:
                # Where rounding puts the best value itself above the limit there is nothing to search.
                return float(brentq(excess, inner, outer, xtol=1e-3 * step)) if excess(inner) < 0 else here
            inner, step = outer, 2 * step
        return None


def _group(u: np.ndarray, found: np.ndarray) -> _Trials:
    order = np.lexsort((found, u))  # ties in a fixed order: the result knows no order of the stars
    edges = np.unique(np.linspace(0, len(u), min(len(u), MAX_GROUPS) + 1).astype(int))[:-1]
    n = np.diff(np.append(edges, len(u)))
    return _Trials(
        np.add.reduceat(u[order].astype(float), edges) / n,
        n,
        np.add.reduceat(found[order].astype(int), edges),
    )


_Target = Callable[[np.ndarray], tuple[float, np.ndarray]]


def _minimise(
    target: _Target, start: Sequence[float], bounds: Sequence[tuple[float, float]]
) -> tuple[float, np.ndarray]:
    low, high = np.array(bounds).T
    result = minimize(target, np.clip(start, low, high), jac=True, bounds=bounds, method="L-BFGS-B")
    return float(result.fun), np.asarray(result.x)


def _whole(trials: _Trials) -> _Target:
    """The deviance of (midpoint, log width, logit of the asymptote)."""

    def target(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        mid, log_width, a = parameters
        asymptote = expit(a)
        value, gradient = trials.deviance(mid, log_width, asymptote)
        return value, gradient * [1, 1, asymptote * (1 - asymptote)]

    return target


def _asymptote_interval(
    trials: _Trials,
    asymptote: float,
    others: tuple[float, float],
    bounds: Sequence[tuple[float, float]],
    limit: _Limit,
) -> tuple[float, float]:
    def profile(trial: float) -> float:
        def target(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            value, gradient = trials.deviance(parameters[0], parameters[1], trial)
            return value, gradient[:2]

        return _minimise(target, others, bounds[:2])[0]

    step = 1e-3 + 2 * np.sqrt(asymptote * (1 - asymptote) / trials.n.sum())
    low = limit.reached(profile, asymptote, 0.0, step)
    high = limit.reached(profile, asymptote, 1.0, step)
    return 0.0 if low is None else low, 1.0 if high is None else high


def _point(
    trials: _Trials,
    level: float,
    best: tuple[float, float, float],
    log_width_bounds: tuple[float, float],
    limit: _Limit,
    sign: float,
) -> Point:
    """Where a level is passed; the profile keeps the asymptote above the level."""
    unknown = Point(level, np.nan, np.nan, np.nan)
    mid, log_width, asymptote = best
    if asymptote <= level:
        return unknown
    here = mid + np.exp(log_width) * float(ndtri(level / asymptote))
    if not trials.u[0] < here < trials.u[-1]:
        return unknown
    share = np.clip((asymptote - level) / (1 - level), 1e-6, 1 - 1e-6)
    nuisance = (log_width, float(logit(share)))

    def profile(trial: float) -> float:
        def target(parameters: np.ndarray) -> tuple[float, np.ndarray]:
            share = expit(parameters[1])
            top = level + (1 - level) * share
            width, shift = np.exp(parameters[0]), float(ndtri(level / top))
            value, gradient = trials.deviance(trial - width * shift, parameters[0], top)
            per_density = np.sqrt(2 * np.pi) * np.exp(0.5 * shift**2)
            d_mid_d_top = width * level / top**2 * per_density
            d_top = gradient[2] + gradient[0] * d_mid_d_top
            return value, np.array(
                [gradient[1] - gradient[0] * width * shift, d_top * (1 - level) * share * (1 - share)]
            )

        return _minimise(target, nuisance, [log_width_bounds, (-15.0, 15.0)])[0]

    step = 2 * float(np.exp(log_width) / np.sqrt(trials.n.sum()))
    ends = [limit.reached(profile, here, edge, step) for edge in (trials.u[0], trials.u[-1])]
    if ends[0] is None or ends[1] is None:
        return unknown
    low, high = sorted(sign * end for end in ends if end is not None)
    return Point(level, float(sign * here), low, high)
