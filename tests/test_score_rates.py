"""Rates of wrong labels by score: measured where the truth is known, recovered, refused where it is not."""

import json

import numpy as np
import pytest
from _completeness_store import truth_of, write_store
from _synthetic_store import make_store
from astropy.table import Table
from typer.testing import CliRunner

import cli
from rbsim import schema
from rbsim.errors import InputError
from rbsim.label_mechanisms import Labelled, ScoreBinned, spoil
from rbsim.relabel import measure_store_rates
from rbsim.score_rates import Rates, measure_rates, read_rates, read_scores, survey_labels

KIND = schema.KIND_CODES
P_BOGUS = np.array([0.01, 0.03, 0.08, 0.2, 0.6])
P_REAL = np.array([0.5, 0.2, 0.05, 0.02, 0.01])


def drawn(n=200_000, seed=1):
    """Given and true labels and scores from -2 to 3 whose shares of wrong labels are `P_BOGUS`, `P_REAL`."""
    rng = np.random.default_rng(seed)
    score = rng.uniform(-2, 3, n)
    given = rng.integers(0, 2, n)
    place = np.floor(score).astype(int) + 2
    wrong = rng.random(n) < np.where(given == 0, P_BOGUS[place], P_REAL[place])
    return given, np.where(wrong, 1 - given, given), score


def test_known_rates_are_recovered_within_their_errors():
    table = measure_rates(*drawn(), bin_width=1.0)
    np.testing.assert_array_equal(table["score_low"], [-2, -1, 0, 1, 2])
    np.testing.assert_array_equal(table["score_high"], [-1, 0, 1, 2, 3])
    for name, p in (("bogus", P_BOGUS), ("real", P_REAL)):
        n, rate = np.asarray(table[f"n_given_{name}"]), np.asarray(table[f"rate_{name}"])
        sigma = np.sqrt(p * (1 - p) / n)
        assert (np.abs(rate - p) < 4 * sigma).all()
        np.testing.assert_array_equal(table[f"n_wrong_{name}"], np.rint(rate * n))
        half = (np.asarray(table[f"rate_{name}_high"]) - np.asarray(table[f"rate_{name}_low"])) / 2
        np.testing.assert_allclose(half, sigma, rtol=0.1)


def test_intervals_hold_the_truth_as_often_as_they_say():
    held = []
    for seed in range(60):
        table = measure_rates(*drawn(3000, seed), bin_width=1.0)
        for name, p in (("bogus", P_BOGUS), ("real", P_REAL)):
            held.append((table[f"rate_{name}_low"] <= p) & (p <= table[f"rate_{name}_high"]))
    assert np.mean(held) == pytest.approx(0.683, abs=0.06)


def test_rates_go_through_files_and_labels_and_come_back(tmp_path):
    """Measured on one night, they spoil the right labels of another, and are measured there again."""
    measure_rates(*drawn(), bin_width=1.0).write(tmp_path / "r.ecsv")
    rates = read_rates(tmp_path / "r.ecsv")
    _, true, score = drawn(50_000, seed=9)
    n = len(true)
    labelled = Labelled(true.astype(np.int8), np.full(n, KIND["artefact"]), np.zeros(n, np.uint32))
    noisy = spoil(labelled, [ScoreBinned(score, rates, 0.7)], rng=np.random.default_rng(1))
    again = measure_rates(noisy.label_given, true, score, bin_width=1.0)
    for name in ("rate_bogus", "rate_real"):
        np.testing.assert_allclose(again[name], 0.7 * getattr(rates, name), atol=2e-3)


def test_bins_without_labels_have_no_rate_and_change_nothing(tmp_path):
    given, score = np.array([0, 0, 0, 1, -1, 1]), np.array([-5.5, -5.1, -5.2, 4.2, 3.0, np.nan])
    table = measure_rates(given, np.array([0, 0, 1, 1, 1, 0]), score, bin_width=1.0)
    assert len(table) == 11
    assert table["rate_bogus"][0] == pytest.approx(1 / 3)
    assert np.isnan(table["rate_real"][0])
    assert np.isnan(table["rate_bogus"][1:]).all()
    table.write(tmp_path / "r.ecsv")
    rates = read_rates(tmp_path / "r.ecsv")
    labelled = Labelled(given.astype(np.int8), np.zeros(6, np.int8), np.zeros(6, np.uint32))
    scores = np.full(6, 0.5)
    noisy = spoil(labelled, [ScoreBinned(scores, rates, 1)], rng=np.random.default_rng(1))
    np.testing.assert_array_equal(noisy.label_given, given)


def test_survey_labels_are_what_a_survey_would_say():
    names = ["artefact", "emulated_transient", "injected_random", "injected_variable", "injected_glint"]
    names += ["known_object", "negative", "injected_lost", "injected_lost", "injected_random"]
    kind = np.array([KIND[name] for name in names])
    true = np.array([schema.label_of_kind(code)[0] for code in kind])
    true[3] = -1  # a star that fades
    flags = np.zeros(len(kind), np.uint32)
    flags[7], flags[9] = schema.CANDIDATE_FLAG["SATURATED"], schema.CANDIDATE_FLAG["AMBIGUOUS"]
    given, truth = survey_labels(kind, true, flags, lost=("core",))
    np.testing.assert_array_equal(given, [0, 0, 1, -1, -1, -1, -1, 1, -1, -1])
    np.testing.assert_array_equal(truth, [0, 1, 1, -1, -1, -1, -1, 0, -1, -1])
    assert (survey_labels(kind, true, flags, lost=())[0][7:9] == -1).all()


def test_real_frames_have_no_rates(tmp_path):
    truth = truth_of(3, rng=np.random.default_rng(1))
    store = write_store(tmp_path / "s.zarr", [{"truth": truth, "kind": "detection"}])
    np.save(tmp_path / "s.npy", np.zeros(store.n_stamps))
    with pytest.raises(
        InputError, match=r"s.zarr: detections on real frames are only assumed .* rbsim emulate"
    ):
        measure_store_rates(store.path, tmp_path / "s.npy", tmp_path / "r.ecsv")
    assert not (tmp_path / "r.ecsv").exists()


def test_the_command_measures_on_a_store(tmp_path):
    store = make_store(tmp_path / "s.zarr", n_stamps=400)
    kind, true = store.column("kind"), store.column("label_true")
    score = np.where(true == 1, 0.5, -0.5)
    score[::10] *= -1
    rows = np.arange(0, store.n_stamps, 2)
    Table({"row": rows, "score": score[rows]}).write(tmp_path / "s.csv")
    arguments = [
        "relabel",
        store.path,
        "--measure-rates",
        tmp_path / "r.ecsv",
        "--scores",
        tmp_path / "s.csv",
    ]
    result = CliRunner().invoke(cli.app, [*map(str, arguments), "--json"])
    facts = json.loads(result.stdout)
    flags = store.column("flags")
    counted = kind[rows] != KIND["injected_random"]
    assert facts["n_given_bogus"] == counted.sum()
    assert facts["n_wrong_bogus"] == np.sum(kind[rows] == KIND["emulated_transient"])
    assert facts["rate_real"] == 0
    ambiguous = (flags & np.uint32(schema.CANDIDATE_FLAG["AMBIGUOUS"])) != 0
    labelled = (kind != KIND["injected_random"]) | ~ambiguous
    assert facts["n_unscored"] == labelled.sum() - labelled[rows].sum()
    table = Table.read(tmp_path / "r.ecsv")
    assert table["score_low"].tolist() == [-1.0, 0.0]
    above = rows[score[rows] >= 0]
    transient = kind[above] == KIND["emulated_transient"]
    assert table["rate_bogus"][1] == transient.sum() / np.sum(kind[above] != KIND["injected_random"])
    assert table.meta["lost"] == ["mask", "core", "noise"]
    result = CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": "250"})
    assert "exists already; give --overwrite" in result.stderr


def test_scores_are_read_from_tables_arrays_and_runs(tmp_path):
    scores = np.array([0.5, np.nan, 2.0, np.nan])
    np.save(tmp_path / "s.npy", scores)
    Table({"row": [2, 0], "score": [2.0, 0.5]}).write(tmp_path / "s.ecsv")
    np.savez(
        tmp_path / "s.npz",
        test_row=[0],
        test_score=np.array([0.5], "f4"),
        train_row=[2],
        train_oof_score=[2.0],
    )
    for name in ("s.npy", "s.ecsv", "s.npz"):
        np.testing.assert_array_equal(read_scores(tmp_path / name, 4), scores)
    pytest.importorskip("pyarrow")
    Table({"row": [2, 0], "score": [2.0, 0.5]}).write(tmp_path / "s.parquet")
    np.testing.assert_array_equal(read_scores(tmp_path / "s.parquet", 4), scores)


def test_unusable_scores_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (tmp_path.joinpath("pwned").touch, ())

    np.save(tmp_path / "evil.npy", np.array([Evil()]), allow_pickle=True)
    np.save(tmp_path / "short.npy", np.zeros(3))
    np.save(tmp_path / "text.npy", np.array(["a"] * 4))
    np.savez(tmp_path / "none.npz", a=np.zeros(4))
    (tmp_path / "cut.npz").write_bytes(b"PK\x03\x04")
    (tmp_path / "twice.csv").write_text("row,score\n1,2\n1,3\n")
    (tmp_path / "far.csv").write_text("row,score\n4,2\n")
    (tmp_path / "half.csv").write_text("row,score\n0.5,2\n")
    (tmp_path / "name.csv").write_text("stamp,score\n1,2\n")
    (tmp_path / "word.csv").write_text("row,score\n1,high\n")
    for name, message in (
        ("evil.npy", "cannot be read as arrays without pickles"),
        ("short.npy", r"float64 of shape \(3,\); it must be one number for each of the 4 stamps"),
        ("text.npy", "it must be one number"),
        ("none.npz", "has no scores; a run of rbsim benchmark has train_row with train_oof_score"),
        ("cut.npz", "cannot be read as arrays"),
        ("gone.npy", "cannot be read as arrays"),
        ("gone.csv", "cannot be read as a table"),
        ("twice.csv", "a row has two scores"),
        ("far.csv", "rows must be whole numbers from 0 to 3"),
        ("half.csv", "rows must be whole numbers"),
        ("name.csv", "lacks row; scores are a table of row and score"),
        ("word.csv", "column score must be numbers"),
    ):
        with pytest.raises(InputError, match=rf"{name}.*{message}"):
            read_scores(tmp_path / name, 4)
    assert not (tmp_path / "pwned").exists()


def test_unusable_rates_are_refused(tmp_path):
    path = tmp_path / "r.csv"
    head = "score_low,score_high,rate_bogus,rate_real\n"
    for text, message in (
        ("score_low,rate_real\n0,1\n", "lacks score_high, rate_bogus; a table of rates has"),
        (head, "has no rows|cannot be read"),
        (head + "0,1,0.1,0.1\n0.5,2,0.1,0.1\n", "not overlap"),
        (head + "1,0,0.1,0.1\n", "score_low below score_high"),
        (head + "0,1,1.5,0.1\n", "rate_bogus is 1.5; rates are fractions"),
        (head + "0,1,0.5,-0.1\n", "rate_real is -0.1"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_rates(path)
    with pytest.raises(InputError, match=r"makes .* bins; give a larger --bin-width"):
        measure_rates(np.zeros(2, int), np.zeros(2, int), np.array([0, 1e6]), bin_width=0.1)
    with pytest.raises(InputError, match="bin-width is 0"):
        measure_rates(np.zeros(2, int), np.zeros(2, int), np.zeros(2), bin_width=0)
    with pytest.raises(InputError, match="no stamp has a score and a label"):
        measure_rates(np.full(2, -1), np.zeros(2, int), np.zeros(2), bin_width=1)


def test_rates_are_sorted_by_score(tmp_path):
    path = tmp_path / "r.csv"
    path.write_text("score_low,score_high,rate_bogus,rate_real\n1,2,0.2,0.3\n0,1,0.1,\n")
    rates = read_rates(path)
    assert isinstance(rates, Rates)
    np.testing.assert_array_equal(rates.rate_bogus, [0.1, 0.2])
    np.testing.assert_array_equal(rates.rate_real, [np.nan, 0.3])
