"""Stars that are not found have stamps: by mask, core and noise, showing no star, apart from all others."""

from itertools import combinations

import numpy as np
import pytest
from _survey_scene import GAIN, draw, expose, reference_light, scene, write_reference, write_science

from rbsim import run, schema
from rbsim.config import InjectConfig
from rbsim.describe import describe_store, describe_text
from rbsim.errors import InputError
from rbsim.schema import CANDIDATE_FLAG, INJECTION_FLAG, KIND_CODES, STAMP_SIZE_PIX
from rbsim.stamps import choose_apart

SHAPE = (420, 440)
MASK = (slice(60, 150), slice(90, 180))
CORE_XY, CORE_RADIUS = (310.0, 300.0), 45.0
FULL_ADU = 40_000.0
CONFIG = InjectConfig(
    stars_per_frame=40,
    realisations=6,
    near_galaxy=0.0,
    tile_pix=100,
    blind_share=0.7,
    saturation_adu=FULL_ADU,
)


@pytest.fixture(scope="module")
def frames(tmp_path_factory):
    """A frame with a masked square and a star whose saturated core is wide, and its reference."""
    folder = tmp_path_factory.mktemp("lost")
    field = scene(500, shape=SHAPE, flux=(400, 60_000))
    reference = expose(reference_light(field, shape=SHAPE), seed=5, gain=50.0)
    image = expose(draw(field, shape=SHAPE), seed=6, gain=GAIN)
    y, x = np.mgrid[: SHAPE[0], : SHAPE[1]]
    image[np.hypot(x - CORE_XY[0], y - CORE_XY[1]) < CORE_RADIUS] = FULL_ADU
    image[MASK] = np.nan
    return write_science(folder / "a.fits", image), write_reference(folder / "r.fits", reference)


def inject(frames, out, **changes):
    science, reference = frames
    return run.run_injection([str(science)], reference, out, InjectConfig(**(vars(CONFIG) | changes)))


@pytest.fixture(scope="module")
def store(frames, tmp_path_factory):
    return inject(frames, tmp_path_factory.mktemp("s") / "s.zarr")


def lost_of(store):
    """Rows of the lost stamps, their reasons, and their rows in the truth."""
    rows = np.flatnonzero(store.column("kind") == KIND_CODES["injected_lost"])
    reason = np.array(schema.LOST_REASONS)[schema.lost_reason(store.column("flags")[rows])]
    ids = store.column("truth/injection_id")
    order = np.argsort(ids)
    truth = order[np.searchsorted(ids[order], store.column("injection_id")[rows])]
    np.testing.assert_array_equal(ids[truth], store.column("injection_id")[rows])
    return rows, reason, truth


def test_all_three_reasons_are_there_and_right(store):
    rows, reason, truth = lost_of(store)
    x, y = store.column("x_pix")[rows], store.column("y_pix")[rows]
    np.testing.assert_array_equal(x, store.column("truth/x_pix")[truth])
    np.testing.assert_array_equal(y, store.column("truth/y_pix")[truth])
    assert all(np.count_nonzero(reason == name) >= 3 for name in schema.LOST_REASONS)
    column, line = np.rint(x).astype(int), np.rint(y).astype(int)
    in_square = np.zeros(SHAPE, bool)
    in_square[MASK] = True
    in_square = in_square[line, column]
    from_core = np.hypot(x - CORE_XY[0], y - CORE_XY[1])
    masked = reason == "mask"
    # A few pixels at the border of the frame have no reference.
    near_border = np.minimum.reduce([x, y, SHAPE[1] - 1 - x, SHAPE[0] - 1 - y]) < 12
    assert masked[in_square].all()
    assert (in_square | near_border | (from_core < CORE_RADIUS + 12))[masked].all()
    assert (from_core[reason == "core"] < CORE_RADIUS + 5).all()
    assert (from_core[reason == "noise"] > CORE_RADIUS).all()
    flag = store.column("truth/injection_flag")[truth]
    np.testing.assert_array_equal(masked, (flag & INJECTION_FLAG["ON_MASK"]) != 0)
    np.testing.assert_array_equal(store.column("truth/injected")[truth], ~masked)


def test_lost_stamps_are_no_detections_and_no_labels(store):
    rows, _, truth = lost_of(store)
    assert not store.column("truth/detected")[truth].any()
    assert (store.column("truth/stamp")[truth] == -1).all()
    assert (store.column("truth/kind")[truth] == KIND_CODES["injected_random"]).all()
    assert (store.column("label_true")[rows] == schema.LABEL_BOGUS).all()
    assert (store.column("label_true_source")[rows] == schema.LABEL_SOURCES["injected"]).all()
    assert (store.column("label_given")[rows] == schema.LABEL_EXCLUDED).all()
    facts = describe_store(store)
    assert facts["n_lost"] == len(rows) == sum(facts["lost"].values())
    kind = store.column("kind")
    assert facts["n_bogus"] == np.count_nonzero(kind == KIND_CODES["detection"])
    assert facts["n_stamps"] == facts["n_real"] + facts["n_bogus"] + facts["n_excluded"] + facts["n_lost"]
    assert store.column("frames/n_bogus").sum() == facts["n_bogus"]
    assert "below the noise" in dict(describe_text(facts))["stamps of lost stars"]


def test_lost_stamps_show_no_star(store):
    """Faint stars lie below the threshold on average; on masks and in cores there is nothing of the star."""
    rows, reason, truth = lost_of(store)
    snr, asked = store.column("snr")[rows], store.column("truth/snr")[truth]
    noise = reason == "noise"
    assert np.abs(snr[noise]).max() < CONFIG.threshold_snr
    assert np.median(asked[noise]) < CONFIG.threshold_snr
    # They are no detections of noise either: the S/N at their places is that of their light.
    assert np.median((snr - asked)[noise]) == pytest.approx(0, abs=0.6)
    stamps = store.read_stamps(rows)
    middle = stamps[:, :, 14, 14]
    assert np.isnan(middle[reason == "mask", schema.CHANNELS.index("difference")]).all()
    assert asked[reason == "mask"].max() > 10
    bright = (reason == "core") & (asked > 10)
    assert bright.any()
    assert np.abs(snr[bright] - asked[bright]).min() > 5


def test_no_two_stamps_of_a_realisation_share_pixels(store):
    x0, y0, realisation = (store.column(name) for name in ("x0_pix", "y0_pix", "realisation"))
    for number in range(CONFIG.realisations):
        for a, b in combinations(np.flatnonzero(realisation == number), 2):
            assert max(abs(x0[a] - x0[b]), abs(y0[a] - y0[b])) >= STAMP_SIZE_PIX


def test_blind_stars_are_the_share_asked_for_and_the_others_look(store, frames, tmp_path):
    plain = inject(frames, tmp_path / "p.zarr", blind_share=0.0)
    snr, star = plain.column("truth/snr"), plain.column("truth/injection_id") >= 0
    assert snr[star].min() >= CONFIG.snr_min
    assert not (plain.column("truth/injection_flag")[star] & INJECTION_FLAG["ON_MASK"]).any()
    asked = store.column("truth/snr")[store.column("truth/injection_id") >= 0]
    # Log-uniform from 1: the share below 5 is log 5 / log 100 of the blind.
    assert np.mean(asked < 5) == pytest.approx(0.7 * np.log(5) / np.log(100), abs=0.1)


def test_blind_stars_fall_on_masks_as_often_as_masks_cover_the_frame(frames, tmp_path):
    """Also where the frame is so full that most of the room left is masked."""
    store = inject(frames, tmp_path / "c.zarr", stars_per_frame=100, blind_share=0.3)
    star = np.flatnonzero(store.column("truth/injection_id") >= 0)
    x, y = store.column("truth/x_pix")[star], store.column("truth/y_pix")[star]
    in_square = (np.abs(x - 134.5) < 45) & (np.abs(y - 104.5) < 45)
    n_blind = 30 * CONFIG.realisations
    # Those that look do not go there.
    assert in_square.sum() / n_blind == pytest.approx(90**2 / (SHAPE[0] * SHAPE[1]), abs=0.03)


def test_two_that_overlap_leave_one_and_detected_ones_come_first():
    kept = choose_apart(
        np.array([50.0, 60.0, 200.0]),
        np.array([50.0, 50.0, 50.0]),
        first=np.zeros(3, bool),
        rng=np.random.default_rng(1),
        taken=np.array([[210.0, 60.0]]),
    )
    assert len(kept) == 1
    assert kept[0] in (0, 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"blind_share": 1.5}, "blind-share is 1.5; allowed: a fraction from 0 to 1"),
        ({"blind_share": 0.1, "blind_snr_min": 200.0}, "blind-snr-min is 200.0; allowed: positive, at most"),
        ({"blind_snr_min": 0.0}, "blind-snr-min is 0.0"),
    ],
)
def test_unusable_settings_are_refused(change, message):
    with pytest.raises(InputError, match=message):
        InjectConfig(**change)


def test_a_catalogue_has_no_blind_stars_and_its_stars_on_masks_are_lost(frames, tmp_path):
    path = tmp_path / "c.csv"
    path.write_text("x,y,mag\n" + "".join(f"{x},{y},14\n" for x, y in ((92, 62), (100, 62), (250, 100))))
    science, reference = frames
    blind = InjectConfig(blind_share=0.7)
    with pytest.raises(InputError, match=r"blind-share is 0\.7, but a catalogue says itself"):
        run.run_injection([str(science)], reference, tmp_path / "a.zarr", blind, catalogue_path=path)
    config = InjectConfig(tile_pix=100, saturation_adu=FULL_ADU)
    store = run.run_injection([str(science)], reference, tmp_path / "b.zarr", config, catalogue_path=path)
    # Two of its rows are on the mask, one stamp apart they are not.
    rows, reason, _ = lost_of(store)
    assert reason.tolist() == ["mask"]
    assert np.count_nonzero(store.column("flags")[rows] & np.uint32(CANDIDATE_FLAG["ON_MASK"])) == 1
    path.write_text("x,y,mag,kind\n250,100,14,injected_lost\n")
    store = run.run_injection([str(science)], reference, tmp_path / "c.zarr", config, catalogue_path=path)
    assert store.column("truth/injection_flag")[0] & INJECTION_FLAG["TYPE_UNKNOWN"]
