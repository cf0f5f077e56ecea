"""Frames with their stars as files, and whole runs with populations, their workers and interruptions."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
import pytest
from _subtracted import observed_frame
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

import cli
from rbsim import build, inputs, run, schema
from rbsim.asked import ask, lights_of
from rbsim.config import InjectConfig
from rbsim.describe import describe_store, describe_text
from rbsim.errors import InputError
from rbsim.frame import read_frame
from rbsim.inject import inject as inject_stars
from rbsim.injected_files import ImageFolder, write_injected
from rbsim.inputs import FrameTask
from rbsim.schema import INJECTED_IN, INJECTION_FLAG, KIND_CODES, MASK

CONFIG = InjectConfig(stars_per_frame=30, realisations=2, tile_pix=100, population="survey", negatives=True)


def inject(night, out, *, config=CONFIG, n_frames=2, **options):
    frames = inputs.find_frames([night / "science"])[:n_frames]
    return run.run_injection(
        frames, night / "reference.fits", out, config, truth_path=night / "truth.ecsv", **options
    )


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def truth_of(store):
    return {spec.name: store.column(f"truth/{spec.name}") for spec in schema.TRUTH_COLUMNS}


@pytest.fixture(scope="module")
def both(tiny_night, tmp_path_factory):
    """Store and folder of images of a run."""
    folder = tmp_path_factory.mktemp("run")
    store = inject(tiny_night, folder / "s.zarr", images=folder / "images")
    return store, folder / "images"


def test_store_and_images_are_bit_identical_with_workers(both, tiny_night, tmp_path, two_workers):
    store, images = both
    other = inject(tiny_night, tmp_path / "w.zarr", images=tmp_path / "images", parallel=two_workers)
    assert files(store.path) == files(other.path)
    assert files(images) == files(tmp_path / "images")


def test_images_change_nothing_in_the_store(both, tiny_night, tmp_path):
    other = inject(tiny_night, tmp_path / "n.zarr")
    assert files(both[0].path) == files(other.path)


def test_an_image_is_the_input_but_for_the_stars(both, tiny_night):
    store, images = both
    truth = truth_of(store)
    for index, name in enumerate(store.frame_names):
        before, header_before = fits.getdata(tiny_night / "science" / name, header=True)
        for realisation in range(2):
            after, header = fits.getdata(images / f"{Path(name).stem}.r{realisation}.fits", header=True)
            assert after.dtype == before.dtype
            mine = (truth["frame"] == index) & (truth["realisation"] == realisation) & truth["injected"]
            flux = truth["flux_adu"][mine & (truth["flux_adu"] > 0)]
            added = after.astype(float) - before
            touched = added != 0
            assert 0.005 < touched.mean() < 0.7
            # Stars near holes and the edge lose some of their light; photon noise is small beside the sum.
            assert added[added > 0].sum() == pytest.approx(flux.sum(), rel=0.15)
            for card in ("DATE-OBS", "EXPTIME", "GAIN", "CRVAL1", "MAGZERO", "DET_ID"):
                assert header[card] == header_before[card]
            assert header["INJECTED"] is True
            assert (header["INJSEED"], header["INJREALN"]) == (CONFIG.seed, realisation)
            assert header["INJNSTAR"] == mine.sum()
            assert header["INJVERS"].startswith("rbsim ")
            assert header["INJGAIN"] == pytest.approx(store.column("frames/gain_e_per_adu")[index], rel=1e-6)
            assert header["INJMAGZP"] == pytest.approx(store.column("frames/zero_point_mag")[index], rel=1e-6)
            assert header["INJFWHM"] == pytest.approx(store.column("frames/fwhm_pix")[index], abs=1e-3)


def test_a_catalogue_beside_each_image_says_what_the_truth_says(both):
    store, images = both
    truth = truth_of(store)
    index = Table.read(images / "injected.ecsv")
    assert len(index) == 4
    for row in index:
        table = Table.read(images / row["catalog"])
        assert (images / row["image"]).exists()
        assert table.colnames[:3] == ["injection_id", "injection_flag", "injection_draw_size"]
        assert {flag.name: flag.bit for flag in schema.INJECTION_FLAGS}.items() <= table.meta.items()
        place = np.argsort(truth["injection_id"])
        rows = place[np.searchsorted(truth["injection_id"][place], table["truth_id"])]
        np.testing.assert_array_equal(truth["injection_id"][rows], table["injection_id"])
        for own, of_truth in (("x", "x_pix"), ("flux_adu", "flux_adu"), ("injection_flag", "injection_flag")):
            np.testing.assert_array_equal(table[own], truth[of_truth][rows])
        plain = (table["source_type"] == "Star") & (table["kind"] != "injected_variable")
        np.testing.assert_allclose(table["mag"][plain], truth["mag"][rows][plain])
        assert (table["injection_draw_size"][truth["injected"][rows]] > 20).all()


def test_a_catalogue_that_was_written_can_be_injected_again(both, tiny_night, tmp_path):
    store, images = both
    name = Path(store.frame_names[0]).stem
    path = images / f"{name}.r0.catalog.ecsv"
    again = inject(
        tiny_night,
        tmp_path / "a.zarr",
        config=dataclasses.replace(CONFIG, population="stars", realisations=1),
        n_frames=1,
        catalogue_path=path,
    )
    before, after = truth_of(store), truth_of(again)
    first = (before["frame"] == 0) & (before["realisation"] == 0) & before["injected"]
    # Changes of a star in both images at once are not of the catalogue's vocabulary.
    first &= before["injected_in"] != INJECTED_IN["both"]
    rows = {int(i): n for n, i in enumerate(after["catalogue_id"])}
    pairs = [(n, rows[int(before["injection_id"][n])]) for n in np.flatnonzero(first)]
    mine, theirs = (np.array(side) for side in zip(*pairs, strict=True))
    assert len(mine) > 20
    np.testing.assert_array_equal(before["kind"][mine], after["kind"][theirs])
    for column in ("x_pix", "y_pix", "flux_adu", "reference_flux_adu", "trail_length_pix", "trail_angle_deg"):
        np.testing.assert_allclose(after[column][theirs], before[column][mine], rtol=1e-5, atol=1e-6)
    assert (after["injection_flag"][theirs] & INJECTION_FLAG["NO_STAR"] == 0).all()


def test_fading_stars_are_negative_detections_with_complete_truth(both, tiny_night, tmp_path):
    store, _ = both
    truth = truth_of(store)
    fading = truth["flux_adu"] < truth["reference_flux_adu"]
    found = fading & truth["detected"]
    assert (truth["kind"][fading] == KIND_CODES["injected_variable"]).all()
    changed_science = fading & (truth["injected_in"] == INJECTED_IN["science"]) & (truth["snr"] < -10)
    assert changed_science.sum() >= 5
    assert truth["detected"][changed_science & truth["injected"]].mean() > 0.8
    stamp = truth["stamp"][found]
    assert (stamp >= 0).all()
    assert (store.column("label_true")[stamp] == -1).all()
    assert (store.column("label_given")[stamp] == -1).all()
    assert not store.column("is_positive")[stamp].any()
    assert (store.column("snr")[stamp] < 0).all()
    assert np.isnan(truth["mag"][fading]).all()
    assert np.isnan(truth["snr_expected"][fading]).all()
    without = inject(tiny_night, tmp_path / "p.zarr", config=dataclasses.replace(CONFIG, negatives=False))
    other = truth_of(without)
    assert (other["stamp"][found] == -1).all()
    np.testing.assert_array_equal(other["detected"], truth["detected"])
    assert without.column("is_positive").all()


def test_changes_of_the_reference_show_too_and_in_its_stamps(both):
    store, _ = both
    truth = truth_of(store)
    changed = (truth["injected_in"] != INJECTED_IN["science"]) & truth["injected"]
    changed &= np.abs(truth["snr"]) > 10
    assert changed.sum() >= 8
    assert truth["detected"][changed].mean() > 0.85
    only = changed & (truth["injected_in"] == INJECTED_IN["reference"]) & (truth["stamp"] >= 0)
    stamps = store.read_stamps()[truth["stamp"][only]][:, :, 10:19, 10:19]
    science, reference = (stamps[:, schema.CHANNELS.index(name)] for name in ("science", "reference"))
    light = np.nansum(science - reference, axis=(1, 2))
    np.testing.assert_array_equal(np.sign(light), np.sign(truth["snr"][only]))


def test_every_candidate_knows_its_kind_and_info_counts_them(both):
    store, _ = both
    truth = truth_of(store)
    stamp = truth["stamp"]
    has = stamp >= 0
    np.testing.assert_array_equal(store.column("kind")[stamp[has]], truth["kind"][has])
    positive = has & (truth["flux_adu"] > truth["reference_flux_adu"])
    assert (store.column("label_true")[stamp[positive]] == 1).all()
    expected = truth["snr_expected"]
    trail = truth["trail_length_pix"] > 0
    assert trail.sum() >= 8
    assert np.isnan(expected[trail | (truth["reference_flux_adu"] != 0)]).all()
    facts = describe_store(store)
    kinds = facts["injected_kinds"]
    assert set(kinds) == {f"injected_{name}" for name in ("random", "near_galaxy", "variable", "moving")}
    for name, counts in kinds.items():
        rows = (truth["kind"] == KIND_CODES[name]) & (truth["injection_id"] >= 0)
        assert counts["asked"] == rows.sum()
        assert counts["drawn"] == (rows & truth["injected"]).sum()
    assert sum(counts["asked"] for counts in kinds.values()) == facts["n_stars_asked"]
    assert facts["population"] == "survey"
    assert facts["near_galaxy_asked"] == pytest.approx(0.5)
    assert "variable" in dict(describe_text(facts))["kinds drawn of asked"]
    assert store.attributes["config"]["kinds"]["moving"]["share"] == 0.15
    assert store.attributes["injected_in"] == INJECTED_IN


def test_what_a_frame_does_not_allow_is_in_the_truth_with_its_flag(tiny_night, tmp_path):
    config = dataclasses.replace(CONFIG, population="flashes", stars_per_frame=6, realisations=1)
    store = inject(tiny_night, tmp_path / "f.zarr", config=config, n_frames=1, images=tmp_path / "images")
    truth = truth_of(store)
    star = truth["injection_id"] >= 0
    assert star.sum() == 6
    assert (truth["injection_flag"][star] == INJECTION_FLAG["NO_CUBE"]).all()
    assert not truth["injected"][star].any()
    assert describe_store(store)["injected_kinds"]["injected_glint"] == {
        "asked": 3,
        "drawn": 0,
        "detected": 0,
    }
    assert describe_store(store)["not_drawn"] == {"NO_CUBE": 6}
    assert dict(describe_text(describe_store(store)))["not drawn"] == "6 NO_CUBE"
    (table,) = (Table.read(p) for p in (tmp_path / "images").glob("*.catalog.ecsv"))
    assert (table["injection_draw_size"] == 0).all()


@pytest.mark.parametrize("dtype", ["uint16", "int16", "int32", "float32", "float64"])
def test_the_data_type_of_the_file_is_kept_and_its_range_not_left(tiny_night, tmp_path, dtype):
    observed = observed_frame(tiny_night)
    source = next(iter(sorted((tiny_night / "science").iterdir())))
    raw, header = fits.getdata(source, header=True)
    top = np.iinfo(dtype).max if "int" in dtype else np.inf
    path = tmp_path / "frame.fits"
    raw = np.minimum(raw, 30_000).astype(dtype)
    ones = np.ones(raw.shape, np.float32)
    # As an extension, with a plane beside it and stale checksums.
    parts = [
        fits.PrimaryHDU(),
        fits.ImageHDU(raw, header, name="SCI"),
        fits.ImageHDU(ones, name="VARIANCE"),
    ]
    parts[1].header["CHECKSUM"] = "stale"
    fits.HDUList(parts).writeto(path)
    science = read_frame(path)
    science = dataclasses.replace(
        science, detector=dataclasses.replace(science.detector, saturation_adu=np.nan)
    )
    frame = dataclasses.replace(observed.frame, science=science)
    one = np.array([120.0]), np.array([150.0])
    asked = ask(*one, KIND_CODES["injected_random"], np.array([5e6]), np.array([1e4]))
    stars = inject_stars(science, frame.psf, frame.difference, lights_of(asked), rng=np.random.default_rng(1))
    (tmp_path / "out").mkdir()
    task = FrameTask(str(path), 1, 0, 0, 0, None)
    context = dataclasses.replace(observed.context, science=science)
    write_injected(
        ImageFolder(tmp_path / "out"), task, frame, context, asked, stars, InjectConfig(), realisation=3
    )
    with fits.open(tmp_path / "out" / "frame.r3.fits") as hdus:
        hdus.verify("exception")
        data = hdus[0].data
        assert data.dtype.newbyteorder("=") == np.dtype(dtype)
        assert hdus[0].header["GAIN"] == header["GAIN"]
        assert "CHECKSUM" not in hdus[0].header
        untouched = (stars.science.mask & MASK["INJECTED"]) == 0
        np.testing.assert_array_equal(data[untouched], raw[untouched])
        assert data[150, 120] > raw[150, 120]
        assert data.max() <= top
        assert hdus["VARIANCE"].data[150, 120] > 1
        assert (hdus["VARIANCE"].data[:, 200:] == 1).all()  # 80 px away
    again = read_frame(tmp_path / "out" / "frame.r3.fits")
    assert again.shape == science.shape
    if dtype == "int16":
        assert data.max() == top  # 5e6 ADU do not fit, and did not wrap round
    assert not list((tmp_path / "out").glob("*.tmp"))


def test_an_interrupted_run_keeps_its_images_for_the_next(both, tiny_night, tmp_path, monkeypatch):
    out, images = tmp_path / "k.zarr", tmp_path / "images"
    write = build.write_partition

    def killed(path, index, partition):
        if index == 1:
            raise KeyboardInterrupt
        write(path, index, partition)

    monkeypatch.setattr(build, "write_partition", killed)
    with pytest.raises(KeyboardInterrupt):
        inject(tiny_night, out, images=images)
    monkeypatch.undo()
    assert not images.exists()
    with pytest.raises(InputError, match="unfinished build"):
        inject(tiny_night, out, images=images)
    with pytest.raises(InputError, match="1 frames were finished without images"):
        inject(tiny_night, out, images=tmp_path / "others", resume=True)
    inject(tiny_night, out, images=images, resume=True)
    assert files(images) == files(both[1])
    assert not images.with_name("images.partial").exists()


def test_images_are_not_written_over_anything(both, tiny_night, tmp_path):
    images = tmp_path / "images"
    images.mkdir()
    out = tmp_path / "o.zarr"
    with pytest.raises(InputError, match=r"images: exists already"):
        inject(tiny_night, out, images=images)
    with pytest.raises(InputError, match=r"is not an output of rbsim inject --images"):
        inject(tiny_night, out, images=images, overwrite=True)
    assert not out.with_name("o.zarr.partial").exists()
    with pytest.raises(InputError, match="holds the frames themselves"):
        inject(tiny_night, out, images=tiny_night / "science")
    for meeting in (out, out / "images", tmp_path):
        with pytest.raises(
            InputError, match=r"may not hold the store .*; choose another --images|holds the frames"
        ):
            inject(tiny_night, out, images=meeting, overwrite=True)
    copied = tmp_path / "copy"
    shutil.copytree(both[1], copied)
    with pytest.raises(InputError, match="which is an input"):
        inject(
            tiny_night,
            out,
            config=dataclasses.replace(CONFIG, population="stars"),
            images=copied,
            overwrite=True,
            catalogue_path=copied / "EXP000.r0.catalog.ecsv",
        )
    frames = [str(tiny_night / "science" / "EXP000.fits"), str(tmp_path / "EXP000.fits")]
    with fits.open(frames[0]) as hdus:
        hdus[0].data[0, 0] += 1
        hdus.writeto(frames[1])
    with pytest.raises(InputError, match="has the file name of"):
        run.run_injection(frames, tiny_night / "reference.fits", out, CONFIG, images=tmp_path / "two")


def test_a_run_without_a_usable_frame_leaves_no_images(tiny_night, tmp_path):
    broken = tmp_path / "broken.fits"
    broken.write_bytes((tiny_night / "science" / "EXP000.fits").read_bytes()[:4000])
    with pytest.raises(InputError, match="none of 1 frames could be used"):
        run.run_injection(
            [str(broken)],
            tiny_night / "reference.fits",
            tmp_path / "b.zarr",
            CONFIG,
            images=tmp_path / "images",
        )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["broken.fits"]


def test_the_command_line_passes_it_all_on(tiny_night, tmp_path):
    own = tmp_path / "own.toml"
    own.write_text("[fast]\nmoving.share = 1.0\nmoving.rate_min_arcsec_per_s = 1.0\n")
    frame, reference = tiny_night / "science" / "EXP000.fits", tiny_night / "reference.fits"
    arguments = ["inject", frame, "--reference", reference, "--population", own, "--stars-per-frame", 4]
    more = [
        "--exposure",
        2.0,
        "--pixel-scale",
        0.5,
        "--zero-point-aperture",
        3,
        "--images",
        tmp_path / "images",
    ]
    done = CliRunner().invoke(cli.app, [str(a) for a in [*arguments, *more, "--out", tmp_path / "c.zarr"]])
    assert done.exit_code == 0, done.output
    assert "moving" in done.stdout
    with fits.open(tmp_path / "images" / "EXP000.r0.fits") as hdus:
        assert hdus[0].header["INJECTED"]
    table = Table.read(tmp_path / "images" / "EXP000.r0.catalog.ecsv")
    assert (table["trail_length"] >= 4).all()
    catalog = ["--catalog", tmp_path / "images" / "EXP000.r0.catalog.ecsv", "--out", tmp_path / "d.zarr"]
    both = CliRunner().invoke(cli.app, [str(a) for a in [*arguments, *catalog]])
    assert both.exit_code == 1
    assert "exclude each other" in both.output


def test_options_that_would_say_nothing_are_refused(tiny_night, tmp_path):
    frames, reference = [str(tiny_night / "science" / "EXP000.fits")], tiny_night / "reference.fits"
    table = tmp_path / "stars.csv"
    table.write_text("x,y,mag\n100,100,18\n")
    out = tmp_path / "o.zarr"
    with pytest.raises(InputError, match=r"--catalog-format is 'csv' without a table; give --catalog"):
        run.run_injection(frames, reference, out, CONFIG, catalogue_format="csv")
    config = dataclasses.replace(CONFIG, population="stars", near_galaxy=0.5)
    with pytest.raises(InputError, match=r"near-galaxy is 0.5, but a catalogue says itself"):
        run.run_injection(frames, reference, out, config, catalogue_path=table)
