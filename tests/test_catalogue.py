"""Catalogues of stars: formats, units, flags of every row, fluxes, apertures, messages."""

import dataclasses

import numpy as np
import pytest
import sep
from _subtracted import observed_frame
from astropy import units
from astropy.table import MaskedColumn, Table

from rbsim import psf as psf_model
from rbsim.aperture import encircled_energy
from rbsim.asked import lights_of
from rbsim.catalogue import read_catalogue
from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.inject import inject
from rbsim.population import ask_for_stars
from rbsim.population_settings import load_population
from rbsim.schema import INJECTED_IN, INJECTION_FLAG, KIND_CODES

STARS = load_population("stars")


@pytest.fixture(scope="module")
def observed(tiny_night):
    return observed_frame(tiny_night)


@pytest.fixture(scope="module")
def frame(observed):
    return observed.frame


def plain_table():
    return Table(
        {
            "injection_id": [10, 11, 12],
            "ra": [45.60, 45.61, 45.62] * units.deg,
            "dec": [20.20, 20.21, 20.19] * units.deg,
            "mag": [16.0, 17.5, 18.25] * units.mag,
            "source_type": ["Star", "DeltaFunction", "Trail"],
            "trail_length": [np.nan, np.nan, 12.5] * units.pix,
            "beta": [np.nan, np.nan, 30.0] * units.deg,
        }
    )


def asked_of(frame, table, tmp_path, **settings):
    """Stars of the catalogue in all realisations, by the row of the table."""
    path = tmp_path / "own.ecsv"
    table.write(path, format="ascii.ecsv", overwrite=True)
    parts = ask_for_stars(frame, InjectConfig(**settings), STARS, read_catalogue(path), key=1)
    stars = {
        field.name: np.concatenate([getattr(part, field.name) for part in parts])
        for field in dataclasses.fields(parts[0])
    }
    order = np.argsort(stars["catalogue_id"])
    assert len(order) == len(table)
    return {name: values[order] for name, values in stars.items()}


@pytest.mark.parametrize(
    ("name", "table_format"),
    [
        ("a.ecsv", "ascii.ecsv"),
        ("a.fits", "fits"),
        ("a.xml", "votable"),
        ("a.csv", "ascii.csv"),
        ("a.txt", "ascii.fixed_width"),
    ],
)
def test_every_format_gives_the_same_catalogue(tmp_path, name, table_format):
    path = tmp_path / name
    table = plain_table()
    table.write(path, format=table_format)
    catalogue = read_catalogue(path, table_format=table_format if name.endswith("txt") else None)
    assert catalogue.injection_id.tolist() == [10, 11, 12]
    np.testing.assert_allclose(catalogue.ra_deg, table["ra"])
    np.testing.assert_allclose(catalogue.mag, table["mag"])
    assert catalogue.trail_length.tolist() == [0, 0, 12.5]
    assert catalogue.trail_angle_deg.tolist() == [0, 0, 30]
    assert catalogue.kind.tolist() == [*[KIND_CODES["injected_catalogue"]] * 2, KIND_CODES["injected_moving"]]
    assert (catalogue.flag == 0).all()


def test_a_format_that_the_extension_does_not_tell_is_asked_for(tmp_path):
    path = tmp_path / "a.stars"
    plain_table().write(path, format="ascii.ecsv")
    with pytest.raises(InputError, match="say which with --catalog-format"):
        read_catalogue(path)
    assert len(read_catalogue(path, table_format="ascii.ecsv").mag) == 3


def test_units_are_converted(tmp_path):
    path, table = tmp_path / "a.ecsv", plain_table()
    table["ra"] = table["ra"].to(units.hourangle)
    table["dec"] = table["dec"].to(units.arcsec)
    table["beta"] = table["beta"].to(units.rad)
    table["mag"].unit = units.ABmag
    table.write(path)
    catalogue = read_catalogue(path)
    np.testing.assert_allclose(catalogue.ra_deg, [45.60, 45.61, 45.62])
    np.testing.assert_allclose(catalogue.dec_deg, [20.20, 20.21, 20.19])
    np.testing.assert_allclose(catalogue.trail_angle_deg[2], 30)
    np.testing.assert_allclose(catalogue.mag, [16.0, 17.5, 18.25])


@pytest.mark.parametrize(
    ("name", "unit", "message"),
    [
        ("mag", units.nJy, "column mag must be numbers in mag, not nJy"),
        ("mag", units.STmag, r"column mag must be numbers in mag, not mag\(ST\)"),
        ("ra", units.pix, "column ra must be numbers in deg, not pix"),
        ("trail_length", units.s, "column trail_length must be numbers in pix, not s"),
        ("beta", units.pix, "column beta must be numbers in deg, not pix"),
    ],
)
def test_wrong_units_are_one_clear_error(tmp_path, name, unit, message):
    path, table = tmp_path / "a.ecsv", plain_table()
    table[name].unit = unit
    table.write(path)
    with pytest.raises(InputError, match=message) as caught:
        read_catalogue(path)
    assert "\n" not in str(caught.value)


def test_the_prefix_of_columns_may_be_there_but_not_twice(tmp_path):
    path, table = tmp_path / "a.ecsv", plain_table()
    for name in ("ra", "dec", "mag", "trail_length"):
        table.rename_column(name, f"injection_{name}")
    table["injection_flag"], table["injection_draw_size"] = 64, 99  # of an output: ignored
    table.write(path)
    catalogue = read_catalogue(path)
    assert catalogue.mag.tolist() == [16.0, 17.5, 18.25]
    assert (catalogue.flag == 0).all()
    table["mag"] = 20.0
    table.write(path, overwrite=True)
    with pytest.raises(InputError, match="has both mag and injection_mag; drop one"):
        read_catalogue(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x,y,mag\n", "has no rows; leave --catalog out"),
        ("x,y,mag\n1,2,\n3,4,nan\n", "no row has a magnitude"),
        ("injection_id,x,y,mag\n4,1,2,18\n4,3,4,18\n5,1,2,18\n", "injection_id 4 is there 2 times; number"),
        ("injection_id,x,y,mag\n1.5,1,2,18\n2,3,4,18\n", "injection_id must be whole numbers"),
        (
            "injection_id,x,y,mag\n,1,2,18\n2,3,4,18\n",
            "injection_id must be whole numbers from 0, one in every",
        ),
        ("ra,y,mag\n1,2,18\n", "needs columns mag and either ra, dec or x, y; it has ra, y, mag"),
        ("x,y,mag,n_cube_frames\n1,2,18,two\n", "column n_cube_frames must be plain numbers"),
    ],
)
def test_catalogues_that_cannot_be_meant_are_refused(tmp_path, text, message):
    path = tmp_path / "a.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_catalogue(path)


def test_a_column_that_looks_misspelt_is_said(tmp_path, caplog):
    path = tmp_path / "c.csv"
    path.write_text("x,y,mag,souce_type,colour\n5,5,18,Trail,1\n")
    read_catalogue(path)
    assert [record.message for record in caplog.records] == [
        f"{path}: its column souce_type is not used; was source_type meant?"
    ]


def test_more_rows_than_can_be_numbered_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("rbsim.catalogue.MAX_ROWS", 2)
    path = tmp_path / "a.ecsv"
    plain_table().write(path)
    with pytest.raises(InputError, match="has 3 rows; at most 2 can be numbered"):
        read_catalogue(path)


def test_large_ids_keep_every_digit(tmp_path):
    path = tmp_path / "a.ecsv"
    big = 2**60 + 1
    Table({"injection_id": [big], "x": [1.0], "y": [2.0], "mag": [18.0]}).write(path)
    assert read_catalogue(path).injection_id.tolist() == [big]


def test_every_row_is_drawn_or_has_the_flag_of_its_trouble(frame, tmp_path):
    nx = frame.science.shape[1]
    bad_y, bad_x = np.argwhere(frame.difference.bad[5:-5, 5:-5])[0] + 5
    rows = [  # x, y, mag, type, length, beta, injected_in, n_cube_frames, delta_mag, flag
        (60.0, 60, 17, "Star", np.nan, 0, "science", 0, np.nan, ""),
        (62.0, 60, 17, "star", np.nan, 0, "", 0, np.nan, "CROWDED"),
        (150.0, 60, np.nan, "Star", np.nan, 0, "science", 0, np.nan, "MAG_BAD"),
        (200.0, 60, 17, "Sersic", np.nan, 0, "science", 0, np.nan, "TYPE_UNKNOWN"),
        (200.0, 60, 17, "Stamp", np.nan, 0, "science", 0, np.nan, "TYPE_UNKNOWN"),
        (nx + 5.0, 60, 17, "Star", np.nan, 0, "science", 0, np.nan, "NO_OVERLAP"),
        (np.nan, 60, 17, "Star", np.nan, 0, "science", 0, np.nan, "NO_OVERLAP"),
        (float(bad_x), float(bad_y), 17, "Star", np.nan, 0, "science", 0, np.nan, "ON_MASK"),
        (60.0, 200, 17, "Trail", 10, 45, "science", 0, np.nan, ""),
        (60.0, 200, 17, "Trail", np.nan, 45, "science", 0, np.nan, "PARAMETER_BAD"),
        (60.0, 200, 17, "Trail", 10, np.nan, "science", 0, np.nan, "PARAMETER_BAD"),
        (60.0, 200, 17, "Trail", -3, 0, "science", 0, np.nan, "PARAMETER_BAD"),
        (60.0, 200, 17, "Star", np.nan, 0, "template", 0, np.nan, "PARAMETER_BAD"),
        (60.0, 200, 17, "Star", np.nan, 0, "science", -2, np.nan, "PARAMETER_BAD"),
        (60.0, 200, 17, "Star", np.nan, 0, "science", 1.5, np.nan, "PARAMETER_BAD"),
        (60.0, 200, 17, "Trail", 9, 0, "science", 0, 0.5, "PARAMETER_BAD"),
        (60.0, 200, 17, "Star", np.nan, 0, "science", 3, np.nan, "NO_CUBE"),
        (150.0, 150, 17, "Star", np.nan, 0, "reference", 0, np.nan, ""),
    ]
    names = (
        "x",
        "y",
        "mag",
        "source_type",
        "trail_length",
        "beta",
        "injected_in",
        "n_cube_frames",
        "delta_mag",
    )
    table = Table(rows=[row[:9] for row in rows], names=names)
    table["injected_in"] = MaskedColumn(table["injected_in"], mask=[not row[6] for row in rows])
    stars = asked_of(frame, table, tmp_path, realisations=1)
    assert stars["catalogue_id"].tolist() == list(range(len(rows)))
    for i, row in enumerate(rows):
        assert stars["flag"][i] == (INJECTION_FLAG[row[9]] if row[9] else 0), (i, row)
    good = stars["flag"] == 0
    assert good.sum() == 3
    assert np.isfinite(stars["flux_adu"]).all()
    assert stars["kind"][8] == KIND_CODES["injected_moving"]
    assert stars["kind"][16] == KIND_CODES["injected_flare"]
    assert stars["injected_in"][17] == INJECTED_IN["reference"]


def test_one_catalogue_on_the_sky_and_in_pixels_is_the_same(frame, tmp_path):
    x, y = np.array([60.3, 150.7, 220.1]), np.array([70.2, 160.9, 40.4])
    ra, dec = frame.science.wcs.pixel_to_world_values(x, y)
    pixels = asked_of(frame, Table({"x": x, "y": y, "mag": [17.0, 17.0, 17.0]}), tmp_path)
    sky = asked_of(frame, Table({"ra": ra, "dec": dec, "mag": [17.0, 17.0, 17.0]}), tmp_path)
    # Row by row: pixels where they are given, the sky elsewhere; the antipode is nowhere.
    mixed = Table(
        {
            "x": [x[0], np.nan, np.nan, np.nan],
            "y": [y[0], np.nan, np.nan, np.nan],
            "ra": [*ra, ra[0] + 180],
            "dec": [*dec, -dec[0]],
            "mag": np.full(4, 17.0),
        }
    )
    both = asked_of(frame, mixed, tmp_path)
    for name in ("x_pix", "y_pix", "flux_adu"):
        np.testing.assert_allclose(sky[name], pixels[name], atol=1e-6)
        np.testing.assert_allclose(both[name][:3], pixels[name], atol=1e-6)
    assert both["flag"].tolist() == [0, 0, 0, INJECTION_FLAG["NO_OVERLAP"]]


def test_trails_have_their_magnitude_per_pixel_and_lengths_on_the_sky_need_a_scale(frame, tmp_path):
    table = Table(
        {"x": [100.0], "y": [100.0], "mag": [20.0], "source_type": ["Trail"], "trail_length": [8.0]}
    )
    per_pixel = 10 ** (-0.4 * (20 - frame.science.zero_point_mag))
    stars = asked_of(frame, table, tmp_path)
    assert stars["flux_adu"][0] == pytest.approx(8 * per_pixel)
    scale = 3600 * np.sqrt(abs(np.linalg.det(frame.science.wcs.pixel_scale_matrix)))
    table["trail_length"] = [8.0 * scale] * units.arcsec
    on_sky = asked_of(frame, table, tmp_path)
    assert on_sky["trail_length_pix"][0] == pytest.approx(8)
    assert on_sky["flux_adu"][0] == pytest.approx(8 * per_pixel)
    blind = dataclasses.replace(frame, science=dataclasses.replace(frame.science, wcs=None))
    assert asked_of(blind, table, tmp_path)["flag"].tolist() == [INJECTION_FLAG["NO_SCALE"]]
    told = asked_of(blind, table, tmp_path, pixel_scale_arcsec=scale)
    assert told["trail_length_pix"][0] == pytest.approx(8)


def test_variables_of_a_catalogue_change_the_star_that_is_there(frame, tmp_path):
    sources = frame.reference_sources
    ny, nx = frame.science.shape
    inside = (
        (sources.x_pix > 30) & (sources.x_pix < nx - 30) & (sources.y_pix > 30) & (sources.y_pix < ny - 30)
    )
    star = int(np.flatnonzero(inside & ~sources.saturated & (sources.snr > 100))[0])
    x, y = sources.x_pix[star], sources.y_pix[star]
    mag = frame.science.zero_point_mag - 2.5 * np.log10(sources.flux_adu[star] * frame.difference.flux_scale)
    flux = 10 ** (-0.4 * (mag - frame.science.zero_point_mag))
    rows = [
        (x, y, mag, "science", 0.5),
        (x, y, mag, "science", -0.5),
        (x, y, mag, "reference", 0.5),
        (x, y, mag, "both", 0.5),
        (x, y, mag - 3, "science", 3.0),  # would lose more than there is
        (2.5, ny - 3.5, mag, "science", -0.5),  # nothing there
    ]
    table = Table(rows=rows, names=("x", "y", "mag", "injected_in", "delta_mag"))
    stars = asked_of(frame, table, tmp_path, realisations=6)
    dim, bright = flux * (10**-0.2 - 1), flux * (10**0.2 - 1)
    np.testing.assert_allclose(stars["flux_adu"][:4], [dim, bright, 0, flux], rtol=1e-9)
    np.testing.assert_allclose(stars["reference_flux_adu"][:4], [0, 0, bright, flux * 10**0.2], rtol=1e-9)
    assert stars["flag"][:4].tolist() == [0] * 4
    assert stars["flag"][4] & INJECTION_FLAG["NO_STAR"]
    assert stars["flag"][5] & INJECTION_FLAG["NO_STAR"]
    # Science minus reference is what was asked for, whichever image is changed.
    science = np.array([flux + dim, flux + bright, flux, flux])
    reference = np.array([flux, flux, flux + bright, flux * 10**0.2])
    np.testing.assert_allclose(-2.5 * np.log10(science / reference), stars["delta_mag"][:4])
    assert (stars["kind"] == KIND_CODES["injected_variable"]).all()
    np.testing.assert_array_equal(np.sign(stars["snr"][:4]), [-1, 1, -1, -1])


def test_kinds_may_be_named(frame, tmp_path):
    table = Table({"x": [60.0, 160], "y": [60.0, 60], "mag": [17.0, 17], "kind": ["injected_glint", "comet"]})
    stars = asked_of(frame, table, tmp_path)
    assert stars["kind"][0] == KIND_CODES["injected_glint"]
    assert stars["flag"].tolist() == [0, INJECTION_FLAG["TYPE_UNKNOWN"]]


@pytest.mark.parametrize("radius", [1.5, 3.0, 6.0])
def test_encircled_energy_is_the_mean_of_apertures_at_all_sub_pixel_places(frame, radius):
    psf = frame.psf
    x, y = np.array([80.0, 200.0]), np.array([90.0, 210.0])
    found = encircled_energy(psf, x, y, radius_pix=radius)
    for i in range(2):
        sums = []
        for dx in (-0.375, -0.125, 0.125, 0.375):
            for dy in (-0.375, -0.125, 0.125, 0.375):
                shift = np.array([dx]), np.array([dy])
                star = psf_model.sample(psf, x[[i]], y[[i]], dx_pix=shift[0], dy_pix=shift[1])[0]
                middle = star.shape[0] // 2
                total, _, _ = sep.sum_circle(star, [middle + dx], [middle + dy], radius, subpix=0)
                sums.append(total[0])
        assert found[i] == pytest.approx(np.mean(sums), abs=2e-3)
    assert encircled_energy(psf, x, y, radius_pix=200.0) == pytest.approx(1, abs=1e-9)
    assert np.isnan(encircled_energy(psf, np.array([np.nan]), np.array([1.0]), radius_pix=radius)).all()


def test_an_aperture_zero_point_holds_in_the_aperture(frame, observed, tmp_path):
    """A star of mag m has the flux of m inside the aperture, measured on the pixels, and m in the truth."""
    radius = 3.0
    table = Table({"x": [70.3, 170.6], "y": [80.4, 90.1], "mag": [13.5, 13.5]})
    wanted = 10 ** (-0.4 * (13.5 - frame.science.zero_point_mag))
    settings = {"zero_point_aperture_pix": radius, "realisations": 1}
    path = tmp_path / "own.ecsv"
    table.write(path)
    (asked,) = ask_for_stars(frame, InjectConfig(**settings), STARS, read_catalogue(path), key=1)
    quiet = dataclasses.replace(frame.science.detector, gain_e_per_adu=1e9, saturation_adu=float("nan"))
    science = dataclasses.replace(frame.science, detector=quiet)
    stars = inject(science, frame.psf, frame.difference, lights_of(asked), rng=np.random.default_rng(1))
    light = np.nan_to_num(stars.science.image.astype(float) - frame.science.image)
    inside, _, _ = sep.sum_circle(light, asked.x_pix, asked.y_pix, radius, subpix=0)
    np.testing.assert_allclose(inside, wanted, rtol=0.01)
    context = dataclasses.replace(observed.context, zero_point_aperture_pix=radius)
    np.testing.assert_allclose(context.magnitude(asked.flux_adu, asked.x_pix, asked.y_pix), 13.5, atol=1e-6)
    assert (asked.flux_adu > 1.05 * wanted).all()
