"""Alerts become stamps: signs, fluxes, positions; what is broken or hostile is a row with a reason."""

import gzip
import os
from pathlib import Path

import numpy as np
import pytest
from _alerts import SCHEMA, ZERO_POINT_MAG, packet, write
from astropy.table import Table

from rbsim import schema
from rbsim.convert.alerts import import_alerts
from rbsim.convert.cutouts import crop, pad_cutout, read_cutout, resample
from rbsim.convert.packets import Broken, read_packets
from rbsim.errors import InputError

ALERTS = Path(os.environ.get("RBSIM_REAL_FRAMES", "none")).parent / "alerts"
CHANNEL = {name: number for number, name in enumerate(schema.CHANNELS)}


def test_resampling_keeps_the_sum_of_every_image_and_a_constant_surface_brightness():
    image = np.random.default_rng(0).normal(5, 2, (63, 63))
    assert np.isclose(resample(image).sum(), image.sum(), rtol=1e-12)
    assert np.allclose(resample(np.ones((63, 63))), (63 / 29) ** 2)


def test_resampling_keeps_the_centre_and_spreads_nan_no_further_than_its_pixel():
    point = np.zeros((63, 63))
    point[31, 31] = 7.0
    assert resample(point)[14, 14] == pytest.approx(7.0)
    image = np.ones((63, 63))
    image[0, 0] = np.nan
    assert np.argwhere(np.isnan(resample(image))).tolist() == [[0, 0]]


def test_a_table_of_others_beside_the_store_is_not_replaced_by_resuming(tmp_path):
    mine = tmp_path / "a.extra.ecsv"
    mine.write_text("mine")
    write(tmp_path / "1.avro", [packet(1)])
    with pytest.raises(InputError, match=r"a.extra.ecsv: is in the way and not of rbsim; move it"):
        import_alerts([tmp_path / "1.avro"], tmp_path / "a.zarr", resume=True)
    assert mine.read_text() == "mine"
    assert not (tmp_path / "a.zarr").exists()


def test_the_crop_has_the_source_in_its_central_pixel():
    image = np.arange(63.0 * 63).reshape(63, 63)
    assert crop(image).shape == (29, 29)
    assert crop(image)[14, 14] == image[31, 31]


@pytest.mark.parametrize(
    ("window", "x_pix", "y_pix"),
    [
        ((slice(None), slice(21, None)), 10.2, 500.0),  # 10 px to the left of the source: 21 are missing
        ((slice(None), slice(None, 50)), 3000.0, 500.0),  # right border
        ((slice(28, None), slice(None)), 900.0, 3.4),
        ((slice(None, 40), slice(21, None)), 10.2, 2990.0),
    ],
)
def test_cut_outs_at_a_border_are_put_back_around_their_source(window, x_pix, y_pix):
    whole = np.arange(63.0 * 63).reshape(63, 63)
    padded = pad_cutout(whole[window], x_pix=x_pix, y_pix=y_pix)
    known = np.isfinite(padded)
    assert known.sum() == whole[window].size
    assert np.array_equal(padded[known], whole[known])


@pytest.fixture(scope="module")
def imported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alerts")
    write(folder / "a.avro", [packet(1), packet(2, flux=-800.0), packet(3, flux=2000.0)])
    write(folder / "b.avro", [packet(4, window=(slice(None), slice(21, None)), xpos=11.0), packet(1)])
    (folder / "broken.avro").write_bytes((folder / "a.avro").read_bytes()[:9000])
    (folder / "text.avro").write_text("not avro")
    return import_alerts([folder], folder / "out.zarr", label="real")


def test_every_packet_is_a_stamp_or_a_row_with_a_reason(imported):
    assert imported.n_alerts == imported.store.n_stamps == 4
    assert set(imported.failed) == {"b.avro[1]", "broken.avro", "text.avro"}
    assert "candid 1 was read already from a.avro" in imported.failed["b.avro[1]"]
    names = dict(zip(imported.store.frame_names, imported.store.frame_reasons, strict=True))
    assert {n: r for n, r in names.items() if r} == imported.failed
    assert imported.store.column("frames/ok").tolist() == [True, True, False, False, False]


def test_the_difference_is_science_minus_reference_for_both_signs(imported):
    extra = Table.read(imported.extra)
    stamps = imported.store.read_stamps()
    flux = imported.store.column("flux_adu")
    for row, candid in enumerate(extra["candid"]):
        y, x = np.mgrid[:29, :29] - 14
        near = x**2 + y**2 <= 25
        summed = stamps[row, CHANNEL["difference"]][near].sum()
        assert summed == pytest.approx(flux[row], abs=5 * 3 * np.sqrt(near.sum())), candid
        change = stamps[row, CHANNEL["science"]] - stamps[row, CHANNEL["reference"]]
        ok = np.isfinite(change)
        assert np.allclose(change[ok] - stamps[row, CHANNEL["difference"]][ok], 0, atol=3)
    assert imported.store.column("is_positive").tolist() == [c != 2 for c in extra["candid"]]


def test_fields_become_columns_with_our_units_and_origins(imported):
    store = imported.store
    extra = Table.read(imported.extra)
    normal = np.flatnonzero(extra["candid"] == 3)[0]
    assert store.column("x_pix")[normal] == 500.0
    assert (store.column("x0_pix")[normal], store.column("y0_pix")[normal]) == (486, 986)
    assert store.column("mag")[normal] == pytest.approx(ZERO_POINT_MAG - 2.5 * np.log10(2000.0))
    assert store.column("flux_err_adu")[normal] == pytest.approx(2000 * 0.1 / 1.0857, rel=1e-4)
    assert store.column("noise_adu")[normal] == pytest.approx(3.0, rel=0.15)
    assert np.isnan(extra["rb"]).all()  # -999 or null
    assert np.isnan(store.column("mag")[extra["candid"] == 2]).all()


def test_the_border_is_flagged_and_its_pixels_are_nan(imported):
    flags = imported.store.column("flags") & schema.CANDIDATE_FLAG["EDGE"]
    edge = Table.read(imported.extra)["candid"] == 4
    assert np.array_equal(flags != 0, edge)
    stamp = imported.store.read_stamps(np.flatnonzero(edge))[0]
    assert np.isnan(stamp[:, :, :4]).all()
    assert np.isfinite(stamp[:, :, 4:]).all()


def test_labels_are_those_asked_for_and_negatives_have_none(imported, tmp_path):
    positive = imported.store.column("is_positive")
    assert np.array_equal(imported.store.column("label_true"), np.where(positive, 1, -1))
    plain = import_alerts([write(tmp_path / "a.avro", [packet(1)])], tmp_path / "o.zarr")
    assert plain.store.column("label_given").tolist() == [-1]
    with pytest.raises(InputError, match="label is 'maybe'; choose one of real, bogus"):
        import_alerts([tmp_path / "a.avro"], tmp_path / "p.zarr", label="maybe")


def test_a_second_import_has_the_same_bytes(imported, tmp_path):
    again = import_alerts([imported.store.path.parent], tmp_path / "out.zarr", label="real")
    manifest = (again.store.path / "manifest.json").read_bytes()
    assert manifest == (imported.store.path / "manifest.json").read_bytes()
    assert again.extra.read_bytes() == imported.extra.read_bytes()


def reasons(path):
    return [p.reason for p in read_packets(path) if isinstance(p, Broken)]


def test_a_gzip_bomb_is_not_unpacked():
    with pytest.raises(InputError, match="holds more than"):
        read_cutout(gzip.compress(bytes(50_000_000)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"cutoutScience": None}, "cutoutScience is missing"),
        ({"cutoutScience": {"fileName": "", "stampData": b"junk"}}, "no gzip file"),
        (
            {"cutoutScience": {"fileName": "", "stampData": gzip.compress(b"SIMPLE  = T")}},
            "no FITS image|axes",
        ),
    ],
)
def test_a_broken_cut_out_is_named_and_the_next_packet_is_read(tmp_path, change, words):
    path = write(tmp_path / "a.avro", [packet(1) | change, packet(2)])
    found = list(read_packets(path))
    assert [type(p).__name__ for p in found] == ["Broken", "Alert"]
    with pytest.raises(InputError, match=words):
        raise InputError(found[0].reason)


def test_a_header_that_promises_a_huge_image_is_refused():
    card = "".join(
        text.ljust(80)
        for text in (
            f"SIMPLE  = {'T':>20}", f"BITPIX  = {-32:>20}", f"NAXIS   = {2:>20}",
            f"NAXIS1  = {10**9:>20}", f"NAXIS2  = {10**9:>20}", "END",
        )
    ).ljust(2880)  # fmt: skip
    with pytest.raises(InputError, match="floats of at most 63 x 63 px are wanted"):
        read_cutout(gzip.compress(card.encode()))


def test_compressed_blocks_and_arrays_of_nothing_are_refused(tmp_path):
    assert "codec null" in reasons(write(tmp_path / "d.avro", [packet(1)], codec="deflate"))[0]
    empty = {"name": "many", "type": {"type": "array", "items": "null"}}
    bomb = SCHEMA | {"fields": [*SCHEMA["fields"], empty]}
    path = write(tmp_path / "b.avro", [packet(1) | {"many": [None] * 3}], schema=bomb)
    assert "take no bytes" in reasons(path)[0]


def test_no_flipped_byte_gets_through_as_an_exception(tmp_path):
    whole = np.frombuffer(write(tmp_path / "a.avro", [packet(1)]).read_bytes(), np.uint8)
    rng = np.random.default_rng(0)
    n_broken = 0
    for _ in range(150):
        spoilt = whole.copy()
        # Half of them in the header: the schema is what makes a decoder do strange things.
        at = rng.integers(0, 2000 if rng.random() < 0.5 else len(whole), 3)
        spoilt[at] = rng.integers(0, 256, 3)
        (tmp_path / "b.avro").write_bytes(spoilt.tobytes())
        n_broken += any(isinstance(found, Broken) for found in read_packets(tmp_path / "b.avro"))
    assert n_broken > 50


def test_sign_and_identity_are_needed(tmp_path):
    path = write(tmp_path / "a.avro", [packet(1, isdiffpos="x"), packet(2, pid=None), packet(3, jd=None)])
    assert [r.split(": ", 1)[1].split(";")[0] for r in reasons(path)] == [
        "isdiffpos is 'x'",
        "has no pid",
        "has no jd",
    ]


def test_nothing_usable_is_an_error_and_leaves_nothing(tmp_path):
    (tmp_path / "a.avro").write_text("no")
    with pytest.raises(InputError, match=r"none of 1 files holds a usable alert; the first: a\.avro"):
        import_alerts([tmp_path], tmp_path / "o.zarr")
    assert [p.name for p in tmp_path.iterdir()] == ["a.avro"]


@pytest.mark.real_frames
@pytest.mark.skipif(not ALERTS.is_dir(), reason="no alert packets beside RBSIM_REAL_FRAMES")
@pytest.mark.parametrize("resampled", [False, True])
def test_real_packets_agree_with_their_own_photometry(tmp_path, resampled):
    done = import_alerts([ALERTS], tmp_path / "z.zarr", resampled=resampled)
    assert (done.n_alerts, done.n_negative, done.failed) == (2, 1, {})
    store = done.store
    stamps = store.read_stamps()
    y, x = np.mgrid[:29, :29] - 14
    near = x**2 + y**2 <= (7 / (63 / 29 if resampled else 1)) ** 2
    difference = stamps[:, CHANNEL["difference"]][:, near].sum(axis=1)
    assert np.allclose(difference, store.column("flux_adu"), rtol=0.1)
    # Science minus template is the difference for both: the template has the science zero point here.
    change = (stamps[:, CHANNEL["science"]] - stamps[:, CHANNEL["reference"]])[:, near].sum(axis=1)
    assert np.allclose(change, difference, rtol=0.06)
    # xpos, ypos count from 1: the upper border of 3080 rows lies at 3080.5.
    edge = store.column("edge_distance_pix")[~store.column("is_positive")]
    row = store.column("y_pix")[~store.column("is_positive")]
    assert np.allclose(edge, 3079.5 - row, atol=1e-3)
