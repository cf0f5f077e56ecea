"""Who wins is said in honest words: no win without numbers, no ratio without a count."""

import re

import numpy as np
import pytest
from _report_run import BASE_ROW, EVIL, failed_run, make_run, make_store, plain, read_page, write_rows

from rbmodel.report import build_report
from rbmodel.verdict import bound_text, compare, ladder, rate, significant
from rbmodel.verdict import headline as title_line


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "stamps.zarr")


def judged(store, out, **ours):
    """Page of baseline (FPR 2.0 %, 1.5 to 2.8 %) against one unlabelled run with the given changes."""
    write_rows(out, [make_run(store, out, "baseline"), make_run(store, out, "unlabelled", **ours)])
    return read_page(build_report(out, store.path))


def compared(changes):
    """Verdict on one unlabelled run with the given changes against the baseline of `BASE_ROW`."""
    ours = [BASE_ROW | {"method": "unlabelled"} | changes]
    return compare("unlabelled + VAT", "unlabelled", ours, "the baseline", [BASE_ROW])


def headline(page):
    return page.words[page.words.index("Real/bogus benchmark") : page.words.index("What was tested")]


def outcomes(page):
    return [a["data-outcome"] for _, a in page.elements if "data-outcome" in a]


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
    assert "The intervals do not overlap: a factor 2.5 in favour of the baseline." in verdict.sentence
    assert plain(verdict.sentence).endswith("At TPR 0.95: 5.0 % against 5.0 %, intervals overlap.")
    assert title_line([verdict]) == "The baseline beats unlabelled + VAT"
    assert (
        title_line([verdict, verdict])
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


def test_failed_seeds_are_counted_in_the_comparison():
    rows = [BASE_ROW, failed_run("unlabelled")]
    verdict = compare("ours", "unlabelled", rows, "the baseline", [BASE_ROW])
    assert verdict.sentence.endswith("Runs of theirs that failed and are left out: 1.")


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


def _run(method, fpr, **changes):
    names = [f"fpr_at_tpr90{end}" for end in ("", "_low", "_high")]
    rates = dict(zip(names, (fpr, 0.8 * fpr, 1.2 * fpr), strict=True))
    return BASE_ROW | {"method": method} | rates | changes


def test_ladder_says_how_far_each_method_is_on_the_way_to_the_oracle():
    rows = [_run("baseline", 0.04), _run("removed", 0.03), _run("unlabelled", 0.05), _run("oracle", 0.02)]
    rows[1] |= {"fpr_at_tpr99": 0.2, "fpr_at_tpr99_low": 0.1, "fpr_at_tpr99_high": 0.3}
    rows += [_run("baseline", 0.04, network="complex"), _run("gce", 0.01, network="complex")]
    labels = {(row["method"], row["network"]): f"{row['method']} {row['network']}" for row in rows}
    rungs = ladder([*rows, failed_run("coteaching")], labels | {("coteaching", "simple"): "co-teaching"})
    assert [rung.label for rung in rungs] == list(labels.values())
    gains = [rung.gain for rung in rungs]
    assert gains[:4] == pytest.approx([0, 0.5, -0.5, 1])
    assert gains[4:] == [None, None]  # their network had no oracle
    assert rungs[1].rates["fpr_at_tpr99"].high == 0.3
    assert "fpr_at_tpr99" not in rungs[0].rates


def test_there_is_no_share_of_a_gain_that_cannot_be_measured():
    rows = [_run("baseline", 0.04), _run("removed", 0.03), _run("oracle", 0.035)]
    labels = {(row["method"], row["network"]): row["method"] for row in rows}
    assert [rung.gain for rung in ladder(rows, labels)] == [None] * 3


def test_other_rates_are_compared_where_both_have_them():
    tail = {"fpr_at_tpr99": 0.3, "fpr_at_tpr99_low": 0.25, "fpr_at_tpr99_high": 0.4}
    ours = [BASE_ROW | {"method": "gce"} | tail]
    verdict = compare("GCE", "gce", ours, "the baseline", [BASE_ROW])
    assert "0.99" not in verdict.sentence
    theirs = [BASE_ROW | {"fpr_at_tpr99": 0.1, "fpr_at_tpr99_low": 0.05, "fpr_at_tpr99_high": 0.2}]
    words = plain(compare("GCE", "gce", ours, "the baseline", theirs).sentence)
    assert words.endswith("At TPR 0.99: 30 % against 10 %, intervals apart.")


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.8, "0.80"), (2.06, "2.1"), (100.0, "100"), (0.00123, "0.0012"), (25_300.0, "25,300")],
)
def test_significant_digits(value, text):
    assert significant(value) == text
