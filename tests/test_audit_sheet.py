"""The audit a person meets: blind sheets, verdicts read back, and the rate that follows from them."""

import csv
import html.parser
import json

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cli import app
from rbmodel.audit_run import AuditConfig, run_audit
from rbmodel.audit_sheet import read_audit
from rbmodel.benchmark_config import BenchmarkConfig
from rbmodel.study import run_benchmark
from rbmodel.train import TrainConfig
from rbsim import schema
from rbsim.errors import InputError

torch.set_num_threads(1)

FAST = TrainConfig(n_epochs=2, batch_size=64)


@pytest.fixture(scope="module")
def benchmark(synthetic_store, tmp_path_factory):
    """A study with wrong labels; the store itself has none."""
    out = tmp_path_factory.mktemp("benchmark") / "out"
    config = BenchmarkConfig(
        methods=("baseline", "removed"), mislabel_bogus=0.06, mislabel_real=0.10, n_folds=2, n_bootstrap=20,
        train=TrainConfig(n_epochs=6, batch_size=64),
    )  # fmt: skip
    rows = run_benchmark(synthetic_store.path, out, config)
    return out, rows[1]


@pytest.fixture(scope="module")
def scores(synthetic_store, tmp_path_factory):
    """Scores that know the truth fairly well, one per stamp."""
    path = tmp_path_factory.mktemp("scores") / "s.npy"
    label = synthetic_store.column("label_true")
    rng = np.random.default_rng(0)
    np.save(path, rng.normal(6 * (2 * label - 1), np.sqrt(12)))
    return path


@pytest.fixture
def sheet(synthetic_store, scores, tmp_path):
    out = tmp_path / "audit"
    return out, run_audit(synthetic_store.path, out, AuditConfig(n=120, scores=scores))


def fill(out, verdicts):
    """Write verdicts (by number) into the table."""
    with (out / "verdicts.csv").open("w", newline="") as file:
        csv.writer(file).writerows(
            [("number", "verdict", "remark"), *((n, word, "") for n, word in verdicts.items())]
        )


def by_truth(out, store):
    """What somebody says who always sees what is there."""
    true = store.column("label_true")
    plan = json.loads((out / "plan.json").read_text())
    names = {1: "real", 0: "bogus"}
    return {entry["number"]: names[int(true[entry["row"]])] for entry in plan["sample"]}


class Page(html.parser.HTMLParser):
    """Texts and attributes of a page."""

    def __init__(self, text):
        super().__init__()
        self.values, self.n_pictures = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.n_pictures += tag == "i"
        self.values += [value or "" for _, value in attributes if not (value or "").startswith("background")]

    def handle_data(self, data):
        self.values.append(data)


def test_the_sheet_is_blind_and_whole(sheet):
    out, facts = sheet
    plan = json.loads((out / "plan.json").read_text())
    with (out / "verdicts.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [int(row["number"]) for row in rows] == list(range(1, 121))
    assert not any(row["verdict"] for row in rows)
    assert set(rows[0]) == {"number", "verdict", "remark"}
    text = (out / "index.html").read_text()
    page = Page(text)
    assert page.n_pictures == facts["n_sample"] == len(plan["sample"]) == 120
    assert "http" not in text
    # Everything that is said of a picture is its number and the words to choose from.
    told = text.split("<main>")[1].split("</main>")[0]
    assert not {"given", "score", "row", "injected", "artefact", "kind", "snr"} & set(
        told.replace("=", " ").split()
    )
    assert told.count('value="real"') == told.count('value="bogus"') == 120
    # Neither does the place of a picture: stamps are in random order of label.
    label = np.array([entry["label_given"] == "real" for entry in plan["sample"]])
    assert 20 < np.sum(label[1:] != label[:-1]) < 100


def test_verdicts_give_the_rate_that_the_labels_have(benchmark, synthetic_store, tmp_path):
    out, row = benchmark
    facts = run_audit(out, tmp_path / "a", AuditConfig(n=150))
    assert facts["run"] == row["run_id"]
    assert facts["n_population"] == row["n_train"]
    fill(tmp_path / "a", by_truth(tmp_path / "a", synthetic_store))
    found = read_audit(tmp_path / "a" / "verdicts.csv")
    assert found["all"]["low"] <= row["mislabel_true"] <= found["all"]["high"]
    assert found["given_bogus"]["low"] <= 0.06 <= found["given_bogus"]["high"]
    assert found["given_real"]["low"] <= 0.10 <= found["given_real"]["high"]
    assert found["all"]["n_population"] == row["n_train"]
    assert found["all"]["n_inspected"] == 150
    assert found["n_unclear"] == found["n_blank"] == 0


def test_a_seen_population_has_exactly_the_rate_of_the_store(sheet, synthetic_store, scores, tmp_path):
    everything = tmp_path / "all"
    n = int(np.sum(synthetic_store.column("label_given") >= 0))
    run_audit(synthetic_store.path, everything, AuditConfig(n=10**6, scores=scores))
    verdicts = by_truth(everything, synthetic_store)
    for number in range(1, 8):
        verdicts[number] = "bogus" if verdicts[number] == "real" else "real"
    fill(everything, verdicts)
    found = read_audit(everything / "verdicts.csv")["all"]
    assert found["value"] == found["low"] == found["high"] == pytest.approx(7 / n)
    fill(sheet[0], by_truth(sheet[0], synthetic_store))
    assert read_audit(sheet[0] / "verdicts.csv")["all"]["value"] == 0


def test_unclear_and_missing_verdicts_are_left_out_and_bounded(sheet, synthetic_store):
    out, _ = sheet
    verdicts = by_truth(out, synthetic_store)
    for number in (1, 2, 3):
        verdicts[number] = "Unclear "
    for number in (110, 115, 120):
        del verdicts[number]
    verdicts[105] = ""
    fill(out, verdicts)
    found = read_audit(out / "verdicts.csv")
    assert (found["n_unclear"], found["n_blank"], found["all"]["n_inspected"]) == (3, 4, 113)
    assert found["value_if_unclear_right"] == found["all"]["value"] == 0 < found["value_if_unclear_wrong"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("number,verdict\n1,maybe\n", "line 2 has verdict 'maybe'; allowed are real, bogus, unclear"),
        ("number,verdict\n1,real\n1,real\n", "line 3 has number '1'"),
        ("number,verdict\n999,real\n", "line 2 has number '999'; each from 1 to 120"),
        ("number,verdict\none,real\n", "line 2 has number 'one'"),
        ("a,b\n1,real\n", "lacks the columns number and verdict"),
        ("number,verdict\n1,real\n", "nothing was inspected of"),
        ("", "nothing was inspected of"),
    ],
)
def test_tables_that_are_none_are_refused(sheet, text, message):
    (sheet[0] / "verdicts.csv").write_text(text)
    with pytest.raises(InputError, match=message):
        read_audit(sheet[0] / "verdicts.csv")


def test_tables_of_spreadsheets_are_read(sheet, synthetic_store):
    fill(sheet[0], by_truth(sheet[0], synthetic_store))
    path = sheet[0] / "verdicts.csv"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert read_audit(path)["n_blank"] == 0


def test_plans_that_are_none_are_refused(sheet, tmp_path):
    out, _ = sheet
    plan = json.loads((out / "plan.json").read_text())
    plan["sample"][0]["stratum"] = 99
    (out / "plan.json").write_text(json.dumps(plan))
    with pytest.raises(InputError, match="is no readable plan of an audit"):
        read_audit(out / "verdicts.csv")
    (tmp_path / "verdicts.csv").write_text("number,verdict\n")
    with pytest.raises(InputError, match="is no readable plan of an audit"):
        read_audit(tmp_path / "verdicts.csv")


def test_a_persons_work_is_not_overwritten(sheet, synthetic_store, scores):
    out, _ = sheet
    config = AuditConfig(n=60, scores=scores)
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        run_audit(synthetic_store.path, out, config)
    assert run_audit(synthetic_store.path, out, config, overwrite=True)["n_sample"] == 60
    fill(out, {1: "real"})
    with pytest.raises(InputError, match="has 1 verdicts, which are not replaced"):
        run_audit(synthetic_store.path, out, config, overwrite=True)


def test_without_scores_stage_1_makes_them_out_of_fold(synthetic_store, tmp_path):
    facts = run_audit(synthetic_store.path, tmp_path / "a", AuditConfig(n=60, train=FAST))
    assert facts["part"] == "train"
    rows = [entry["row"] for entry in json.loads((tmp_path / "a" / "plan.json").read_text())["sample"]]
    assert np.all(synthetic_store.column("label_given")[rows] != schema.LABEL_EXCLUDED)


def test_sources_without_scores_and_options_that_do_not_fit_are_refused(benchmark, synthetic_store, tmp_path):
    out, _ = benchmark
    for source, config, message in (
        (out, AuditConfig(run="baseline_simple_b0.06_r0.1_seed0"), "lacks scores of stage 1"),
        (out, AuditConfig(run="absent"), "run absent cannot be read"),
        (out, AuditConfig(labels="x"), "a benchmark has its own scores and labels"),
        (synthetic_store.path, AuditConfig(run="x"), "is no folder of rbsim benchmark"),
    ):
        with pytest.raises(InputError, match=message):
            run_audit(source, tmp_path / "a", config)
    assert not (tmp_path / "a").exists()


def test_the_command_draws_and_reads(synthetic_store, scores, tmp_path):
    def run(*arguments, code=0):
        done = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.stderr

    drawn = run("audit", synthetic_store.path, "--scores", scores, "--out", tmp_path / "a", "--n", 100)
    assert f"rbsim audit --read {tmp_path / 'a' / 'verdicts.csv'}" in drawn
    fill(tmp_path / "a", by_truth(tmp_path / "a", synthetic_store))
    read = run("audit", "--read", tmp_path / "a" / "verdicts.csv")
    assert "0.00 % (0.00 to" in read
    assert (
        json.loads(run("audit", "--read", tmp_path / "a" / "verdicts.csv", "--json"))["all"]["n_wrong"] == 0
    )
    assert "give a store or a benchmark" in run("audit", synthetic_store.path, code=1)
    both = run("audit", synthetic_store.path, "--read", tmp_path / "a" / "verdicts.csv", code=1)
    assert "--read takes verdicts.csv alone" in both
