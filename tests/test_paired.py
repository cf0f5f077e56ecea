"""Paired runs: one frame, one set of stars and one draw of photons through several references."""

import json
import shutil
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from typer.testing import CliRunner

from cli import app
from rbmodel.splits import make_split, read_footprints, read_tiling
from rbmodel.trial import load_pools
from rbsim import build, inputs, run
from rbsim.cluster import Parallel
from rbsim.completeness import measure_completeness
from rbsim.condition import load_condition
from rbsim.config import InjectConfig
from rbsim.describe import describe_store, describe_text
from rbsim.errors import InputError
from rbsim.label_sets import read_labels
from rbsim.one_reference import by_reference
from rbsim.pairing import class_name, pair_rows
from rbsim.reference import stack_reference
from rbsim.schema import CANDIDATE_FLAG, CHANNELS, KIND_CODES, STAMP_SIZE_PIX
from rbsim.store import open_store
from rbsim.verify import _check_columns, verify

CONFIG = InjectConfig(stars_per_frame=30, realisations=2, tile_pix=100, snr_min=4.0, snr_max=60.0)
SCIENCE, DIFFERENCE = CHANNELS.index("science"), CHANNELS.index("difference")
FORCED, LOST = KIND_CODES["forced"], KIND_CODES["injected_lost"]


def inject(night, references, out, *, config=CONFIG, frames=None, **options):
    frames = frames or inputs.find_frames([night / "science"])
    return run.run_injection(frames, references, out, config, truth_path=night / "truth.ecsv", **options)


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def places_found(store):
    """Rows of the pairs of places where at least one reference detects something, shape (n, 2)."""
    pairs = pair_rows(store)
    found = np.where(pairs >= 0, store.column("found_with")[pairs], 0).max(axis=1) > 0
    assert (store.column("kind")[pairs[~found].max(axis=1)] == LOST).all()
    return pairs[found]


@pytest.fixture(scope="module")
def references(tiny_night, tmp_path_factory):
    """The deep reference of the night, and a stack of three of its frames."""
    stack = tmp_path_factory.mktemp("references") / "stack.fits"
    frames = inputs.find_frames([tiny_night / "science"])[:3]
    stack_reference(frames, stack, rng=np.random.default_rng(1))
    return {"deep": tiny_night / "reference.fits", "stack": stack}


@pytest.fixture(scope="module")
def store(tiny_night, references, tmp_path_factory):
    return inject(tiny_night, references, tmp_path_factory.mktemp("paired") / "night.zarr")


@pytest.fixture(scope="module")
def twice(tiny_night, tmp_path_factory):
    """Runs with the same reference under two names, and with it alone; the two references, the frames."""
    folder = tmp_path_factory.mktemp("twice")
    (folder / "again").mkdir()
    again = shutil.copy(tiny_night / "reference.fits", folder / "again")  # its artefacts go by its name
    frames = inputs.find_frames([tiny_night / "science"])[:3]
    both = {"a": tiny_night / "reference.fits", "b": Path(again)}
    pair = inject(tiny_night, both, folder / "pair.zarr", frames=frames)
    alone = inject(tiny_night, tiny_night / "reference.fits", folder / "alone.zarr", frames=frames)
    return pair, alone, both, frames


def test_both_references_have_the_same_stars_of_the_same_brightness(store):
    deep, stack = by_reference(store)
    for name in ("injection_id", "x_pix", "y_pix", "flux_adu", "kind", "injected", "injection_flag"):
        stars = [one.column("truth/injection_id") >= 0 for one in (deep, stack)]
        first, second = (
            one.column(f"truth/{name}")[some] for one, some in zip((deep, stack), stars, strict=True)
        )
        if name == "injection_flag":  # some bits are about the kernel fit, which is another
            first, second = first & 0x3FFFF, second & 0x3FFFF
        np.testing.assert_array_equal(first, second, err_msg=name)
    assert stars[0].sum() == 6 * 2 * 30
    snr = [one.column("truth/snr")[some] for one, some in zip((deep, stack), stars, strict=True)]
    assert not np.array_equal(*snr)  # it is that of each difference
    assert np.median(snr[0] / snr[1]) > 1.05  # a stack of three frames is noisy


def test_science_pixels_of_a_pair_are_the_same_photons(store):
    pairs = places_found(store)
    stars = store.column("injection_id")[pairs[:, 0]] >= 0
    x0, y0 = store.column("x0_pix"), store.column("y0_pix")
    same = (x0[pairs[:, 0]] == x0[pairs[:, 1]]) & (y0[pairs[:, 0]] == y0[pairs[:, 1]])
    assert np.mean(same[stars]) > 0.5
    first, second = (store.read_stamps(pairs[same, code]) for code in (0, 1))
    np.testing.assert_array_equal(first[:, SCIENCE], second[:, SCIENCE])
    assert np.all(np.any(first[:, DIFFERENCE] != second[:, DIFFERENCE], axis=(1, 2)))


def test_every_pair_is_complete_and_forced_stamps_have_no_label(store):
    pairs, kind = places_found(store), store.column("kind")
    assert (pairs >= 0).all()
    assert len(np.unique(pairs)) == pairs.size
    assert np.isin(np.flatnonzero(kind != LOST), pairs).all()  # no stamp is alone
    forced = kind == FORCED
    assert forced.sum() > 50
    np.testing.assert_array_equal((store.column("flags") & CANDIDATE_FLAG["FORCED"]) != 0, forced)
    for name in ("label_true", "label_given"):
        assert (store.column(name)[forced] == -1).all()
    found_with = store.column("found_with")[pairs]
    np.testing.assert_array_equal(found_with[:, 0], found_with[:, 1])
    detected = ~np.isin(kind, [FORCED, LOST])
    for code in (0, 1):
        np.testing.assert_array_equal(store.column("reference")[pairs[:, code]], code)
        np.testing.assert_array_equal((found_with[:, code] >> code & 1) == 1, detected[pairs[:, code]])
    assert {1, 2, 3} <= set(found_with[store.column("pair")[pairs[:, 0]] < -1, 0].tolist())


def test_a_pair_is_of_one_place_one_frame_one_realisation_and_one_group(store):
    pairs = places_found(store)
    for name in ("realisation", "injection_id", "x_ref_pix", "y_ref_pix", "tile", "group", "block", "sensor"):
        np.testing.assert_array_equal(*store.column(name)[pairs].T, err_msg=name)
    np.testing.assert_array_equal(*(store.column("frame")[pairs] // 2).T)
    apart = np.hypot(*(np.diff(store.column(name)[pairs], axis=1) for name in ("x_pix", "y_pix")))
    widest = store.column("fwhm_pix")[pairs].max(axis=1)
    observed = store.column("pair")[pairs[:, 0]] < -1
    assert (apart[observed, 0] <= widest[observed]).all()


def test_no_two_stamps_of_a_reference_and_realisation_share_pixels(store):
    x0, y0 = store.column("x0_pix"), store.column("y0_pix")
    key = np.column_stack([store.column("frame"), store.column("realisation")])
    checked = 0
    for one in np.unique(key, axis=0):
        for a, b in combinations(np.flatnonzero((key == one).all(axis=1)), 2):
            assert max(abs(x0[a] - x0[b]), abs(y0[a] - y0[b])) >= STAMP_SIZE_PIX
            checked += 1
    assert checked > 1000


def test_a_reference_that_is_paired_with_itself_gives_what_it_gives_alone(twice):
    """Nothing that the other reference does may leak into the first: pixels and columns, bit for bit."""
    pair, alone, *_ = twice
    first, second = by_reference(pair)
    assert (pair.column("kind") != FORCED).all()
    place = {"x_ref_pix", "y_ref_pix", "tile", "group"}  # of a pair: that of the star, not of its detection
    columns = (
        {name for name, _ in alone.root.arrays()} - {"stamps", "reference", "pair", "found_with"} - place
    )
    assert len(columns) > 30
    for one in (first, second):
        np.testing.assert_array_equal(one.read_stamps(), alone.read_stamps())
        for name in columns:
            np.testing.assert_array_equal(one.column(name), alone.column(name), err_msg=name)
        for name, _ in alone.root["truth"].arrays():
            np.testing.assert_array_equal(one.column(f"truth/{name}"), alone.column(f"truth/{name}"))
    np.testing.assert_allclose(first.column("x_ref_pix"), alone.column("x_ref_pix"), atol=2.0)
    lost = pair.column("kind") == LOST
    assert (pair.column("found_with") == np.where(lost, 0, 3)).all()
    assert (alone.column("pair") == -1).all()
    assert (alone.column("found_with") == np.where(alone.column("kind") == LOST, 0, 1)).all()
    assert (alone.column("frames/n_common") == -1).all()
    np.testing.assert_array_equal(first.column("frames/n_common"), first.column("frames/n_bogus_detected"))


@pytest.mark.parametrize("population", ["variables", "survey"])
def test_light_that_changes_in_the_reference_changes_in_both(tiny_night, references, tmp_path, population):
    config = replace(CONFIG, population=population, realisations=1)
    frames = inputs.find_frames([tiny_night / "science"])[3:5]
    one = inject(tiny_night, references, tmp_path / "v.zarr", config=config, frames=frames)
    deep, stack = by_reference(one)
    for name in ("flux_adu", "reference_flux_adu", "injected"):
        first, second = (
            view.column(f"truth/{name}")[view.column("truth/injection_id") >= 0] for view in (deep, stack)
        )
        np.testing.assert_array_equal(first, second)
    for view in (deep, stack):
        stamp = view.column("truth/stamp")
        changed = view.column("truth/reference_flux_adu") != 0
        assert changed.any()
        net = view.column("truth/flux_adu") - view.column("truth/reference_flux_adu")
        seen = changed & (stamp >= 0) & ~view.column("truth/ambiguous") & (view.column("truth/snr") > 8)
        assert seen.any()
        rows = stamp[seen]
        off = (view.column("flux_adu")[rows] - net[seen]) / view.column("flux_err_adu")[rows]
        assert abs(np.median(off)) < 2  # light taken from one reference alone would be off by its S/N


def test_result_is_bit_identical_however_it_is_run(twice, tiny_night, tmp_path, monkeypatch):
    pair, references, frames = twice[0], twice[2], twice[3]
    other = inject(tiny_night, references, tmp_path / "w.zarr", frames=frames[::-1], parallel=Parallel(2))
    assert files(pair.path) == files(other.path)
    out, (first, second) = tmp_path / "j.zarr", (build.parse_share(job) for job in ("1/2", "2/2"))
    write = build.write_partition

    def killed(path, index, *parts):
        if index == 2:
            raise KeyboardInterrupt
        write(path, index, *parts)

    monkeypatch.setattr(build, "write_partition", killed)
    with pytest.raises(KeyboardInterrupt):
        inject(tiny_night, references, out, frames=frames, share=first)
    monkeypatch.undo()
    for share in (second, first):
        assert inject(tiny_night, references, out, frames=frames, share=share) is None
    assert files(pair.path) == files(run.finalise_injection(out).path)


@pytest.mark.parametrize("condition", ["as observed", "bright-moon"])
def test_a_degraded_frame_is_degraded_once_and_negatives_pair_too(
    tiny_night, references, tmp_path, condition
):
    config = replace(
        CONFIG, realisations=1, negatives=True, blind_share=0.5, condition=load_condition(condition)
    )
    frames = inputs.find_frames([tiny_night / "science"])[4:5]
    one = inject(tiny_night, references, tmp_path / "c.zarr", config=config, frames=frames)
    pairs, (x0, y0) = places_found(one), (one.column("x0_pix"), one.column("y0_pix"))
    same = (x0[pairs[:, 0]] == x0[pairs[:, 1]]) & (y0[pairs[:, 0]] == y0[pairs[:, 1]])
    first, second = (one.read_stamps(pairs[same, code])[:, SCIENCE] for code in (0, 1))
    np.testing.assert_array_equal(first, second)
    assert same.sum() > 20
    kind = one.column("kind")[pairs]
    negative = (kind == KIND_CODES["negative"]).any(axis=1)
    assert negative.any()
    assert np.isin(kind[negative], [KIND_CODES["negative"], FORCED]).all()
    assert not verify(one.path).problems


def test_a_damaged_paired_store_is_mended_from_what_is_whole(
    store, tiny_night, references, tmp_path, monkeypatch
):
    broken = tmp_path / "broken.zarr"
    shutil.copytree(store.path, broken)
    (broken / "README.md").write_text("?")
    assert verify(broken).problems
    monkeypatch.setattr(run, "process_frame", lambda *_, **__: pytest.fail("no frame needs to be done again"))
    inject(tiny_night, references, broken, resume=True)
    assert files(store.path) == files(broken)


def test_a_frame_that_fails_with_one_reference_fails_with_both_and_says_why(tiny_night, references, tmp_path):
    frames = inputs.find_frames([tiny_night / "science"])[:2]
    (tmp_path / "bad.fits").write_text("no")
    one = inject(tiny_night, references, tmp_path / "a.zarr", frames=[*frames, str(tmp_path / "bad.fits")])
    assert one.column("frames/ok").tolist() == [True] * 4 + [False] * 2
    assert one.column("frames/reference").tolist() == [0, 1] * 3
    assert one.frame_names[4:] == ["bad.fits"] * 2
    assert all("bad.fits" in reason for reason in one.frame_reasons[4:])
    assert describe_store(one)["n_frames"] == 3
    assert describe_store(one)["n_frames_failed"] == 1
    assert not verify(one.path).problems
    other_sky = tmp_path / "sky.fits"
    with fits.open(references["deep"]) as hdus:
        fits.PrimaryHDU(hdus[0].data[::-1], hdus[0].header).writeto(other_sky)
    with pytest.raises(InputError, match=r"none of 1 frames could be used; .*\(reference sky\)"):
        inject(
            tiny_night,
            {"deep": references["deep"], "sky": other_sky},
            tmp_path / "b.zarr",
            frames=frames[:1],
        )


def test_the_store_is_verified_and_swapped_partners_are_found(store, monkeypatch):
    assert verify(store.path).problems == ()
    column = type(store).column

    def spoilt(self, name):
        values = column(self, name)
        if name == "group":
            values = values.copy()
            values[0] += 1
        return np.zeros_like(values) if name == "reference" else values

    monkeypatch.setattr(type(store), "column", spoilt)
    problems = " ".join(_check_columns(open_store(store.path)))
    assert "pair: two stamps of one place with one reference" in problems
    assert "group: not that of the partner (1)" in problems


def test_info_counts_what_both_find_and_what_only_one_does(store):
    facts = describe_store(store)
    pairing = facts["pairing"]
    deep, stack = by_reference(store)
    found = {
        name: set(
            one.column("truth/injection_id")[one.column("truth/detected") & one.column("truth/injected")]
        )
        for name, one in (("deep", deep), ("stack", stack))
    }
    assert pairing["stars_found"] == {
        "common": len(found["deep"] & found["stack"]),
        "only deep": len(found["deep"] - found["stack"]),
        "only stack": len(found["stack"] - found["deep"]),
        "none": facts["n_injected"] - len(found["deep"] | found["stack"]),
    }
    assert facts["n_frames"] == 6
    assert facts["n_injected"] == deep.column("truth/injected").sum()
    per_frame = pairing["bogus_found_in_frames"]
    assert [row["frame"] for row in per_frame] == deep.frame_names
    for name in ("common", "only deep", "only stack"):
        assert sum(row[name] for row in per_frame) == pairing["bogus_found"][name] > 0
    of_deep = (deep.column("label_true") == 0) & (deep.column("realisation") == -1)
    assert of_deep.sum() == pairing["bogus_found"]["common"] + pairing["bogus_found"]["only deep"]
    assert (deep.column("frames/n_common") <= deep.column("frames/n_bogus_detected")).all()
    np.testing.assert_array_equal(deep.column("frames/n_common"), stack.column("frames/n_common"))
    text = dict(describe_text(facts))
    assert "common" in text["bogus per frame"]
    assert text["paired references"] == "deep, stack"
    assert json.dumps(facts)
    assert class_name(0b101, ("a", "b", "c")) == "a+c"


def test_completeness_is_measured_with_each_reference(twice, store):
    pair, alone, *_ = twice
    both = measure_completeness([pair])
    assert {curve.group.reference for curve in both.curves} == {"a", "b"}
    single = measure_completeness([alone])
    for name in ("a", "b"):
        rows = [row | {"reference": ""} for row in both.fractions if row["reference"] == name]
        assert rows == [row | {"reference": ""} for row in single.fractions]
        counts = [row["n"] for row in both.false_positives if row["reference"] == name]
        assert counts == [row["n"] for row in single.false_positives]
    curves = {
        curve.group.reference: curve
        for curve in measure_completeness([store]).curves
        if (curve.place, curve.variable, curve.group.sensor) == ("all", "mag", -1)
    }
    assert curves["deep"].counts["n_asked"] == curves["stack"].counts["n_asked"] == 6 * 2 * 30
    assert curves["deep"].counts["n_detected"] != curves["stack"].counts["n_detected"]


def test_training_and_test_take_detected_stamps_of_the_reference_asked_for(store):
    split = make_split(read_footprints(store), read_tiling(store), split_seed=0)
    np.testing.assert_array_equal(*split.role[places_found(store)].T)
    kind, reference = store.column("kind"), store.column("reference")
    everything = load_pools(store, split, normalisation="minmax")
    for part in (everything.training, everything.test):
        assert (kind[part.row] != FORCED).all()
        assert set(reference[part.row]) == {0, 1}
    cross = load_pools(store, split, normalisation="minmax", train_reference="deep", test_reference="stack")
    for part, code in ((cross.training, 0), (cross.validation, 0), (cross.test, 1)):
        assert set(reference[part.row]) == {code}
    np.testing.assert_array_equal(cross.test.row, everything.test.row[reference[everything.test.row] == 1])
    with pytest.raises(InputError, match="has no reference 'ps1'; it has deep, stack"):
        load_pools(store, split, normalisation="minmax", train_reference="ps1")


@pytest.mark.parametrize("mechanism", ["mechanism", "class-conditional"])
def test_no_label_setting_gives_a_forced_stamp_a_label(store, tmp_path, mechanism):
    copy = shutil.copytree(store.path, tmp_path / "s.zarr")
    how = ["--name", "wrong", "--mechanism", mechanism, "--mislabel-bogus", "0.05", "--mislabel-real", "0.05"]
    done = CliRunner().invoke(app, ["relabel", str(copy), *how])
    assert done.exit_code == 0, done.output
    labels = read_labels(open_store(copy), "wrong")
    assert (labels.reason != 0).any()
    assert (labels.label_given[store.column("kind") == FORCED] == -1).all()


def test_a_store_without_pairs_has_no_reference_to_choose(synthetic_store):
    split = make_split(read_footprints(synthetic_store), read_tiling(synthetic_store), split_seed=0)
    with pytest.raises(InputError, match="has no reference 'deep'; only a run with several"):
        load_pools(synthetic_store, split, normalisation="minmax", test_reference="deep")


def test_the_command_line_makes_a_paired_store_and_names_mistakes(tiny_night, references, tmp_path):
    def invoke(*arguments):
        return CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"})

    frames = inputs.find_frames([tiny_night / "science"])[:1]
    given = [f"--reference={name}={path}" for name, path in references.items()]
    common = ["inject", *frames, "--out", tmp_path / "c.zarr", "--stars-per-frame", 10, "--realisations", 1]
    done = invoke(*common, *given, "--json")
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert facts["pairing"]["references"] == ["deep", "stack"]
    assert open_store(tmp_path / "c.zarr").attributes["config"]["reference_name"] == "deep+stack"
    for more, message in (
        ([given[0], "--reference", references["stack"]], "has no name and others have"),
        ([*given, "--reference-name", "x"], "reference-name is 'x', but --reference gives names itself"),
        ([given[0], f"--reference=stack={tmp_path}/no.fits"], "no.fits: no such file"),
    ):
        wrong = invoke(*common, *more, "--overwrite")
        assert wrong.exit_code == 1, wrong.output
        assert message in " ".join(wrong.stderr.split()), wrong.output
    named = invoke(*common, given[0], "--overwrite", "--json")
    assert named.exit_code == 0, named.output
    alone = open_store(tmp_path / "c.zarr")
    assert alone.references == ()
    assert alone.attributes["config"]["reference_name"] == "deep"
