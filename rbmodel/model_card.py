"""The card of a model: ``README.md`` with a YAML header that Hugging Face reads. Same model, same card."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rbmodel.model import CARD, read_facts
from rbsim.card import plain_text
from rbsim.errors import InputError

RECIPE_TEXTS = {
    "baseline": "cross-entropy on the labels as they are given",
    "removed": "cross-entropy without the samples whose given label an out-of-fold network contradicts",
    "unlabelled": "those samples kept without labels; cross-entropy, AUC loss, virtual adversarial training",
}


def write_card(folder: Path) -> None:
    """Write the card of a model into its folder.

    Parameters
    ----------
    folder : Path
        With ``model.json``.

    Raises
    ------
    InputError
        If the facts cannot be read, or the card not be written.
    """
    facts = read_facts(folder)
    text = "\n".join([*_header(facts), *_body(facts, has_figure=(folder / "reliability.png").exists())])
    try:
        (folder / CARD).write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder / CARD}: cannot be written ({error.strerror}); free space") from error


def _header(facts: Mapping[str, Any]) -> list[str]:
    """The YAML header. Strings are JSON strings, which YAML reads as they are."""
    lines = [
        "---",
        # The hub knows no "unknown" beside its list of licences but "other" with a name.
        "license: other",
        'license_name: "unknown"',
        "library_name: rbsim",
        "pipeline_tag: image-classification",
        "tags:",
        *(f"- {tag}" for tag in ("astronomy", "transients", "real-bogus", "label-noise", "rbsim")),
        "model-index:",
        f"- name: {json.dumps(facts['version'])}",
        "  results:",
    ]
    for against, figures in facts["metrics"].items():
        if figures is None:
            continue
        auc = figures["auc"]["value"] if against == "given" else figures["auc"]
        lines += [
            "  - task:",
            "      type: image-classification",
            "    dataset:",
            f"      name: {json.dumps(facts['store']['name'] + ', held-out groups')}",
            f"      type: {json.dumps('rbsim-store')}",
            "    metrics:",
            "    - type: roc_auc",
            f"      name: {json.dumps(f'AUC against {_against(against)}')}",
            f"      value: {json.dumps(auc)}",
        ]
    return [*lines, "---", ""]


def _against(key: str) -> str:
    return "given labels" if key == "given" else "true labels (evaluation only)"


def _body(facts: Mapping[str, Any], *, has_figure: bool) -> list[str]:
    training, store, labels = facts["training"], facts["store"], facts["labels"]
    setting = "as the store gives them"
    if labels["setting"] is not None:
        mechanism = labels["setting_attributes"].get("mechanism", "unknown")
        setting = f"setting {plain_text(labels['setting'])}, mechanism {plain_text(str(mechanism))}"
    rows = [
        ("network", f"{facts['network']}, {facts['n_weights']:,} weights"),
        ("recipe", f"{facts['recipe']}: {RECIPE_TEXTS.get(facts['recipe'], 'see docs/classifiers.md')}"),
        ("stamps", f"29 x 29 px, channels {', '.join(facts['channels'])}"),
        ("normalisation", facts["normalisation"]),
        ("store", f"{plain_text(store['name'])}, {store['n_stamps']:,} stamps"),
        ("manifest of the store", store["manifest_sha256"]),
        ("condition", plain_text(str(store["condition"]))),
        ("reference", plain_text(str(store["reference"]))),
        ("labels", setting),
        ("wrong training labels by the truth", _percent(labels["mislabelled_by_truth"])),
        ("the same, estimated by stage 1", _percent(labels["mislabelled_by_stage_1"])),
        ("trained on", f"{training['n_real']:,} given real, {training['n_bogus']:,} given bogus"),
        ("epochs", f"{training['n_epochs']}, best {training['best_epoch'] + 1}"),
        ("temperature", f"{facts['temperature']:.4f}, fitted at {_percent(facts['prevalence'])} reals"),
    ]  # fmt: skip
    lines = [
        f"# {plain_text(facts['version'])}",
        "",
        "A real/bogus classifier for candidates of difference imaging, trained by rbsim.",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in rows),
        "",
        "## How good it is",
        "",
        "On groups (exposure block x sky tile) that it never saw. Recipes see given labels only;",
        "true labels are used after the training, for evaluation only.",
        "",
        "| against | real, bogus | AUC | FPR at TPR 0.9 | accuracy | calibration error |",
        "|---|---|---|---|---|---|",
        *_figure_rows(facts["metrics"]),
        "",
    ]
    if has_figure:
        lines += ["![Probabilities beside frequencies](reliability.png)", ""]
    assumed = facts["metrics"]["truth"]["n_bogus_assumed"]
    if assumed:
        lines += [
            f"{assumed:,} of the true bogus are detections on real frames, which are only *assumed* bogus.",
            "",
        ]
    return [
        *lines,
        "## How to use it",
        "",
        "```",
        "rbsim score MODEL STORE --out scores.parquet --prevalence 0.01",
        "rbsim export MODEL --format onnx --out model.onnx",
        "```",
        "",
        "P(real) holds where the share of reals is that of the calibration, or the one given as",
        "`--prevalence`. The model is made for stamps like those of the store: another camera, subtraction",
        "or reference needs its own training.",
        "",
        "| package | version |",
        "|---|---|",
        *(f"| {plain_text(str(k))} | {plain_text(str(v))} |" for k, v in sorted(facts["versions"].items())),
    ]  # fmt: skip


def model_text(facts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """What `rbmodel.model_training.train_model` returns, as lines of a summary."""
    training, metrics = facts["training"], facts["metrics"]
    lines = [
        ("model", str(facts["path"])),
        ("version", facts["version"]),
        ("trained on", f"{training['n_real']:,} given real, {training['n_bogus']:,} given bogus"),
        ("epochs", f"{training['n_epochs']}, best {training['best_epoch'] + 1}"),
        ("temperature", f"{facts['temperature']:.3f}"),
    ]
    if metrics["given"] is not None:
        auc, error = metrics["given"]["auc"], metrics["given"]["calibration_error"]
        lines.append(
            ("against given labels", f"AUC {auc['value']:.5f} ({auc['low']:.5f} to {auc['high']:.5f})")
        )
        lines.append(("calibration error", f"{error:.4f}"))
    truth = metrics["truth"]
    interval = f"{truth['auc']:.5f} ({truth['auc_low']:.5f} to {truth['auc_high']:.5f})"
    lines.append(("against the truth", f"AUC {interval}"))
    return lines


def _figure_rows(metrics: Mapping[str, Any]) -> list[str]:
    rows = []
    for against, figures in metrics.items():
        if figures is None:
            rows.append(f"| {_against(against)} | one class only | | | | |")
            continue
        flat = dict(figures)
        for name in ("auc", "fpr_at_tpr90"):
            if isinstance(flat[name], dict):
                estimate = flat[name]
                flat |= {
                    name: estimate["value"],
                    f"{name}_low": estimate["low"],
                    f"{name}_high": estimate["high"],
                }
        auc, fpr = (
            f"{flat[name]:.4f} ({flat[f'{name}_low']:.4f} to {flat[f'{name}_high']:.4f})"
            for name in ("auc", "fpr_at_tpr90")
        )
        error = "" if "calibration_error" not in flat else f"{flat['calibration_error']:.4f}"
        rows.append(
            f"| {_against(against)} | {flat['n_real']:,}, {flat['n_bogus']:,} | {auc} | {fpr} |"
            f" {flat['accuracy']:.4f} | {error} |"
        )
    return rows


def _percent(share: float | None) -> str:
    return "not known" if share is None else f"{100 * share:.2f} %"
