"""Causes of false detections: points, lines, areas, signs, and the reference's artefacts on the frame."""

import numpy as np
import pytest
from astropy.table import Table

from rbsim import schema
from rbsim.cause import TrueArtefacts, causes_of, joined, onto_frame, read_artefacts, rows_of
from rbsim.emulate import artefacts as small_emulator
from rbsim.emulate.tomoe import artefacts as tomoe_emulator
from rbsim.errors import InputError
from rbsim.register import fit_transform

CODES = {artefact.name: artefact.code for artefact in schema.ARTEFACTS}


def true(*rows):
    """Rows of (class, x, y, strength[, length, angle])."""
    full = [(*row, *(np.nan,) * (6 - len(row))) for row in rows]
    names, *numbers = zip(*full, strict=True)
    return TrueArtefacts(np.array([CODES[name] for name in names]), *(np.array(n, float) for n in numbers))


def cause(artefacts, x, y, positive=True):
    x, y = np.atleast_1d(np.array(x, float)), np.atleast_1d(np.array(y, float))
    codes = causes_of(x, y, np.broadcast_to(positive, x.shape), artefacts, fwhm_pix=3.0)
    names = {artefact.code: artefact.name for artefact in schema.ARTEFACTS} | {schema.NO_CAUSE: None}
    return [names[int(code)] for code in codes]


def test_every_class_of_the_emulator_has_a_code():
    assert set(CODES) == set(small_emulator.STRENGTHS) | set(tomoe_emulator.STRENGTHS)
    assert sorted(CODES.values()) == list(range(len(CODES)))


def test_points_reach_a_little_and_the_nearest_wins():
    artefacts = true(("hot_pixel", 50, 50, 300), ("cosmic_ray", 53, 50, 900))
    assert cause(artefacts, [50.4, 52.6, 54, 60], [50, 50, 50, 50]) == [
        "hot_pixel",
        "cosmic_ray",
        "cosmic_ray",
        None,
    ]


def test_a_pixel_that_jumps_down_causes_no_positive_detection():
    artefacts = true(("flicker_pixel", 50, 50, -300))
    assert cause(artefacts, 50, 50, True) == [None]
    assert cause(artefacts, 50, 50, False) == ["flicker_pixel"]
    assert cause(true(("dipole", 50, 50, 0.4)), [52, 48], [50, 50], [True, False]) == ["dipole", "dipole"]


@pytest.mark.parametrize("angle_deg", [0.0, 35.0, 90.0, 140.0])
def test_lines_reach_along_their_length(angle_deg):
    artefacts = true(("satellite_streak", 500, 400, 90, 600, angle_deg))
    c, s = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    for along, across, hit in (
        (0, 0, True),
        (290, 2, True),
        (-290, -2, True),
        (310, 0, False),
        (100, 4, False),
    ):
        at = 500 + along * c - across * s, 400 + along * s + across * c
        assert cause(artefacts, *at) == ["satellite_streak" if hit else None]


def test_a_bad_column_is_a_vertical_line_and_a_line_without_length_a_point():
    artefacts = true(("bad_column", 70, 100, 40, 90, 90.0))
    assert cause(artefacts, [70.5, 71, 70, 75], [60, 140, 150, 100]) == [
        "bad_column",
        "bad_column",
        None,
        None,
    ]
    assert cause(true(("bad_column", 70, 100, 40)), [70, 70], [100, 130]) == ["bad_column", None]


def test_a_hole_reaches_beyond_its_edge():
    artefacts = true(("mask_in_reference", 50, 50, np.pi * 36), ("mask_in_reference", 150, 50, -np.pi * 36))
    assert cause(artefacts, [50, 59.5, 61, 155], [50, 50, 50, 50]) == [
        "mask_in_reference", "mask_in_reference", None, "mask_in_reference"
    ]  # fmt: skip


def test_artefacts_of_the_reference_are_brought_to_the_frame():
    grid = np.random.default_rng(1).uniform(0, 300, (2, 50))
    transform = fit_transform(*grid, grid[0] + 20, grid[1] - 7, (300, 300), 1)
    moved = onto_frame(true(("mask_in_reference", 120, 93, 30)), transform)
    assert (moved.x_pix[0], moved.y_pix[0]) == (pytest.approx(100, abs=1e-6), pytest.approx(100, abs=1e-6))
    both = joined(true(("hot_pixel", 10, 10, 5)), moved)
    assert cause(both, [10, 100], [10, 100]) == ["hot_pixel", "mask_in_reference"]


def test_the_emulators_table_is_read_and_accounts_for_its_frames(tiny_night):
    artefacts = read_artefacts(tiny_night / "artefacts.ecsv")
    table = Table.read(tiny_night / "artefacts.ecsv")
    assert sum(len(a.code) for a in artefacts.values()) == len(table)
    assert {"reference.fits", "EXP000.fits"} <= set(artefacts)
    lines = np.isin(np.asarray(table["class"], str), ["bad_column", "satellite_streak"])
    np.testing.assert_array_equal(np.isfinite(table["length_pix"]), lines)
    np.testing.assert_array_equal(np.isfinite(table["angle_deg"]), lines)


def test_tables_without_lengths_are_read_and_wrong_ones_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("frame,class,x_pix,y_pix,strength\na.fits,bad_column,1,2,3\n")
    assert np.isnan(read_artefacts(path)["a.fits"].length_pix).all()
    path.write_text("frame,class,x_pix,y_pix,strength\na.fits,gnome,1,2,3\n")
    with pytest.raises(InputError, match="unknown classes gnome; known are hot_pixel"):
        read_artefacts(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is not an artefact table of rbsim emulate"):
        read_artefacts(path)


def test_cubes_and_compressed_files_have_the_rows_of_their_stack():
    rows = {"sTMQ1202301020086026211.fits": 1, "rest.fits": 2}
    for name in (
        "sTMQ1202301020086026211.fits",
        "rTMQ1202301020086026211.fits.gz",
        "sTMQ1202301020086026211.fits.fz",
    ):
        assert rows_of(rows, name) == 1
    assert rows_of(rows, "rest.fits.gz") == 2
    assert rows_of(rows, "rTMQ1202301020086026212.fits") is None
    assert rows_of(rows, "test.fits", 0) == 0


def test_nothing_has_no_cause():
    assert causes_of(*np.empty((2, 0)), np.empty(0, bool), true(("dipole", 1, 1, 1)), fwhm_pix=3.0).size == 0


def test_of_classes_at_the_same_place_the_first_of_the_table_is_the_cause():
    star = [("colour_residual", 50, 50, 0.2), ("psf_mismatch", 50, 50, 0.01), ("proper_motion", 50, 50, 0.5)]
    assert cause(true(*star), 50.5, 50) == ["colour_residual"]
    assert cause(true(*star[::-1]), 50.5, 50) == ["proper_motion"]
    assert cause(true(*star[::-1]), 50.5, 50, False) == ["proper_motion"]
    # A positive colour residual makes no negative detection.
    assert cause(true(*star[:2]), 50.5, 50, False) == ["psf_mismatch"]


def test_discs_reach_from_their_edge_and_cores_win_over_their_rims():
    core = [("saturated_core", 50, 50, np.pi * 25), ("mask_in_subtraction", 50, 50, np.pi * 169)]
    assert cause(true(*core), [50, 57, 60, 70], [50] * 4) == [
        "saturated_core",
        "saturated_core",
        "mask_in_subtraction",
        None,
    ]
    ring = true(("ghost", 100, 100, 0.3, 80, np.nan))
    assert cause(ring, [100, 138, 142, 145], [100] * 4) == ["ghost", "ghost", "ghost", None]
    # What is wide explains only what nothing else does.
    both = true(("ghost", 100, 100, 0.3, 80, np.nan), ("hot_pixel", 100, 90, 300))
    assert cause(both, [102, 100], [90, 95]) == ["hot_pixel", "ghost"]


def test_weak_detections_without_any_cause_are_noise_and_the_border_is_a_frame_of_lines():
    artefacts = true(
        ("hot_pixel", 50, 50, 300),
        ("image_edge", 7, 150, 14, 300, 90.0),
        ("low_snr", 150, 150, 5.8),
    )
    x, y, snr = np.array([50.0, 100, 100, 3]), np.array([50.0, 100, 100, 200]), np.array([5.2, 5.2, 6.1, 5.1])
    codes = causes_of(x, y, np.ones(4, bool), artefacts, fwhm_pix=3.0, snr=snr)
    assert list(codes) == [CODES["hot_pixel"], CODES["low_snr"], schema.NO_CAUSE, CODES["image_edge"]]
    assert cause(artefacts, x, y) == ["hot_pixel", None, None, "image_edge"]


def test_many_detections_have_the_same_causes_as_few():
    rng = np.random.default_rng(3)
    artefacts = true(*(("hot_pixel", *rng.uniform(0, 200, 2), 100) for _ in range(300)))
    x, y = rng.uniform(0, 200, (2, 2500))
    together = causes_of(x, y, np.ones(2500, bool), artefacts, fwhm_pix=3.0)
    one_by_one = [
        causes_of(x[i : i + 1], y[i : i + 1], np.ones(1, bool), artefacts, fwhm_pix=3.0)[0]
        for i in range(0, 2500, 50)
    ]
    np.testing.assert_array_equal(together[::50], one_by_one)
    assert 0 < np.mean(together == CODES["hot_pixel"]) < 1
