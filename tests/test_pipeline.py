"""A whole run on an emulated night: bit-identical however it is run, nothing lost, nothing shared."""

import shutil
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits

from rbsim import build, inputs, run
from rbsim.config import InjectConfig, load_config
from rbsim.describe import describe_store, describe_text
from rbsim.errors import InputError
from rbsim.parallel import IN_PROCESS
from rbsim.schema import ARTEFACTS, CANDIDATE_FLAG, INJECTION_FLAG, KIND_CODES, MASK, STAMP_SIZE_PIX
from rbsim.store import partial_path
from rbsim.true_transients import read_truth

CONFIG = InjectConfig(stars_per_frame=30, realisations=2, tile_pix=100)


def inject(night, out, *, config=CONFIG, frames=None, **options):
    frames = frames or inputs.find_frames([night / "science"])
    return run.run_injection(
        frames, night / "reference.fits", out, config, truth_path=night / "truth.ecsv", **options
    )


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def store(tiny_night, tmp_path_factory):
    return inject(tiny_night, tmp_path_factory.mktemp("run") / "night.zarr")


def test_result_is_bit_identical_with_workers_and_in_any_order(store, tiny_night, tmp_path, two_workers):
    frames = inputs.find_frames([tiny_night / "science"])[::-1]
    other = inject(tiny_night, tmp_path / "w.zarr", frames=frames, parallel=two_workers)
    assert files(store.path) == files(other.path)


def test_result_is_bit_identical_after_a_kill(store, tiny_night, tmp_path, monkeypatch):
    out = tmp_path / "k.zarr"
    write = build.write_partition

    def killed(path, index, partition):
        if index == 2:
            raise KeyboardInterrupt
        write(path, index, partition)

    monkeypatch.setattr(build, "write_partition", killed)
    with pytest.raises(KeyboardInterrupt):
        inject(tiny_night, out)
    monkeypatch.undo()
    assert not out.exists()
    with pytest.raises(InputError, match="unfinished build"):
        inject(tiny_night, out)
    resumed = inject(tiny_night, out, resume=True)
    assert files(store.path) == files(resumed.path)


def test_another_seed_places_other_stars_on_the_same_bogus(store, tiny_night, tmp_path):
    other = inject(tiny_night, tmp_path / "o.zarr", config=InjectConfig(**{**vars(CONFIG), "seed": 2}))
    assert not np.array_equal(store.column("truth/x_pix"), other.column("truth/x_pix"))
    np.testing.assert_array_equal(
        store.column("frames/n_bogus_detected"), other.column("frames/n_bogus_detected")
    )


def test_no_two_stamps_of_a_realisation_share_pixels(store):
    frame, realisation = store.column("frame"), store.column("realisation")
    x0, y0 = store.column("x0_pix"), store.column("y0_pix")
    checked = 0
    for key in np.unique(np.column_stack([frame, realisation]), axis=0):
        rows = np.flatnonzero((frame == key[0]) & (realisation == key[1]))
        for a, b in combinations(rows, 2):
            assert max(abs(x0[a] - x0[b]), abs(y0[a] - y0[b])) >= STAMP_SIZE_PIX
            checked += 1
    assert checked > 1000


def test_no_stamp_is_there_twice(store):
    stamps = store.read_stamps().reshape(store.n_stamps, -1)
    assert len({row.tobytes() for row in stamps}) == store.n_stamps


def test_truth_and_stamps_point_at_each_other(store):
    stamp, injection_id = store.column("truth/stamp"), store.column("truth/injection_id")
    has = stamp >= 0
    np.testing.assert_array_equal(store.column("injection_id")[stamp[has]], injection_id[has])
    np.testing.assert_array_equal(store.column("frame")[stamp[has]], store.column("truth/frame")[has])
    np.testing.assert_array_equal(
        store.column("realisation")[stamp[has]], store.column("truth/realisation")[has]
    )
    off = np.hypot(
        store.column("x_pix")[stamp[has]] - store.column("truth/x_pix")[has],
        store.column("y_pix")[stamp[has]] - store.column("truth/y_pix")[has],
    )
    np.testing.assert_allclose(off, store.column("truth/separation_pix")[has], rtol=1e-5, atol=1e-6)
    lost = store.column("kind") == KIND_CODES["injected_lost"]
    assert has.sum() == np.count_nonzero((store.column("injection_id") >= 0) & ~lost)
    assert not store.column("truth/detected")[np.isin(injection_id, store.column("injection_id")[lost])].any()
    stars = injection_id >= 0
    assert len(np.unique(injection_id[stars])) == stars.sum() == store.column("frames/n_asked").sum()


def test_recovered_flux_is_the_injected_one(store):
    stamp = store.column("truth/stamp")
    flags = store.column("flags")
    clean = (stamp >= 0) & (store.column("truth/injection_flag") == 0) & (store.column("truth/snr") > 15)
    bad = CANDIDATE_FLAG["AMBIGUOUS"] | CANDIDATE_FLAG["SATURATED"] | CANDIDATE_FLAG["EDGE"]
    clean[clean] = (flags[stamp[clean]] & np.uint32(bad)) == 0
    rows = stamp[clean]
    ratio = store.column("flux_adu")[rows] / store.column("truth/flux_adu")[clean]
    assert clean.sum() > 100
    assert np.median(ratio) == pytest.approx(1, abs=0.03)
    pull = (store.column("flux_adu")[rows] - store.column("truth/flux_adu")[clean]) / store.column(
        "flux_err_adu"
    )[rows]
    assert 1.4826 * np.median(np.abs(pull - np.median(pull))) == pytest.approx(1, abs=0.3)


def test_completeness_rises_through_the_threshold(store):
    star = (store.column("truth/injection_id") >= 0) & (store.column("truth/injection_flag") == 0)
    snr, detected = store.column("truth/snr")[star], store.column("truth/detected")[star]
    assert detected[snr > 10].mean() > 0.97
    assert detected[snr < 5.5].mean() < 0.9


def test_kinds_labels_and_groups_are_consistent(store):
    kind, true, given = store.column("kind"), store.column("label_true"), store.column("label_given")
    injected = (kind == KIND_CODES["injected_random"]) | (kind == KIND_CODES["injected_near_galaxy"])
    transient = kind == KIND_CODES["emulated_transient"]
    artefact = kind == KIND_CODES["artefact"]
    lost = kind == KIND_CODES["injected_lost"]
    assert (injected | transient | artefact | lost).all()
    assert min(injected.sum(), transient.sum(), artefact.sum()) > 10
    assert (true[injected | transient] == 1).all()
    assert (true[artefact | lost] == 0).all()
    ambiguous = (store.column("flags") & np.uint32(CANDIDATE_FLAG["AMBIGUOUS"])) != 0
    assert (given[transient | lost | ambiguous] == -1).all()
    plain = ~(transient | lost | ambiguous)
    np.testing.assert_array_equal(given[plain], true[plain])
    n_tiles = describe_store(store)["n_tiles"]
    np.testing.assert_array_equal(
        store.column("group"), store.column("block") * n_tiles + store.column("tile")
    )


def test_nothing_in_the_store_betrays_time_host_or_workers(store):
    text = str(store.attributes)
    assert str(store.path.parent) not in text
    assert "workers" not in text


def test_one_bad_frame_is_a_row_and_all_bad_is_an_error(tiny_night, tmp_path):
    good = inputs.find_frames([tiny_night / "science"])
    broken = tmp_path / "broken.fits"
    broken.write_bytes(Path(good[0]).read_bytes()[:4000])
    store = inject(tiny_night, tmp_path / "a.zarr", frames=[*good, str(broken)])
    facts = describe_store(store)
    assert facts["n_frames"] == len(good) + 1
    assert facts["n_frames_failed"] == 1
    assert "cannot be read as FITS" in facts["failed"]["broken.fits"]
    assert dict(describe_text(facts))["frames"] == f"{len(good) + 1} (1 failed)"
    with pytest.raises(InputError, match=r"none of 1 frames could be used; the first: .*broken.fits"):
        run.run_injection([str(broken)], tiny_night / "reference.fits", tmp_path / "b.zarr", CONFIG)
    assert not partial_path(tmp_path / "b.zarr").exists()


def test_catalogue_replaces_random_stars(tiny_night, tmp_path):
    path = tmp_path / "cat.csv"
    path.write_text(
        "x,y,mag\n"
        + "\n".join(f"{x},{y},17.5" for x in (60, 120, 180) for y in (60, 150, 240))
        + "\n9,9999,17\n"
    )
    frames = inputs.find_frames([tiny_night / "science"])[:2]
    store = inject(tiny_night, tmp_path / "c.zarr", frames=frames, catalogue_path=path)
    star = store.column("truth/injection_id") >= 0
    assert star.sum() == 20
    flag = store.column("truth/injection_flag")[star]
    assert np.count_nonzero(flag & INJECTION_FLAG["NO_OVERLAP"]) == 2
    np.testing.assert_allclose(store.column("truth/mag")[star][flag == 0], 17.5)
    assert (store.column("truth/kind")[star] == KIND_CODES["injected_catalogue"]).all()


def test_known_objects_and_negatives_are_kept_out_of_the_bogus(store, tiny_night, tmp_path):
    """Every third artefact of two frames is called known; negatives are stored; the rest stays as it was."""
    names = store.frame_names[:2]
    frames = [path for path in inputs.find_frames([tiny_night / "science"]) if Path(path).name in names]
    at = {name: store.column(name) for name in ("x_pix", "y_pix", "frame", "kind", "realisation", "flags")}
    bogus = np.flatnonzero((at["kind"] == KIND_CODES["artefact"]) & (at["frame"] < 2))
    listed = bogus[::3]
    path = tmp_path / "known.csv"
    rows = [f"{at['x_pix'][i]},{at['y_pix'][i]},0.3,{names[at['frame'][i]]}" for i in listed]
    path.write_text("x,y,radius,frame\n" + "\n".join(rows) + "\n")
    config = InjectConfig(**{**vars(CONFIG), "negatives": True})
    other = inject(tiny_night, tmp_path / "k.zarr", frames=frames, config=config, known_path=path)
    kind, known_row = other.column("kind"), other.column("known_row")
    known = kind == KIND_CODES["known_object"]
    assert sorted(known_row[known]) == list(range(len(listed)))
    assert (other.column("label_true")[known] == -1).all()
    assert (other.column("label_given")[known] == -1).all()
    assert ((other.column("flags")[known] & np.uint32(CANDIDATE_FLAG["KNOWN"])) != 0).all()
    assert np.count_nonzero(kind == KIND_CODES["artefact"]) == len(bogus) - len(listed)
    facts = describe_store(other)
    assert facts["n_known"] >= len(listed)
    assert facts["n_excluded"] == facts["n_stamps"] - facts["n_real"] - facts["n_bogus"] - facts["n_lost"]
    negative = kind == KIND_CODES["negative"]
    assert 1 < negative.sum() <= facts["n_negative"]
    for name, values in (("flux_adu", -1), ("snr", -1), ("is_positive", 0)):
        assert (np.sign(other.column(name)[negative].astype(float)) == values).all(), name
    assert (other.column("label_true")[negative] == -1).all()
    # What is positive does not depend on whether negatives are kept.
    same = (store.column("frame") < 2) & (store.column("realisation") == -1)
    np.testing.assert_array_equal(
        other.column("x_pix")[~negative & (other.column("realisation") == -1)], store.column("x_pix")[same]
    )
    text = dict(describe_text(facts))
    assert text["at known objects"] == f"{facts['n_known']:,}"
    assert text["negative detections"] == f"{facts['n_negative']:,}"


def test_causes_of_the_bogus_are_known_on_an_emulated_night(store):
    kind, cause = store.column("kind"), store.column("cause")
    artefact = kind == KIND_CODES["artefact"]
    assert (cause[~artefact] == -1).all()
    assert np.mean(cause[artefact] >= 0) > 0.9
    counted = sum(store.column(f"frames/n_false_{a.name}") for a in ARTEFACTS)
    counted = counted + store.column("frames/n_false_unexplained")
    assert (counted > 0).all()
    assert (counted <= store.column("frames/n_bogus_detected")).all()
    assert counted.sum() >= artefact.sum()
    facts = describe_store(store)
    assert sum(facts["false_per_frame"].values()) == pytest.approx(counted.mean(), abs=0.01)
    assert "cosmic ray" in dict(describe_text(facts))["false positives per frame"]


def test_features_tell_injected_stars_from_single_pixels(store):
    kind, cause = store.column("kind"), store.column("cause")
    plain = (store.column("flags") & np.uint32(CANDIDATE_FLAG["AMBIGUOUS"])) == 0
    star = (kind == KIND_CODES["injected_random"]) & plain & (store.column("snr") > 10)
    hot = np.isin(cause, [a.code for a in ARTEFACTS if a.name in ("hot_pixel", "flicker_pixel")])
    assert min(star.sum(), hot.sum()) > 20
    for name, of_star, of_hot in (("sharpness", 1.0, 6.0), ("psf_chi2", 1.0, 4.0)):
        values = store.column(name)
        assert np.median(values[star]) == pytest.approx(of_star, abs=0.2), name
        assert np.median(values[hot]) > 0.6 * of_hot, name
    assert np.median(store.column("elongation")[star]) < 1.3
    assert np.median(store.column("negative_share")[star]) == 0
    off = store.column("truth/separation_pix")
    stamp = store.column("truth/stamp")
    has = stamp >= 0
    pull = off[has] / store.column("position_err_pix")[stamp[has]]
    assert np.median(pull) == pytest.approx(1.18, abs=0.25)  # Rayleigh
    assert np.isfinite(store.column("edge_distance_pix")).all()


def test_pixels_that_one_frame_dominates_flag_the_candidates_there(tiny_night, tmp_path):
    reference = tmp_path / "reference.fits"
    with fits.open(tiny_night / "reference.fits") as hdus:
        header, image = hdus[0].header, hdus[0].data
        header["CREATOR"] = "rbsim"
        mask = np.where(np.isfinite(image), 0, MASK["BAD"]).astype(np.uint8)
        mask[:, :150] |= MASK["ONE_FRAME"]
        fits.HDUList([fits.PrimaryHDU(image, header), fits.ImageHDU(mask, name="MASK")]).writeto(reference)
    frames = inputs.find_frames([tiny_night / "science"])[:1]
    store = run.run_injection(frames, reference, tmp_path / "o.zarr", CONFIG)
    hit = (store.column("flags") & np.uint32(CANDIDATE_FLAG["ONE_FRAME"])) != 0
    x_ref = store.column("x_ref_pix")
    assert hit[x_ref < 149].all()
    assert not hit[x_ref > 152].any()
    assert 10 < hit.sum() < len(hit) - 10


def test_frames_without_truth_have_no_causes(tiny_night, tmp_path):
    frames = inputs.find_frames([tiny_night / "science"])[:1]
    store = run.run_injection(frames, tiny_night / "reference.fits", tmp_path / "r.zarr", CONFIG)
    assert (store.column("cause") == -1).all()
    assert store.column("frames/n_false_unexplained").tolist() == [-1]
    facts = describe_store(store)
    assert facts["false_per_frame"] is None
    assert "false positives per frame" not in dict(describe_text(facts))
    assert store.attributes["config"]["known"] is None


def test_frames_are_found_in_files_globs_and_folders(tiny_night, tmp_path):
    folder = tiny_night / "science"
    every = inputs.find_frames([folder])
    assert every == inputs.find_frames([str(folder / "*.fits")]) == inputs.find_frames([*every, every[0]])
    with pytest.raises(InputError, match="holds no FITS file"):
        inputs.find_frames([tmp_path])
    with pytest.raises(InputError, match="matches no file"):
        inputs.find_frames([str(tmp_path / "*.fits")])
    with pytest.raises(InputError, match="no frames given"):
        inputs.find_frames([])


def test_frames_with_keys_that_agree_by_chance_are_not_taken_for_one(tiny_night, tmp_path, monkeypatch):
    monkeypatch.setattr(inputs, "checksum", lambda _: 7)
    frames = inputs.find_frames([tiny_night / "science"])
    reference = tiny_night / "reference.fits"
    given = inputs.gather_inputs(
        frames, reference, tmp_path / "x.zarr", CONFIG, truth_path=None, known_path=None
    )
    assert {task.key for task in given.tasks} == {7}


def test_unusable_truth_and_reference_are_refused(tiny_night, tmp_path):
    frames = inputs.find_frames([tiny_night / "science"])
    (tmp_path / "t.csv").write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is not a truth table"):
        read_truth(tmp_path / "t.csv")
    with pytest.raises(InputError, match=r"none.fits: no such file"):
        run.run_injection(frames, tmp_path / "none.fits", tmp_path / "x.zarr", CONFIG)
    shutil.copy(frames[0], tmp_path / "same.fits")
    reference = tiny_night / "reference.fits"
    with pytest.raises(InputError, match="same content as"):
        run.run_injection([frames[0], str(tmp_path / "same.fits")], reference, tmp_path / "x.zarr", CONFIG)
    with pytest.raises(InputError, match="is the reference itself"):
        run.run_injection([str(reference), *frames], reference, tmp_path / "x.zarr", CONFIG)
    with pytest.raises(InputError, match="holds the frames themselves"):
        run.run_injection(frames, reference, tiny_night / "science", CONFIG, overwrite=True)
    with pytest.raises(InputError, match=r"holds .*reference.fits, which is an input"):
        run.run_injection([str(tmp_path / "same.fits")], reference, tiny_night, CONFIG, overwrite=True)
    (tmp_path / "known.csv").write_text("x,y,frame\n1,2,none.fits\n")
    with pytest.raises(InputError, match=r"known.csv: all its rows are for other frames, first none.fits"):
        run.run_injection(frames, reference, tmp_path / "x.zarr", CONFIG, known_path=tmp_path / "known.csv")
    (tmp_path / "other.csv").write_text("frame,x_pix,y_pix\nnone.fits,1,2\n")
    with pytest.raises(InputError, match="has no row for any of these frames"):
        run.run_injection(frames, reference, tmp_path / "x.zarr", CONFIG, truth_path=tmp_path / "other.csv")
    assert not (tmp_path / "x.zarr").exists()
    assert not partial_path(tmp_path / "x.zarr").exists()


def test_conditions_are_compared_star_by_star(tiny_night, tmp_path, two_workers):
    frames = inputs.find_frames([tiny_night / "science"])[:3]
    stores = []
    runs = (("as observed", IN_PROCESS), ("moonlit-cirrus", IN_PROCESS), ("moonlit-cirrus", two_workers))
    for number, (name, parallel) in enumerate(runs):
        config = load_config(None, {**vars(CONFIG), "condition": name})
        out = tmp_path / f"{number}.zarr"
        stores.append(inject(tiny_night, out, config=config, frames=frames, parallel=parallel))
    clear, cloudy, again = stores
    assert files(cloudy.path) == files(again.path)
    star = [store.column("truth/injection_id") >= 0 for store in (clear, cloudy)]
    for name in ("injection_id", "frame", "realisation", "kind", "x_pix", "y_pix", "host_offset_pix"):
        first, second = (s.column(f"truth/{name}")[w] for s, w in zip((clear, cloudy), star, strict=True))
        np.testing.assert_array_equal(first, second, err_msg=name)
    mag, flux, snr, flag, detected = (
        [s.column(f"truth/{name}")[w] for s, w in zip((clear, cloudy), star, strict=True)]
        for name in ("mag", "flux_adu", "snr", "injection_flag", "detected")
    )
    np.testing.assert_allclose(mag[1], mag[0], rtol=1e-9)
    np.testing.assert_allclose(flux[1], 0.67 * flux[0], rtol=1e-9)
    both = (flag[0] == 0) & (flag[1] == 0)
    assert both.sum() > 100
    # 0.67 of the light, 4 times the photons of the sky: a third of the S/N, and some more, as the noise of
    # the reference and of the detector stays.
    assert 0.33 < np.median(snr[1][both] / snr[0][both]) < 0.45
    assert detected[1][both].mean() < detected[0][both].mean() - 0.1
    found = np.flatnonzero(cloudy.column("kind") == KIND_CODES["injected_random"])
    assert len(found) > 20
    facts = describe_store(cloudy)
    assert facts["condition"] == "moonlit-cirrus"
    assert facts["condition_parameters"]["sky_factor"] == 4.0
    assert "moonlit-cirrus (sky_factor 4.0, transparency 0.67)" in dict(describe_text(facts))["condition"]
    assert np.isnan(clear.column("frames/limit_predicted_mag")).all()
    limit, predicted = (cloudy.column(f"frames/{name}") for name in ("limit_mag", "limit_predicted_mag"))
    np.testing.assert_allclose(limit, predicted, atol=0.15)  # few PSF stars on frames so small
