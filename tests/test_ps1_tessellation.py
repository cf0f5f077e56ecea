"""RINGS.V3: skycells with known numbers, headers and centres are met, and no place on the sky is left out."""

import numpy as np
import pytest
from astropy.table import Table
from astropy.wcs import WCS

from rbsim.errors import InputError
from rbsim.ps1.tessellation import (
    read_rings,
    skycell,
    skycell_of_name,
    skycells_at,
    skycells_of,
)

# What the archive's list of files and its own service answered (positions, skycell).
ANSWERS = [
    ((332.6004516572, 2.1998090576), "skycell.1405.053"),
    ((332.4875, 2.14639), "skycell.1405.053"),
    ((64.5, 28.0), "skycell.1944.003"),
    ((10.6847083, 41.26875), "skycell.2159.034"),
    ((0.0, 89.5), "skycell.2643.034"),
    ((0.0, 0.0), "skycell.1232.094"),
]


def tan(ra, dec, shape, scale_arcsec=1.189, angle_deg=0.0):
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [ra, dec]
    wcs.wcs.crpix = [(shape[1] + 1) / 2, (shape[0] + 1) / 2]
    cos, sin = np.cos(np.radians(angle_deg)), np.sin(np.radians(angle_deg))
    wcs.wcs.cd = scale_arcsec / 3600 * np.array([[-cos, sin], [sin, cos]])
    return wcs


@pytest.mark.parametrize(("position", "name"), ANSWERS)
def test_the_archive_s_own_answers_are_met(position, name):
    projection, subcell = skycells_at(np.array([position[0]]), np.array([position[1]]))[0]
    assert skycell(projection, subcell).name == name


def test_header_and_centre_of_a_real_skycell_are_met():
    # Cards of the g stack of skycell.1405.053, and the centre and corners that the archive gives for it.
    cell = skycell(1405, 53)
    assert (cell.ra_deg, cell.dec_deg) == (332.0, 2.0)
    assert (cell.crpix1, cell.crpix2) == (11760.0, 242.0)
    assert cell.shape == (6243, 6240)
    assert cell.file_name("g") == "rings.v3.skycell.1405.053.stk.g.unconv.fits"
    assert cell.url("g", "mask").endswith(
        "/rings.v3.skycell/1405/053/rings.v3.skycell.1405.053.stk.g.unconv.mask.fits"
    )
    corners = cell.wcs().pixel_to_world_values([-0.5, 6239.5, 6239.5, -0.5], [-0.5, -0.5, 6242.5, 6242.5])
    np.testing.assert_allclose(corners[0], [332.817060, 332.383516, 332.383617, 332.817275], atol=1e-5)
    np.testing.assert_allclose(corners[1], [1.983023, 1.983180, 2.416705, 2.416513], atol=1e-5)
    middle = cell.wcs().pixel_to_world_values((cell.shape[1] - 1) / 2, (cell.shape[0] - 1) / 2)
    np.testing.assert_allclose(middle, [332.6004516572, 2.1998090576], atol=1e-4)


def test_a_name_in_a_file_name_is_found():
    assert skycell_of_name("cutout_rings.v3.skycell.1513.011.stk.r.unconv.fits").name == "skycell.1513.011"
    assert skycell_of_name("frame.fits") is None


def test_every_place_lies_well_inside_the_skycell_that_is_named():
    rng = np.random.default_rng(1)
    dec = np.degrees(np.arcsin(rng.uniform(np.sin(np.radians(-29.9)), 1, 250)))
    ra = rng.uniform(0, 360, 250)
    ra, dec = np.append(ra, rng.uniform(0, 360, 150)), np.append(dec, rng.uniform(83, 90, 150))
    rings = read_rings()
    for number, (projection, subcell) in enumerate(skycells_at(ra, dec, rings)):
        cell = skycell(projection, subcell, rings)
        x, y = cell.wcs().world_to_pixel_values(ra[number], dec[number])
        border = min(x, y, cell.shape[1] - 1 - x, cell.shape[0] - 1 - y)
        assert border > 100, (ra[number], dec[number], cell.name, border)


def test_the_skycells_of_a_frame_cover_it_and_none_is_idle():
    shape = (1128, 2000)
    for ra, dec, angle in [(50.0, 59.4, 0.0), (359.99, 20.1, 33.0), (46.2, 35.98, 90.0), (10.0, 87.9, 0.0)]:
        wcs = tan(ra, dec, shape, angle_deg=angle)
        cells = skycells_of(wcs, shape)
        x, y = (
            a.ravel() for a in np.meshgrid(np.linspace(-0.5, 1999.5, 300), np.linspace(-0.5, 1127.5, 170))
        )
        sky = wcs.pixel_to_world_values(x, y)
        covers = []
        for cell in cells:
            px, py = cell.wcs().world_to_pixel_values(*sky)
            covers.append((px > 0) & (py > 0) & (px < cell.shape[1] - 1) & (py < cell.shape[0] - 1))
        assert np.any(covers, axis=0).all()
        assert all(np.any(cover) for cover in covers)
        assert 2 <= len(cells) <= 9


def test_frames_without_sky_of_ps1_are_refused():
    with pytest.raises(InputError, match=r"declination -3.*PS1 has the sky north of -30"):
        skycells_of(tan(10.0, -35.0, (1128, 2000)), (1128, 2000))
    with pytest.raises(InputError, match=r"skycell.0100.003: is not in RINGS.V3; projection cells go from"):
        skycell(100, 3)


def test_a_table_of_one_s_own_is_read_also_with_the_names_of_stsci(tmp_path):
    rings = read_rings()
    names = ["PROJCELL", "NBAND", "DEC", "DEC_MIN", "DEC_MAX", "XCELL", "YCELL", "CRPIX1", "CRPIX2"]
    Table(list(vars(rings).values()), names=names).write(tmp_path / "ps1grid.fits")
    again = read_rings(tmp_path / "ps1grid.fits")
    assert skycell(1405, 53, again) == skycell(1405, 53)
    Table({"PROJCELL": [635]}).write(tmp_path / "short.ecsv")
    with pytest.raises(InputError, match=r"short.ecsv: lacks n_cells, dec_deg"):
        read_rings(tmp_path / "short.ecsv")
    (tmp_path / "no.ecsv").write_text("nothing here")
    with pytest.raises(InputError, match=r"no.ecsv: is no table of rings"):
        read_rings(tmp_path / "no.ecsv")
