"""Completeness of stores with known efficiency: points, bins, what is left out, groups, files, errors."""

import json
import shutil

import numpy as np
import pytest
from _completeness_store import CONFIG, joined, truth_of, write_store
from astropy.table import Table
from scipy.special import ndtri
from scipy.stats import poisson
from test_cli import error_of, invoke

from rbsim import schema
from rbsim.completeness import LEFT_OUT, measure_completeness
from rbsim.completeness_plot import _choose
from rbsim.completeness_report import write_completeness
from rbsim.convert.rows import no_truth, store_config
from rbsim.errors import InputError
from rbsim.false_positives import measure_false_positives
from rbsim.store_groups import ALL_SENSORS, find_stores


def curve(result, *, variable="snr_expected", place="all", sensor=ALL_SENSORS, condition="clear"):
    (found,) = [
        c
        for c in result.curves
        if (c.variable, c.place, c.group.sensor, c.group.condition) == (variable, place, sensor, condition)
    ]
    return found


def rows(table, **wanted):
    return [row for row in table if wanted.items() <= row.items()]


@pytest.fixture(scope="module")
def frames():
    """Two frames of sensor 1 and two of sensor 2, whose efficiency is shifted by 1."""
    rng = np.random.default_rng(1)
    return [
        {"truth": truth_of(2500, rng=rng, midpoint=5.0 + (sensor == 2), asymptote=0.97), "sensor": sensor}
        for sensor in (1, 1, 2, 2)
    ]


@pytest.fixture(scope="module")
def store(frames, tmp_path_factory):
    """Path of the store of these frames; treat it as read-only."""
    return write_store(tmp_path_factory.mktemp("completeness") / "a.zarr", frames).path


@pytest.fixture(scope="module")
def result(store):
    return measure_completeness(find_stores(store))


def test_known_points_are_recovered_per_sensor_and_pooled(result):
    for sensor, midpoint in ((1, 5.0), (2, 6.0)):
        half, most = curve(result, sensor=sensor).efficiency.points
        assert half.value == pytest.approx(midpoint + ndtri(0.5 / 0.97), abs=0.12)
        assert most.value == pytest.approx(midpoint + ndtri(0.9 / 0.97), abs=0.25)
        mag = curve(result, sensor=sensor, variable="mag").efficiency.points[0]
        assert mag.value == pytest.approx(25 - 2.5 * np.log10(20 * half.value), abs=0.03)
    pooled = curve(result).efficiency.points[0]
    assert 5.2 < pooled.value < 5.9
    assert curve(result).counts["n"] == 10_000
    assert not result.warnings


def test_bins_hold_every_star_once_with_the_fraction_of_the_model(result):
    for sensor, n in ((1, 5000), (2, 5000), (ALL_SENSORS, 10_000)):
        for variable in ("snr", "snr_expected", "mag"):
            bins = rows(result.fractions, sensor=sensor, variable=variable, place="all")
            assert sum(b["n"] for b in bins) == n
            low, high = (np.array([b[key] for b in bins]) for key in ("low", "high"))
            assert (low[1:] >= high[:-1] - 1e-9).all()
            assert all(b["fraction"] == b["n_detected"] / b["n"] for b in bins)
            assert all(b["fraction_low"] <= b["fraction_low_68"] for b in bins)
            assert all(b["fraction_high"] >= b["fraction_high_68"] for b in bins)
    (at_threshold,) = [
        b
        for b in rows(result.fractions, sensor=1, variable="snr_expected", place="all")
        if b["low"] <= 5.0 < b["high"]
    ]
    assert at_threshold["high"] / at_threshold["low"] == pytest.approx(10**0.04)
    assert at_threshold["fraction"] == pytest.approx(0.97 * 0.5, abs=0.15)


def test_hosts_have_their_own_bins_and_places_add_up(result):
    n = {
        place: sum(b["n"] for b in rows(result.fractions, sensor=1, variable="snr", place=place))
        for place in ("all", "away_from_hosts", "near_hosts")
    }
    assert n["all"] == n["away_from_hosts"] + n["near_hosts"]
    for variable in (
        "host_offset_pix",
        "host_offset_radii",
        "host_sb_mag_per_pix2",
        "host_sb_mag_per_arcsec2",
    ):
        bins = rows(result.fractions, sensor=1, variable=variable)
        assert sum(b["n"] for b in bins if b["place"] == "near_hosts") == n["near_hosts"]
        bright = [b for b in bins if b["place"] == "near_hosts_bright"]
        assert 0 < sum(b["n"] for b in bright) < n["near_hosts"]
        assert np.average([b["fraction"] for b in bright], weights=[b["n"] for b in bright]) > 0.93
        assert {b["place"] for b in bins} == {"near_hosts", "near_hosts_bright"}
    # 1.2 arcsec a pixel: 0.4 mag fainter per square pixel... so brighter by 5 log10(1.2) per arcsec2.
    per_pix2, per_arcsec2 = (
        rows(result.fractions, sensor=1, variable=f"host_sb_mag_per_{unit}", place="near_hosts")[0]["low"]
        for unit in ("pix2", "arcsec2")
    )
    assert per_arcsec2 - per_pix2 == pytest.approx(5 * np.log10(1.2), abs=0.5)


def test_intervals_of_bins_have_their_coverage(tmp_path):
    truth = truth_of(60_000, rng=np.random.default_rng(2), width=1e6)  # half are found, whatever the S/N
    found = measure_completeness([write_store(tmp_path / "a.zarr", [{"truth": truth}])])
    bins = rows(found.fractions, sensor=1, place="near_hosts") + rows(
        found.fractions, sensor=1, place="away_from_hosts", variable="snr"
    )
    for ends, level in (("", 0.95), ("_68", 0.6827)):
        inside = sum(b[f"fraction_low{ends}"] <= 0.5 <= b[f"fraction_high{ends}"] for b in bins)
        assert len(bins) > 60
        # The variables bin the same stars, so their bins are not independent: allow for a third of them.
        slack = 3.5 * np.sqrt(level * (1 - level) / (len(bins) / 3))
        assert abs(inside / len(bins) - level) < slack


def test_ambiguous_saturated_and_masked_are_left_out_and_counted(tmp_path):
    rng = np.random.default_rng(3)
    good = truth_of(4000, rng=rng)
    spoilt = truth_of(3000, rng=rng, midpoint=50, ambiguous=0.4, saturated=0.3, masked=0.2)
    odd = (spoilt["injection_flag"] != 0) | spoilt["ambiguous"]
    spoilt = {name: values[odd] for name, values in spoilt.items()}
    undrawn = {name: values[:10].copy() for name, values in good.items()}
    undrawn |= {
        "injection_flag": np.full(10, schema.INJECTION_FLAG["CROWDED"]),
        "injected": np.zeros(10, bool),
    }
    caused = {name: values[:7].copy() for name, values in good.items()} | {"injection_id": np.full(7, -1)}
    clean, dirty = (
        measure_completeness([write_store(tmp_path / f"{i}.zarr", [{"truth": truth}])])
        for i, truth in enumerate((good, joined(good, spoilt, undrawn, caused)))
    )
    assert clean.fractions == dirty.fractions
    assert curve(clean).efficiency == curve(dirty).efficiency
    counts = curve(dirty).counts
    masked = (spoilt["injection_flag"] & schema.INJECTION_FLAG["ON_MASK"]) != 0
    saturated = ~masked & (spoilt["injection_flag"] != 0)
    assert counts["n"] == 4000
    assert (counts["n_not_drawn"], counts["n_on_mask"]) == (10, masked.sum())
    assert (counts["n_saturated"], counts["n_ambiguous"]) == (saturated.sum(), (~masked & ~saturated).sum())
    assert counts["n_asked"] == 4010 + odd.sum()
    assert counts["n_asked"] == counts["n"] + counts["n_unknown"] + sum(counts[f"n_{r}"] for r in LEFT_OUT)


def test_the_order_of_stars_and_frames_does_not_matter(frames, result, tmp_path):
    rng = np.random.default_rng(4)
    shuffled = []
    for i in (2, 0, 3, 1):
        order = rng.permutation(2500)
        shuffled.append(frames[i] | {"truth": {k: v[order] for k, v in frames[i]["truth"].items()}})
    other = measure_completeness([write_store(tmp_path / "a.zarr", shuffled)])
    assert other.fractions == result.fractions
    assert [c.efficiency for c in other.curves] == [c.efficiency for c in result.curves]
    assert other.false_positives == result.false_positives


def test_a_folder_is_the_union_of_its_stores_and_conditions_stay_apart(frames, result, tmp_path):
    write_store(tmp_path / "one.zarr", frames[:1])
    write_store(tmp_path / "two.zarr", frames[1:])
    (tmp_path / "notes.txt").write_text("not a store")
    union = measure_completeness(find_stores(tmp_path))
    assert union.n_stores == 2
    assert union.fractions == result.fractions
    short = [frames[0] | {"truth": {name: values[:300] for name, values in frames[0]["truth"].items()}}]
    config = CONFIG | {"reference_name": "deep"}
    clear, dark, strict = (
        write_store(tmp_path / f"{number}.zarr", short, config=config | change)
        for number, change in enumerate(({}, {"condition": "dark"}, {"threshold_snr": 7.0}))
    )
    apart = measure_completeness([clear, dark, strict])
    alone = [row | {"condition": "dark"} for row in measure_completeness([clear]).fractions]
    assert [row for row in apart.fractions if row["condition"] == "dark"] == alone
    assert {c.group.threshold_snr for c in apart.curves if c.group.condition == "clear"} == {5.0, 7.0}


@pytest.mark.parametrize("threshold_snr", [None, 0.0], ids=["now", "of earlier versions"])
def test_a_store_of_unknown_threshold_is_refused_alone_and_among_others(frames, tmp_path, threshold_snr):
    config = store_config("ZTF alerts", {"threshold_snr": threshold_snr})
    write_store(tmp_path / "known.zarr", frames[:1])
    write_store(tmp_path / "other.zarr", frames[1:2], config=config)
    write_store(tmp_path / "without_stars" / "s.zarr", [{"truth": no_truth()}], config=config)
    for path, name in (("other.zarr", "other"), (".", "other"), ("without_stars", "s")):
        words = rf"{name}.zarr: comes from ZTF alerts, its detection threshold is not known.*rbsim inject"
        with pytest.raises(InputError, match=words):
            measure_completeness(find_stores(tmp_path / path))
    with pytest.raises(InputError, match="threshold is not known"):
        measure_false_positives(find_stores(tmp_path / "without_stars"))


def test_points_outside_the_range_are_warned_of(tmp_path):
    """One sensor each: bright stars only, faint ones only, some never found, too few."""
    truths = (
        truth_of(2000, rng=np.random.default_rng(5), snr_range=(6, 20)),
        truth_of(2000, rng=np.random.default_rng(6), snr_range=(2.5, 4.9)),
        truth_of(4000, rng=np.random.default_rng(6), asymptote=0.8),
        truth_of(5, rng=np.random.default_rng(1)),
    )
    frames = [{"truth": truth, "sensor": sensor} for sensor, truth in enumerate(truths, 1)]
    warnings = measure_completeness([write_store(tmp_path / "a.zarr", frames)]).warnings
    for words in (
        ("sensor 1: 50 % point not bracketed", "lower --snr-min"),
        ("sensor 2: 50 % point not bracketed", "higher --snr-max"),
        ("sensor 3: 90 % point not bracketed", "(asymptote 0."),
        ("sensor 4", "5 usable stars, too few"),
    ):
        assert any(all(part in w for part in words) for w in warnings), words


def test_false_positives_are_per_usable_frame_with_poisson_intervals(tmp_path):
    truth = truth_of(100, rng=np.random.default_rng(7))
    counts = {1: (3, 5, 0, 4), 2: (10, 12)}
    store = write_store(
        tmp_path / "a.zarr",
        [
            {"truth": truth, "sensor": sensor, "n_bogus": min(n, 2), "n_detections": n}
            for sensor, numbers in counts.items()
            for n in numbers
        ],
    )
    table = measure_false_positives([store])
    for sensor, numbers in (*counts.items(), (ALL_SENSORS, counts[1] + counts[2])):
        (row,) = rows(table, sensor=sensor, cause="all")
        assert (row["n"], row["n_frames"], row["truth"]) == (sum(numbers), len(numbers), "emulator")
        assert row["per_frame"] == pytest.approx(np.mean(numbers))
        assert row["frame_scatter"] == pytest.approx(np.std(numbers, ddof=1))
        # Garwood: the mean at which so few, or so many, have a probability of 2.5 %.
        high, low = row["per_frame_high"] * row["n_frames"], row["per_frame_low"] * row["n_frames"]
        assert poisson.cdf(row["n"], high) == pytest.approx(0.025, abs=1e-4)
        assert poisson.sf(row["n"] - 1, low) == pytest.approx(0.025, abs=1e-4)
        (unknown,) = rows(table, sensor=sensor, cause="unknown")
        assert unknown | {"cause": "all"} == row


def test_false_positives_have_their_class_where_the_store_knows_it(tmp_path, monkeypatch):
    names = {spec.name for spec in schema.FRAME_COLUMNS}
    classes = [f"n_false_{name}" for name in ("dipole", "hot_pixel", "unexplained")]
    more = tuple(schema.ArraySpec(name, "int32", "", "") for name in classes if name not in names)
    monkeypatch.setattr(schema, "FRAME_COLUMNS", (*schema.FRAME_COLUMNS, *more))
    every = {spec.name: 0 for spec in schema.FRAME_COLUMNS if spec.name.startswith("n_false_")}
    truth = truth_of(100, rng=np.random.default_rng(8))
    frames = [
        {
            "truth": truth,
            "n_bogus": 2,
            "n_detections": 9,
            **every,
            "n_false_hot_pixel": 5,
            "n_false_dipole": 1,
        },
        {"truth": truth, "n_bogus": 2, "n_detections": 7, **every, "n_false_hot_pixel": 3},
    ]
    table = measure_false_positives([write_store(tmp_path / "a.zarr", frames)])
    found = {row["cause"]: row["n"] for row in rows(table, sensor=1) if row["n"]}
    assert found == {"hot_pixel": 8, "dipole": 1, "all": 9}
    (dipole,) = rows(table, sensor=1, cause="dipole")
    assert (dipole["per_frame"], dipole["n_frames"], dipole["truth"]) == (0.5, 2, "emulator")
    (none,) = rows(table, sensor=1, cause="unexplained")
    assert none["per_frame_low"] == 0 < none["per_frame_high"]
    # Another store of the group that knows no classes: its frames count, its detections are unknown.
    other = write_store(tmp_path / "b.zarr", [{"truth": truth, "n_detections": 6}])
    both = measure_false_positives(find_stores(tmp_path))
    assert {row["n_frames"] for row in both} == {3}
    found = {row["cause"]: row["n"] for row in rows(both, sensor=ALL_SENSORS) if row["n"]}
    assert found == {"hot_pixel": 8, "dipole": 1, "unknown": 6, "all": 15}
    assert other.n_stamps == 3


def test_real_frames_are_assumed_bogus_and_what_is_real_is_none(tmp_path):
    truth = truth_of(100, rng=np.random.default_rng(9))
    frames = [
        {"truth": truth, "n_bogus": 4, "kind": "detection"},
        {"truth": truth, "n_bogus": 5, "n_detections": 8, "kind": "emulated_transient"},
    ]
    (row,) = rows(measure_false_positives([write_store(tmp_path / "a.zarr", frames)]), sensor=1, cause="all")
    assert (row["n"], row["truth"]) == (4 + 3, "assumed")


def test_files_say_what_was_measured(store, result, tmp_path):
    facts = write_completeness(store, tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [
        "completeness.ecsv",
        "completeness.png",
        "false_positives.ecsv",
        "points.ecsv",
    ]
    table = Table.read(tmp_path / "out" / "completeness.ecsv")
    wanted = "sensor condition reference variable low high n n_detected fraction fraction_low fraction_high"
    assert set(wanted.split()) <= set(table.colnames)
    assert len(table) == len(result.fractions)
    np.testing.assert_allclose(
        table["fraction_high"], [r["fraction_high"] for r in result.fractions], rtol=1e-6
    )
    points = Table.read(tmp_path / "out" / "points.ecsv")
    assert len(points) == len(result.curves) == len(facts["groups"])
    at = (points["sensor"] == 1) & (points["variable"] == "snr_expected") & (points["place"] == "all")
    assert points["p50"][at][0] == pytest.approx(curve(result, sensor=1).efficiency.points[0].value, rel=1e-6)
    json.dumps(facts, allow_nan=False)
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        write_completeness(store, tmp_path / "out")
    write_completeness(store, tmp_path / "out", overwrite=True)
    (tmp_path / "mine").mkdir()
    with pytest.raises(InputError, match=r"no completeness.ecsv\) and is not replaced"):
        write_completeness(store, tmp_path / "mine", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        write_completeness(store, tmp_path / "file" / "out")


def test_of_many_sensors_the_figure_shows_the_total_and_the_extremes(tmp_path):
    rng = np.random.default_rng(10)
    midpoints = rng.uniform(4.5, 6.5, 6)
    frames = [
        {"truth": truth_of(300, rng=rng, midpoint=m), "sensor": i, "n_bogus": 1}
        for i, m in enumerate(midpoints)
    ]
    found = measure_completeness([write_store(tmp_path / "a.zarr", frames)])
    limits = {
        c.group.sensor: c.efficiency.points[0].value
        for c in found.curves
        if (c.variable, c.place) == ("mag", "all") and c.group.sensor >= 0
    }
    assert len(limits) == 6
    shown = [one.group.sensor for one in _choose(found)]
    assert shown[0] == ALL_SENSORS
    assert set(shown[1:]) == {min(limits, key=limits.get), max(limits, key=limits.get)}


def test_what_cannot_be_measured_is_refused(frames, store, tmp_path):
    with pytest.raises(InputError, match="no such store"):
        find_stores(tmp_path / "none.zarr")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=r"empty: folder holds no store \(\*\.zarr\)"):
        find_stores(tmp_path / "empty")
    nothing = {name: values[:0] for name, values in frames[0]["truth"].items()}
    with pytest.raises(InputError, match=r"a.zarr: no stars were injected; see rbsim info"):
        measure_completeness([write_store(tmp_path / "a.zarr", [{"truth": nothing}])])
    (tmp_path / "twice").mkdir()
    for name in ("a", "b"):
        shutil.copytree(store, tmp_path / "twice" / f"{name}.zarr")
    with pytest.raises(InputError, match=r"b.zarr: is the same run as .*a.zarr; keep one"):
        find_stores(tmp_path / "twice")


def test_command_line_end_to_end(store, tmp_path):
    out = tmp_path / "out"
    shown = invoke("completeness", store, "--out", out)
    assert shown.exit_code == 0, shown.output
    lines = shown.stdout.splitlines()
    assert len(lines) == 4  # all sensors, two sensors, where it was written
    assert "clear, stack, sensor 2" in shown.stdout
    assert "50 % at S/N" in lines[0]
    assert "exists already" in error_of(invoke("completeness", store, "--out", out))
    facts = json.loads(invoke("completeness", store, "--out", out, "--overwrite", "--json").stdout)
    (row,) = rows(facts["groups"], sensor=1, place="all", variable="snr_expected")
    assert 4.5 < row["p50_low"] < row["p50"] < row["p50_high"] < 5.5
    assert row["n_asked"] == 5000
    assert {"cause", "per_frame", "per_frame_low"} <= set(facts["false_positives"][0])
    assert "no such store" in error_of(invoke("completeness", tmp_path / "no.zarr", "--out", tmp_path / "x"))
    old = shutil.copytree(store, tmp_path / "old.zarr")
    content = json.loads((old / "zarr.json").read_text())
    content["attributes"]["version"] = 1
    (old / "zarr.json").write_text(json.dumps(content))
    message = error_of(invoke("completeness", old, "--out", tmp_path / "x"))
    assert "has store version 1, this rbsim reads version" in message
    assert not (tmp_path / "x").exists()
    bright = tmp_path / "bright.zarr"
    truth = truth_of(2000, rng=np.random.default_rng(5), snr_range=(6, 20))
    write_store(bright, [{"truth": truth}])
    warned = invoke("completeness", bright, "--out", tmp_path / "y")
    assert warned.exit_code == 0
    assert "warning: clear, stack, sensor 1: 50 % point not bracketed" in warned.stderr
    assert "50 % at S/N unknown" in warned.stdout
