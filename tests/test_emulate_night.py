"""A night on disk: complete truth, headers for a reader, the same bits for the same seed, no half nights."""

import dataclasses
import warnings

import numpy as np
import pytest
from _emulated import CAMERA, NO_ARTEFACTS, TINY, replace
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from rbsim.emulate import artefacts, exposure
from rbsim.emulate.night import emulate_night
from rbsim.errors import InputError

SMALL = replace(
    dataclasses.replace(TINY, n_exposures=2),
    detector={"nx_pix": 180, "ny_pix": 170},
    sky={"transient_per_frame": 2.0},
)


@pytest.fixture(scope="module")
def truth(tiny_night):
    return Table.read(tiny_night / "truth.ecsv")


# files


def test_the_summary_counts_what_was_written(tmp_path):
    summary = emulate_night(tmp_path / "out", SMALL, seed=1)
    assert summary.path == tmp_path / "out"
    assert summary.n_frames == len(list((summary.path / "science").iterdir())) == 2
    assert summary.n_transients == len(Table.read(summary.path / "truth.ecsv")) > 0
    assert sum(summary.n_artefacts.values()) == len(Table.read(summary.path / "artefacts.ecsv")) > 0


def test_truth_is_complete_and_matches_the_headers(tiny_night, truth):
    assert len(truth) > 0
    assert set(truth["kind"]) == {"emulated_transient"}
    assert truth["x_pix"].unit == "pix"
    for index in range(TINY.n_exposures):
        header = fits.getheader(tiny_night / "science" / f"EXP{index:03d}.fits")
        rows = truth[truth["frame"] == f"EXP{index:03d}.fits"]
        assert len(rows)
        x, y = WCS(header).wcs_world2pix(rows["ra_deg"], rows["dec_deg"], 0)
        error = np.hypot(x - rows["x_pix"], y - rows["y_pix"])
        assert error.min() > TINY.optics.wcs_error_low_pix - exposure.WCS_TWIST_PIX
        assert error.max() < TINY.optics.wcs_error_high_pix + exposure.WCS_TWIST_PIX
        assert np.std(x - rows["x_pix"]) < exposure.WCS_TWIST_PIX
        flux_adu = rows["flux_e"] / header["GAIN"]
        np.testing.assert_allclose(header["MAGZERO"] - 2.5 * np.log10(flux_adu), rows["mag"], atol=1e-3)


def test_headers_hold_what_a_reader_needs(tiny_night):
    dates = []
    for index in range(TINY.n_exposures):
        with warnings.catch_warnings(), fits.open(tiny_night / "science" / f"EXP{index:03d}.fits") as hdus:
            warnings.simplefilter("error")
            header = hdus[0].header
            assert header["BITPIX"] == 16
            assert header["EXP_ID"] == index
            assert header["TELESCOP"] == "EMULATED"
            assert header["SATURATE"] == CAMERA.saturate_adu
            assert hdus[0].data.max() <= CAMERA.well_adu
            assert {"OBJECT", "EXPTIME", "DATE-OBS", "GAIN", "RDNOISE", "FILTER", "DET_ID"} <= set(header)
            dates.append(header["MJD-OBS"])
    steps_s = np.diff(dates) * 86400
    np.testing.assert_allclose(steps_s, CAMERA.exposure_s + CAMERA.dead_time_s, atol=1e-3)


def test_artefact_rows_of_a_night_are_of_known_classes_and_inside(tiny_night):
    rows = Table.read(tiny_night / "artefacts.ecsv")
    assert set(rows["class"]) <= set(artefacts.STRENGTHS)
    assert {"hot_pixel", "flicker_pixel", "cosmic_ray", "bad_column", "mask_in_reference"} <= set(
        rows["class"]
    )
    science = rows[rows["frame"] != "reference.fits"]
    assert science["x_pix"].min() >= -0.5
    assert science["x_pix"].max() <= CAMERA.nx_pix - 0.5
    assert science["y_pix"].max() <= CAMERA.ny_pix - 0.5
    with fits.open(tiny_night / "reference.fits") as hdus:
        assert 0 < np.isnan(hdus[0].data).mean() < 0.1


# the same bits


def test_frames_do_not_depend_on_order_or_on_each_other(tiny_night, truth):
    seed = truth.meta["seed"]
    night_sky = exposure.make_sky(TINY, seed=seed)
    for index in (4, 1):
        again = exposure.emulate_frame(TINY, night_sky, index, seed=seed)
        with fits.open(tiny_night / "science" / again.file_name) as hdus:
            np.testing.assert_array_equal(hdus[0].data, again.image)


def test_same_seed_same_bytes_and_another_seed_another_night(tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        emulate_night(tmp_path / name, SMALL, seed=seed)
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*.*"))
    assert len(files) == 5
    for file in files:
        one, same, other = ((tmp_path / name / file).read_bytes() for name in "abc")
        assert one == same
        assert one != other


# writing


@pytest.fixture
def empty_night():
    night = replace(
        dataclasses.replace(TINY, n_exposures=1),
        detector={"nx_pix": 100, "ny_pix": 90},
        sky={"transient_per_frame": 0.0, "star_per_mpix": 0.0, "galaxy_per_mpix": 0.0},
    )
    return dataclasses.replace(night, artefacts=NO_ARTEFACTS)


def test_a_night_without_anything_has_empty_tables(tmp_path, empty_night):
    summary = emulate_night(tmp_path / "out", empty_night, seed=1)
    assert (summary.n_transients, summary.n_artefacts) == (0, {})
    truth, rows = (Table.read(tmp_path / "out" / name) for name in ("truth.ecsv", "artefacts.ecsv"))
    assert (len(truth), len(rows)) == (0, 0)
    assert {"frame", "x_pix", "snr_expected", "transient_id"} <= set(truth.colnames)


def test_an_existing_night_is_only_replaced_on_request(tmp_path, empty_night):
    out = tmp_path / "out"
    emulate_night(out, empty_night, seed=1)
    first = (out / "reference.fits").read_bytes()
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        emulate_night(out, empty_night, seed=2)
    assert (out / "reference.fits").read_bytes() == first
    emulate_night(out, empty_night, seed=2, overwrite=True)
    assert (out / "reference.fits").read_bytes() != first
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_directory_that_is_no_night_is_never_replaced(tmp_path, empty_night):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is not an output of rbsim emulate"):
        emulate_night(tmp_path, empty_night, seed=1, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_an_interrupted_night_has_no_name(tmp_path, empty_night):
    def interrupt(done, total):
        assert (done, total) == (1, 2)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        emulate_night(tmp_path / "out", empty_night, seed=1, progress=interrupt)
    assert not (tmp_path / "out").exists()
    steps = []
    emulate_night(
        tmp_path / "out", empty_night, seed=1, progress=lambda done, total: steps.append((done, total))
    )
    assert steps == [(1, 2), (2, 2)]


def test_an_unwritable_place_is_named(tmp_path, empty_night):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="out: cannot be written"):
        emulate_night(tmp_path / "file" / "out", empty_night, seed=1)
