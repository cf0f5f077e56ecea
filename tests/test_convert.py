"""`rbsim convert` from the command line, FITS samples, parquet, and options that do not fit."""

import json
import time

import numpy as np
import pyarrow.parquet as pq
import pytest
from _alerts import packet, write
from _synthetic_store import make_store
from astropy.io import fits
from astropy.table import Table
from test_convert_authors import write_set
from typer.testing import CliRunner

from cli import app
from rbsim import build, schema
from rbsim.convert.fits_sample import export_fits
from rbsim.convert.parquet import export_parquet
from rbsim.convert.rows import store_config
from rbsim.convert.run import ALLOWED, ConvertOptions, convert, recognise
from rbsim.errors import InputError
from rbsim.locations import location
from rbsim.store import open_store
from rbsim.verify import verify


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("store") / "s.zarr", n_stamps=800)


def test_a_fits_sample_has_the_pixels_and_columns_of_its_rows(store, tmp_path):
    done = export_fits(store, tmp_path / "s.fits", max_stamps=50, label="real")
    assert (done.n_stamps, done.n_eligible) == (50, int(np.sum(store.column("label_given") == 1)))
    with fits.open(tmp_path / "s.fits", checksum=True) as hdus:
        rows = hdus["CANDIDATES"].data["row"]
        assert set(store.column("label_given")[rows]) == {1}
        for number, channel in enumerate(schema.CHANNELS):
            assert np.array_equal(hdus[channel.upper()].data, store.read_stamps(rows)[:, number])
        assert hdus[0].header["NSTORE"] == 800
    table = Table.read(tmp_path / "s.fits", hdu="CANDIDATES")
    for spec in schema.CANDIDATE_COLUMNS:
        assert np.array_equal(table[spec.name], store.column(spec.name)[rows], equal_nan=True), spec.name
    assert str(table["flux_adu"].unit) == "adu"
    assert len(Table.read(tmp_path / "s.fits", hdu="FRAMES")) == 8


def test_the_sample_follows_the_seed_and_unknown_kinds_are_refused(store, tmp_path):
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        export_fits(store, tmp_path / name, max_stamps=20, seed=seed)
    contents = [(tmp_path / name).read_bytes() for name in "abc"]
    rows = [Table.read(tmp_path / name, hdu="CANDIDATES", format="fits")["row"] for name in "abc"]
    assert np.array_equal(rows[0], rows[1])
    assert len(contents[0]) == len(contents[2])
    assert not np.array_equal(rows[0], rows[2])
    with pytest.raises(InputError, match="kind is 'ghost'; choose one of detection"):
        export_fits(store, tmp_path / "d", kind="ghost")
    with pytest.raises(InputError, match="no stamp has kind negative"):
        export_fits(store, tmp_path / "d", kind="negative")
    with pytest.raises(InputError, match="exists already"):
        export_fits(store, tmp_path / "a")


def test_a_fits_sample_has_the_same_bytes_at_any_time(store, tmp_path):
    export_fits(store, tmp_path / "a.fits", max_stamps=20)
    time.sleep(1.1)  # astropy writes whole seconds
    export_fits(store, tmp_path / "b.fits", max_stamps=20)
    assert (tmp_path / "a.fits").read_bytes() == (tmp_path / "b.fits").read_bytes()
    with fits.open(tmp_path / "b.fits", checksum=True) as hdus:  # warns of a wrong one
        assert all("CHECKSUM" in hdu.header and "DATASUM" in hdu.header for hdu in hdus)


def test_parquet_has_all_tables_with_units_in_row_groups(store, tmp_path):
    done = export_parquet(store, tmp_path / "p", rows_per_group=300)
    assert done.n_rows == {"candidates": 800, "truth": 0, "frames": 8}
    file = pq.ParquetFile(tmp_path / "p" / "candidates.parquet")
    assert file.metadata.num_row_groups == 3
    table = file.read()
    for spec in schema.CANDIDATE_COLUMNS:
        field = table.schema.field(spec.name)
        assert field.metadata == {b"unit": spec.unit.encode(), b"description": spec.description.encode()}
        values = table[spec.name].to_numpy()
        assert np.array_equal(values, store.column(spec.name), equal_nan=spec.dtype.startswith("f"))
        assert values.dtype == np.dtype(spec.dtype)
    frames = pq.read_table(tmp_path / "p" / "frames.parquet")
    assert frames["name"].to_pylist() == store.frame_names
    assert json.loads(table.schema.metadata[b"rbsim"])["kinds"] == store.attributes["kinds"]
    assert pq.read_table(tmp_path / "p" / "truth.parquet").num_rows == 0


def run(*arguments):
    return CliRunner().invoke(app, ["convert", *map(str, arguments)])


def test_the_command_converts_every_way(store, tmp_path):
    authors, back = tmp_path / "a", tmp_path / "b.zarr"
    assert run(store.path, "--to", "authors", "--out", authors).exit_code == 0
    result = run(authors, "--to", "store", "--out", back, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["columns_dropped"] == ["stamp", "kind", "label_true"]
    assert run(store.path, "--to", "fits", "--out", tmp_path / "s.fits", "--max-stamps", "5").exit_code == 0
    assert run(store.path, "--to", "parquet", "--out", tmp_path / "p").exit_code == 0
    write(tmp_path / "x.avro", [packet(1)])
    (tmp_path / "y.avro").write_text("no")
    result = run(*tmp_path.glob("*.avro"), "--to", "store", "--out", tmp_path / "z.zarr")
    assert result.exit_code == 0
    assert "left out: y.avro" in result.stderr
    info = CliRunner().invoke(app, ["info", str(tmp_path / "z.zarr")])
    assert info.exit_code == 0, info.output


@pytest.mark.parametrize("also", [None, "plan.json", "zarr.json", "manifest.json"])
def test_a_damaged_converted_store_is_to_be_converted_again(tmp_path, also):
    write_set(tmp_path / "a", (1,), n=40)
    path = tmp_path / "a.zarr"
    again = (tmp_path / "a", "--to", "store", "--out", path)
    assert run(*again).exit_code == 0
    for name in filter(None, ("snr/c/0", also)):
        (path / name).write_bytes(b"x")
    bad = CliRunner().invoke(app, ["verify", str(path)])
    said = " ".join(bad.output.split())
    assert bad.exit_code == 1
    assert "converted from authors' data set: rbsim convert with --overwrite makes it again" in said
    assert "inject" not in said or also == "manifest.json"  # which cannot be asked what it is of
    if also is None:
        with pytest.raises(InputError, match="rbsim convert with --overwrite makes it again"):
            open_store(path)
    assert run(*again, "--overwrite").exit_code == 0
    assert verify(path).problems == ()


def test_an_unfinished_conversion_is_gone_on_with_by_convert(tmp_path):
    path = tmp_path / "s.zarr"
    build.init(path, config=store_config("ZTF alerts", {}), inputs=["a", "b"])
    assert verify(path).remedy == "rbsim convert with --resume goes on with it"
    with pytest.raises(InputError, match="is unfinished; run rbsim convert again with --resume"):
        open_store(path)


def test_what_does_not_fit_is_refused_in_one_line(store, tmp_path):
    for arguments, words in (
        ((store.path, "--to", "csv"), "--to is 'csv'; choose one of store, authors, fits, parquet"),
        (
            (store.path, "--to", "store"),
            "is a store, and --to store takes the authors' data set or ZTF alerts",
        ),
        ((store.path, "--to", "fits", "--resample"), "--resample has no meaning for a store --to fits"),
        ((store.path, "--to", "parquet", "--seed", "0"), "allowed: none"),
        ((tmp_path, "--to", "store"), "is no store, no folder with imagesN.npy and no *.avro"),
        ((tmp_path / "none", "--to", "store"), "no such file or folder"),
    ):
        result = run(*arguments, "--out", tmp_path / "o")
        assert result.exit_code == 1
        assert words in " ".join(result.stderr.split())
        assert not (tmp_path / "o").exists()


def test_an_output_never_replaces_its_source(store):
    for out in (store.path, store.path / "x", store.path.parent):
        with pytest.raises(InputError, match="give another --out"):
            convert([store.path], "parquet", out, ConvertOptions(), overwrite=True)
    assert store.n_stamps == 800


def test_sources_of_two_kinds_are_refused(store, tmp_path):
    folder = write_set(tmp_path / "a", (1,), n=3)
    with pytest.raises(InputError, match="convert one kind at a time"):
        recognise([store.path, folder])
    with pytest.raises(InputError, match="one folder, convert one at a time"):
        recognise([folder, folder])


def test_a_seed_of_zero_is_an_option_too(store, tmp_path):
    with pytest.raises(InputError, match="--seed has no meaning"):
        convert([store.path], "parquet", tmp_path / "p", ConvertOptions(seed=0))
    with pytest.raises(InputError, match="--fill has no meaning"):
        convert([store.path], "parquet", tmp_path / "p", ConvertOptions(fill=0.0))


def test_options_of_the_table_exist():
    assert {name for names in ALLOWED.values() for name in names} == set(ConvertOptions.__dataclass_fields__)


def test_a_store_can_be_written_to_a_url_and_read_from_one(tmp_path):
    write(tmp_path / "x.avro", [packet(1)])
    url = f"memory://{tmp_path.name}/z.zarr"
    assert run(tmp_path / "x.avro", "--to", "store", "--out", url).exit_code == 0
    assert run(url, "--to", "parquet", "--out", tmp_path / "p").exit_code == 0
    assert pq.read_table(tmp_path / "p" / "candidates.parquet").num_rows == 1
    extra = location(f"memory://{tmp_path.name}/z.extra.ecsv")
    assert "ZTF1" in extra.read_text()
    result = run(url, "--to", "fits", "--out", "memory://x/a.fits")
    assert result.exit_code == 1
    assert "writes to a disk" in result.stderr
