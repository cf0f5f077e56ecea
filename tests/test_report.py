"""The report says what the rows say, in honest words, and nothing from a file runs in it."""

import csv
import json
import re
from html.parser import HTMLParser
from types import SimpleNamespace

import numpy as np
import pytest

from rbmodel import gallery
from rbmodel.figures import COLOURS
from rbmodel.report import SETTING_FIELDS, bound_text, build_report, compare, rate, significant
from rbmodel.report import headline as title_line
from rbmodel.results import complete_row
from rbsim import build, schema
from rbsim.errors import InputError

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
    return build.finalise(path, summary={})


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


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "stamps.zarr")


@pytest.fixture(scope="module")
def full(store, tmp_path_factory):
    """A study of two seeds with every kind of run: (directory, rows, page)."""
    out = tmp_path_factory.mktemp("full")
    rows = []
    for seed in (0, 1):
        rows.append(make_run(store, out, "baseline", seed=seed, skill=4, fpr_at_tpr90=0.02 + 0.002 * seed))
        rows.append(make_run(store, out, "removed", seed=seed, skill=4.5, stage1=True))
        rows.append(
            make_run(store, out, "unlabelled", seed=seed, skill=5, stage1=True, auc=0.9951 + 0.0002 * seed)
        )
        rows.append(make_run(store, out, "oracle", seed=seed, skill=5.5, fpr_at_tpr90=0.019))
    rows += [make_run(store, out, "fixmatch", skill=5), failed_run("coteaching")]
    write_rows(out, rows)
    (out / "study.json").write_text(json.dumps({"config": {"note": EVIL}}))
    return out, rows, read_page(build_report(out, store.path))


def judged(store, out, **ours):
    """Page of baseline (FPR 2.0 %, 1.5 to 2.8 %) against one unlabelled run with the given changes."""
    write_rows(out, [make_run(store, out, "baseline"), make_run(store, out, "unlabelled", **ours)])
    return read_page(build_report(out, store.path))


def compared(changes):
    """Verdict on one unlabelled run with the given changes against the baseline of `BASE_ROW`."""
    ours = [BASE_ROW | {"method": "unlabelled"} | changes]
    return compare("unlabelled + VAT", "unlabelled", ours, "the baseline", [BASE_ROW])


def plain(text):
    return re.sub(r"\s+", " ", text)


def headline(page):
    return page.words[page.words.index("Real/bogus benchmark") : page.words.index("What was tested")]


def outcomes(page):
    return [a["data-outcome"] for _, a in page.elements if "data-outcome" in a]


def test_nothing_is_fetched_from_outside_and_the_page_is_small(full):
    path = full[0] / "index.html"
    assert "http" not in path.read_text()
    links = [a[k] for _, a in full[2].elements for k in ("src", "href", "xlink:href") if k in a]
    inside = {a["id"] for _, a in full[2].elements if "id" in a}
    for link in links:
        assert link.removeprefix("#") in inside if link.startswith("#") else (full[0] / link).exists(), link
    assert path.stat().st_size < 10_000_000


def test_gallery_counts_the_errors_at_the_threshold(full):
    out, rows, page = full
    with np.load(out / "runs" / f"{rows[0]['run_id']}.npz") as data:
        n_false = np.sum((data["test_score"] >= 0) & (data["test_label_true"] == 0))
        n_missed = np.sum((data["test_score"] < 0) & (data["test_label_true"] == 1))
    assert f"baseline: false positives {min(n_false, 24)} of {n_false}" in page.words
    assert f"baseline: false negatives {min(n_missed, 24)} of {n_missed}" in page.words


def test_names_from_files_cannot_become_markup(full):
    assert len(full[2].all("script")) == 1
    assert EVIL in full[2].words
    assert "<script>alert" not in (full[0] / "index.html").read_text()


def test_element_ids_are_unique(full):
    ids = [a["id"] for _, a in full[2].elements if "id" in a]
    assert len(ids) == len(set(ids))


def test_every_figure_is_drawn_with_png_and_csv(full):
    drawn = {a["id"] for a in full[2].all("figure")}
    assert drawn == {"rates", "roc", "histograms", "confusion", "cleaning", "mislabel_rates"}
    assert len(full[2].all("svg", role="img")) == 1 + 2 + 5 + 5 + 2 + 1
    for name in drawn:
        assert list((full[0] / "figures").glob(f"{name}*.png"))
        assert (full[0] / "figures" / f"{name}.csv").stat().st_size > 50


def test_figures_follow_the_colour_scheme(full):
    text = (full[0] / "index.html").read_text()
    svgs = re.findall(r"<svg.*?</svg>", text, flags=re.DOTALL)
    assert set(re.findall(r"#[0-9a-f]{6}\b", " ".join(svgs))) == set()


def test_table_holds_means_over_the_seeds_of_the_rows(full):
    _, rows, page = full
    names = {
        "baseline": "baseline",
        "unlabelled": "unlabelled + VAT",
        "oracle": "oracle",
        "fixmatch": "fixmatch",
    }
    for method, label in names.items():
        own = [row for row in rows if row["method"] == method]
        for field in ("auc", "fpr_at_tpr90", "tpr_at_fpr1e3", "f1", "cleaning_recall", "samples_per_second"):
            (found,) = page.all("td", data_series=label, data_field=field)
            known = [row[field] for row in own if row[field] is not None]
            assert found["data-value"] == (str(np.mean(known)) if known else "")
    assert "0.99520 ± 0.00014" in page.words
    assert "2.10 % ± 0.141 %" in page.words


def test_run_details_give_each_interval_and_each_failure(full):
    assert len([a for a in full[2].all("tr") if "data-run" in a]) == len(full[1])
    assert "2.20 % 1.50 % \N{EN DASH} 2.80 %" in full[2].words
    assert "did not converge: loss is NaN" in full[2].words
    assert "1 of 10 runs failed: coteaching_failed_0" in full[2].words


def test_roc_csv_is_the_roc_by_counting(full):
    out, rows, _ = full
    with np.load(out / "runs" / f"{rows[0]['run_id']}.npz") as data:
        real = data["test_score"][data["test_kind"] == KIND["emulated_transient"]]
        bogus = data["test_score"][data["test_label_true"] == 0]
    with (out / "figures" / "roc.csv").open() as file:
        lines = [
            r
            for r in csv.DictReader(file)
            if (r["positives"], r["series"], r["seed"]) == ("emulated", "baseline", "0")
        ]
    assert len(lines) == 400
    for line in lines[::37]:
        allowed = [t for t in [np.inf, *bogus, *real] if np.mean(bogus >= t) <= float(line["fpr"])]
        assert float(line["tpr"]) == pytest.approx(max(np.mean(real >= t) for t in allowed))


def test_test_set_is_stated_with_counts_and_what_is_only_assumed(full, store):
    kind = store.column("kind")[np.arange(store.n_stamps) % 3 > 0]
    assert f"detection {np.sum(kind == KIND['detection'])} bogus assumed" in full[2].words
    assert (
        f"emulated transient {np.sum(kind == KIND['emulated_transient'])} real known: emulated"
        in full[2].words
    )
    assert "may be real transients" in full[2].words
    assert "With so few groups" not in full[2].words
    assert "17 stamps whose block and sky fell on different sides were used by nobody" in full[2].words


def test_no_caveat_where_every_label_is_known(tmp_path):
    store = make_store(tmp_path / "s.zarr", frames=("a", "b"))
    out = tmp_path / "out"
    row = make_run(store, out, "baseline")
    with np.load(out / "runs" / f"{row['run_id']}.npz") as data:
        keep = data["test_kind"] != KIND["detection"]
        arrays = {k: data[k][keep] if k.startswith("test") else data[k] for k in data.files}
    np.savez(out / "runs" / f"{row['run_id']}.npz", **arrays)
    write_rows(out, [row])
    words = read_page(build_report(out, store.path)).words
    assert "may be real transients" not in words
    assert "With so few groups" in words


def test_win_is_claimed_with_numbers_and_factor(store, tmp_path):
    page = judged(store, tmp_path, fpr_at_tpr90=0.008, fpr_at_tpr90_low=0.004, fpr_at_tpr90_high=0.013)
    assert outcomes(page) == ["win"]
    assert "unlabelled + VAT lets fewer bogus through than the baseline" in headline(page)
    assert (
        "unlabelled + VAT passes 0.80 % of the bogus (0.40\N{EN DASH}1.3 %); the baseline passes 2.0 %"
        in headline(page)
    )
    assert "do not overlap: a factor 2.5 in favour of unlabelled + VAT" in headline(page)


def test_overlap_is_no_win_however_small_the_rate(store, tmp_path):
    page = judged(store, tmp_path, fpr_at_tpr90=0.008, fpr_at_tpr90_low=0.004, fpr_at_tpr90_high=0.0151)
    assert outcomes(page) == ["overlap"]
    assert "No measurable difference between unlabelled + VAT and the baseline" in headline(page)
    assert "cannot tell them apart" in headline(page)
    assert "factor" not in headline(page).split("What cleaning could")[0]


def test_loss_is_said():
    verdict = compared({"fpr_at_tpr90": 0.05, "fpr_at_tpr90_low": 0.04, "fpr_at_tpr90_high": 0.06})
    assert verdict.outcome == "loss"
    assert verdict.sentence.endswith("The intervals do not overlap: a factor 2.5 in favour of the baseline.")
    setting = SimpleNamespace(verdicts=(verdict,))
    assert title_line([setting]) == "The baseline beats unlabelled + VAT"
    assert (
        title_line([setting, setting])
        == "unlabelled + VAT beats the baseline in 0 of 2 comparisons and loses in 2"
    )


def test_no_false_positive_gives_an_upper_limit_and_no_ratio(store, tmp_path):
    page = judged(store, tmp_path, fpr_at_tpr90=0.0, fpr_at_tpr90_low=0.0, fpr_at_tpr90_high=0.009)
    assert outcomes(page) == ["win"]
    assert re.search(r"passes none of \d+ bogus \(upper limit 0.90 %\)", headline(page))
    assert "factor" not in headline(page).split("What cleaning could")[0]
    assert "< 0.90 %" in headline(page)


def test_seeds_that_disagree_widen_the_interval():
    rows = [
        {"fpr_at_tpr90": v, "fpr_at_tpr90_low": v - 0.01, "fpr_at_tpr90_high": v + 0.02} for v in (0.1, 0.3)
    ]
    spread = np.std([0.1, 0.3], ddof=1)
    found = rate(rows)
    assert found.mean == pytest.approx(0.2)
    assert found.low == pytest.approx(0.2 - np.hypot(0.01, spread))
    assert found.high == pytest.approx(0.2 + np.hypot(0.02, spread))


def test_failed_method_is_not_compared(store, tmp_path):
    write_rows(
        tmp_path, [make_run(store, tmp_path, "baseline"), failed_run("unlabelled", reason=f"out of {EVIL}")]
    )
    page = read_page(build_report(tmp_path, store.path))
    assert outcomes(page) == ["missing"]
    assert "could not be compared with the baseline" in headline(page)
    assert f"unlabelled + VAT failed (out of {EVIL})" in headline(page)


def test_a_study_in_which_everything_failed_still_has_a_page(store, tmp_path):
    write_rows(tmp_path, [failed_run("baseline"), failed_run("unlabelled")])
    page = read_page(build_report(tmp_path, store.path))
    assert "Every run of this setting failed" in page.words
    assert page.all("figure") == []


@pytest.mark.parametrize(
    ("oracle", "words"),
    [
        ((0.005, 0.003, 0.008), "could spare at most 1.5 % of the bogus, a factor 4.0."),
        ((0.018, 0.012, 0.022), "wrong labels cost nothing that can be measured"),
        ((0.06, 0.05, 0.07), "The oracle is worse than the baseline"),
    ],
)
def test_bound_says_what_cleaning_could_win(oracle, words):
    changes = dict(zip(("fpr_at_tpr90", "fpr_at_tpr90_low", "fpr_at_tpr90_high"), oracle, strict=True))
    rows = [BASE_ROW | {"method": "baseline"}, BASE_ROW | {"method": "oracle"} | changes]
    assert words in plain(bound_text(rows))
    rows[1]["network"] = "complex"
    assert "different networks" in bound_text(rows)
    assert "Not known" in bound_text(rows[:1])


def test_settings_are_compared_apart_and_networks_are_named(store, tmp_path):
    good = {"fpr_at_tpr90": 0.008, "fpr_at_tpr90_low": 0.004, "fpr_at_tpr90_high": 0.013}
    rows = [
        make_run(store, tmp_path, "baseline"),
        make_run(store, tmp_path, "unlabelled", network="complex", **good),
    ]
    rows += [
        make_run(store, tmp_path, m, mislabel_bogus=0.05, condition=EVIL) for m in ("baseline", "unlabelled")
    ]
    write_rows(tmp_path, rows)
    page = read_page(build_report(tmp_path, store.path))
    assert outcomes(page) == ["win", "overlap"]
    assert "unlabelled + VAT beats the baseline in 1 of 2 comparisons and loses in 0" in headline(page)
    assert "different networks" in headline(page)
    assert EVIL in headline(page)
    assert len(page.all("script")) == 1
    assert {a["id"] for a in page.all("figure")} >= {"setting1_roc", "setting2_roc", "rates"}


def test_a_method_keeps_its_colour_whichever_others_ran(full):
    label_of = {a["data-series"] for a in full[2].all("td", data_field="auc")}
    swatches = [a["style"] for a in full[2].all("span", **{"class": "swatch"})]
    assert label_of == {"baseline", "removed", "unlabelled + VAT", "fixmatch", "oracle"}
    assert [re.search(r"--(\w+)", style)[1] for style in swatches] == [
        "series0",
        "series1",
        "series2",
        "series3",
        "bound",
    ]


VISION = {
    "normal": np.eye(3),
    # Machado, Oliveira & Fernandes 2009, severity 1, for linear RGB.
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("vision", VISION)
@pytest.mark.parametrize("scheme", [0, 1])
def test_series_colours_stay_apart_for_everyone(vision, scheme):
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    to_lab = np.array([[0, 116, 0], [500, -500, 0], [0, 200, -200]])
    names = [name for name in COLOURS if name.startswith("series") or name == "bound"]
    rgb = np.array([[int(COLOURS[n][scheme][i : i + 2], 16) / 255 for i in (1, 3, 5)] for n in names])
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.transpose(VISION[vision]), 0, 1)
    xyz = seen @ to_xyz.T / [0.9505, 1, 1.089]
    lab = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16 / 116) @ to_lab.T
    distance = np.linalg.norm(lab[:, None] - lab[None], axis=2)
    assert distance[~np.eye(len(names), dtype=bool)].min() >= 14


def test_misclassified_are_the_worst_first():
    arrays = {
        "test_row": np.array([10, 11, 12, 13, 14, 15]),
        "test_score": np.array([2.0, 5.0, -3.0, -1.0, 0.0, 4.0]),
        "test_label_true": np.array([0, 0, 1, 1, 0, 1]),
        "test_kind": np.array([KIND["artefact"], KIND["detection"], 2, 2, KIND["artefact"], 2]),
    }
    positives, negatives = gallery.misclassified(arrays, threshold=0.0, n_max=2)
    assert [pick.row for pick in positives.picks] == [11, 10]
    assert [pick.verdict for pick in positives.picks] == ["assumed bogus called real", "bogus called real"]
    assert [pick.row for pick in negatives.picks] == [12, 13]
    assert (positives.n_total, negatives.n_total) == (3, 2)


def test_suspicious_labels_say_what_is_known_of_the_truth():
    arrays = {
        "train_row": np.arange(5),
        "train_oof_score": np.array([6.0, -4.0, 3.0, -9.0, 2.0]),
        "train_label_given": np.array([0, 1, 0, 0, 0]),
        "train_label_true": np.array([1, 1, 0, 0, -1]),
    }
    source = np.array(
        [schema.LABEL_SOURCES[name] for name in ("injected", "injected", "assumed", "assumed", "emulator")]
    )
    choice = gallery.suspicious(arrays, label_true_source=source, n_max=24)
    assert [(pick.row, pick.verdict) for pick in choice.picks] == [
        (0, "given bogus: mislabel"),
        (1, "given real: label is right"),
        (2, "given bogus: label is right (assumed)"),
        (4, "given bogus; truth unknown"),
    ]
    del arrays["train_label_true"]
    unknown = gallery.suspicious(arrays, label_true_source=source, n_max=1)
    assert [pick.verdict for pick in unknown.picks] == ["given bogus; truth unknown"]


def test_stretch_keeps_order_and_marks_missing_pixels(store):
    stamps = store.read_stamps(np.array([0, 5]))
    levels = gallery.stretch(stamps)
    assert np.array_equal(levels == gallery.NO_PIXEL, ~np.isfinite(stamps))
    assert np.isnan(stamps[0]).any()
    for values, grey in zip(stamps[1], levels[1], strict=True):
        assert np.all(np.diff(grey.ravel()[np.argsort(values.ravel())].astype(int)) >= 0)
    flat = gallery.stretch(np.zeros((1, 3, 29, 29), np.float32))
    assert abs(int(flat[0, 2, 0, 0]) - gallery.GREY_LEVELS / 2) <= 1


def test_card_shows_the_stamp_of_its_row(store):
    choice = gallery.Choice("x", tuple(gallery.Pick(row, 0.0, "", "wrong") for row in (30, 4, 30, 250)), 4)
    album = gallery.album(store, [choice])
    assert (album.n_columns, album.n_rows) == (3, 1)
    assert [card.x_percent for card in album.galleries[0]] == [50, 0, 50, 100]
    assert album.galleries[0][3].frame == "night1_b.fits"
    assert album.galleries[0][0].x_pix == store.column("x_pix")[30]
    image = gallery.Image.open(gallery.io.BytesIO(gallery.base64.b64decode(album.png_base64)))
    sheet = np.asarray(image)
    left = gallery.CELL_WIDTH_PIX + gallery.GAP_PIX
    shown = sheet[gallery.GAP_PIX : gallery.GAP_PIX + 29, left : left + 29]
    assert np.array_equal(shown[::-1], gallery.stretch(store.read_stamps(np.array([30])))[0, 0])


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.8, "0.80"), (2.06, "2.1"), (100.0, "100"), (0.00123, "0.0012"), (25_300.0, "25,300")],
)
def test_significant_digits(value, text):
    assert significant(value) == text


def test_study_without_rows_is_refused(store, tmp_path):
    write_rows(tmp_path, [])
    with pytest.raises(InputError, match="is empty; run rbsim benchmark first"):
        build_report(tmp_path, store.path)


def test_last_row_of_a_run_counts(store, tmp_path):
    write_rows(tmp_path, [failed_run("unlabelled", reason=f"reason {i}") for i in (1, 2)])
    words = read_page(build_report(tmp_path, store.path)).words
    assert "reason 2" in words
    assert "reason 1" not in words


def test_failed_seeds_are_counted_in_the_comparison():
    rows = [BASE_ROW, failed_run("unlabelled")]
    verdict = compare("ours", "unlabelled", rows, "the baseline", [BASE_ROW])
    assert verdict.sentence.endswith("Runs of theirs that failed and are left out: 1.")


def test_arrays_that_are_missing_or_of_another_store_are_refused(store, tmp_path):
    row = make_run(store, tmp_path, "baseline")
    write_rows(tmp_path, [row])
    small = make_store(tmp_path / "small.zarr", n_per_frame=20)
    with pytest.raises(InputError, match="belongs to a store of more than 60 stamps"):
        build_report(tmp_path, small.path)
    (tmp_path / "runs" / f"{row['run_id']}.npz").unlink()
    with pytest.raises(InputError, match=r"baseline.*npz: cannot be read"):
        build_report(tmp_path, store.path)
