"""`rbsim subtract` end to end: files, equal bits for any workers, failures as rows, refusals."""

import shutil

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table

from rbsim import schema
from rbsim.config import InjectConfig
from rbsim.difference_files import CARDS
from rbsim.difference_run import run_subtraction
from rbsim.errors import InputError
from rbsim.inputs import find_frames
from rbsim.quality import LIMITS


def subtract(night, frames, out, **options):
    return run_subtraction(
        [str(frame) for frame in frames], night / "reference.fits", out, InjectConfig(), **options
    )


@pytest.fixture(scope="module")
def done(tiny_night, tmp_path_factory):
    """Two frames subtracted with known truth: folder and summary."""
    out = tmp_path_factory.mktemp("subtract") / "out"
    frames = find_frames([tiny_night / "science"])[:2]
    return out, subtract(tiny_night, frames, out, truth_path=tiny_night / "truth.ecsv")


def test_difference_file_holds_image_noise_mask_and_figures(done, tiny_night):
    out, summary = done
    with fits.open(out / "EXP000.difference.fits") as hdus:
        header = hdus[0].header
        image = hdus[0].data
        planes = {name: hdus[name].data for name in ("VARIANCE", "MASK", "SNR", "REFERENCE")}
    row = summary.rows[0]
    for name, card in CARDS.items():
        assert header[card] == pytest.approx(row[name], rel=1e-4, abs=1e-5), name
    science = fits.getdata(tiny_night / "science" / "EXP000.fits")
    assert image.shape == science.shape
    assert all(plane.shape == image.shape for plane in planes.values())
    good = np.isfinite(image)
    np.testing.assert_array_equal(np.isfinite(planes["VARIANCE"]), good)
    # What the difference is: science above its sky, minus the reference at its PSF and flux scale.
    light = science - np.median(science)
    bright = good & (light > 20 * np.sqrt(np.nanmedian(planes["VARIANCE"][good]))) & (science < 20_000)
    assert np.count_nonzero(bright) > 50
    assert np.median(np.abs(image[bright]) / light[bright]) < 0.1
    whitened = (image / np.sqrt(planes["VARIANCE"]))[good]
    assert 1.4826 * np.median(np.abs(whitened)) == pytest.approx(1, abs=0.05)
    assert 1.4826 * np.nanmedian(np.abs(planes["SNR"][good])) == pytest.approx(1, abs=0.05)


def test_candidates_have_units_names_and_known_causes(done):
    out, summary = done
    table = Table.read(out / "EXP000.candidates.ecsv")
    assert len(table) == summary.rows[0]["n_bogus_detected"] + summary.rows[0]["n_negative"]
    units = {spec.name: spec.unit for spec in schema.CANDIDATE_COLUMNS}
    assert table["x_pix"].unit == units["x_pix"]
    assert set(np.unique(table["kind"])) <= {"artefact", "negative", "emulated_transient"}
    assert "emulated_transient" in table["kind"]
    artefacts = table[table["kind"] == "artefact"]
    assert np.mean([bool(cause) for cause in np.ma.filled(artefacts["cause"], "")]) > 0.8
    assert np.all(table["snr"][~table["is_positive"]] < 0)
    edge = next(flag for flag in schema.CANDIDATE_FLAGS if flag.name == "EDGE")
    for value, names in zip(table["flags"], np.ma.filled(table["flag_names"], ""), strict=True):
        assert bool(value & edge.value) == ("EDGE" in names.split(","))


def test_tables_are_the_same_bytes_for_any_workers(done, tiny_night, tmp_path, two_workers):
    out, _ = done
    frames = find_frames([tiny_night / "science"])[:2][::-1]
    subtract(tiny_night, frames, tmp_path / "two", truth_path=tiny_night / "truth.ecsv", parallel=two_workers)
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted(path.name for path in (tmp_path / "two").iterdir())
    for name in names:
        assert (out / name).read_bytes() == (tmp_path / "two" / name).read_bytes(), name


def test_a_frame_that_fails_is_a_row_with_reason_and_what_was_measured(tiny_night, tmp_path):
    good = find_frames([tiny_night / "science"])[0]
    broken = tmp_path / "broken.fits"
    broken.write_bytes(b"SIMPLE")
    cloudy = tmp_path / "cloudy.fits"
    image, header = fits.getdata(good), fits.getheader(good)
    half = image.astype(float)
    half[:, : half.shape[1] // 2] = np.random.default_rng(1).normal(
        np.median(half), np.std(half[half < np.median(half)]), half[:, : half.shape[1] // 2].shape
    )
    fits.PrimaryHDU(np.rint(half).astype(image.dtype), header).writeto(cloudy)
    summary = subtract(tiny_night, [good, broken, cloudy], tmp_path / "out", images=False)
    assert sorted(summary.failed) == ["broken.fits", "cloudy.fits"]
    table = Table.read(tmp_path / "out" / "frames.ecsv")
    rows = {str(row["frame"]): row for row in table}
    assert rows["EXP000.fits"]["ok"]
    assert "cannot be read as FITS" in rows["broken.fits"]["reason"]
    assert "cloudy.fits" in rows["cloudy.fits"]["reason"]
    out_of_range = [
        name
        for name, (low, high, _) in LIMITS.items()
        if not low <= np.nan_to_num(float(rows["cloudy.fits"][name]), nan=low) <= high
    ]
    assert out_of_range  # the figure that failed is in the row
    assert not list((tmp_path / "out").glob("*.fits"))
    assert [path.name for path in (tmp_path / "out").glob("*candidates*")] == ["EXP000.candidates.ecsv"]


def test_a_frame_that_no_worker_survives_is_a_row(tiny_night, tmp_path, monkeypatch):
    def run(function, shared, items, *, on_done, on_lost, **_):
        first, second = items
        (tmp_path / "out.partial" / ".EXP001.candidates.ecsv.1f.tmp").touch()  # as a killed worker leaves it
        on_done(function(shared, first))
        on_lost(second, "killed its worker")

    monkeypatch.setattr("rbsim.difference_run.run_partitions", run)
    frames = find_frames([tiny_night / "science"])[:2]
    summary = subtract(tiny_night, frames, tmp_path / "out", images=False)
    assert summary.failed == {"EXP001.fits": "killed its worker"}
    table = Table.read(tmp_path / "out" / "frames.ecsv")
    assert list(table["ok"]) == [True, False]
    assert table["reason"][1] == "killed its worker"
    assert not list((tmp_path / "out").glob(".*"))


def test_refusals_name_the_file_and_leave_nothing(tiny_night, tmp_path):
    frame = find_frames([tiny_night / "science"])[0]
    (tmp_path / "other").mkdir()
    shutil.copy(frame, tmp_path / "other" / "EXP000.fits")
    with fits.open(tmp_path / "other" / "EXP000.fits", mode="update") as hdus:
        hdus[0].data[0, 0] += 1
    with pytest.raises(InputError, match="has the file name of"):
        subtract(tiny_night, [frame, tmp_path / "other" / "EXP000.fits"], tmp_path / "out")
    (tmp_path / "broken.fits").write_bytes(b"SIMPLE")
    with pytest.raises(InputError, match=r"none of 1 frames could be used; the first: .*broken.fits"):
        subtract(tiny_night, [tmp_path / "broken.fits"], tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("do not delete")
    with pytest.raises(InputError, match="exists already"):
        subtract(tiny_night, [frame], tmp_path / "mine")
    with pytest.raises(InputError, match="is not"):
        subtract(tiny_night, [frame], tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.tex").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["broken.fits", "mine", "other"]
