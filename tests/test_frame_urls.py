"""Frames and references at fsspec URLs give the store that the same files on a disk give."""

import fsspec
import numpy as np
import pytest
from _s3_server import s3_server
from typer.testing import CliRunner

from cli import app
from rbsim.cluster import Parallel
from rbsim.config import InjectConfig
from rbsim.errors import InputError
from rbsim.frame import read_frame, split_extension
from rbsim.inputs import find_frames
from rbsim.locations import list_files, location
from rbsim.remote import open_input, same_bytes
from rbsim.run import run_injection

CONFIG = InjectConfig(stars_per_frame=20, realisations=1)


@pytest.fixture(scope="module")
def memory(tiny_night):
    """The tiny night in memory."""
    fs = fsspec.filesystem("memory")
    for name in ("science", "reference.fits"):
        fs.put(str(tiny_night / name), f"/urls/{name}", recursive=True)
    yield "memory://urls"
    fs.rm("/urls", recursive=True)


@pytest.fixture(scope="module")
def bucket(tiny_night):
    """Three frames of the night and the reference on an S3 server of our own."""
    with s3_server("frames") as client:
        for path in [*sorted((tiny_night / "science").glob("*.fits"))[:3], tiny_night / "reference.fits"]:
            client.upload_file(str(path), "frames", f"night/{path.parent.name}/{path.name}")
        yield f"s3://frames/night/{tiny_night.name}", "s3://frames/night/science"


@pytest.fixture(scope="module")
def local(tiny_night, tmp_path_factory):
    """The store of the first three frames, read from the disk."""
    out = tmp_path_factory.mktemp("local") / "s.zarr"
    frames = sorted(map(str, (tiny_night / "science").glob("*.fits")))[:3]
    return run_injection(frames, tiny_night / "reference.fits", out, CONFIG)


def assert_same(store, local):
    names = set(list_files(local.path))
    assert set(list_files(store.path)) == names
    for name in names:
        assert (store.path / name).read_bytes() == (local.path / name).read_bytes(), name


def test_frames_are_found_by_url_glob_and_folder(memory, tiny_night):
    names = sorted(path.name for path in (tiny_night / "science").glob("*.fits"))
    for source in (f"{memory}/science", f"{memory}/science/*.fits"):
        found = find_frames([source])
        assert [url.rsplit("/", 1)[1] for url in found] == names
        assert all(url.startswith("memory://") for url in found)
    one = f"{memory}/science/{names[0]}"
    assert find_frames([one, f"{one}[0]", one]) == [one, f"{one}[0]"]
    assert split_extension(f"{one}[SCI]")[1] == "SCI"
    np.testing.assert_array_equal(
        read_frame(f"{one}[0]").image, read_frame(tiny_night / "science" / names[0]).image
    )


def test_a_run_on_urls_in_memory_gives_the_bytes_of_a_local_one(memory, local, tmp_path):
    frames = find_frames([f"{memory}/science/*.fits"])[:3]
    store = run_injection(frames, location(f"{memory}/reference.fits"), tmp_path / "s.zarr", CONFIG)
    assert_same(store, local)


def test_workers_fetch_from_s3_and_give_the_bytes_of_a_local_run(bucket, local, tmp_path):
    reference, science = bucket
    frames = find_frames([science])
    store = run_injection(
        frames, location(f"{reference}/reference.fits"), tmp_path / "s.zarr", CONFIG, parallel=Parallel(1)
    )
    assert_same(store, local)


def test_the_command_line_takes_urls(memory, tmp_path):
    out = tmp_path / "differences"
    frame = find_frames([f"{memory}/science"])[0]
    run = CliRunner().invoke(
        app, ["subtract", frame, "--reference", f"{memory}/reference.fits", "--out", str(out)]
    )
    assert run.exit_code == 0, run.output
    assert (out / "frames.ecsv").exists()


def test_a_missing_file_fails_alone(memory, tmp_path):
    frames = [*find_frames([f"{memory}/science"])[:1], f"{memory}/science/lost.fits"]
    store = run_injection(find_frames(frames), location(f"{memory}/reference.fits"), tmp_path / "s", CONFIG)
    reasons = dict(zip(store.frame_names, store.frame_reasons, strict=True))
    assert "memory://urls/science/lost.fits: no such file" in reasons["lost.fits"].replace(":///", "://")


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("memory://urls/science/*.txt", "matches no file"),
        ("memory://urls/none/*", "matches no file"),
        ("nonsense://urls/a.fits", "nonsense"),
        ("s3://frames-of-nobody/*.fits", "cannot be reached|matches no file"),
    ],
)
def test_unusable_urls_are_one_line(memory, bucket, source, message):
    assert memory
    assert bucket
    with pytest.raises(InputError, match=message):
        find_frames([source])


def test_the_same_frame_twice_is_refused(memory, tmp_path):
    fs = fsspec.filesystem("memory")
    first = find_frames([f"{memory}/science"])[0]
    fs.copy(first, "/urls/twice/copy.fits")
    with pytest.raises(InputError, match="has the same content as"):
        run_injection(
            [first, "memory://urls/twice/copy.fits"],
            location(f"{memory}/reference.fits"),
            tmp_path / "s.zarr",
            CONFIG,
        )
    assert same_bytes(location(first), location("memory://urls/twice/copy.fits"))
    assert not same_bytes(location(first), location(f"{memory}/reference.fits"))


def test_whatever_a_protocol_raises_is_an_os_error(memory, monkeypatch):
    path = location(f"{memory}/reference.fits")

    def fail(*_):
        raise RuntimeError("throttled")

    monkeypatch.setattr(type(path), "read_bytes", fail)
    with pytest.raises(OSError, match="cannot be fetched: RuntimeError: throttled"):
        open_input(path)
