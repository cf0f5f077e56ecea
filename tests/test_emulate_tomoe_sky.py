"""The emulated sky: counts by latitude, profiles, colours and motions; transients and their light curves."""

import dataclasses

import galsim
import numpy as np
import pytest
from _tomoe_night import DARK, SENSOR, changed, small_night

from rbsim.emulate.tomoe.artefacts import load_artefacts
from rbsim.emulate.tomoe.pointing import sensor_wcs
from rbsim.emulate.tomoe.sensor_night import field_centre, make_sensor_night
from rbsim.emulate.tomoe.settings import load_settings
from rbsim.emulate.tomoe.sky import draw_sky, galaxy_counts_per_deg2, sersic_points, star_counts_per_deg2
from rbsim.emulate.tomoe.transients import Flares, draw_flares, draw_slow, lights_at

FULL = (1128, 2000)


def sky_of(settings, seed=3, shape=FULL, **factors):
    wcs = sensor_wcs(SENSOR, *field_centre(settings), shape)
    rng = np.random.default_rng(seed)
    sky = draw_sky(wcs, shape, 80.0, settings=settings.sky, condition=settings.condition, **factors, rng=rng)
    return wcs, sky


WCS, SKY = sky_of(DARK)
CROWDED = load_settings("all-sky", "crowded")
TIMES = 100.0 + 0.5 * np.arange(17)
NO_DELAY = np.zeros(len(SKY.stars.mag))


def test_star_counts_are_those_of_bahcall_and_soneira_at_the_pole():
    # Their figure 3 at the pole, to the 15 per cent that the fit is good for: V < 14, 16, 18, 20.
    counts = star_counts_per_deg2(np.array([14.0, 16.0, 18.0, 20.0]), latitude_deg=90.0, longitude_deg=0.0)
    np.testing.assert_allclose(counts, [49, 175, 522, 1440], rtol=0.15)


def test_star_counts_grow_to_the_plane_and_the_centre_and_are_the_same_north_and_south():
    def count(b, longitude):
        return float(star_counts_per_deg2(np.array(18.0), latitude_deg=b, longitude_deg=longitude))

    assert count(20, 90) > 2 * count(45, 90) > 2 * 0.9 * count(90, 90)
    assert count(40, 0) > count(40, 180)
    assert count(-50, 70) == count(50, 70)


@pytest.mark.parametrize("settings", [DARK, CROWDED], ids=["dark", "crowded"])
def test_as_many_stars_are_drawn_as_the_law_says_at_every_magnitude(settings):
    _, sky = sky_of(settings)
    area = (1128 + 160) * (2000 + 160) * (1.189 / 3600) ** 2
    place = {
        "latitude_deg": settings.condition.galactic_latitude_deg,
        "longitude_deg": settings.condition.galactic_longitude_deg,
    }
    limits = np.array([7.0, 15.0, 17.0, 19.0, 21.0])
    wanted = np.diff(star_counts_per_deg2(limits, **place)) * area
    drawn, _ = np.histogram(sky.stars.mag, limits)
    assert np.all(np.abs(drawn - wanted) < 5 * np.sqrt(wanted))


def test_galaxies_are_as_dense_as_in_the_sdss_main_sample():
    assert float(galaxy_counts_per_deg2(np.array(17.77), DARK.sky)) == pytest.approx(92)
    area = (1128 + 160) * (2000 + 160) * (1.189 / 3600) ** 2
    bright = np.count_nonzero(SKY.galaxies.mag < 17.77)
    assert abs(bright - 92 * area) < 5 * np.sqrt(92 * area)


@pytest.mark.parametrize(("index", "radius"), [(1.0, 2.0), (4.0, 1.5), (2.5, 6.0)])
def test_points_of_a_galaxy_make_its_sersic_profile(index, radius):
    east, north, share = sersic_points(index, radius, shear1=0.0, shear2=0.0)
    assert share.sum() == pytest.approx(1)
    distance = np.hypot(east, north)
    assert share[distance < radius].sum() == pytest.approx(0.5, abs=0.05)
    profile = (
        galsim.Exponential(half_light_radius=radius)
        if index == 1
        else galsim.Sersic(index, half_light_radius=radius)
    )
    # Behind a PSF the points look like the profile, to 2 per cent of its peak.
    psf, n, scale = galsim.Gaussian(fwhm=3.5), 41, 1.189
    wanted = galsim.Convolve([profile, psf]).drawImage(nx=n, ny=n, scale=scale, method="no_pixel").array
    grid = (np.arange(n) - n // 2) * scale
    sigma = 3.5 / 2.3548
    kernel = [np.exp(-0.5 * ((grid[:, None] - values) / sigma) ** 2) for values in (north, east)]
    drawn = (kernel[0] * share) @ kernel[1].T * scale**2 / (2 * np.pi * sigma**2)
    assert np.abs(drawn - wanted).max() < 0.03 * wanted.max()


def test_shear_of_the_points_is_that_of_galsim():
    east, north, share = sersic_points(1.0, 3.0, shear1=0.2, shear2=-0.1)
    xx, xy, yy = (np.sum(share * a * b) for a, b in ((east, east), (east, north), (north, north)))
    e = np.array([xx - yy, 2 * xy]) / (xx + yy)
    g = np.array([0.2, -0.1])
    np.testing.assert_allclose(e, 2 * g / (1 + g @ g), atol=0.02)


def test_colours_are_about_zero_and_red_dwarfs_move_most():
    stars = SKY.stars
    assert abs(stars.colour_mag.mean()) < 1e-9
    assert 0.1 < stars.colour_mag.std() < 0.25  # residuals of 0.05 to 0.5 mag (tomoe-facts, section 11)
    speed = np.hypot(stars.pm_ra_mas_per_yr, stars.pm_dec_mas_per_yr)
    same = (stars.mag > 15) & (stars.mag < 18)
    assert np.median(speed[same & (stars.colour_mag > 0.1)]) > 4 * np.median(
        speed[same & (stars.colour_mag < 0)]
    )
    assert np.count_nonzero(speed > 200) < 0.05 * len(speed)


def test_variables_keep_their_mean_over_a_period():
    variables = SKY.variables
    times = np.linspace(0, 1, 200, endpoint=False)
    one = [variables.change_mag(float(t * variables.period_s[0]))[0] for t in times]
    assert np.mean(one) == pytest.approx(0, abs=1e-9)
    assert np.max(one) == pytest.approx(variables.amplitude_mag[0], rel=1e-3)
    assert len(variables.star) == pytest.approx(
        0.01 * len(SKY.stars.mag), abs=5 * np.sqrt(0.01 * len(SKY.stars.mag))
    )


MANY = changed(
    DARK,
    transients={"supernovae": 400.0, "dwarf_novae": 50.0, "asteroids": 60.0, "flares_per_exposure": 60.0},
)
SLOW = draw_slow(SKY, WCS, FULL, MANY, rng=np.random.default_rng(2))


def test_supernovae_lie_within_their_hosts_light():
    is_sn = SLOW.kind == "supernova"
    assert np.isfinite(SLOW.host_offset_arcsec[is_sn]).all()
    assert np.isnan(SLOW.host_offset_arcsec[~is_sn]).all()
    nearest = np.array(
        [
            np.hypot((SKY.galaxies.ra_deg - ra) * np.cos(np.radians(dec)), SKY.galaxies.dec_deg - dec).min()
            * 3600
            for ra, dec in zip(SLOW.ra_deg[is_sn], SLOW.dec_deg[is_sn], strict=True)
        ]
    )
    assert np.all(nearest <= SLOW.host_offset_arcsec[is_sn] + 0.01)
    assert np.median(nearest) < 4


def test_asteroids_move_at_main_belt_rates_and_nothing_else_moves():
    rate = 3600 * np.hypot(SLOW.rate_ra_deg_per_s * np.cos(np.radians(SLOW.dec_deg)), SLOW.rate_dec_deg_per_s)
    is_asteroid = SLOW.kind == "asteroid"
    assert np.all(rate[~is_asteroid] == 0)
    assert np.all((rate[is_asteroid] >= 0.002) & (rate[is_asteroid] <= 0.0121))
    lights = lights_at(SLOW, {}, SKY, TIMES, star_delay_s=NO_DELAY)
    moved = 3600 * (lights.dec_deg[:, -1] - lights.dec_deg[:, 0])[lights.kind == "asteroid"]
    np.testing.assert_allclose(moved, 3600 * SLOW.rate_dec_deg_per_s[is_asteroid] * 8.0, atol=1e-6)


def test_flares_rise_linearly_and_fall_exponentially_within_the_frames():
    one = Flares(np.array([0]), np.array([102.0]), np.array([1.0]), np.array([2.0]), np.array([3.0]))
    ratio = one.flux_ratio(np.array([[100.9, 101.5, 102.0, 104.0, 106.0]]))[0]
    np.testing.assert_allclose(ratio, [0, 1.5, 3, 3 * np.exp(-1), 3 * np.exp(-2)])
    lights = lights_at(None, {4: one}, SKY, TIMES, star_delay_s=NO_DELAY)
    flux = lights.relative[lights.kind == "flare"][0]
    star = 10 ** (-0.4 * SKY.stars.mag[0])
    np.testing.assert_allclose(flux, star * one.flux_ratio(TIMES[None])[0])
    late = lights_at(None, {4: one}, SKY, TIMES, star_delay_s=NO_DELAY + 0.4)
    np.testing.assert_allclose(late.relative[-1], star * one.flux_ratio(TIMES[None] + 0.4)[0])


def test_factors_on_colours_and_motions_change_these_and_nothing_else():
    _, sky = sky_of(DARK, shape=(200, 300))
    _, half = sky_of(DARK, shape=(200, 300), colours=0.5, motions=0.25)
    assert len(sky.stars.mag) > 20
    np.testing.assert_allclose(half.stars.colour_mag, 0.5 * sky.stars.colour_mag)
    np.testing.assert_allclose(half.galaxies.colour_mag, 0.5 * sky.galaxies.colour_mag)
    np.testing.assert_allclose(half.stars.pm_dec_mas_per_yr, 0.25 * sky.stars.pm_dec_mas_per_yr)
    np.testing.assert_array_equal(half.stars.mag, sky.stars.mag)
    np.testing.assert_array_equal(half.red_dwarfs, sky.red_dwarfs)


def test_rates_of_colours_and_motions_reach_the_sky_of_a_sensor():
    """Whatever a row of the truth says: a residual is weaker only if PS1's light is nearer to Tomo-e's."""
    rates = {"colour_residual": 0.1, "proper_motion": 0.0}
    faint = dataclasses.replace(DARK, condition=dataclasses.replace(DARK.condition, artefact_rates=rates))
    full, less = (make_sensor_night(of, SENSOR, seed=1, shape=(150, 200)) for of in (DARK, faint))
    shipped = load_artefacts().colour_residual.rate_factor
    assert shipped > 0
    assert np.ptp(full.sky.stars.colour_mag) > 0
    np.testing.assert_allclose(less.sky.stars.colour_mag, 0.1 * full.sky.stars.colour_mag)
    assert not np.any(less.sky.stars.pm_ra_mas_per_yr)


def test_flares_happen_on_red_dwarfs_with_contrasts_of_the_survey():
    flares = draw_flares(SKY, WCS, FULL, MANY, 0.0, rng=np.random.default_rng(1))
    assert len(set(flares.star.tolist())) == len(flares.star) > 30
    assert set(flares.star) <= set(SKY.red_dwarfs)
    rest = np.delete(SKY.stars.colour_mag, SKY.red_dwarfs)
    assert np.median(SKY.stars.colour_mag[SKY.red_dwarfs]) > np.median(rest) + 0.2
    assert np.all((flares.contrast >= 0.5) & (flares.contrast <= 20))
    assert np.median(flares.contrast) < 3  # weak ones are more frequent
    assert np.all(flares.peak_s < 9.0)


def test_earlier_nights_have_variables_only():
    lights = lights_at(None, {}, SKY, TIMES, star_delay_s=NO_DELAY)
    assert set(lights.kind) <= {"variable"}


def test_the_sky_of_a_sensor_is_the_same_for_the_same_seed_only():
    first, again, other = small_night(seed=1), small_night(seed=1), small_night(seed=2)
    np.testing.assert_array_equal(first.sky.stars.mag, again.sky.stars.mag)
    assert not np.array_equal(first.sky.stars.mag[:5], other.sky.stars.mag[:5])
