"""What is real light in an emulated Tomo-e night is labelled so: trails piece by piece, and in cubes too."""

import dataclasses
import re

import numpy as np
import pytest
from _tomoe_night import DARK, changed, small_night, without_artefacts
from astropy.table import Table

from rbsim.config import InjectConfig
from rbsim.detect import Detections
from rbsim.emulate.tomoe import exposure
from rbsim.emulate.tomoe.exposure import emulate_exposure
from rbsim.emulate.tomoe.night import NightPlan, emulate_tomoe_night
from rbsim.emulate.tomoe.scene import Flash, Layer, Row
from rbsim.emulate.tomoe.sensor_night import Visit
from rbsim.errors import InputError
from rbsim.inputs import find_frames, gather_inputs
from rbsim.judge import on_trail
from rbsim.run import run_injection
from rbsim.schema import ARTEFACTS, KIND_CODES
from rbsim.tomoe.sensors import find_sensors
from rbsim.true_transients import TrueTransients, by_frame, frame_of, read_truth

SHAPE = (500, 700)
CONFIG = InjectConfig(stars_per_frame=4, realisations=1, kernel_order=1)
TRAIL = next(kind.code for kind in ARTEFACTS if kind.name == "moving_object")


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """One exposure of a part of a sensor, as stack and cube, with several bright trails of 25 to 40 px."""
    bright = {"bright_mag": 13.5, "faint_mag": 14.5, "speed_low_arcsec_per_s": 3.5}
    bright |= {"speed_high_arcsec_per_s": 5.5}
    load = exposure.artefacts.load_artefacts

    def load_bright(rates):
        some = load(rates)
        return dataclasses.replace(some, moving_object=dataclasses.replace(some.moving_object, **bright))

    # Against stars of one colour a kernel of this little field is easily found.
    settings = changed(DARK, condition={"artefact_rates": {"moving_object": 6e3}}, sky={"colour_slope": 0.0})
    plan = NightPlan(
        settings, find_sensors([111]), n_exposures=1, n_epochs=0, seed=1, with_cubes=True, shape=SHAPE
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exposure.artefacts, "load_artefacts", load_bright)
        return emulate_tomoe_night(tmp_path_factory.mktemp("truth") / "night", plan).path


@pytest.fixture(scope="module")
def stores(night, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stores")
    return {
        name: run_injection(
            find_frames([night / name]),
            night / "ps1",
            folder / f"{name}.zarr",
            CONFIG,
            truth_path=night / "truth.ecsv",
        )
        for name in ("science", "cubes")
    }


def trails_of(night):
    table = Table.read(night / "truth.ecsv")
    return table[table["kind"] == "near_earth_object"]


def test_trails_are_in_the_truth_and_among_the_artefacts(night):
    trails, artefacts = trails_of(night), Table.read(night / "artefacts.ecsv")
    artefacts = artefacts[artefacts["class"] == "moving_object"]
    assert len(trails) == len(artefacts) >= 2
    for name, other in (
        ("x_pix", "x_pix"),
        ("y_pix", "y_pix"),
        ("flux_e", "strength"),
        ("trail_length_pix", "length_pix"),
        ("trail_angle_deg", "angle_deg"),
    ):
        np.testing.assert_allclose(trails[name], artefacts[other])
    assert np.all(trails["trail_length_pix"] < 5.5 / 1.189 * 8.6)
    assert np.all(trails["mag"] > 13.4)
    points = Table.read(night / "truth.ecsv")
    points = points[points["kind"] != "near_earth_object"]
    assert len(points)
    assert np.all(points["trail_length_pix"] == 0)
    assert len(set(Table.read(night / "truth.ecsv")["transient_id"])) == len(points) + len(trails)


@pytest.mark.parametrize("name", ["science", "cubes"])
def test_every_piece_of_a_trail_is_real_and_keeps_its_cause(night, stores, name):
    store = stores[name]
    kind, cause, x, y = (store.column(column) for column in ("kind", "cause", "x_pix", "y_pix"))
    fwhm = float(np.median(store.column("fwhm_pix")))
    pieces = 0
    for trail in trails_of(night):
        angle = np.radians(trail["trail_angle_deg"])
        dx, dy = x - trail["x_pix"], y - trail["y_pix"]
        along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
        on = (np.abs(across) < 0.5 * fwhm) & (np.abs(along) < trail["trail_length_pix"] / 2)
        on &= kind != KIND_CODES["injected_random"]
        assert set(kind[on]) <= {KIND_CODES["emulated_transient"]}
        assert set(cause[on]) <= {TRAIL}
        pieces += np.count_nonzero(on)
    # Of stamps that overlap one is kept, and what moves is clipped out of some frames of a cube.
    assert pieces >= {"science": 0.6, "cubes": 0.3}[name] * len(trails_of(night))
    assert store.column("frames/n_false_moving_object")[0] == 0
    assert np.all(store.column("label_true")[cause == TRAIL] == 1)


def test_files_of_one_exposure_are_one_frame():
    name = "TMQ1202301020086026211"
    files = [f"{letter}{name}.fits{end}" for letter in "sr" for end in ("", ".gz", ".fz")]
    assert {frame_of(file) for file in files} == {name}
    assert frame_of("rest.fits.gz") == frame_of("rest.fits") == "rest.fits"
    assert frame_of("rTMQ1202301020086026212.fits") != name


def test_the_cube_of_an_exposure_has_the_truth_of_its_stack(night, stores):
    truth = Table.read(night / "truth.ecsv")
    points = truth[(truth["snr_expected"] > 12) & (truth["trail_length_pix"] == 0)]
    assert len(points) >= 6
    for store in stores.values():
        real = store.column("kind") == KIND_CODES["emulated_transient"]
        x, y = store.column("x_pix")[real], store.column("y_pix")[real]
        distance = np.hypot(x[:, None] - np.array(points["x_pix"]), y[:, None] - np.array(points["y_pix"]))
        # Flares may be clipped away in a cube, and of stamps that overlap one is left out.
        assert np.mean(distance.min(axis=0) < 1) > 0.7
    with pytest.raises(InputError, match="knows frames by file name or FRAME_ID, and two frames share one"):
        gather_inputs(
            find_frames([night / "science", night / "cubes"]),
            night / "ps1",
            night.parent / "out.zarr",
            CONFIG,
            truth_path=night / "truth.ecsv",
            known_path=None,
        )


def test_frames_are_known_by_frame_id_or_name():
    stack, cube = "sTMQ1202301020086026211.fits", "rTMQ1202301020086026211.fits.fz"
    assert frame_of(stack) == frame_of(cube) == "TMQ1202301020086026211"
    assert frame_of("EXP001.fits") == "EXP001.fits"
    assert by_frame({stack: 1, "EXP001.fits": 2}) == {"TMQ1202301020086026211": 1, "EXP001.fits": 2}
    assert re.fullmatch(r"TMQ\d{19}", frame_of(cube))


def test_truth_tables_without_trails_have_points(tmp_path):
    Table({"frame": ["a", "b", "a"], "x_pix": [1, 2, 3], "y_pix": [4, 5, 6]}).write(tmp_path / "t.ecsv")
    truth = read_truth(tmp_path / "t.ecsv")
    np.testing.assert_array_equal(truth["a"].xy, [[1, 4], [3, 6]])
    assert not truth["a"].is_trail.any()
    assert len(TrueTransients.none().xy) == 0


def test_what_lies_along_a_trail_belongs_to_it_unless_it_is_negative():
    one = np.array([1.0])
    trail = TrueTransients(100 * one, 80 * one, 40 * one, 30 * one)
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    along, across = np.array([-19.0, 0.0, 19.0, 5.0, 24.0, 0.0]), np.array([1.0, -2.9, 0.0, 3.2, 0.0, 0.0])
    positive = np.array([True] * 5 + [False])
    none = np.zeros(6)
    found = Detections(
        100 + along * c - across * s, 80 + along * s + across * c, none, none, none, none, positive
    )
    expected = [True, True, True, False, False, False]
    assert on_trail(trail, found, reach_pix=3.0).tolist() == expected
    point = dataclasses.replace(trail, trail_length_pix=0 * one)
    assert not on_trail(point, found, reach_pix=3.0).any()


def test_the_expected_snr_of_a_trail_is_that_of_a_point_where_it_is_short_and_falls_with_its_length(
    monkeypatch,
):
    """A body that does not move has the row of a point; one of ten PSFs' length is as faint as its pieces."""
    without_artefacts(monkeypatch)
    made = {}
    trail_rows = exposure.trail_rows

    def record(view, layers, through, expected_e, *, exposure):
        made["view"], made["through"], made["expected_e"] = view, through, expected_e
        return trail_rows(view, layers, through, expected_e, exposure=exposure)

    monkeypatch.setattr(exposure, "trail_rows", record)
    emulate_exposure(small_night(DARK), Visit(0))
    view, x, y, flux = made["view"], 130.0, 90.0, 5000.0
    sky = np.full_like(made["expected_e"], np.median(made["expected_e"]))

    def snr(length_pix):
        steps = np.linspace(-0.5, 0.5, 201) * length_pix
        image = view.psf.draw(sky.shape, x + steps, np.full(201, y), np.full(201, flux / 201))
        row = Row("moving_object", x, y, flux, length_pix=length_pix, angle_deg=0.0)
        (found,) = trail_rows(
            view, [Layer((row,), flashes=(Flash(3, 0, 0, image),))], made["through"], sky, exposure=0
        )
        return found

    psf = view.psf.stamp(x, y, half_pix=12)
    variance = 17 * (sky[0, 0] + 4) + flux * psf
    assert snr(0.0)["snr_expected"] == pytest.approx(flux * np.sqrt(np.sum(psf**2 / variance)), rel=0.01)
    long = snr(40.0)
    # Sampled at the middle: a line of the PSF's profile across, flux / length high.
    across = psf.sum(axis=1)
    line = flux / 40 * np.sum(across[:, None] * psf) / np.sqrt(np.sum(psf**2) * 17 * (sky[0, 0] + 4))
    assert long["snr_expected"] == pytest.approx(line, rel=0.1)
    # Its position on the sky is where the header, corrected for its error, says.
    back = view.to_pix(np.array([long["ra_deg"]]), np.array([long["dec_deg"]]))
    np.testing.assert_allclose(np.ravel(back), (x, y), atol=0.01)
