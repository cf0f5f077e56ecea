"""Known objects: any table with positions, radii with units, and only where they are."""

import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field
from astropy import units
from astropy.table import MaskedColumn, Table
from astropy.wcs import WCS

from rbsim.errors import InputError
from rbsim.known import DEFAULT_RADIUS_ARCSEC, DEFAULT_RADIUS_PIX, known_in, known_row, read_known

SCALE_ARCSEC = 1.5


def wcs():
    w = WCS(naxis=2)
    w.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    w.wcs.crval, w.wcs.crpix = [150.0, 30.0], [150.5, 128.5]
    w.wcs.cdelt = [-SCALE_ARCSEC / 3600, SCALE_ARCSEC / 3600]
    return w


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """The same frame with and without WCS."""
    folder = tmp_path_factory.mktemp("known")
    image = draw_field(make_field())
    return frame_of(folder, image, "with.fits", **dict(wcs().to_header())), frame_of(
        folder, image, "without.fits"
    )


def write(path, **columns):
    Table(columns).write(path, overwrite=True)
    return path


def test_sky_positions_become_pixels_and_arcsec_too(frames, tmp_path):
    ra, dec = wcs().pixel_to_world_values([40.0, 250.0, 5000.0], [60.0, 200.0, 60.0])
    path = write(
        tmp_path / "k.ecsv", ra=ra * units.deg, dec=dec * units.deg, radius=[0.1, 0.05, 0.1] * units.arcmin
    )
    here = known_in(read_known(path), frames[0])
    assert here.row.tolist() == [0, 1]
    np.testing.assert_allclose(here.x_pix, [40, 250], atol=1e-3)
    np.testing.assert_allclose(here.y_pix, [60, 200], atol=1e-3)
    np.testing.assert_allclose(here.radius_pix, [6 / SCALE_ARCSEC, 3 / SCALE_ARCSEC], rtol=1e-6)


def test_other_units_and_plain_numbers_mean_the_same(frames, tmp_path):
    ra, dec = wcs().pixel_to_world_values([40.0], [60.0])
    one = known_in(read_known(write(tmp_path / "a.ecsv", ra=ra * units.deg, dec=dec * units.deg)), frames[0])
    two = known_in(
        read_known(
            write(
                tmp_path / "b.ecsv",
                ra=(ra * units.deg).to(units.hourangle),
                dec=(dec * units.deg).to(units.rad),
            )
        ),
        frames[0],
    )
    (tmp_path / "c.csv").write_text(f"ra,dec\n{float(ra[0])},{float(dec[0])}\n")
    three = known_in(read_known(tmp_path / "c.csv"), frames[0])
    for other in (two, three):
        np.testing.assert_allclose(other.x_pix, one.x_pix, atol=1e-4)
        np.testing.assert_allclose(other.radius_pix, DEFAULT_RADIUS_ARCSEC / SCALE_ARCSEC, rtol=1e-6)


def test_pixels_names_frames_and_missing_radii(frames, tmp_path):
    path = write(
        tmp_path / "k.ecsv",
        x=[10.0, 20.0, 30.0],
        y=[10.0, 20.0, 30.0],
        radius=MaskedColumn([3.0, 0.0, 5.0], mask=[False, True, False]),
        name=["V1", "V2", "Ceres"],
        frame=["", "with.fits", "other.fits"],
    )
    known = read_known(path)
    assert known.name.tolist() == ["V1", "V2", "Ceres"]
    assert known_in(known, frames[0]).row.tolist() == [0, 1]
    assert known_in(known, frames[1]).row.tolist() == [0]  # no WCS needed
    np.testing.assert_array_equal(known_in(known, frames[0]).radius_pix, [3.0, DEFAULT_RADIUS_PIX])


def test_the_other_side_of_the_sky_is_not_in_the_frame(frames, tmp_path):
    rng = np.random.default_rng(1)
    path = write(
        tmp_path / "all.ecsv",
        ra=rng.uniform(0, 360, 2000),
        dec=np.degrees(np.arcsin(rng.uniform(-1, 1, 2000))),
    )
    assert len(known_in(read_known(path), frames[0]).row) == 0
    opposite = write(tmp_path / "o.ecsv", ra=[330.0], dec=[-30.0])
    assert len(known_in(read_known(opposite), frames[0]).row) == 0


def test_detections_within_the_radius_get_the_row_of_the_nearest_in_radii(frames, tmp_path):
    path = write(tmp_path / "k.ecsv", x=[50.0, 56.0, 200.0], y=[50.0, 50.0, 50.0], radius=[8.0, 2.0, 3.0])
    here = known_in(read_known(path), frames[0])
    x, y = np.array([51.0, 55.0, 200.0, 200.0, 100.0]), np.array([50.0, 50.0, 52.9, 53.1, 100.0])
    assert known_row(here, x, y).tolist() == [0, 1, 2, -1, -1]
    assert known_row(None, x, y).tolist() == [-1] * 5
    assert known_row(here, x[:0], y[:0]).size == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "no such file"),
        ("ra,x\n1,2\n", "needs columns ra, dec or x, y; it has ra, x"),
        ("x,y\n", "has no rows; leave --known out"),
        ("x,y\nleft,2\n", "column x must be numbers in pix"),
        ("x,y\n1,2\n,3\n", "row 2 has no position"),
        ("x,y,radius\n1,2,0\n", "row 1 has a radius that is not positive"),
    ],
)
def test_unusable_catalogues_are_one_line(tmp_path, text, message):
    path = tmp_path / "k.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message) as caught:
        read_known(path)
    assert "\n" not in str(caught.value)


def test_units_that_are_no_angle_are_refused(tmp_path):
    path = write(tmp_path / "k.ecsv", ra=[1.0] * units.m, dec=[2.0] * units.m)
    with pytest.raises(InputError, match="column ra must be numbers in deg, not m"):
        read_known(path)
    path = write(tmp_path / "r.ecsv", ra=[1.0] * units.deg, dec=[2.0] * units.deg, radius=[3.0] * units.pix)
    with pytest.raises(InputError, match="column radius must be numbers in arcsec, not pix"):
        read_known(path)


def test_sky_positions_need_a_wcs(frames, tmp_path):
    path = write(tmp_path / "k.ecsv", ra=[150.0], dec=[30.0])
    with pytest.raises(
        InputError, match=r"without.fits: has no WCS; the catalogue of known objects needs x and y"
    ):
        known_in(read_known(path), frames[1])
