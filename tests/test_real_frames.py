"""Real telescope frames end to end; skipped where $RBSIM_REAL_FRAMES is not set."""

import numpy as np
import pytest

from rbsim import build, run
from rbsim.chain import subtract_frame
from rbsim.config import InjectConfig, SubtractConfig
from rbsim.describe import describe_store
from rbsim.frame import read_frame, with_gain
from rbsim.reference import load_reference, stack_reference

pytestmark = pytest.mark.real_frames


@pytest.fixture(scope="module")
def hatp32(real_frames):
    """Frames without WCS, gain, read noise or saturation in the header, drifting by more than 100 px."""
    return [str(path) for path in sorted((real_frames / "hatp32").glob("*.fits"))]


@pytest.fixture(scope="module")
def stacked(hatp32, tmp_path_factory):
    out = tmp_path_factory.mktemp("hatp32") / "ref.fits"
    return out, stack_reference(hatp32[:16], out, rng=np.random.default_rng(1))


@pytest.mark.slow
def test_stack_registers_all_frames_by_their_stars(stacked):
    _, summary = stacked
    assert summary.n_used == 16
    assert not summary.failed
    assert summary.coverage_max == 16


@pytest.mark.slow
def test_registered_stars_vanish_to_noise(stacked, hatp32):
    reference = load_reference(stacked[0])
    frame = read_frame(hatp32[24])
    assert frame.detector.saturation_adu == pytest.approx(4095, rel=0.01)
    frame = subtract_frame(with_gain(frame, 27.0, 2.0), reference, SubtractConfig())
    difference = frame.difference
    assert frame.transform.rms_pix < 0.1
    x, y = frame.transform.invert(reference.sources.x_pix, reference.sources.y_pix)
    flux = reference.sources.flux_adu * difference.flux_scale
    good = (
        (x > 40)
        & (x < 600)
        & (y > 60)
        & (y < 450)
        & ~reference.sources.saturated
        & (flux < 0.3 * np.max(flux))
    )
    before, after = [], []
    for cx, cy in zip(np.rint(x[good]).astype(int), np.rint(y[good]).astype(int), strict=True):
        box = (slice(cy - 3, cy + 4), slice(cx - 3, cx + 4))
        before.append(np.nansum(frame.science.image[box]))
        after.append(np.nansum(difference.image[box]))
    before, after = np.array(before), np.array(after)
    bright = before > 1000
    assert bright.sum() > 50
    assert np.median(np.abs(after[bright]) / before[bright]) < 0.01
    whitened = difference.image / np.sqrt(difference.variance)
    assert 1.4826 * np.nanmedian(np.abs(whitened)) == pytest.approx(1, abs=0.15)
    # Reference and frame are of one band: what is left of stars is hardly a multiple of them.
    quality = frame.quality
    assert 0.9 * quality.star_residual < quality.star_shape_residual <= quality.star_residual


@pytest.fixture(scope="module")
def gain_estimate(stacked, hatp32, tmp_path_factory):
    """What a run finds by photon transfer; it needs the whole night after the stack, but not its stores."""
    out, frames = tmp_path_factory.mktemp("gain") / "n.zarr", hatp32[16:]
    config = InjectConfig(stars_per_frame=5, realisations=1)
    run.run_injection(frames, stacked[0], out, config, share=build.Share(1, len(frames)))
    return build.read_plan(out)["summary"]["gain_estimate"]


@pytest.mark.slow
def test_a_run_finds_the_gain(gain_estimate):
    assert gain_estimate[0] == pytest.approx(28, rel=0.3)
    assert gain_estimate[1] < 9


@pytest.mark.slow
def test_store_of_real_frames(stacked, hatp32, gain_estimate, tmp_path, two_workers):
    """Every fourth frame of the night after the stack: 1,200 stars tell completeness to 1 %."""
    config = InjectConfig(stars_per_frame=150, realisations=1, gain_e_per_adu=gain_estimate[0])
    frames = hatp32[16::4]
    store = run.run_injection(frames, stacked[0], tmp_path / "n.zarr", config, parallel=two_workers)
    facts = describe_store(store)
    assert len(frames) == 8
    assert facts["n_frames_failed"] == 0
    assert facts["kinds"]["detection"] >= 60 * len(frames)
    assert facts["n_injected"] > 0.9 * 150 * len(frames)
    assert facts["n_detected"] > 0.8 * facts["n_injected"]
    assert facts["bogus_truth"] == "assumed"
    assert facts["median_registration_rms_pix"] < 0.1


@pytest.mark.parametrize("dither", "abc")
def test_two_epochs_with_wcs_and_few_stars(real_frames, tmp_path, dither):
    folder = real_frames / "decam"
    config = InjectConfig(stars_per_frame=30, realisations=2)
    store = run.run_injection(
        [str(folder / f"DEC-OBS18{dither}.fits")],
        folder / f"DEC-OBS04{dither}.fits",
        tmp_path / "d.zarr",
        config,
    )
    facts = describe_store(store)
    assert facts["n_frames_failed"] == 0, facts["failed"]
    assert facts["n_detected"] > 0.85 * facts["n_injected"] > 40
    assert facts["kinds"].get("injected_near_galaxy", 0) > 0
    assert facts["kinds"].get("detection", 0) < 10
    assert np.isfinite(store.column("ra_deg")).all()
    assert facts["median_gain_e_per_adu"] == pytest.approx(4.15, abs=0.01)
