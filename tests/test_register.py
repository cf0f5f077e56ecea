"""Registration recovers known maps: the true error counts, not the residual of the fit."""

import time
from dataclasses import replace

import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field
from _warped_fields import TrueMap, sources_in, tangent_wcs, true_error_pix, views, wcs_pair

from rbsim.errors import InputError
from rbsim.reference import sources_of
from rbsim.register import MAX_RMS_PIX, register
from rbsim.transform import Transform, fit_transform

LARGE, SMALL = (1128, 2000), (256, 300)


def by_wcs(a, b, true_map, **error):
    science, reference = wcs_pair(true_map, **error)
    return register(a, science, true_map.shape, b, reference)


def by_patterns(a, b, true_map):
    return register(a, None, true_map.shape, b, None)


@pytest.fixture(scope="module")
def common():
    """About 1,000 stars; 1 px of quadratic and cubic distortion in the corners."""
    true_map = TrueMap(LARGE, angle_rad=0.002, scale=1.0003, distortion_pix=1.0, shift=(7.3, -4.6))
    return true_map, *views(true_map, 1500)


def test_wcs_that_is_off_by_pixels_and_knows_no_distortion(common):
    true_map, a, b = common
    for error in ((0.0, 0.0), (1.5, -1.2), (-20.0, 15.0)):
        transform = by_wcs(a, b, true_map, error_pix=error)
        assert true_error_pix(transform, true_map) < 0.01
        assert transform.rms_pix < 0.1
        assert transform.n_matches > 600


def test_star_patterns_reach_the_same_result_every_time(common):
    true_map, a, b = common
    first = by_patterns(a, b, true_map)
    assert true_error_pix(first, true_map) < 0.01
    for _ in range(2):  # astroalign shuffles without a seed; its result is only a start
        again = by_patterns(a, b, true_map)
        np.testing.assert_array_equal(again.x_coefficients, first.x_coefficients)
        np.testing.assert_array_equal(again.y_coefficients, first.y_coefficients)


def test_a_frame_upside_down_is_found_by_patterns():
    true_map = TrueMap(LARGE, angle_rad=3.1, scale=1.01, distortion_pix=3.0, shift=(40.0, -25.0))
    a, b = views(true_map, 1500)
    assert true_error_pix(by_patterns(a, b, true_map), true_map) < 0.01


@pytest.mark.parametrize(
    ("n_stars", "distortion_pix", "limit_pix"),
    [(20, 0.1, 0.1), (30, 0.1, 0.1), (60, 0.5, 0.1), (150, 0.5, 0.05)],
)
def test_the_order_follows_the_number_of_stars(n_stars, distortion_pix, limit_pix):
    """12 stars cannot give a cubic, 100 can: the true error, extrapolated corners included, stays small."""
    true_map = TrueMap(SMALL, angle_rad=0.003, distortion_pix=distortion_pix, shift=(3.3, 2.2))
    errors, counts = [], []
    for seed in range(6):
        a, b = views(true_map, n_stars, seed=seed, margin=20)
        transform = by_wcs(a, b, true_map, error_pix=(1.5, -1.2))
        errors.append(true_error_pix(transform, true_map))
        counts.append(transform.n_matches)
    assert np.sqrt(np.mean(np.square(errors))) < limit_pix, (errors, counts)
    if n_stars == 20:
        assert np.median(counts) <= 15


def test_its_own_error_is_about_the_true_one():
    true_map = TrueMap(SMALL, angle_rad=0.003, shift=(3.3, 2.2))
    true, claimed = [], []
    for seed in range(10):
        transform = by_wcs(*views(true_map, 60, seed=seed, margin=20), true_map)
        true.append(true_error_pix(transform, true_map))
        claimed.append(transform.error_pix)
    assert 0.5 < np.sqrt(np.mean(np.square(true))) / np.mean(claimed) < 2


def test_false_partners_moved_stars_and_blends_do_not_pull(common):
    """Of the reference's stars, 30 % are elsewhere, and 5 % moved by 0.3 to 2 px in one direction."""
    true_map, a, b = common
    rng = np.random.default_rng(4)
    n = len(b)
    fate = rng.random(n)
    x, y = b.x_pix.copy(), b.y_pix.copy()
    elsewhere = fate < 0.3
    x[elsewhere] = rng.uniform(0, LARGE[1], elsewhere.sum())
    y[elsewhere] = rng.uniform(0, LARGE[0], elsewhere.sum())
    moved = fate > 0.95
    x[moved] += rng.uniform(0.3, 2.0, moved.sum())
    spoiled = replace(b, x_pix=x, y_pix=y)
    assert true_error_pix(by_wcs(a, spoiled, true_map, error_pix=(1.5, -1.2)), true_map) < 0.02
    assert true_error_pix(by_patterns(a, spoiled, true_map), true_map) < 0.02


def test_crowded_field_of_20_000_stars_is_fast_and_right():
    true_map = TrueMap(LARGE, angle_rad=0.002, distortion_pix=1.0, shift=(7.3, -4.6))
    a, b = views(true_map, 20_000)
    assert len(b) > 10_000
    start = time.process_time()
    transform = by_wcs(a, b, true_map, error_pix=(10.0, -12.0))
    assert time.process_time() - start < 1.0  # 0.05 s, on a machine with nothing else to do
    assert true_error_pix(transform, true_map) < 0.01
    assert true_error_pix(by_patterns(a, b, true_map), true_map) < 0.01


@pytest.mark.parametrize("way", [by_wcs, by_patterns])
def test_reference_over_60_percent_of_the_frame_does_not_run_away_where_it_is_missing(way):
    true_map = TrueMap(LARGE, angle_rad=0.002, distortion_pix=1.0, shift=(800.0, 0.0))
    transform = way(*views(true_map, 1500), true_map)
    assert true_error_pix(transform, true_map) < 0.01
    corner_x, corner_y = np.array([0.0, 0.0, 1999.0, 1999.0]), np.array([0.0, 1127.0, 0.0, 1127.0])
    np.testing.assert_allclose(
        transform.apply(corner_x, corner_y), true_map(corner_x, corner_y), rtol=0, atol=1.0
    )


def test_a_reference_much_larger_and_deeper_than_the_frame(common):
    """Its 60 brightest stars lie mostly outside the frame."""
    true_map, a, b = common
    corner = (a.x_pix < 1000) & (a.y_pix < 564)
    part = a.select(corner)
    transform = register(part, None, (564, 1000), b, None)
    assert true_error_pix(transform, true_map, where=lambda x, y: (x < 1000) & (y < 564)) < 0.03


def test_another_field_is_refused_with_what_was_measured():
    true_map = TrueMap(SMALL)
    a, _ = views(true_map, 45, seed=1, margin=20)
    _, b = views(true_map, 45, seed=2, margin=20)
    with pytest.raises(InputError, match=r"(residual is \d.\d\d px rms over \d+ of \d+ stars|in common)"):
        by_wcs(a, b, true_map)
    with pytest.raises(InputError, match=r"star pattern|in common|residual is"):
        by_patterns(a, b, true_map)


def test_frames_apart_on_the_sky_are_refused():
    a, b = views(TrueMap(SMALL), 200, margin=20)
    science = tangent_wcs((150, 128))
    science.wcs.crval = [10.0, -40.0]
    science.wcs.set()
    elsewhere = b.select(b.x_pix < 150)  # another pattern too
    elsewhere = replace(elsewhere, x_pix=elsewhere.y_pix, y_pix=elsewhere.x_pix)
    with pytest.raises(InputError, match=r"by WCS: .*overlap.*; by star patterns: "):
        register(a, science, SMALL, elsewhere.select(np.arange(12)), tangent_wcs((150, 128)))


def test_stars_that_scatter_are_refused_with_the_residual(common):
    """A focus failure, say: the right pairs, but centroids that are half a pixel off."""
    true_map, a, b = common
    rng = np.random.default_rng(1)
    scattered = replace(
        b, x_pix=b.x_pix + rng.normal(0, 0.5, len(b)), y_pix=b.y_pix + rng.normal(0, 0.5, len(b))
    )
    with pytest.raises(
        InputError,
        match=rf"registration residual is 0\.[45]\d px rms over \d+ of \d+ stars, allowed {MAX_RMS_PIX}",
    ):
        by_wcs(a, scattered, true_map)


def test_noise_and_a_handful_of_stars_are_refused_honestly():
    _, b = views(TrueMap(SMALL), 90, margin=20)
    noise = sources_in(np.zeros(SMALL), seed=3)
    with pytest.raises(InputError, match=r"only 0 stars found on it; registration needs 5, better 20"):
        register(noise, None, SMALL, b, None)
    four = b.select(np.arange(4))
    with pytest.raises(InputError, match=r"only 4 stars found on it"):
        register(four, tangent_wcs((150, 128)), SMALL, b, tangent_wcs((150, 128)))
    with pytest.raises(InputError, match=r"only 4 stars found on the reference"):
        register(b, None, SMALL, four, None)


def test_frames_read_from_files_register_by_patterns(tmp_path):
    field = make_field(n_stars=80)
    a = frame_of(tmp_path, draw_field(field), "a.fits")
    b = frame_of(tmp_path, draw_field(field, shift=(17.3, -9.6), seed=9), "b.fits")
    transform = register(sources_of(a), None, a.shape, sources_of(b), None)
    x, y = transform.apply(np.array([100.0]), np.array([150.0]))
    assert (x[0], y[0]) == (pytest.approx(117.3, abs=0.05), pytest.approx(140.4, abs=0.05))


def distorted(shape=SMALL):
    rng = np.random.default_rng(1)
    x, y = rng.uniform(0, shape[1], 80), rng.uniform(0, shape[0], 80)
    true_map = TrueMap(shape, angle_rad=0.02, distortion_pix=2.0, shift=(12.0, -7.0))
    return fit_transform(x, y, *true_map(x, y), shape, 3)


def test_inverse_undoes_the_map():
    transform = distorted()
    x, y = np.array([3.0, 290.0, 0.0]), np.array([250.0, 10.0, 0.0])
    np.testing.assert_allclose(transform.invert(*transform.apply(x, y)), [x, y], atol=1e-8)


def test_inverse_far_outside_is_unknown_not_wrong():
    far, _ = distorted().invert(np.array([1e5, 150.0]), np.array([0.0, 100.0]))
    assert np.isnan(far[0])
    assert np.isfinite(far[1])


def test_grid_equals_positions_one_by_one():
    transform = distorted()
    columns, rows = np.arange(10, 300, 37), np.arange(0, 256, 51)
    x, y, area = transform.apply_grid(columns, rows)
    all_x, all_y = (a.astype(float) for a in np.meshgrid(columns, rows))
    np.testing.assert_allclose([x, y], transform.apply(all_x, all_y), rtol=0, atol=1e-9)
    numeric = np.abs(np.linalg.det(transform.jacobian(all_x.ravel(), all_y.ravel()))).reshape(area.shape)
    np.testing.assert_allclose(area, numeric, rtol=1e-5)
    assert np.ptp(area) > 0.01  # the distortion is there


def test_a_start_keeps_its_distortion_where_few_stars_correct_it():
    start = distorted()
    x, y = np.array([20.0, 280.0, 150.0]), np.array([30.0, 60.0, 240.0])
    to_x, to_y = start.apply(x, y)
    shifted = fit_transform(x, y, to_x + 0.5, to_y - 0.25, SMALL, 0, start=start)
    assert isinstance(shifted, Transform)
    np.testing.assert_allclose(shifted.x_coefficients - start.x_coefficients, [0.5] + [0] * 9, atol=1e-12)
    np.testing.assert_allclose(shifted.y_coefficients - start.y_coefficients, [-0.25] + [0] * 9, atol=1e-12)
