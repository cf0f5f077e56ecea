"""Each frame finds the reference of its field and sensor; what is in memory is bounded and owned."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _star_field import draw_field, frame_of, make_field, write_frame
from _warped_fields import tangent_wcs

from rbsim import run
from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.reference import load_reference, stack_reference
from rbsim.references import ReferenceCache, find_reference, parse_references, read_cards
from rbsim.store import open_store


def image_of(sensor, *, seed=2, depth=1, shift=(0.0, 0.0)):
    field = make_field(n_stars=120, seed=sensor)
    bright = replace(field, flux_adu=field.flux_adu * depth)
    return draw_field(bright, sky_adu=200.0 * depth, seed=seed, shift=shift)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """References of two sensors of one field, and one of another field."""
    out = tmp_path_factory.mktemp("references")
    for name, sensor, field in (("a", 111, "J0322+5925"), ("b", 112, "J0322+5925"), ("c", 111, "J0000+0000")):
        write_frame(out / f"{name}.fits", image_of(sensor, depth=4), OBJECT=field, DET_ID=sensor)
    return out


@pytest.fixture(scope="module")
def cards(folder):
    return read_cards(sorted(folder.glob("*.fits")))


def test_field_and_sensor_choose_whatever_the_dither(cards, tmp_path):
    image = draw_field(make_field())
    for wanted, (field, sensor) in enumerate(
        [("J0322+5925_dith1", 111), ("J0322+5925_dith12", 112), ("J0000+0000", 111)]
    ):
        frame = frame_of(tmp_path, image, OBJECT=field, DET_ID=sensor)
        assert find_reference(cards, frame) == wanted


def test_one_reference_serves_all_and_several_name_what_there_is(cards, tmp_path):
    frame = frame_of(tmp_path, draw_field(make_field()), OBJECT="J1111+1111", DET_ID=113)
    assert find_reference(cards[:1], frame) == 0
    there = r"sensor 113; there are a\.fits \(field J0322\+5925, sensor 111\); b\.fits .*; give one with its"
    with pytest.raises(InputError, match=r"no reference for field J1111\+1111, " + there):
        find_reference(cards, frame)
    nameless = frame_of(tmp_path, draw_field(make_field()))
    with pytest.raises(InputError, match="no reference for field unknown, sensor unknown"):
        find_reference(cards, nameless)


def test_the_sky_decides_where_names_do_not(tmp_path):
    """Also against the name: a dither of the field that does not overlap is no use."""
    image = draw_field(make_field())
    paths = []
    for number, centre in enumerate([(150, 128), (400, 128), (5000, 128)]):
        header = tangent_wcs(centre).to_header()
        paths.append(
            write_frame(tmp_path / f"r{number}.fits", image, **header, OBJECT=f"F{number}", DET_ID=1)
        )
    cards = read_cards(paths)
    header = tangent_wcs((390, 120)).to_header()
    assert find_reference(cards, frame_of(tmp_path, image, **header)) == 1
    assert find_reference(cards, frame_of(tmp_path, image, **header, OBJECT="F2", DET_ID=1)) == 1
    assert find_reference(cards, frame_of(tmp_path, image, **header, OBJECT="F0", DET_ID=1)) == 0
    away = tangent_wcs((90_000, 128)).to_header()
    with pytest.raises(InputError, match="no reference for field F9"):
        find_reference(cards, frame_of(tmp_path, image, **away, OBJECT="F9", DET_ID=1))


def test_two_references_of_the_same_field_and_sensor_are_refused(folder, tmp_path):
    again = write_frame(tmp_path / "a2.fits", image_of(111), OBJECT="J0322+5925_dith2", DET_ID=111)
    with pytest.raises(InputError, match=r"a2\.fits: is of field J0322\+5925, sensor 111 like .*a\.fits"):
        read_cards([folder / "a.fits", again])


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "x.fits").write_text("no")
    with pytest.raises(InputError, match=r"x\.fits: is no FITS file with a 2-D image"):
        read_cards([tmp_path / "x.fits"])
    with pytest.raises(InputError, match=r"y\.fits: no such file"):
        read_cards([tmp_path / "y.fits"])


def test_the_cache_reads_once_and_drops_the_least_used(cards):
    cache = ReferenceCache(cards, capacity=2)
    first, second = cache.get(0), cache.get(1)
    assert cache.get(0) is first
    cache.get(2)  # drops 1, not 0
    assert cache.get(0) is first
    assert cache.get(1) is not second
    np.testing.assert_array_equal(cache.get(1).frame.image, second.frame.image)
    with pytest.raises(InputError, match="capacity is 0"):
        ReferenceCache(cards, capacity=0)


def test_a_stack_says_which_field_and_sensor_it_is(tmp_path):
    paths = [
        write_frame(tmp_path / f"{i}.fits", image_of(111, seed=i), OBJECT="J0322+5925_dith1", DET_ID=111)
        for i in range(3)
    ]
    stack_reference(paths, tmp_path / "ref.fits", rng=np.random.default_rng(1))
    frame = load_reference(tmp_path / "ref.fits").frame
    assert (frame.field, frame.sensor) == ("J0322+5925", 111)


def test_frames_of_two_sensors_in_one_run_go_through_their_own_references(folder, tmp_path):
    frames = [
        write_frame(
            tmp_path / f"s{sensor}_{i}.fits",
            image_of(sensor, seed=10 * sensor + i, shift=(0.3, 0.6)),
            OBJECT="J0322+5925_dith1",
            DET_ID=sensor,
        )
        for i in range(2)
        for sensor in (111, 112, 113)
    ]
    config = InjectConfig(stars_per_frame=8, realisations=1, near_galaxy=0.0, tile_pix=100)
    run.run_injection([str(f) for f in frames], folder, tmp_path / "out.zarr", config)
    store = open_store(tmp_path / "out.zarr")
    ok, sensor = store.column("frames/ok"), store.column("frames/sensor")
    reasons = dict(zip(store.frame_names, store.frame_reasons, strict=True))
    assert ok.sum() == 4, reasons
    assert all("no reference for field J0322+5925, sensor 113" in reasons[f"s113_{i}.fits"] for i in range(2))
    assert set(sensor[ok]) == {111, 112}
    rms = store.column("frames/registration_rms_pix")
    assert (rms[ok] < 0.15).all()
    groups = {s: set(store.column("group")[store.column("sensor") == s]) for s in (111, 112)}
    assert groups[111]
    assert groups[112]
    assert not groups[111] & groups[112]
    tiles = {s: set(store.column("tile")[store.column("sensor") == s]) for s in (111, 112)}
    assert tiles[111] & tiles[112]  # the tiling is shared, and with it the roles in a split


def test_references_are_named_all_or_none():
    assert parse_references(["ref.fits"]) == {"": Path("ref.fits")}
    named = parse_references(["ps1=a/b=c.fits", "tomoe=refs/"])
    assert {name: str(path) for name, path in named.items()} == {"ps1": "a/b=c.fits", "tomoe": "refs"}
    assert str(parse_references(["./a=b.fits"])[""]) == "a=b.fits"
    for texts, message in (
        (["ps1=a.fits", "ps1=b.fits"], "ps1=a.fits is given too"),
        (["a.fits", "b.fits"], "a.fits is given too; name each differently"),
        (["ps1="], "--reference ps1=: has no path"),
        (["=a.fits"], "the name is ''"),
        (["my ref=a.fits"], "the name is 'my ref'"),
        (["ps1=a.fits", "b.fits"], "--reference b.fits: has no name and others have; give NAME=b.fits"),
        ([f"r{i}=x" for i in range(9)], "9 references are given; at most 8"),
    ):
        with pytest.raises(InputError) as error:
            parse_references(texts)
        assert message in str(error.value), texts
