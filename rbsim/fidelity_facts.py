"""The figures of a fidelity measurement: what is measured, what is not, whether it counts, in words."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from rbsim.fidelity_sample import SNR_BINS, Pairs, mean_residuals

N_LOWER_BINS = 2
"""The figure of merit is the worse of the first two bins."""

WIDE_FACTOR, WIDE_AUC = 1.05, 0.75
NOISE_SIGMA = 3.0

MIN_MAP_STARS = 10
"""Mean residuals of fewer stars are not measured."""


def named(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of the S/N bins with their limits."""
    return [
        {"snr_low": low, "snr_high": high, **row} for (low, high), row in zip(SNR_BINS, rows, strict=True)
    ]


def headline(rows: Sequence[dict[str, Any]], controls: dict[str, Any]) -> dict[str, Any]:
    """`two_sample_auc` with its interval, `valid`, and the reasons where something is missing."""
    lower = rows[:N_LOWER_BINS]
    missing = [
        f"S/N {low:g} to {high:g}: {row['reason']}"
        for (low, high), row in zip(SNR_BINS, lower, strict=False)
        if row["auc"] is None
    ]
    facts: dict[str, Any] = dict.fromkeys(("two_sample_auc", "two_sample_auc_low", "two_sample_auc_high"))
    if not missing:
        worse = max(lower, key=lambda row: row["auc"])
        facts = {f"two_sample_{name}": worse[name] for name in ("auc", "auc_low", "auc_high")}
    reasons = [*missing, *(one["reason"] for one in controls.values() if not one["passed"])]
    return facts | {"valid": not reasons, "not_valid_because": reasons}


def control_facts(wide_rows: Sequence[dict[str, Any]], photometric: dict[str, Any]) -> dict[str, Any]:
    """Whether the test sees a PSF that is 5 % too wide, and noise that is missing."""
    bright = wide_rows[-1]
    auc = bright["auc"]
    low = SNR_BINS[-1][0]
    if auc is None:
        reason = f"control with a wide PSF at S/N above {low:g}: {bright['reason']}"
    else:
        reason = f"control: a PSF 5 % too wide scores {auc:.3f} at S/N above {low:g}, needs {WIDE_AUC}"
    wide_passed = auc is not None and auc >= WIDE_AUC
    sigma = photometric["noiseless_sigma"]
    if sigma is None:
        noise_reason = "control without photon noise: " + photometric["reason"]
    else:
        noise_reason = (
            f"control: the pull without photon noise is off by {sigma:.1f} sigma, needs {NOISE_SIGMA}"
        )
    noise_passed = sigma is not None and sigma > NOISE_SIGMA
    return {
        "wide_psf": {
            "width_factor": WIDE_FACTOR,
            "auc": auc,
            "auc_low": bright["auc_low"],
            "auc_high": bright["auc_high"],
            "n_stars": bright["n_stars"],
            "n_real": bright["n_real"],
            "auc_needed": WIDE_AUC,
            "bins": named(wide_rows),
            "passed": wide_passed,
            "reason": "" if wide_passed else reason,
        },
        "no_photon_noise": {
            "pull_std": photometric["noiseless_pull_std"],
            "pull_std_with_noise": photometric["flux_pull_std"],
            "sigma": sigma,
            "sigma_needed": NOISE_SIGMA,
            "passed": noise_passed,
            "reason": "" if noise_passed else noise_reason,
        },
    }


def residual_facts(pairs: Pairs) -> list[dict[str, Any]]:
    """Per S/N bin: reduced chi-square of both kinds, and how far their mean residuals differ."""
    rows = []
    for number, (low, high) in enumerate(SNR_BINS):
        here = pairs.snr_bin == number
        star = pairs.star[here]
        n_stars = len(np.unique(star))
        row: dict[str, Any] = {
            "snr_low": low,
            "snr_high": high,
            "n_pairs": int(here.sum()),
            "n_stars": n_stars,
        }
        names = ("chi2_real", "chi2_injected", "mean_residual_rms_real", "mean_residual_rms_injected")
        values: dict[str, Any] = dict.fromkeys((*names, "difference_chi2"))
        if n_stars >= MIN_MAP_STARS:
            both = [one.select(here) for one in (pairs.real, pairs.injected)]
            per_star = [mean_residuals(one, star) for one in both]
            maps = [one.mean(axis=0) for one in per_star]
            error = np.hypot(*(one.std(axis=0, ddof=1) for one in per_star)) / np.sqrt(n_stars)
            medians = [float(np.median(one.chi2)) for one in both]
            rms = [float(np.sqrt(np.mean(one**2))) for one in maps]
            values = dict(zip(names, (*medians, *rms), strict=True))
            values["difference_chi2"] = float(np.mean(((maps[0] - maps[1]) / error) ** 2))
        rows.append(row | values)
    return rows


def fidelity_text(facts: dict[str, Any]) -> list[tuple[str, str]]:
    """The figures in a few lines, for people."""
    lines = [("frames", f"{facts['n_frames']} used, {len(facts['failed'])} left out")]
    lines.append(("stars", f"{facts['n_stars']:,} real ones in {facts['n_real']:,} pairs with injected ones"))
    lines += [
        (f"AUC at S/N {row['snr_low']:g} to {row['snr_high']:g}", auc_text(row)) for row in facts["bins"]
    ]
    lines.append(("control, PSF 5 % too wide", auc_text(facts["controls"]["wide_psf"]["bins"][-1])))
    noise = facts["controls"]["no_photon_noise"]
    photometric = facts["photometry"]
    if photometric["flux_bias"] is None:
        lines.append(("photometry", f"not measured: {photometric['reason']}"))
    else:
        bias, bias_err, pull, pull_err = (
            photometric[name] for name in ("flux_bias", "flux_bias_err", "flux_pull_std", "flux_pull_std_err")
        )
        missing = f"pull std {noise['pull_std']:.3f}, off by {noise['sigma']:.0f} sigma"
        lines += [
            ("control, no photon noise", missing),
            ("flux bias at S/N above 20", f"{bias:+.2%} +- {bias_err:.2%}"),
            ("flux pull std", f"{pull:.3f} +- {pull_err:.3f}"),
        ]
    lines.append(("valid", "yes" if facts["valid"] else "not valid"))
    return lines


def auc_text(row: dict[str, Any]) -> str:
    """AUC with its interval, or why there is none."""
    if row["auc"] is None:
        return f"not measured: {row['reason']}"
    text = f"{row['auc']:.3f} ({row['auc_low']:.3f} to {row['auc_high']:.3f})"
    return f"{text}, {row['n_stars']} stars in {row['n_real']:,} pairs"
