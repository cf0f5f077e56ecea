"""A fake study to report on: a small store, runs of chosen skill, and a reader of the page."""

import json
import re
from html.parser import HTMLParser

import numpy as np

from rbmodel.report import SETTING_FIELDS
from rbmodel.results import complete_row
from rbsim import build, schema
from rbsim.pack import finalise

EVIL = "<script>alert(1)</script>.fits"
N_PER_FRAME = 220
KIND = schema.KIND_CODES
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}

BASE_ROW = {
    "run_id": "r", "status": "ok", "method": "baseline", "network": "simple", "seed": 0,
    "label_noise": "class_conditional", "mislabel_bogus": 0.01, "mislabel_real": 0.01,
    "condition": "clean", "reference": "native", "normalisation": "minmax", "bogus_per_real": 1.0,
    "n_train": 12_345, "n_test_bogus": 400, "test_positives": "emulated", "threshold": 0.5, "prevalence": 0.5,
    "auc": 0.99, "auc_low": 0.985, "auc_high": 0.995, "auc_injected": 0.993,
    "fpr_at_tpr90": 0.02, "fpr_at_tpr90_low": 0.015, "fpr_at_tpr90_high": 0.028,
    "fpr_at_tpr95": 0.05, "fpr_at_tpr95_low": 0.04, "fpr_at_tpr95_high": 0.06, "tpr_at_fpr1e3": 0.8,
    "fpr_at_tpr90_injected": 0.012, "accuracy": 0.97, "precision": 0.96, "recall": 0.98, "f1": 0.97,
    "confusion": {"tn": 190, "fp": 4, "fn": 5, "tp": 91}, "cleaning_recall": None,
    "train_seconds": 61.5, "samples_per_second": 25_300.0, "n_epochs": 3, "n_unused_by_split": 17,
    "versions": {"numpy": "2.0"},
}  # fmt: skip


def make_store(path, *, n_per_frame=N_PER_FRAME, frames=("night1_a.fits", "night1_b.fits", EVIL), seed=7):
    """Frames of stars (real) and dipoles or hot pixels (bogus); a few stamps lack pixels."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:29, :29] - 14.0
    build.init(path, config={}, inputs=list(frames))
    for number, name in enumerate(frames):
        n = n_per_frame
        bogus_kind = KIND["artefact"] if number else KIND["detection"]
        kind = rng.choice(
            [bogus_kind, KIND["injected_random"], KIND["emulated_transient"]], n, p=[0.5, 0.3, 0.2]
        )
        label_true, source = np.array([schema.label_of_kind(int(code)) for code in kind]).T
        dx, dy = rng.normal(0, 0.4, (2, n, 1, 1))
        star = np.exp(-((x - dx) ** 2 + (y - dy) ** 2) / (2 * 1.5**2))
        dipole = np.roll(star, 1, axis=2) - np.roll(star, -1, axis=2)
        hot = ((x == 0) & (y == 0)).astype(float)
        amplitude = rng.pareto(2, (n, 1, 1)) * 40 + 50
        host = rng.exponential(300, (n, 1, 1)) * np.exp(-((x - 4) ** 2 + (y + 3) ** 2) / (2 * 3.0**2))
        added = np.where(
            label_true[:, None, None] == 1, star, np.where(rng.random((n, 1, 1)) < 0.6, dipole, hot)
        )
        reference = host + rng.normal(0, 3, (n, 29, 29))
        difference = amplitude * added + rng.normal(0, 10, (n, 29, 29))
        stamps = np.stack([reference, reference + difference, difference], axis=1)
        stamps[:3, :, :, 22:] = np.nan
        mag = np.where(np.arange(n) % 40, 20 - 2.5 * np.log10(amplitude[:, 0, 0]), np.nan)
        given = {
            "kind": kind, "label_true": label_true, "label_true_source": source, "label_given": label_true,
            "snr": 0.3 * amplitude[:, 0, 0], "mag": mag,
            "x_pix": rng.uniform(20, 1980, n), "y_pix": rng.uniform(20, 1100, n),
            "group": 10 * number + rng.integers(0, 8, n),
            "flags": np.where(np.arange(n) < 3, schema.CANDIDATE_FLAG["EDGE"], 0),
        }  # fmt: skip
        columns = {
            s.name: given.get(s.name, np.zeros(n)) for s in schema.CANDIDATE_COLUMNS if s.name != "frame"
        }
        frame = {s.name: 0 for s in schema.FRAME_COLUMNS}
        truth = {s.name: np.zeros(0) for s in schema.TRUTH_COLUMNS}
        build.write_partition(path, number, build.Partition(name, "", frame, stamps, columns, truth))
    return finalise(path)


def make_run(store, out, method, *, seed=0, skill=5.0, stage1=False, **changes):
    """Write the arrays of one run whose real scores lie `skill` above the bogus, and return its row."""
    run_id = f"{method}_{changes.get('network', 'simple')}_{changes.get('mislabel_bogus', 0.01)}_{seed}"
    rng = np.random.default_rng([seed, len(run_id), int(100 * skill)])
    kind, true, group = (store.column(name) for name in ("kind", "label_true", "group"))
    rows = np.arange(store.n_stamps)
    test = rows[rows % 3 > 0]
    score = (true - 0.5) * skill + rng.logistic(0, 0.8, len(true))
    arrays = {
        "test_row": test, "test_score": score[test], "test_label_true": true[test], "test_kind": kind[test],
        "test_group": group[test], "history_train_loss": np.zeros(3), "history_validation_loss": np.zeros(3),
    }  # fmt: skip
    row = BASE_ROW | {
        "run_id": run_id, "method": method, "seed": seed,
        "n_test_bogus": int(np.sum(true[test] == 0)), "n_test_real": int(np.sum(true[test] == 1)),
    }  # fmt: skip
    if stage1:
        train = rows[(rows % 3 == 0) & (kind != KIND["emulated_transient"])]
        wrong = rng.random(len(train)) < 0.05
        given = np.where(wrong, 1 - true[train], true[train])
        arrays |= {
            "train_row": train, "train_oof_score": score[train], "train_label_true": true[train],
            "train_label_given": given, "train_suspect": (score[train] > 0) != (given == 1),
        }  # fmt: skip
        row |= {
            "cleaning_recall": 0.93,
            "cleaning_precision": 0.61,
            "mislabel_estimate": 0.014,
            "mislabel_true": 0.01,
        }
    (out / "runs").mkdir(parents=True, exist_ok=True)
    np.savez(out / "runs" / f"{run_id}.npz", **arrays)
    return row | changes


def failed_run(method, *, seed=0, reason="did not converge: loss is NaN"):
    kept = {name: BASE_ROW[name] for name in ("network", *SETTING_FIELDS)}
    run_id = f"{method}_failed_{seed}"
    return kept | {"run_id": run_id, "status": "failed", "reason": reason, "method": method, "seed": seed}


def write_rows(out, rows):
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.jsonl").write_text("".join(json.dumps(complete_row(row)) + "\n" for row in rows))


class Page(HTMLParser):
    """Elements with attributes and text; refuses tags that do not close."""

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag in ("td", "th", "small"):
            self.text.append(" ")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.text.append(data)

    def all(self, tag, **wanted):
        return [
            a
            for t, a in self.elements
            if t == tag and all(a.get(k.replace("_", "-")) == v for k, v in wanted.items())
        ]


def read_page(path):
    page = Page(path.read_text())
    page.words = plain("".join(page.text))
    return page


def plain(text):
    return re.sub(r"\s+", " ", text)
