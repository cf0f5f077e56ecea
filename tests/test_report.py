"""The report says what the rows say, and nothing from a file runs in it."""

import csv
import json
import re

import numpy as np
import pytest
from _report_run import EVIL, KIND, failed_run, make_run, make_store, read_page, write_rows

from rbmodel.report import build_report
from rbsim.errors import InputError


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


def test_nothing_is_fetched_from_outside_and_the_page_is_small(full):
    path = full[0] / "index.html"
    assert "http" not in path.read_text()
    links = [a[k] for _, a in full[2].elements for k in ("src", "href", "xlink:href") if k in a]
    inside = {a["id"] for _, a in full[2].elements if "id" in a}
    for link in links:
        if link.startswith("data:image/png;base64,"):
            continue
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
    assert drawn == {
        "rates",
        "roc",
        "histograms",
        "confusion",
        "cleaning",
        "cleaning_curve",
        "mislabel_rates",
    }
    assert len(full[2].all("svg", role="img")) == 1 + 2 + 5 + 5 + 2 + 1 + 1
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
        "fixmatch": "FixMatch",
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


def test_a_study_in_which_everything_failed_still_has_a_page(store, tmp_path):
    write_rows(tmp_path, [failed_run("baseline"), failed_run("unlabelled")])
    page = read_page(build_report(tmp_path, store.path))
    assert "Every run of this setting failed" in page.words
    assert page.all("figure") == []


def test_a_method_keeps_its_colour_whichever_others_ran(full):
    label_of = {a["data-series"] for a in full[2].all("td", data_field="auc")}
    swatches = [a["style"] for a in full[2].all("span", **{"class": "swatch"})]
    assert label_of == {"baseline", "removed", "unlabelled + VAT", "FixMatch", "oracle"}
    assert [re.search(r"--(\w+)", style)[1] for style in swatches] == [
        "series0",
        "series1",
        "series2",
        "series3",
        "bound",
    ]


def test_study_without_rows_is_refused(store, tmp_path):
    write_rows(tmp_path, [])
    with pytest.raises(InputError, match="is empty; run rbsim benchmark first"):
        build_report(tmp_path, store.path)


def test_last_row_of_a_run_counts(store, tmp_path):
    write_rows(tmp_path, [failed_run("unlabelled", reason=f"reason {i}") for i in (1, 2)])
    words = read_page(build_report(tmp_path, store.path)).words
    assert "reason 2" in words
    assert "reason 1" not in words


def test_arrays_that_are_missing_or_of_another_store_are_refused(store, tmp_path):
    row = make_run(store, tmp_path, "baseline")
    write_rows(tmp_path, [row])
    small = make_store(tmp_path / "small.zarr", n_per_frame=20)
    with pytest.raises(InputError, match="belongs to a store of more than 60 stamps"):
        build_report(tmp_path, small.path)
    (tmp_path / "runs" / f"{row['run_id']}.npz").unlink()
    with pytest.raises(InputError, match=r"baseline.*npz: cannot be read"):
        build_report(tmp_path, store.path)
