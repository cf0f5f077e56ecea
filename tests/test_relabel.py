"""Label settings on disk: beside the pixels, whole or not at all, refused where they do not belong."""

import errno
import hashlib
import json
import shutil

import numpy as np
import pytest
import zarr
from _synthetic_store import make_store
from typer.testing import CliRunner

import cli
from rbsim import inputs, label_sets, run, schema
from rbsim.config import InjectConfig
from rbsim.describe import describe_store, describe_text
from rbsim.errors import InputError
from rbsim.label_noise import REASON_CODES
from rbsim.manifest import read_manifest
from rbsim.relabel import RelabelConfig, make_parts, relabel
from rbsim.store import Store, open_store


def files(path, *, without=()):
    return {
        str(p.relative_to(path)): p.read_bytes()
        for p in sorted(path.rglob("*"))
        if p.is_file() and p.relative_to(path).parts[0] not in without
    }


@pytest.fixture(scope="module")
def blind(tiny_night, tmp_path_factory):
    """A store of the emulated night whose survey does not look where it injects; copy it to write."""
    config = InjectConfig(stars_per_frame=40, realisations=3, tile_pix=100, blind_share=0.6)
    frames = inputs.find_frames([tiny_night / "science"])[:3]
    out = tmp_path_factory.mktemp("blind") / "b.zarr"
    return run.run_injection(
        frames, tiny_night / "reference.fits", out, config, truth_path=tiny_night / "truth.ecsv"
    )


@pytest.fixture
def store(blind, tmp_path):
    shutil.copytree(blind.path, tmp_path / "s.zarr")
    return open_store(tmp_path / "s.zarr")


CHANCE = RelabelConfig("class-conditional", 0.03, 0.1)


def test_nothing_of_the_store_changes_and_the_setting_is_a_group_of_its_own(store):
    before = files(store.path)
    for name, config in (("chance", CHANCE), ("survey", RelabelConfig("mechanism", 0.05, 0.05, seed=4))):
        relabel(store.path, name, config)
    assert files(store.path, without=("labels",)) == before
    assert label_sets.names(store) == ["chance", "survey"]
    group = zarr.open_group(store.path / "labels" / "survey", mode="r")
    assert group["label_given"].dtype == group["reason"].dtype == np.int8
    assert group["flip_probability"].dtype == np.float32
    assert group["reason"].metadata.dimension_names == ("stamp",)
    assert group.attrs["mechanism"] == "mechanism"
    assert group.attrs["parameters"]["mechanism"]["left"] == ["transient", "known", "variable", "moving"]
    assert group.attrs["reasons"] == REASON_CODES
    assert group.attrs["seed"] == 4


def test_a_store_without_labels_is_refused(store, monkeypatch):
    unlabelled = np.full(store.n_stamps, schema.LABEL_EXCLUDED, np.int8)
    column = Store.column
    monkeypatch.setattr(Store, "column", lambda s, n: unlabelled if n == "label_given" else column(s, n))
    with pytest.raises(InputError, match="stamps has a label; none can be wrong"):
        relabel(store.path, "chance", CHANCE)
    assert label_sets.names(store) == []


def test_a_full_disk_leaves_nothing_of_a_setting(store, monkeypatch):
    def disk_full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(label_sets, "write_manifest", disk_full)
    with pytest.raises(InputError, match=r"cannot be written \(No space left on device\)"):
        relabel(store.path, "chance", CHANCE)
    assert list((store.path / "labels").iterdir()) == []


def test_counts_of_a_setting_are_those_of_the_truth_in_the_store(store):
    got = relabel(store.path, "survey", RelabelConfig("mechanism", 0.15, 0.06))
    true, kind = store.column("label_true"), store.column("kind")
    bogus, real = got.label_given == 0, got.label_given == 1
    counts = got.attributes["got"]
    assert counts["n_wrong_bogus"] == np.sum(bogus & (true == 1)) > 3
    assert counts["n_wrong_real"] == np.sum(real & (true == 0)) > 3
    assert counts["mislabel_bogus"] == pytest.approx(0.15, abs=0.6 / bogus.sum())
    assert counts["mislabel_real"] == pytest.approx(0.06, abs=0.6 / real.sum())
    assert (kind[bogus & (true == 1)] == schema.KIND_CODES["emulated_transient"]).all()
    assert (kind[real & (true == 0)] == schema.KIND_CODES["injected_lost"]).all()
    assert sum(got.attributes["n_by_reason"].values()) == store.n_stamps
    assert got.attributes["asked"] == {"mislabel_bogus": 0.15, "mislabel_real": 0.06}


def test_the_manifest_has_every_file(store):
    relabel(store.path, "a", CHANCE)
    folder = store.path / "labels" / "a"
    manifest = read_manifest(folder)["files"]
    assert set(manifest) == set(files(folder)) - {"manifest.json"}
    for name, (size, digest) in manifest.items():
        content = (folder / name).read_bytes()
        assert (size, digest) == (len(content), hashlib.sha256(content).hexdigest())


def test_a_setting_is_the_same_for_the_same_seed_bit_for_bit(store):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        relabel(store.path, name, RelabelConfig("class-conditional", 0.1, 0.1, seed=seed))
    a, b, c = (files(store.path / "labels" / name) for name in "abc")
    assert a == b
    assert a != c


def test_a_name_that_is_taken_or_no_name_is_refused(store):
    first = relabel(store.path, "a", CHANCE)
    with pytest.raises(InputError, match="has a label setting 'a' already; give --overwrite"):
        relabel(store.path, "a", CHANCE)
    other = relabel(store.path, "a", RelabelConfig("class-conditional", 0.1, 0.05), overwrite=True)
    assert other.attributes["got"] != first.attributes["got"]
    assert [path.name for path in (store.path / "labels").iterdir()] == ["a"]
    for name in ("", "..", ".a", "-a", "a/b", "../a", "a b", "a\n", "é", "x" * 65, "a.partial", "a.old"):
        with pytest.raises(InputError, match="a name has at most 64 letters"):
            relabel(store.path, name, CHANCE)
        with pytest.raises(InputError, match="a name has at most 64 letters"):
            label_sets.read_labels(store, name)


def test_a_setting_that_a_kill_left_unfinished_is_none(store, monkeypatch):
    def killed(_folder):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(label_sets, "write_manifest", killed)
        with pytest.raises(KeyboardInterrupt):
            relabel(store.path, "a", CHANCE)
    assert label_sets.names(store) == []
    with pytest.raises(InputError, match="has no label setting 'a'; make one with rbsim relabel"):
        label_sets.read_labels(store, "a")
    relabel(store.path, "a", CHANCE)
    with pytest.raises(InputError, match="has no label setting 'b'; there are a"):
        label_sets.read_labels(store, "b")
    assert [path.name for path in (store.path / "labels").iterdir()] == ["a"]


def test_a_damaged_setting_and_that_of_another_store_are_refused(store, tmp_path):
    relabel(store.path, "a", CHANCE)
    other = make_store(tmp_path / "other.zarr", n_stamps=80, n_blocks=2)
    shutil.copytree(store.path / "labels", other.path / "labels")
    with pytest.raises(InputError, match="was made for another store"):
        label_sets.read_labels(other, "a")
    chunk = store.path / "labels" / "a" / "reason" / "c" / "0"
    content = bytearray(chunk.read_bytes())
    content[len(content) // 2] ^= 4
    chunk.write_bytes(bytes(content))
    with pytest.raises(InputError, match=r"is damaged .* rbsim relabel --name a --overwrite"):
        label_sets.read_labels(store, "a")
    assert "is damaged" in describe_store(store)["label_settings"]["a"]["error"]
    assert "is damaged" in dict(describe_text(describe_store(store)))["labels a"]


MIX = """
[class-conditional]
mislabel_bogus = 0.01
mislabel_real = 0.02
[mechanism]
mislabel_bogus = 0.03
mislabel_real = 0.02
left = ["transient"]
lost = ["noise"]
[score-binned]
multiple = 0.5
"""


def write_scores(store, path):
    rng = np.random.default_rng(2)
    score = rng.normal(np.where(store.column("label_true") == 1, 2, -2), 1.0)
    np.save(path, score)
    return score


def test_a_mixed_setting_adds_up_what_its_file_says(store, tmp_path):
    score = write_scores(store, tmp_path / "s.npy")
    (tmp_path / "mix.toml").write_text(MIX)
    (tmp_path / "r.csv").write_text("score_low,score_high,rate_bogus,rate_real\n-2,0,0.05,0.1\n0,2,0.1,\n")
    config = RelabelConfig(
        "mixed", mix=tmp_path / "mix.toml", scores=tmp_path / "s.npy", rates=tmp_path / "r.csv"
    )
    got = relabel(store.path, "m", config)
    counts, by_reason = got.attributes["got"], got.attributes["n_by_reason"]
    by_score = [by_reason.get(f"score_{name}", 0) for name in ("real_given_bogus", "bogus_given_real")]
    assert counts["n_wrong_bogus"] == pytest.approx(0.04 * counts["n_given_bogus"] + by_score[0], abs=1)
    assert counts["n_wrong_real"] == pytest.approx(0.04 * counts["n_given_real"] + by_score[1], abs=1)
    assert set(by_reason) <= {
        *("unchanged", "real_given_bogus", "bogus_given_real", "transient_left", "lost_in_noise"),
        *("score_real_given_bogus", "score_bogus_given_real"),
    }
    assert {"transient_left", "lost_in_noise"} <= set(by_reason)
    parameters = got.attributes["parameters"]["score-binned"]
    assert parameters["rates"]["rate_real"] == [0.1, None]
    assert parameters["n_scored"] == len(score)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = [", r"mix.toml: is not valid TOML"),
        ("", "has the tables none; known: class-conditional, score-binned, mechanism"),
        ("[magic]\n", "has the tables magic; known"),
        ("[mechanism]\nmislabel = 0.1\n", r"mix.toml: mechanism is .* it must be a table of mislabel_bogus"),
        ("[mechanism]\nleft = 'known'\n", "mechanism: left is 'known'; it must be a list of names"),
        ("[mechanism]\nmislabel_real = true\n", "mechanism: mislabel_real is True; it must be a number"),
        ("[class-conditional]\nmislabel_real = 0.7\n", r"mislabel-real is 0\.7; a contamination"),
        ("[score-binned]\nmultiple = 2\n", "score-binned needs --scores and --rates"),
    ],
)
def test_unusable_mixtures_are_refused(tmp_path, text, message):
    path = tmp_path / "mix.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        make_parts(RelabelConfig("mixed", mix=path), 10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mechanism": "magic"}, "mechanism is 'magic'; choose one of class-conditional, score-binned"),
        (
            {"mechanism": "score-binned", "mislabel_real": 0.1},
            "--mislabel-real is not for the mechanism score",
        ),
        ({"mechanism": "class-conditional", "left": ("known",)}, "--left is not for the mechanism class"),
        (
            {"mechanism": "mechanism", "multiple": 2.0},
            "--multiple is not for the mechanism mechanism; drop it",
        ),
        ({"mechanism": "mixed", "mislabel_real": 0.1, "mix": "a.toml"}, r"drop it, or write it into a\.toml"),
    ],
)
def test_options_of_another_mechanism_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        RelabelConfig(**options)


def test_too_few_lost_stars_are_an_error_with_the_remedy(store):
    with pytest.raises(InputError, match=r"the largest possible is 0\.\d+; .* a higher --blind-share"):
        relabel(store.path, "a", RelabelConfig("mechanism", 0.0, 0.45))
    assert not (store.path / "labels").exists()


def command(*arguments):
    result = CliRunner().invoke(cli.app, [str(one) for one in arguments], env={"COLUMNS": "250"})
    return result.exit_code, result.stdout, " ".join(result.stderr.split())


def test_the_command_makes_lists_and_describes_settings(store):
    code, out, _ = command("relabel", store.path, "--list")
    assert (code, "no setting" in out) == (0, True)
    made = ("relabel", store.path, "--name", "half", "--mechanism", "mechanism", "--lost", "noise,core")
    code, out, _ = command(
        *made, "--mislabel-bogus", "0.02", "--mislabel-real", "0.03", "--seed", "3", "--json"
    )
    facts = json.loads(out)
    assert code == 0
    assert facts["half"]["got"]["mislabel_real"] == pytest.approx(0.03, abs=0.005)
    code, out, _ = command("relabel", store.path, "--list", "--json")
    assert json.loads(out) == facts
    code, out, _ = command("info", store.path)
    assert "labels half" in out
    got = facts["half"]["got"]
    assert f"of {got['n_given_bogus']} given bogus are real" in out.split("labels half")[1]
    for arguments, message in (
        (("relabel", store.path), "give one of --name (and --mechanism), --measure-rates, --list"),
        (("relabel", store.path, "--name", "b"), "give --mechanism class-conditional"),
        (("relabel", store.path, "--measure-rates", "r.ecsv"), "--measure-rates needs --scores"),
        (made, "has a label setting 'half' already"),
    ):
        code, _, err = command(*arguments)
        assert (code, message in err) == (1, True), err
