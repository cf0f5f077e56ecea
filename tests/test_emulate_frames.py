"""One emulated exposure keeps its promises: noise, zero point, sky, and transients where the truth says."""

import dataclasses

import numpy as np
import pytest
from _emulated import CAMERA, NO_ARTEFACTS, SEED, TINY, replace, without_sources

from rbsim.emulate import detector, exposure, optics, sky
from rbsim.emulate.night import load_night
from rbsim.errors import InputError


@pytest.fixture(scope="module")
def tiny_sky():
    return exposure.make_sky(TINY, seed=SEED)


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
