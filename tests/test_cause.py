"""Causes of false detections: points, lines, areas, signs, and the reference's artefacts on the frame."""

import numpy as np
import pytest
from astropy.table import Table

from rbsim import schema
from rbsim.cause import TrueArtefacts, causes_of, joined, onto_frame, read_artefacts
from rbsim.emulate.artefacts import STRENGTHS
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
    assert set(CODES) == set(STRENGTHS)
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
    path.write_text("frame,class,x_pix,y_pix,strength\na.fits,ghost,1,2,3\n")
    with pytest.raises(InputError, match="unknown classes ghost; known are hot_pixel"):
        read_artefacts(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(InputError, match="is not an artefact table of rbsim emulate"):
        read_artefacts(path)


def test_nothing_has_no_cause():
    assert causes_of(*np.empty((2, 0)), np.empty(0, bool), true(("dipole", 1, 1, 1)), fwhm_pix=3.0).size == 0
