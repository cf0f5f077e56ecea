"""A fidelity report as one HTML page that needs nothing beside it."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from rbsim.fidelity_facts import WIDE_AUC, auc_text
from rbsim.fidelity_figures import TARGET_AUC, Picture


def write_page(facts: dict[str, Any], pictures: Sequence[Picture], path: Path) -> None:
    """Write the page.

    Parameters
    ----------
    facts : dict
        What ``fidelity.json`` holds.
    pictures : sequence of Picture
        Their PNG files are put into the page.
    path : Path
    """
    environment = Environment(loader=PackageLoader("rbsim"), autoescape=True, undefined=StrictUndefined)
    environment.filters["capitalize_first"] = lambda text: text[:1].upper() + text[1:]
    page = environment.get_template("fidelity.html.j2").render(
        title=_title(facts),
        facts=facts,
        lines=_lines(facts),
        pictures=[
            vars(picture) | {"data": base64.b64encode(picture.path.read_bytes()).decode()}
            for picture in pictures
        ],
    )
    path.write_text(page, encoding="utf-8")


def _title(facts: dict[str, Any]) -> str:
    auc = facts["two_sample_auc"]
    if auc is None:
        return "Whether injected stars pass for real ones was not measured"
    if not facts["valid"]:
        return "The comparison of injected with real stars does not count"
    if facts["two_sample_auc_high"] <= TARGET_AUC:
        return "Injected stars pass for real ones"
    if auc <= TARGET_AUC:
        return "Injected stars seem to pass for real ones"
    return "Injected stars can be told from real ones"


def _lines(facts: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Name, value and target of the figures that matter."""
    lines = [
        (
            f"AUC at S/N {row['snr_low']:g} to {row['snr_high']:g}",
            auc_text(row),
            f"at most {TARGET_AUC:.2f}" if number < len(facts["bins"]) - 1 else "0.5 is perfect",
        )
        for number, row in enumerate(facts["bins"])
    ]
    wide, noise = facts["controls"]["wide_psf"], facts["controls"]["no_photon_noise"]
    lines.append(
        (
            "Control: AUC of a PSF 5 % too wide, S/N above 50",
            auc_text(wide["bins"][-1]),
            f"at least {WIDE_AUC}",
        )
    )
    photometry = facts["photometry"]
    if photometry["flux_bias"] is None:
        return [*lines, ("Photometry", f"not measured: {photometry['reason']}", "")]
    return [
        *lines,
        (
            "Control: pull without photon noise",
            f"{noise['pull_std']:.3f}, off by {noise['sigma']:.0f} sigma",
            f"more than {noise['sigma_needed']:g} sigma",
        ),
        (
            f"Flux bias at S/N above {photometry['snr_above']:g}",
            f"{photometry['flux_bias']:+.2%} ± {photometry['flux_bias_err']:.2%}",
            "below 0.5 %",
        ),
        (
            "Pull of the fluxes, after less before",
            f"{photometry['flux_pull_std']:.3f} ± {photometry['flux_pull_std_err']:.3f}",
            "1.00 ± 0.05",
        ),
        (
            "The same without the frame before",
            f"{photometry['found_pull_std']:.3f}; {photometry['found_outliers']} stars beyond 5 sigma",
            "1 if the noise map knew all of the sky",
        ),
    ]
