"""The emulator keeps its promises: flux, noise, positions, truth, and the same bits for the same seed."""

import dataclasses
import warnings

import numpy as np
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from rbsim.emulate import artefacts, detector, exposure, optics, sky
from rbsim.emulate.night import emulate_night, load_night
from rbsim.errors import InputError

SEED = 11
TINY = load_night("tiny")
CAMERA = TINY.detector
FLAT_PSF = optics.PsfField((121, 141), fwhm_pix=3.0, beta=3.0, shear=(0.03, -0.02))
NO_ARTEFACTS = dataclasses.replace(
    TINY.artefacts,
    hot_per_mpix=0.0,
    flicker_per_mpix=0.0,
    cosmic_ray_per_mpix=0.0,
    streak_probability=0.0,
    bad_columns=0,
    dead_areas=0,
)


def replace(night, **parts):
    """`night` with some keys of its parts replaced."""
    return dataclasses.replace(
        night, **{part: dataclasses.replace(getattr(night, part), **keys) for part, keys in parts.items()}
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("night") / "tiny"
    summary = emulate_night(path, TINY, seed=SEED)
    return summary, Table.read(path / "truth.ecsv"), Table.read(path / "artefacts.ecsv")


@pytest.fixture(scope="module")
def tiny_sky():
    return exposure.make_sky(TINY, seed=SEED)


def without_sources(night_sky, keep_star=None):
    """An empty sky, or one with a single star in the middle of magnitude `keep_star`."""
    n = 0 if keep_star is None else 1
    star = sky.Stars(*np.zeros((2, n)), np.full(n, keep_star or 0.0), np.ones(n), *np.zeros((2, n)))
    off = dataclasses.replace(night_sky.transients, mag=np.full_like(night_sky.transients.mag, np.nan))
    return sky.Sky(star, sky.Galaxies(*np.zeros((7, 0))), off)


def centroid(image, x, y, *, sigma=1.5, half=8):
    """Position by Gaussian-weighted moments, iterated until the weight sits on the source."""
    x0, y0 = round(x) - half, round(y) - half
    cut = image[y0 : y0 + 2 * half + 1, x0 : x0 + 2 * half + 1]
    rows, columns = np.mgrid[: cut.shape[0], : cut.shape[1]]
    x_now = y_now = float(half)
    for _ in range(40):
        weight = cut * np.exp(-((columns - x_now) ** 2 + (rows - y_now) ** 2) / (2 * sigma**2))
        x_new, y_new = (weight * columns).sum() / weight.sum(), (weight * rows).sum() / weight.sum()
        # The weight pulls half way back to where it sits.
        x_now, y_now = x_now + 1.5 * (x_new - x_now), y_now + 1.5 * (y_new - y_now)
    return x_now + x0, y_now + y0


# optics


@pytest.mark.parametrize("draw", [optics.draw_points, optics.draw_points_exactly])
def test_a_star_keeps_its_flux_and_its_place(draw):
    flux = 1e5
    for x, y in ((70.0, 60.0), (69.73, 60.41), (71.5, 59.5)):
        image = draw((121, 141), np.array([x]), np.array([y]), np.array([flux]), psf=FLAT_PSF)
        rows, columns = np.mgrid[:121, :141]
        # Beyond the stamp the Moffat wings hold 0.06 % of the light.
        assert image.sum() == pytest.approx(flux, rel=2e-3)
        assert (image * columns).sum() / image.sum() == pytest.approx(x, abs=0.01)
        assert (image * rows).sum() / image.sum() == pytest.approx(y, abs=0.01)


@pytest.mark.parametrize(("fwhm_pix", "beta"), [(2.0, 3.5), (2.5, 3.0), (3.5, 3.0)])
def test_fast_drawing_equals_exact_drawing(fwhm_pix, beta):
    psf = dataclasses.replace(FLAT_PSF, fwhm_pix=fwhm_pix, beta=beta)
    rng = np.random.default_rng(1)
    for x, y in rng.uniform(30, 90, (8, 2)):
        star = np.array([x]), np.array([y]), np.array([1e5])
        exact = optics.draw_points_exactly((121, 141), *star, psf=psf)
        assert np.abs(optics.draw_points((121, 141), *star, psf=psf) - exact).max() < 1e-3 * exact.max()


def test_galaxies_keep_their_flux():
    galaxy = {
        "radius_pix": np.array([4.0]),
        "bulge_fraction": np.array([0.4]),
        "shear": np.array([[0.3], [-0.1]]),
    }
    at = np.array([70.2]), np.array([60.3]), np.array([1e4])
    image = optics.draw_galaxies((121, 141), *at, **galaxy, psf=FLAT_PSF)
    assert image.sum() == pytest.approx(1e4, rel=0.01)
    assert np.unravel_index(image.argmax(), image.shape) == (60, 70)


def test_the_psf_varies_as_its_terms_say():
    psf = dataclasses.replace(FLAT_PSF, fwhm_terms=(0.05, 0.0, 0.0), shear=(0.0, 0.0))
    for x, fwhm in ((0.0, 2.85), (70.0, 3.0), (140.0, 3.15)):
        assert psf.at(x, 60.0).original.fwhm == pytest.approx(fwhm)


def test_noise_area_is_that_of_the_matched_filter():
    stamp = optics.unit_stamp(FLAT_PSF, 70.0, 60.0, half_pix=12)
    # The closed form leaves out the pixel's own width.
    assert FLAT_PSF.noise_area_pix == pytest.approx(1 / np.sum(stamp**2), rel=0.15)
    assert FLAT_PSF.noise_area_pix < 1 / np.sum(stamp**2)


def test_projection_is_the_same_as_its_wcs():
    projection = optics.Projection(45.6, 20.2, 310.3, 281.8, 3.0, 1.189)
    x, y = projection.to_pix(np.array([0.0, 100.0]), np.array([0.0, -50.0]))
    ra, dec = projection.to_wcs().wcs_pix2world(x, y, 0)
    assert (ra[0], dec[0]) == pytest.approx((45.6, 20.2))
    assert (ra[1] - 45.6) * np.cos(np.radians(dec[1])) * 3600 == pytest.approx(100, abs=0.02)
    assert (dec[1] - 20.2) * 3600 == pytest.approx(-50, abs=0.02)


# detector


def test_noise_is_poisson_and_read_noise():
    expected = np.full((400, 400), 250.0)
    image = detector.expose(expected, config=CAMERA, rng=np.random.default_rng(2)).astype(float)
    variance = (250.0 + CAMERA.read_noise_e**2) / CAMERA.gain_e_per_adu**2 + 1 / 12
    assert image.mean() == pytest.approx(250 / CAMERA.gain_e_per_adu, abs=4 * np.sqrt(variance / image.size))
    assert image.var() == pytest.approx(variance, rel=4 * np.sqrt(2 / image.size))


def test_the_full_well_clips_above_what_the_header_calls_saturated():
    expected = np.full((50, 50), 2 * CAMERA.well_e)
    image = detector.expose(expected, config=CAMERA, rng=np.random.default_rng(2))
    assert image.max() == CAMERA.well_adu == int(CAMERA.well_e / CAMERA.gain_e_per_adu)
    # Read noise comes after the well, so that a half of the pixels read a little less.
    assert CAMERA.saturate_adu < image.min() < CAMERA.well_adu
    assert image.dtype == np.int16


def test_a_brighter_star_than_any_count_is_only_saturated(tiny_sky):
    image = exposure.emulate_frame(TINY, without_sources(tiny_sky, keep_star=4.0), 0, seed=SEED).image
    assert (image == CAMERA.well_adu).sum() > 50


def test_the_zero_points_of_the_headers_give_the_magnitude_back(tiny_sky):
    mag = 14.0  # just not saturated
    night = dataclasses.replace(TINY, artefacts=NO_ARTEFACTS)
    alone = without_sources(tiny_sky, keep_star=mag)
    for frame in (
        exposure.emulate_frame(night, alone, 0, seed=SEED),
        exposure.emulate_reference(night, alone, seed=SEED),
    ):
        x, y = frame.header["CRPIX1"] - 1, frame.header["CRPIX2"] - 1
        rows, columns = np.indices(frame.image.shape)
        radius = np.hypot(columns - x, rows - y)
        sky_level = np.median(frame.image[(radius > 40) & (radius < 80)])
        flux = (frame.image[radius < 12] - sky_level).sum()
        measured = frame.header["MAGZERO"] - 2.5 * np.log10(flux)
        # 12 pixels hold all but 0.5 % of the light; the noise within is 0.9 %.
        assert measured == pytest.approx(mag, abs=0.03)


def test_the_reference_is_deeper(tiny_sky):
    night = dataclasses.replace(TINY, artefacts=NO_ARTEFACTS)
    empty = without_sources(tiny_sky)
    limits = []
    for frame in (
        exposure.emulate_frame(night, empty, 0, seed=SEED),
        exposure.emulate_reference(night, empty, seed=SEED),
    ):
        assert frame.header["MAGZERO"] == pytest.approx(
            {"reference.fits": CAMERA.reference_zero_point_mag}.get(
                frame.file_name, CAMERA.zero_point_adu_mag
            ),
            abs=0.3,
        )
        residual = frame.image - frame.image.mean(axis=0)
        limits.append(frame.header["MAGZERO"] - 2.5 * np.log10(residual.std()))
    assert limits[1] - limits[0] > 1.5


# sky


def test_star_counts_follow_the_power_law():
    mags = sky.power_law_mags(
        20_000, bright=10, faint=20, slope_dex_per_mag=0.3, rng=np.random.default_rng(3)
    )
    counts = [(mags < limit).sum() for limit in (18, 19, 20)]
    assert np.log10(counts[1] / counts[0]) == pytest.approx(0.3, abs=0.02)
    assert np.log10(counts[2] / counts[1]) == pytest.approx(0.3, abs=0.02)


def test_transients_stay_apart_and_are_off_in_some_frames(tiny_sky):
    transients = tiny_sky.transients
    distance = np.hypot(
        np.subtract.outer(transients.east_arcsec, transients.east_arcsec),
        np.subtract.outer(transients.north_arcsec, transients.north_arcsec),
    )
    assert distance[~np.eye(len(distance), dtype=bool)].min() > TINY.sky.transient_separation_arcsec
    demo = exposure.make_sky(load_night("demo"), seed=SEED).transients
    on = np.isfinite(demo.mag)
    assert on.sum(axis=0).mean() == pytest.approx(load_night("demo").sky.transient_per_frame, abs=1)
    assert set(on.sum(axis=1)) == {
        load_night("demo").sky.transient_brief_exposures,
        load_night("demo").n_exposures,
    }
    assert 0.25 < np.isfinite(demo.host_offset_arcsec).mean() < 0.75


def test_too_many_transients_are_refused():
    with pytest.raises(InputError, match=r"transient_per_frame needs .* stay apart"):
        exposure.make_sky(replace(TINY, sky={"transient_per_frame": 100.0}), seed=SEED)


# truth


def test_transients_are_where_the_truth_says():
    bright = replace(TINY, sky={"transient_snr_low": 250.0, "transient_snr_high": 260.0})
    with_them = exposure.make_sky(bright, seed=SEED)
    off = dataclasses.replace(with_them.transients, mag=np.full_like(with_them.transients.mag, np.nan))
    frame = exposure.emulate_frame(bright, with_them, 0, seed=SEED)
    empty = exposure.emulate_frame(bright, dataclasses.replace(with_them, transients=off), 0, seed=SEED)
    assert len(frame.transients) > 4
    assert not empty.transients
    difference = frame.image.astype(float) - empty.image
    checked = 0
    for row in frame.transients:
        near = difference[round(row["y_pix"]) - 9 : round(row["y_pix"]) + 10, round(row["x_pix"]) - 9 :][
            :, :19
        ]
        if row["snr_expected"] < 150:
            continue  # on a bright star, whose noise moves the centroid
        x, y = centroid(difference, row["x_pix"], row["y_pix"])
        assert x == pytest.approx(row["x_pix"], abs=0.05)
        assert y == pytest.approx(row["y_pix"], abs=0.05)
        assert near.sum() * CAMERA.gain_e_per_adu == pytest.approx(row["flux_e"], rel=0.1)
        checked += 1
    assert checked >= 4


def test_expected_snr_is_what_a_matched_filter_gets():
    night = dataclasses.replace(replace(TINY, sky={"galaxy_per_mpix": 0.0}), artefacts=NO_ARTEFACTS)
    night_sky = exposure.make_sky(night, seed=SEED)
    now = exposure.draw_conditions(night, 0, seed=SEED)
    alone = dataclasses.replace(without_sources(night_sky), transients=night_sky.transients)
    row = exposure.emulate_frame(night, alone, 0, seed=SEED).transients[0]
    stamp = optics.unit_stamp(now.psf, row["x_pix"], row["y_pix"], half_pix=12)
    background = now.background_e[round(row["y_pix"]), round(row["x_pix"])]
    noise = detector.expose(np.full((2000, 25, 25), background), config=CAMERA, rng=np.random.default_rng(4))
    fluxes = np.einsum("nyx,yx->n", noise * CAMERA.gain_e_per_adu - background, stamp) / np.sum(stamp**2)
    assert row["snr_expected"] == pytest.approx(row["flux_e"] / fluxes.std(), rel=0.06)


def test_truth_is_complete_and_matches_the_headers(written):
    summary, truth, _ = written
    assert summary.n_transients == len(truth) > 0
    assert set(truth["kind"]) == {"emulated_transient"}
    assert truth["x_pix"].unit == "pix"
    for index in range(summary.n_frames):
        header = fits.getheader(summary.path / "science" / f"EXP{index:03d}.fits")
        rows = truth[truth["frame"] == f"EXP{index:03d}.fits"]
        assert len(rows)
        x, y = WCS(header).wcs_world2pix(rows["ra_deg"], rows["dec_deg"], 0)
        error = np.hypot(x - rows["x_pix"], y - rows["y_pix"])
        assert error.min() > TINY.optics.wcs_error_low_pix - exposure.WCS_TWIST_PIX
        assert error.max() < TINY.optics.wcs_error_high_pix + exposure.WCS_TWIST_PIX
        assert np.std(x - rows["x_pix"]) < exposure.WCS_TWIST_PIX
        flux_adu = rows["flux_e"] / header["GAIN"]
        np.testing.assert_allclose(header["MAGZERO"] - 2.5 * np.log10(flux_adu), rows["mag"], atol=1e-3)


def test_headers_hold_what_a_reader_needs(written):
    summary, _, _ = written
    dates = []
    for index in range(summary.n_frames):
        with warnings.catch_warnings(), fits.open(summary.path / "science" / f"EXP{index:03d}.fits") as hdus:
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


# artefacts


@pytest.mark.parametrize(
    "name", ["hot_pixel", "flicker_pixel", "cosmic_ray", "bad_column", "satellite_streak"]
)
def test_charge_is_where_the_truth_rows_say(name):
    shape, config = (300, 320), dataclasses.replace(TINY.artefacts, streak_probability=1.0)
    own, fixed = np.random.default_rng(5), np.random.default_rng(6)
    layer = {
        "hot_pixel": lambda: artefacts.hot_pixels(shape, config=config, rng=fixed),
        "flicker_pixel": lambda: artefacts.flicker_pixels(shape, config=config, detector_rng=fixed, rng=own),
        "cosmic_ray": lambda: artefacts.cosmic_rays(shape, config=config, rng=own),
        "bad_column": lambda: artefacts.bad_columns(shape, config=config, detector_rng=fixed, rng=own),
        "satellite_streak": lambda: artefacts.satellite_streak(shape, fwhm_pix=3.0, config=config, rng=own),
    }[name]()
    assert {row.artefact for row in layer.rows} == {name}
    noise_e = np.sqrt(CAMERA.sky_e(TINY.optics.pixel_scale_arcsec))
    for row in layer.rows:
        x, y = round(row.x_pix), round(row.y_pix)
        near = layer.electrons[max(y - 3, 0) : y + 4, max(x - 3, 0) : x + 4]
        assert np.abs(near).max() > noise_e / 2
        assert near.flat[np.abs(near).argmax()] * row.strength > 0
    far = np.ones(shape, bool)
    for row in layer.rows:
        y0, y1 = (0, 300) if name == "bad_column" else (max(round(row.y_pix) - 8, 0), round(row.y_pix) + 9)
        far[y0:y1, max(round(row.x_pix) - 8, 0) : round(row.x_pix) + 9] = False
    if name != "satellite_streak":
        np.testing.assert_allclose(layer.electrons[far], 0, atol=1e-6)
        inside = [r for r in layer.rows if 8 < r.x_pix < 311 and 8 < r.y_pix < 291]
        if name != "bad_column" and len(inside) == len(layer.rows):
            assert layer.electrons.sum() == pytest.approx(sum(r.strength for r in layer.rows), rel=0.01)


def test_hot_pixels_reach_the_frame_and_stay_on_the_detector(tiny_sky):
    night = dataclasses.replace(
        TINY, artefacts=dataclasses.replace(NO_ARTEFACTS, hot_per_mpix=200.0, crosstalk_most=0.0)
    )
    empty = without_sources(tiny_sky)
    frames = [exposure.emulate_frame(night, empty, index, seed=SEED) for index in (0, 1)]
    assert [r.x_pix for r in frames[0].artefacts] == [r.x_pix for r in frames[1].artefacts]
    for frame in frames:
        background = np.median(frame.image)
        for row in frame.artefacts:
            expected = min(background + row.strength / CAMERA.gain_e_per_adu, CAMERA.well_adu)
            sigma = np.sqrt(expected / CAMERA.gain_e_per_adu)
            assert frame.image[int(row.y_pix), int(row.x_pix)] == pytest.approx(expected, abs=5 * sigma + 20)


@pytest.mark.parametrize("fwhm_pix", [2.6, 3.0, 3.5])
def test_a_moved_star_leaves_the_lobes_that_the_rows_are_chosen_by(fwhm_pix):
    shift, flux = 0.3, 1e5
    psf = dataclasses.replace(FLAT_PSF, fwhm_pix=fwhm_pix, shear=(0.0, 0.0))
    here, there = (
        optics.draw_points_exactly(
            (121, 141), np.array([70 + d]), np.array([60.0]), np.array([flux]), psf=psf
        )
        for d in (0, shift)
    )
    kernel = optics.unit_stamp(psf, 70.0, 60.0, half_pix=12)
    windows = np.lib.stride_tricks.sliding_window_view(there - here, kernel.shape)
    filtered = np.einsum("yxij,ij->yx", windows, kernel) / np.sum(kernel**2)
    lobe = artefacts.LOBE * shift / (fwhm_pix / 2.355) * flux
    assert filtered.max() == pytest.approx(lobe, rel=0.1)


def test_star_residuals_lists_stars_that_have_changed_and_no_others():
    stars = {
        "flux_e": np.array([1e4, 1e4, 1e4, 50.0, 1e4]),
        "flux_ratio": np.array([1.2, 1.0, 1.0, 1.2, 1.2]),
        "shift_pix": np.array([0.0, 0.5, 0.0, 0.5, 0.5]),
    }
    x, y = np.array([10.0, 20.0, 30.0, 40.0, -5.0]), np.full(5, 50.0)
    rows = artefacts.star_residuals(
        (100, 100), x, y, **stars, fwhm_pix=3.0, noise_e=80.0, config=TINY.artefacts
    )
    assert [(row.artefact, row.x_pix) for row in rows] == [("colour_residual", 10.0), ("dipole", 20.0)]
    assert [row.strength for row in rows] == pytest.approx([0.2, 0.5])


def test_holes_of_the_reference_are_where_the_truth_rows_say():
    image = 100 + np.random.default_rng(7).normal(size=(200, 220)).astype(np.float32)
    image[50, 60] = np.nan
    star = np.array([150.0]), np.array([120.0])
    holed, rows = artefacts.mask_in_reference(
        image, *star, config=TINY.artefacts, rng=np.random.default_rng(8)
    )
    assert np.isnan(holed[49:52, 59:62]).all()
    assert (rows[0].x_pix, rows[0].y_pix) == (60, 50)
    assert len(rows) == 1 + TINY.artefacts.dead_areas
    changed = ~((holed == image) | (np.isnan(holed) & np.isnan(image)))
    assert 0 < changed.sum() <= sum(abs(row.strength) for row in rows)
    assert {row.strength > 0 for row in rows} == {True, False}
    for row in rows:
        assert changed[max(round(row.y_pix) - 1, 0) : round(row.y_pix) + 2, round(row.x_pix) - 1 :][
            :, :3
        ].any()


def test_artefact_rows_of_a_night_are_of_known_classes_and_inside(written):
    summary, _, rows = written
    assert set(rows["class"]) <= set(artefacts.STRENGTHS)
    assert {"hot_pixel", "flicker_pixel", "cosmic_ray", "bad_column", "mask_in_reference"} <= set(
        rows["class"]
    )
    assert sum(summary.n_artefacts.values()) == len(rows)
    science = rows[rows["frame"] != "reference.fits"]
    assert science["x_pix"].min() >= -0.5
    assert science["x_pix"].max() <= CAMERA.nx_pix - 0.5
    assert science["y_pix"].max() <= CAMERA.ny_pix - 0.5
    with fits.open(summary.path / "reference.fits") as hdus:
        assert 0 < np.isnan(hdus[0].data).mean() < 0.1


# the same bits


def test_frames_do_not_depend_on_order_or_on_each_other(written, tiny_sky):
    summary, _, _ = written
    for index in (4, 1):
        again = exposure.emulate_frame(TINY, tiny_sky, index, seed=SEED)
        with fits.open(summary.path / "science" / again.file_name) as hdus:
            np.testing.assert_array_equal(hdus[0].data, again.image)


def test_same_seed_same_bytes_and_another_seed_another_night(tmp_path):
    small = replace(dataclasses.replace(TINY, n_exposures=2), detector={"nx_pix": 180, "ny_pix": 170})
    small = replace(small, sky={"transient_per_frame": 2.0})
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        emulate_night(tmp_path / name, small, seed=seed)
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
    with pytest.raises(InputError, match="is not an emulated night"):
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
