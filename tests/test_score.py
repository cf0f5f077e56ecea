"""Scores: those of the model, a row for every candidate, the same bytes after a kill, in little memory."""

import json
import threading

import numpy as np
import pytest
import torch
from _models import make_model
from astropy.io import fits
from typer.testing import CliRunner

from cli import app
from rbmodel import score as score_module
from rbmodel.model import load_model, save_model
from rbmodel.score import score_candidates
from rbsim import schema
from rbsim.candidates import Piece, of_store
from rbsim.convert.fits_sample import export_fits
from rbsim.convert.triplets import open_triplets
from rbsim.errors import InputError
from rbsim.score_rates import read_scores

parquet = pytest.importorskip("pyarrow.parquet")
torch.set_num_threads(1)


@pytest.fixture(scope="module")
def model():
    return make_model()


class Listed:
    """Candidates from arrays, in pieces; counts those in memory, and can break off."""

    name, fingerprint = "listed", "abc"

    def __init__(self, stamps, noise_adu=None, *, breaks_at=None):
        self.stamps, self.breaks_at = stamps, breaks_at
        self.noise_adu = np.ones(len(stamps), np.float32) if noise_adu is None else noise_adu

    @property
    def n_stamps(self):
        return len(self.stamps)

    def pieces(self, first, last, *, n_at_once):
        for start in range(first, last, n_at_once):
            stop = min(start + n_at_once, last)
            if self.breaks_at is not None and start <= self.breaks_at < stop:
                raise KeyboardInterrupt
            rows = slice(start, stop)
            reason = np.full(stop - start, "")
            yield Piece({"row": np.arange(start, stop)}, self.stamps[rows], self.noise_adu[rows], reason)


@pytest.fixture
def stamps():
    return np.random.default_rng(0).normal(0, 10, (100, *schema.STAMP_SHAPE)).astype(np.float32)


def test_a_store_gets_the_scores_of_its_stamps(model, synthetic_store, tmp_path):
    done = score_candidates(model, of_store(synthetic_store), tmp_path / "s.parquet", stamps_per_part=500)
    table = parquet.read_table(tmp_path / "s.parquet")
    assert table.column_names == ["row", "score", "probability", "model", "reason"]
    assert done.n_stamps == done.n_new == len(table) == synthetic_store.n_stamps
    np.testing.assert_array_equal(table["row"], np.arange(len(table)))
    scores = model.score(synthetic_store.read_stamps())
    np.testing.assert_allclose(table["score"], scores, atol=1e-5)
    np.testing.assert_allclose(table["probability"], model.probability(scores), atol=1e-5)
    assert set(table["model"].to_pylist()) == {model.version}
    assert parquet.read_metadata(tmp_path / "s.parquet").num_row_groups == 4
    assert json.loads(table.schema.metadata[b"rbsim"])["source"] == synthetic_store.path.name
    # What `rbsim relabel` and `rbsim audit` read.
    np.testing.assert_array_equal(read_scores(tmp_path / "s.parquet", len(table)), table["score"])


def test_asinh_takes_the_noise_of_the_store(synthetic_store, tmp_path):
    model = make_model(normalisation="asinh")
    score_candidates(model, of_store(synthetic_store), tmp_path / "s.parquet")
    noise_adu = synthetic_store.column("noise_adu")
    expected = model.score(synthetic_store.read_stamps(), noise_adu=noise_adu)
    np.testing.assert_allclose(parquet.read_table(tmp_path / "s.parquet")["score"], expected, atol=1e-5)


def test_a_network_that_overflows_gives_a_reason_and_no_number(stamps, tmp_path):
    model = make_model()
    with torch.no_grad():
        model.network.head[-1].bias[1] = float("inf")
    done = score_candidates(model, Listed(stamps), tmp_path / "s.parquet")
    assert done.reasons == {"score is not finite": 100}
    assert parquet.read_table(tmp_path / "s.parquet")["probability"].null_count == 100


def test_a_prevalence_changes_probabilities_and_not_scores(model, stamps, tmp_path):
    for name, prevalence in (("a", None), ("b", 0.01)):
        score_candidates(model, Listed(stamps), tmp_path / name, prevalence=prevalence)
    a, b = (parquet.read_table(tmp_path / name) for name in "ab")
    assert a["score"] == b["score"]
    np.testing.assert_allclose(b["probability"], model.probability(a["score"], prevalence=0.01), rtol=1e-5)
    assert np.all(np.array(b["probability"]) < np.array(a["probability"]))


def test_stamps_that_cannot_be_scored_are_rows_with_a_reason(stamps, tmp_path):
    model = make_model(normalisation="asinh")
    noise_adu = np.ones(100, np.float32)
    stamps[3, 0] = np.nan
    stamps[5, 1] = 7.0
    stamps[8] = np.inf
    stamps[10, 2, :, :20] = np.nan  # holes do not matter
    stamps[11, 2, 0, 0] = np.inf
    noise_adu[[20, 21, 22]] = 0, np.nan, -1
    done = score_candidates(model, Listed(stamps, noise_adu), tmp_path / "s.parquet")
    table = parquet.read_table(tmp_path / "s.parquet")
    reasons = {row: text for row, text in enumerate(table["reason"].to_pylist()) if text}
    assert reasons == {
        3: "reference has no pixel",
        5: "science is constant",
        8: "difference has no pixel",
        **dict.fromkeys((20, 21, 22), "noise_adu is not positive"),
    }
    without = [row for row, score in enumerate(table["score"].to_pylist()) if score is None]
    assert (
        without == sorted(reasons) == [i for i, p in enumerate(table["probability"].to_pylist()) if p is None]
    )
    assert done.n_without_score == len(reasons) == sum(done.reasons.values())
    # Its neighbours do not change a stamp's score.
    alone = model.score(stamps[10:12], noise_adu=noise_adu[10:12])
    np.testing.assert_allclose(table["score"][10:12], alone, atol=1e-5)


@pytest.mark.parametrize("breaks_at", [0, 35, 99])
def test_a_killed_run_goes_on_and_ends_with_the_same_bytes(model, stamps, tmp_path, breaks_at):
    score_candidates(model, Listed(stamps), tmp_path / "whole.parquet", stamps_per_part=10)
    out = tmp_path / "s.parquet"
    with pytest.raises(KeyboardInterrupt):
        score_candidates(model, Listed(stamps, breaks_at=breaks_at), out, stamps_per_part=10)
    assert not out.exists()
    with pytest.raises(InputError, match="scores are unfinished; give --resume to go on"):
        score_candidates(model, Listed(stamps), out, stamps_per_part=10)
    done = score_candidates(model, Listed(stamps), out, stamps_per_part=10, resume=True)
    assert done.n_new == 100 - breaks_at // 10 * 10
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s.parquet", "whole.parquet"]
    again = score_candidates(model, Listed(stamps), out, stamps_per_part=10, resume=True)
    assert (again.n_new, again.n_stamps) == (0, 100)


def test_parts_of_other_work_are_not_continued(model, stamps, tmp_path):
    out = tmp_path / "s.parquet"
    with pytest.raises(KeyboardInterrupt):
        score_candidates(model, Listed(stamps, breaks_at=50), out, stamps_per_part=10)
    with pytest.raises(InputError, match="was begun with another model, temperature"):
        score_candidates(make_model(temperature=2.0), Listed(stamps), out, stamps_per_part=10, resume=True)
    with pytest.raises(InputError, match="was begun with another n_stamps"):
        score_candidates(model, Listed(stamps[:60]), out, stamps_per_part=10, resume=True)
    next((tmp_path / "s.parquet.partial").glob("part_*")).write_bytes(b"PAR1")
    with pytest.raises(InputError, match=r"is damaged .* remove this file and go on with --resume"):
        score_candidates(model, Listed(stamps), out, stamps_per_part=10, resume=True)
    assert score_candidates(model, Listed(stamps), out, overwrite=True).n_new == 100
    with pytest.raises(InputError, match="exists already of another model, other candidates or settings"):
        score_candidates(make_model(temperature=2.0), Listed(stamps), out, resume=True)
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        score_candidates(model, Listed(stamps), out)


def test_what_is_in_the_way_is_not_removed(model, stamps, tmp_path):
    (tmp_path / "s.parquet.partial").mkdir()
    with pytest.raises(InputError, match="is in the way and not of rbsim score"):
        score_candidates(model, Listed(stamps), tmp_path / "s.parquet", overwrite=True)
    with pytest.raises(InputError, match="is a folder; give a file"):
        score_candidates(model, Listed(stamps), tmp_path, overwrite=True)
    with pytest.raises(InputError, match="has no candidates to score"):
        score_candidates(model, Listed(stamps[:0]), tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"prevalence is 0; it must lie between 0 and 1"):
        score_candidates(model, Listed(stamps), tmp_path / "t.parquet", prevalence=0)
    assert not (tmp_path / "t.parquet.partial").exists()


def test_few_pieces_are_in_memory_at_a_time(model, stamps, tmp_path, monkeypatch):
    """The reader is never more than one piece ahead of what has been scored."""
    monkeypatch.setattr(score_module, "STAMPS_PER_PIECE", 4)
    read, scored, most, lock = [0], [0], [0], threading.Lock()
    source = Listed(stamps)
    pieces, score_piece = source.pieces, score_module._score_piece

    def counted(*where, **how):
        for piece in pieces(*where, **how):
            with lock:
                read[0] += 1
                most[0] = max(most[0], read[0] - scored[0])
            yield piece

    def score_one(*what):
        table = score_piece(*what)
        with lock:
            scored[0] += 1
        return table

    source.pieces = counted
    monkeypatch.setattr(score_module, "_score_piece", score_one)
    score_candidates(model, source, tmp_path / "s.parquet", stamps_per_part=40)
    assert read[0] == scored[0] == 25  # 3 parts of 10, 10 and 5 pieces
    assert 1 <= most[0] <= 3


def _sample(synthetic_store, path, n=40):
    export_fits(synthetic_store, path, max_stamps=n)
    with fits.open(path) as hdus:
        rows = np.array(hdus["CANDIDATES"].data["row"])
    return synthetic_store.read_stamps(rows), synthetic_store.column("noise_adu")[rows]


@pytest.mark.parametrize("normalisation", ["minmax", "asinh"])
def test_fits_triplets_get_the_scores_of_the_store(synthetic_store, tmp_path, normalisation):
    model = make_model(normalisation=normalisation)
    stamps, noise_adu = _sample(synthetic_store, tmp_path / "x.fits")
    score_candidates(model, open_triplets(tmp_path / "x.fits"), tmp_path / "s.parquet")
    table = parquet.read_table(tmp_path / "s.parquet")
    np.testing.assert_allclose(table["score"], model.score(stamps, noise_adu=noise_adu), atol=1e-5)
    assert table["file"].to_pylist() == ["x.fits"] * 40
    np.testing.assert_array_equal(table["file_row"], np.arange(40))


def test_a_folder_of_all_kinds_of_files_with_broken_ones_among_them(model, synthetic_store, tmp_path):
    folder = tmp_path / "night"
    folder.mkdir()
    stamps, _ = _sample(synthetic_store, folder / "a.fits", n=7)
    turned = [2, 0, 1]  # difference, reference, science
    cube = fits.PrimaryHDU(stamps[:5, turned])
    cube.header["CHANNELS"] = "difference,reference,science"
    cube.writeto(folder / "b.fits")
    single = fits.HDUList([fits.PrimaryHDU()])
    single += [fits.ImageHDU(stamps[6, i], name=name) for i, name in enumerate(schema.CHANNELS)]
    single.writeto(folder / "c.fits.gz")
    (folder / "d.fits").write_bytes((folder / "b.fits").read_bytes()[:1000])
    fits.PrimaryHDU(stamps[0, :, :21, :21]).writeto(folder / "e.fits")
    fits.PrimaryHDU(stamps[0]).writeto(folder / "f.fits")
    (folder / "notes.txt").write_text("no triplet")
    done = score_candidates(model, open_triplets(folder), tmp_path / "s.parquet", stamps_per_part=6)
    table = parquet.read_table(tmp_path / "s.parquet")
    expected = model.score(np.concatenate([stamps, stamps[:5], stamps[6:]]))
    np.testing.assert_allclose(table["score"][:13], expected, atol=1e-5)
    assert table["file"].to_pylist() == ["a.fits"] * 7 + ["b.fits"] * 5 + [
        "c.fits.gz",
        "d.fits",
        "e.fits",
        "f.fits",
    ]
    assert done.n_stamps == 16
    reasons = table["reason"].to_pylist()
    assert not any(reasons[:13])
    assert "its image has the shape (3, 21, 21)" in reasons[14]
    assert "does not say the order of its channels; give --channels" in reasons[15]
    assert reasons[13]


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda s: [fits.PrimaryHDU(s)], "does not say the order of its channels"),
        (lambda s: [fits.PrimaryHDU(s[:2])], r"its image has the shape \(2, 29, 29\); a triplet is"),
        (lambda s: [fits.PrimaryHDU(s.T)], r"its image has the shape \(29, 29, 3\)"),
        (lambda s: [fits.PrimaryHDU(), fits.ImageHDU(s[0], name="SCIENCE")], "lacks reference, difference"),
        (lambda _: [fits.PrimaryHDU()], "has no image"),
        (
            lambda s: [fits.PrimaryHDU(s, fits.Header({"CHANNELS": "science,reference"}))],
            "its card CHANNELS is",
        ),
        (
            lambda s: (
                [fits.PrimaryHDU()] + [fits.ImageHDU(s[0, :9], name=name.upper()) for name in schema.CHANNELS]
            ),
            r"its channels have shapes \(9, 29\)",
        ),
    ],
)
def test_single_files_that_are_no_triplets_are_refused(tmp_path, write, message):
    path = tmp_path / "x.fits"
    fits.HDUList(write(np.ones(schema.STAMP_SHAPE, np.float32))).writeto(path)
    with pytest.raises(InputError, match=message):
        open_triplets(path)


def test_channel_orders_that_contradict_or_name_nothing_are_refused(tmp_path):
    header = fits.Header({"CHANNELS": "reference,science,difference"})
    fits.PrimaryHDU(np.ones(schema.STAMP_SHAPE), header).writeto(tmp_path / "x.fits")
    with pytest.raises(InputError, match="--channels says science,reference,difference"):
        open_triplets(tmp_path / "x.fits", channels=("science", "reference", "difference"))
    with pytest.raises(InputError, match="name each once of reference, science, difference"):
        open_triplets(tmp_path / "x.fits", channels=("new", "ref", "sub"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds neither a store nor FITS files"):
        open_triplets(tmp_path / "empty")


def test_the_command_scores_stores_and_files(synthetic_store, tmp_path):
    save_model(tmp_path / "m", _saved(tmp_path), {})
    _sample(synthetic_store, tmp_path / "x.fits")

    def run(*arguments, code=0):
        done = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.stderr

    told = json.loads(
        run("score", tmp_path / "m", tmp_path / "x.fits", "--out", tmp_path / "x.parquet", "--json")
    )
    assert (told["n_stamps"], told["model"]) == (40, load_model(tmp_path / "m").version)
    out = run(
        "score", tmp_path / "m", synthetic_store.path, "--out", tmp_path / "s.parquet", "--prevalence", 0.01
    )
    assert "stamps/s" in out
    for source, message in (
        ("nowhere", "no such store"),
        (tmp_path / "x.parquet", "neither a store nor a FITS"),
    ):
        assert message in run("score", tmp_path / "m", source, "--out", tmp_path / "n.parquet", code=1)
    assert "is not a model" in run("score", tmp_path, synthetic_store.path, "--out", tmp_path / "n", code=1)


def _saved(tmp_path):
    (tmp_path / "m").mkdir()
    return make_model()
