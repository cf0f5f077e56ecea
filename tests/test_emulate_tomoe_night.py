"""Emulated Tomo-e nights on disk: documented names and headers, complete truth, whole or not at all."""

import dataclasses
import json
import re

import numpy as np
import pytest
from _tomoe_night import DARK, SHAPE
from astropy.io import fits
from astropy.table import Table
from typer.testing import CliRunner

from cli import app
from rbsim.cause import read_artefacts
from rbsim.emulate.tomoe import night as night_module
from rbsim.emulate.tomoe.night import NightPlan, choose_sensors, emulate_tomoe_night
from rbsim.emulate.tomoe.products import field_name
from rbsim.emulate.tomoe.settings import load_tomoe_condition
from rbsim.errors import InputError
from rbsim.frame import read_wcs
from rbsim.references import read_cards
from rbsim.tomoe.sensors import find_sensors
from rbsim.true_transients import read_truth

PLAN = NightPlan(
    DARK, find_sensors([111, 332]), n_exposures=2, n_epochs=1, seed=7, with_cubes=True, shape=SHAPE
)

# From the published sample headers (docs/tomoe.md): keyword, and the value of an all-sky stack where
# it does not depend on the exposure.
STACK_CARDS = {
    "BITPIX": -32, "NAXIS": 2, "OBJECT": None, "EXPTIME": 8.498368, "TELAPSE": 9.50002, "EXPTIME1": 0.499904,
    "TFRAME": 0.5, "TRLSTEP": 0.001659, "TRLSTEP1": 0.00041475, "DATA-FPS": 2.0, "DATA-TYP": "OBJECT",
    "OBS-MOD": "Imaging", "FILTER": "BLANK", "PROJECT": "All-Sky Survey", "OBSERVER": None,
    "PIPELINE": "wcs,stack,neo", "DATE": None, "DATE-OBS": None, "TIME-OBS": None, "UTC": None,
    "UTC-EXP": None, "GPS-UP": None, "TIMESYS": "UTC", "RA": None, "DEC": None, "EXP_ID": None,
    "FRAME_ID": None, "FMTTYPE": "TOMOE-IMAGE-STACK", "GAINCNFG": "high",
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return emulate_tomoe_night(tmp_path_factory.mktemp("night") / "out", PLAN)


def bits(folder):
    return {
        path.relative_to(folder): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


def test_files_have_the_documented_names(made):
    names = sorted(path.name for path in (made.path / "science").iterdir())
    assert len(names) == 4
    for name in names:
        assert re.fullmatch(r"sTMQ[1-4]20230102\d{8}(11|32)\.fits", name)
    assert names[0].endswith("0086026211.fits")  # EXP_ID 860262, as in the published stack
    assert sorted(path.name[1:] for path in (made.path / "cubes").iterdir()) == [name[1:] for name in names]
    assert len(list((made.path / "epochs").iterdir())) == 2
    assert not {path.name for path in (made.path / "epochs").iterdir()} & set(names)


def test_headers_have_the_published_cards_and_the_traps(made):
    path = sorted((made.path / "science").iterdir())[0]
    header = fits.getheader(path)
    for keyword, value in STACK_CARDS.items():
        assert keyword in header, keyword
        if value is not None:
            assert header[keyword] == (pytest.approx(value) if isinstance(value, float) else value), keyword
    assert "NAXIS3" not in header
    assert re.fullmatch(r"J\d{4}\+\d{4}_dith1", header["OBJECT"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", header["DATE-OBS"])  # no time
    assert header["UTC"] == f"{header['DATE-OBS']}T{header['TIME-OBS']}"
    assert header["UTC-EXP"] < header["UTC"]
    assert header["FRAME_ID"] == path.stem[1:]
    assert header["DET_ID"] == 111
    sections = [line for line in str(header["COMMENT"]).splitlines() if "SECTION" in line]
    assert sections[0].startswith("'---------- OBSERVATION SECTION")
    with fits.open(path) as opened:
        opened.verify("exception")


def test_cubes_hold_the_frame_that_the_stack_lacks(made):
    name = sorted(path.name for path in (made.path / "science").iterdir())[0]
    stack, cube = (
        fits.getdata(made.path / "science" / name),
        fits.getdata(made.path / "cubes" / f"r{name[1:]}"),
    )
    assert cube.shape == (18, *SHAPE)
    np.testing.assert_allclose(stack, cube[1:].mean(axis=0), rtol=1e-5)
    header = fits.getheader(made.path / "cubes" / f"r{name[1:]}")
    assert header["FMTTYPE"] == "TOMOE-IMAGE-CUBE"
    assert header["EXPTIME"] == pytest.approx(18 * 0.499904)


def test_the_wcs_of_the_header_finds_the_stars(made):
    """The sky of the plan is drawn again; its brightest stars are where the header says, to its error."""
    sensor = PLAN.sensors[0]
    sky = night_module.make_sensor_night(DARK, sensor, seed=PLAN.seed, shape=SHAPE).sky
    path = next(p for p in sorted((made.path / "science").iterdir()) if p.name.endswith("11.fits"))
    # As rbsim reads it: DATE-OBS without a time makes wcslib talk.
    image, wcs = fits.getdata(path), read_wcs(fits.getheader(path), path)
    image = image - np.median(image)
    x, y = wcs.world_to_pixel_values(sky.stars.ra_deg, sky.stars.dec_deg)
    found = 0
    for i in np.argsort(sky.stars.mag):
        if sky.stars.mag[i] > 16.5 or not (10 < x[i] < SHAPE[1] - 10 and 10 < y[i] < SHAPE[0] - 10):
            continue
        row, column = round(float(y[i])), round(float(x[i]))
        box = image[row - 4 : row + 5, column - 4 : column + 5]
        peak = np.unravel_index(np.argmax(box), box.shape)
        assert np.hypot(peak[0] - 4, peak[1] - 4) < 2.5
        found += 1
    assert found >= 2


def test_tables_are_read_by_the_rest_of_rbsim(made):
    truth, artefacts = Table.read(made.path / "truth.ecsv"), Table.read(made.path / "artefacts.ecsv")
    science = {path.name for path in (made.path / "science").iterdir()}
    assert set(read_truth(made.path / "truth.ecsv")) <= science
    assert set(truth["kind"]) <= {"supernova", "dwarf_nova", "flare", "variable", "asteroid"}
    assert sum(made.n_transients.values()) == len(truth) > 0
    assert np.all(truth["snr_expected"] >= 2)
    assert truth.meta["seed"] == 7
    references = {path.name for path in (made.path / "ps1").iterdir()}
    assert set(read_artefacts(made.path / "artefacts.ecsv")) <= science | references
    assert sum(made.n_artefacts.values()) == len(artefacts) > 0
    assert "single_frame" in artefacts.colnames
    assert json.loads((made.path / "night.json").read_text())["sensors"] == [111, 332]


def test_references_are_of_the_field_and_sensor_of_the_frames(made):
    cards = read_cards(sorted((made.path / "ps1").iterdir()))
    science = fits.getheader(sorted((made.path / "science").iterdir())[0])
    assert {card.sensor for card in cards} == {111, 332}
    assert {card.field for card in cards} == {science["OBJECT"].partition("_")[0]}
    assert all(card.shape > SHAPE for card in cards)


def test_the_same_seed_gives_the_same_bits_however_the_work_is_divided(made, tmp_path):
    def backwards(function, shared, items, *, on_done, on_lost=None):  # noqa: ARG001
        for item in reversed(list(items)):
            on_done(function(shared, item))

    again = emulate_tomoe_night(tmp_path / "again", PLAN, run=backwards, n_workers=5)
    assert bits(again.path) == bits(made.path)
    other = emulate_tomoe_night(
        tmp_path / "other", dataclasses.replace(PLAN, seed=8, ps1="none", n_epochs=0, with_cubes=False)
    )
    name = sorted((made.path / "science").iterdir())[0].name
    assert (other.path / "science" / name).read_bytes() != (made.path / "science" / name).read_bytes()
    assert not (other.path / "ps1").exists()
    assert not (other.path / "epochs").exists()


def test_more_exposures_do_not_change_the_first_ones(made, tmp_path):
    plan = dataclasses.replace(PLAN, n_exposures=1, n_epochs=0, ps1="none", sensors=PLAN.sensors[:1])
    one = emulate_tomoe_night(tmp_path / "one", plan)
    (path,) = (one.path / "cubes").iterdir()
    assert path.read_bytes() == (made.path / "cubes" / path.name).read_bytes()


def test_a_night_that_fails_leaves_nothing(monkeypatch, tmp_path):
    def fail(*_args, **_kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(night_module, "write_image", fail)
    with pytest.raises(InputError, match="No space left on device"):
        emulate_tomoe_night(tmp_path / "out", PLAN)
    assert not list(tmp_path.iterdir())


def test_what_exists_is_kept_unless_it_is_a_night_to_be_replaced(made, tmp_path):
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        emulate_tomoe_night(made.path, PLAN)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match="is not an output of rbsim emulate"):
        emulate_tomoe_night(tmp_path / "mine", PLAN, overwrite=True)


def test_field_names_are_those_of_the_survey():
    # J0322+5925 of the published stack.
    assert field_name(15 * (3 + 22.5 / 60), 59 + 25.9 / 60) == "J0322+5925"
    assert field_name(359.999, -0.51) == "J2359-0030"


# sensors


def test_all_means_what_the_condition_is_about():
    assert len(choose_sensors("all", load_tomoe_condition("dark"))) == 84
    edge = choose_sensors("all", load_tomoe_condition("field-edge"))
    assert 0 < len(edge) < 84
    assert all(np.hypot(sensor.x_field_deg, sensor.y_field_deg) >= 3.5 for sensor in edge)
    assert [sensor.det_id for sensor in choose_sensors(" 112,111", load_tomoe_condition("dark"))] == [
        112,
        111,
    ]


@pytest.mark.parametrize(
    ("text", "condition", "message"),
    [
        ("111,999", "dark", "sensor 999 is not known; there are 111, 112"),
        ("111,east", "dark", "'east' is no number; give all, or some of 111, 112"),
        ("", "dark", "'' is no number"),
        ("111,111", "dark", "names one twice"),
        (
            "111",
            "field-edge",
            "sensor 111 is not in the part of the field that condition 'field-edge' is about",
        ),
    ],
)
def test_wrong_sensors_are_refused_with_those_there_are(text, condition, message):
    with pytest.raises(InputError, match=re.escape(message)):
        choose_sensors(text, load_tomoe_condition(condition))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_exposures": 0}, "exposures is 0; it must be at least 1"),
        ({"n_epochs": -1}, "epochs is -1; it must be at least 0"),
        ({"ps1": "sharp"}, "ps1 is 'sharp'; choose one of warped, skycells, none"),
    ],
)
def test_wrong_plans_are_refused(change, message):
    with pytest.raises(InputError, match=re.escape(message)):
        dataclasses.replace(PLAN, **change)


# command line


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--mode", "deep"], "mode 'deep' is not known; choose one of all-sky, high-cadence"),
        (["--mode", "all-sky", "--condition", "foggy"], "choose one of dark, bright-moon"),
        (["--mode", "all-sky", "--night", "demo"], "--night and --mode exclude each other"),
        (["--mode", "all-sky", "--sensors", "1"], "sensor 1 is not known"),
        (["--sensors", "111"], "are for a Tomo-e night"),
        (["--night", "tiny", "--cubes"], "are for a Tomo-e night"),
    ],
)
def test_wrong_options_end_with_one_line_and_nothing_written(tmp_path, options, message):
    result = CliRunner().invoke(app, ["emulate", "--out", str(tmp_path / "out"), *options])
    assert result.exit_code == 1
    assert message in " ".join(result.output.split())
    assert not list(tmp_path.iterdir())


def test_the_command_plans_what_its_options_say(tmp_path, monkeypatch):
    made_with = {}

    def record(out, plan, **_):
        made_with["plan"] = plan
        return night_module.TomoeSummary(out, 2, 0, 0, {}, {})

    monkeypatch.setattr(night_module, "emulate_tomoe_night", record)
    words = ["emulate", "--out", str(tmp_path / "n"), "--mode", "high-cadence", "--condition", "windy"]
    words += [
        "--sensors",
        "111,112",
        "--exposures",
        "2",
        "--epochs",
        "0",
        "--ps1",
        "none",
        "--cubes",
        "--seed",
        "4",
    ]
    result = CliRunner().invoke(app, [*words, "--json"])
    assert result.exit_code == 0, result.output
    plan = made_with["plan"]
    assert (plan.settings.mode.name, plan.settings.condition.name) == ("high-cadence", "windy")
    assert [sensor.det_id for sensor in plan.sensors] == [111, 112]
    assert (plan.n_exposures, plan.n_epochs, plan.ps1, plan.with_cubes, plan.seed) == (2, 0, "none", True, 4)
    assert json.loads(result.stdout)["mode"] == "high-cadence"
