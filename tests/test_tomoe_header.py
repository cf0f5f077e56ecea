"""Headers of Tomo-e, typed from the published ones: what a file is, with all the traps of version 0.730."""

import gzip

import numpy as np
import pytest
from _tomoe_files import CUBE, DARK, FLAT, STACK, cards_of, write_file
from astropy.io import fits
from astropy.time import Time

from rbsim.errors import InputError
from rbsim.frame import read_frame, read_gain
from rbsim.tomoe.header import exposure_of, parse_frame_id, parse_header
from rbsim.tomoe.read import read_card
from rbsim.tomoe.standard import standard_header

SKY = np.random.default_rng(1).normal(50, 5, (70, 90)).astype(np.float32)


def header_of(values, *, shape=(70, 90), more="", without=()):
    axes = "".join(f"NAXIS{i + 1} = {n}\n" for i, n in enumerate(reversed(shape)))
    text = f"NAXIS = {len(shape)}\n{axes}{cards_of(values, more=more, without=without)}"
    parts = (line.partition("=") for line in text.splitlines())
    lines = (f"{name.strip():8}={value}" for name, _, value in parts)
    return fits.Header.fromstring("\n".join(lines), sep="\n")


def parsed(tmp_path, values, name="x.fits", **options):
    return parse_header(header_of(values, **options), tmp_path / name)


def test_the_published_stack(tmp_path):
    card = parsed(tmp_path, STACK)
    assert (card.kind, card.det_id, card.object, card.gain_setting) == ("stack", 111, STACK["object"], "high")
    assert card.n_frames == 17  # of 18 taken: there is no NAXIS3
    assert (card.frame_s, card.frame_exposure_s) == (0.5, 0.499904)
    assert card.exposure_s == pytest.approx(17 * 0.499904)
    # DATE-OBS is a date only.
    assert card.utc_unix_s == pytest.approx(Time("2023-01-02T09:48:14.665023", scale="utc").unix, abs=1e-5)
    frame_id = card.frame_id
    assert (frame_id.quadrant, frame_id.chip, frame_id.date, frame_id.exposure) == (
        1,
        11,
        "2023-01-02",
        860262,
    )
    assert frame_id.text == STACK["frame_id"]


@pytest.mark.parametrize(
    ("values", "shape", "kind", "n_frames", "frame_s"),
    [
        (CUBE, (12, 70, 90), "cube", 12, 0.5),
        (DARK, (70, 90), "dark", 359, 0.5),  # of 360
        (FLAT, (70, 90), "flat", 179, 1.0),  # of 180
    ],
)
def test_the_other_published_products(tmp_path, values, shape, kind, n_frames, frame_s):
    """Of dark and flat DEC is beyond 90 deg, which nothing minds."""
    card = parsed(tmp_path, values, shape=shape)
    assert (card.kind, card.n_frames, card.frame_s, card.shape) == (kind, n_frames, frame_s, (70, 90))
    assert card.det_id == 100 * card.frame_id.quadrant + card.frame_id.chip


@pytest.mark.parametrize(
    ("setting", "gain", "read_noise", "well", "saturation"),
    [
        ("high", 0.23, 2.0, 6_000, 23_478),
        ("Mid", 0.94, 4.1, 25_000, 23_936),
        ("LOW", 2.4, 9.2, 52_000, 19_500),
    ],
)
def test_gain_read_noise_and_well_follow_the_setting(tmp_path, setting, gain, read_noise, well, saturation):
    more = f"GAINCNFG= '{setting}'\n"
    card = parsed(tmp_path, STACK, more=more)
    assert (card.gain_e_per_adu, card.read_noise_e, card.well_e) == (gain, read_noise, well)
    assert card.saturation_adu == pytest.approx(saturation, abs=1)
    standard = standard_header(header_of(STACK, more=more), tmp_path / "x.fits")
    assert standard["GAIN"] == pytest.approx(17 * gain)
    assert standard["RDNOISE"] == pytest.approx(np.sqrt(17) * read_noise, abs=1e-3)
    assert standard["SATURATE"] == pytest.approx(saturation, abs=1)  # acts on single frames
    cube = standard_header(header_of(CUBE, shape=(12, 70, 90), more=more), tmp_path / "x.fits")
    assert (cube["GAIN"], cube["RDNOISE"], cube["NAXIS3"]) == (gain, read_noise, 12)


def test_what_is_assumed_of_the_gain_is_said(tmp_path, caplog):
    standard_header(header_of(STACK), tmp_path / "x.fits")
    assert "no GAINCNFG; taken for 'high'" in caplog.text
    assert parsed(tmp_path, STACK, more="GAIN    = 0.95\n").gain_setting == "mid"
    strange = standard_header(header_of(STACK, more="GAINCNFG= 'x4'\nGAIN = 0.5\n"), tmp_path / "x.fits")
    assert "GAINCNFG is 'x4', not high, mid, low; its gain is unknown" in caplog.text
    assert "GAIN" not in strange  # of a single frame, if it is true


@pytest.mark.parametrize("repeat", [1, 2])
def test_a_standard_header_is_complete_and_stays_as_it_is(tmp_path, repeat):
    header = header_of(STACK, without=("UTC", "EXP_ID"))
    for _ in range(repeat):
        header = standard_header(header, tmp_path / "x.fits")
    wanted = {"UTC": "2023-01-02T09:48:14.665023", "DET_ID": 111, "EXP_ID": 860262, "GAINCNFG": "high"}
    assert {name: header[name] for name in wanted} == wanted
    assert header["GAIN"] == pytest.approx(17 * 0.23)


@pytest.mark.parametrize(
    ("without", "more", "expected"),
    [
        (("EXPTIME1",), "", 17),  # TFRAME less 96 us
        (("TFRAME", "EXPTIME1"), "", 17),  # DATA-FPS
        (("EXPTIME",), "", 17),  # TELAPSE says 18 were taken, and 2-D products lack one
        (("EXPTIME", "TELAPSE"), "", 1),
        (("EXPTIME",), "EXPTIME = '8.498368'\n", 17),  # a number written as text
    ],
)
def test_the_number_of_frames_survives_missing_cards(tmp_path, without, more, expected):
    assert parsed(tmp_path, STACK, without=without, more=more).n_frames == expected


def test_cards_with_other_dashes_and_spellings(tmp_path):
    """HDR writes OBSEVER; the sister camera writes DETID and FRAMEID, and says which pixels are lit."""
    renamed = "DETID   = 243\nFRAMEID = 'TMQ2202301020086026243'\nOBSEVER = 'X'\nDATA_TYP= 'OBJECT'\n"
    more = renamed + "EFP-MIN1= 79\nEFP-MIN2= 1\n"
    card = parsed(tmp_path, STACK, without=("DET_ID", "FRAME_ID", "OBSERVER", "DATA-TYP"), more=more)
    assert (card.det_id, card.frame_id.chip, card.lit_from) == (243, 43, (0, 78))


@pytest.mark.parametrize(
    ("values", "shape", "bitpix", "kind"),
    [
        (STACK, (70, 90), -32, "stack"),
        (DARK, (70, 90), -32, "dark"),
        (FLAT, (70, 90), -32, "flat"),
        (CUBE, (12, 70, 90), -32, "cube"),
        (CUBE, (12, 70, 90), 16, "raw"),
        (CUBE, (12, 1128, 2156), -32, "raw"),
    ],
)
def test_without_fmttype_shape_and_type_tell(tmp_path, values, shape, bitpix, kind):
    more = f"BITPIX  = {bitpix}\n"
    assert parsed(tmp_path, values, shape=shape, without=("FMTTYPE",), more=more).kind == kind
    name = f"r{values['frame_id']}.fits"  # and all that is left is the name
    card = parsed(tmp_path, values, name, shape=shape, without=("FMTTYPE", "FRAME_ID", "DET_ID"), more=more)
    assert (card.kind, card.frame_id.text) == (kind, values["frame_id"])


@pytest.mark.parametrize(
    ("values", "shape", "message"),
    [
        (
            STACK | {"fmttype": "TOMOE-IMAGE-SLAB"},
            (70, 90),
            "'TOMOE-IMAGE-SLAB' is not known; there are TOMOE-",
        ),
        (STACK | {"fmttype": "TOMOE-COLLECTION-NEO"}, (70, 90), "cut-outs of moving objects"),
        (STACK | {"fmttype": "TOMOE-IMAGE-CUBE"}, (70, 90), "FMTTYPE is TOMOE-IMAGE-CUBE, but .* 2 axes"),
        (STACK, (12, 70, 90), "FMTTYPE is TOMOE-IMAGE-STACK, but .* 3 axes"),
        (CUBE, (11, 70, 90), r"x\.fits: 11 of 12 frames are there \(EXPTIME 5.99885 s.*get the whole cube"),
        (DARK, (70, 90), "is a dark of Tomo-e, no image of the sky"),
        (CUBE | {"fmttype": "TOMOE-IMAGE-RAW"}, (12, 70, 90), "without dark and flat.*rbsim calibrate"),
    ],
)
def test_what_is_no_image_of_the_sky_is_refused_with_its_remedy(tmp_path, values, shape, message):
    with pytest.raises(InputError, match=message):
        standard_header(header_of(values, shape=shape), tmp_path / "x.fits")


def test_cards_of_a_third_axis_left_in_a_stack_are_dropped(tmp_path):
    wcs = (
        "CTYPE1  = 'RA---TAN'\nCTYPE2  = 'DEC--TAN'\nCRVAL1  = 50.5\nCRVAL2  = 59.4\nCRPIX1  = 45.0\n"
        "CRPIX2  = 35.0\nCD1_1   = -3.303E-04\nCD1_2   = 0.0\nCD2_1   = 0.0\nCD2_2   = 3.303E-04\n"
    )
    left = (
        "WCSAXES = 3\nNAXIS3  = 12\nCTYPE3  = 'TIME'\nCRPIX3  = 1.0\nCRVAL3  = 0.0\nCUNIT3  = 's'\n"
        "CD3_3   = 0.5\nCD1_3   = 0.0\nCD3_1   = 0.0\n"
    )
    frame = read_frame(write_file(tmp_path / "s.fits", cards_of(STACK, more=wcs + left), SKY))
    assert frame.wcs.naxis == 2
    ra, dec = frame.wcs.pixel_to_world_values(44.0, 34.0)
    assert (float(ra), float(dec)) == pytest.approx((50.5, 59.4), abs=1e-6)
    cube = write_file(tmp_path / "c.fits", cards_of(CUBE, more=wcs + left), np.stack([SKY] * 12))
    assert read_frame(cube).wcs.naxis == 2
    bad = write_file(tmp_path / "b.fits", cards_of(STACK, more=wcs + "WCSVALID= F\n"), SKY)
    assert read_frame(bad).wcs is None


def test_a_stack_is_a_frame_with_all_that_its_header_does_not_say(tmp_path):
    """Also the partial readout (90 x 70), and no WCS."""
    path = write_file(tmp_path / f"s{STACK['frame_id']}.fits", cards_of(STACK), SKY)
    frame = read_frame(path)
    assert frame.shape == (70, 90)
    assert frame.detector.gain_e_per_adu == pytest.approx(17 * 0.23) == read_gain(path)
    assert frame.detector.read_noise_e == pytest.approx(2 * np.sqrt(17), abs=1e-3)
    assert frame.detector.saturation_adu == pytest.approx(0.9 * 6000 / 0.23, abs=0.1)
    assert (frame.sensor, frame.field, frame.dither, frame.wcs) == (111, "J0322+5925", "_dith1", None)
    assert frame.exposure_s == pytest.approx(8.498368)
    assert frame.time_unix_s == pytest.approx(Time(f"{STACK['day']}T{STACK['time']}").unix, abs=1e-5)


def test_gzipped_and_fpacked_files_are_the_same(tmp_path):
    plain = write_file(tmp_path / "s.fits", cards_of(STACK), SKY)
    packed = tmp_path / "s.fits.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    # Lossless, so that the pixels can be compared.
    fpacked = tmp_path / "s.fits.fz"
    with fits.open(plain) as hdus:
        image = fits.CompImageHDU(hdus[0].data, hdus[0].header, compression_type="GZIP_2", quantize_level=0)
        fits.HDUList([fits.PrimaryHDU(), image]).writeto(fpacked)
    frame = read_frame(plain)
    for path in (packed, fpacked):
        other = read_frame(path)
        np.testing.assert_array_equal(other.image, frame.image)
        assert (other.detector, other.sensor, other.time_unix_s) == (
            frame.detector,
            frame.sensor,
            frame.time_unix_s,
        )
        assert read_card(path) == read_card(plain)
    packed.write_bytes(packed.read_bytes()[:-2000])
    with pytest.raises(InputError, match=r"s\.fits\.gz: cannot be read as FITS.*is it complete"):
        read_frame(packed)


def test_exposures_are_told_by_their_number_whatever_the_time_stamps():
    other = STACK | {"frame_id": "TMQ4202301020086026243", "time": "09:48:14.665101"}
    assert exposure_of(header_of(STACK), "a.fits") == exposure_of(header_of(other), "b.fits") != ""
    assert exposure_of(header_of(CUBE), "a.fits") != exposure_of(header_of(STACK), "a.fits")
    assert exposure_of(fits.Header(), "a.fits") == ""
    assert parse_frame_id("sTMQ1202310020102010311.fits").exposure == 1020103
    assert parse_frame_id("TMPM0012345.fits") is None
