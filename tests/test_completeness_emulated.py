"""The whole path on emulated frames: half of the stars away from hosts are found at the threshold."""

import numpy as np
import pytest

from rbsim import inputs, run
from rbsim.completeness import measure_completeness
from rbsim.config import InjectConfig
from rbsim.store_groups import ALL_SENSORS


@pytest.fixture(scope="module")
def store(tiny_night, tmp_path_factory):
    config = InjectConfig(
        stars_per_frame=60, realisations=20, near_galaxy=0.2, snr_min=2.5, snr_max=20, threshold_snr=5
    )
    return run.run_injection(
        inputs.find_frames([tiny_night / "science"]),
        tiny_night / "reference.fits",
        tmp_path_factory.mktemp("completeness") / "tiny.zarr",
        config,
        truth_path=tiny_night / "truth.ecsv",
    )


@pytest.mark.slow
def test_half_of_the_stars_away_from_hosts_are_found_at_the_threshold(store):
    result = measure_completeness([store])
    curves = {
        c.variable: c.efficiency
        for c in result.curves
        if (c.place, c.group.sensor) == ("away_from_hosts", ALL_SENSORS)
    }
    half = curves["snr_expected"].points[0]
    assert half.high - half.low < 0.25  # else the next line would prove little
    assert half.value == pytest.approx(5.0, abs=0.2)
    assert half.low < 5.2
    assert half.high > 4.8
    # The noise of a detection's S/N is 1, whatever the star.
    assert curves["snr_expected"].width == pytest.approx(1.0, abs=0.2)
    assert curves["snr_expected"].asymptote > 0.95


@pytest.mark.slow
def test_detections_have_the_expected_snr_on_average(store):
    stamp = store.column("truth/stamp")
    expected = store.column("truth/snr_expected")
    good = (stamp >= 0) & (expected > 9) & ~store.column("truth/ambiguous")
    good &= (store.column("truth/injection_flag") == 0) & np.isnan(store.column("truth/host_sb_mag_per_pix2"))
    measured = store.column("snr")[stamp[good]]
    assert good.sum() > 300
    assert np.median(measured - expected[good]) == pytest.approx(0, abs=0.4)
    before_noise = store.column("truth/snr")[good]
    # What the star's own photons cost: more than the tolerance above, so the test can tell them apart.
    assert np.median(before_noise - expected[good]) > 0.5


@pytest.mark.slow
def test_host_columns_are_there_for_stars_near_hosts(store):
    radius, offset = store.column("truth/host_radius_pix"), store.column("truth/host_offset_pix")
    near = np.isfinite(offset)
    assert near.any()
    np.testing.assert_array_equal(near, np.isfinite(radius))
    assert (offset[near] <= 2.5 * radius[near] * 1.000001).all()
    light = store.column("truth/host_sb_mag_per_pix2")
    close = near & (offset < 0.5 * radius)
    assert np.isfinite(light[close]).mean() > 0.8
    assert np.nanmedian(light[close]) < np.nanmedian(light[near & (offset > 1.5 * radius)])
    np.testing.assert_allclose(store.column("frames/pixel_scale_arcsec"), 1.189, rtol=1e-3)
