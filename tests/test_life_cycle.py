"""A store's life through the command line, on an emulated night: parts, verify, repair, refusals."""

import json
import shutil

import pytest
from astropy.io import fits
from typer.testing import CliRunner

from cli import app
from rbsim import checksums, pipeline
from rbsim import inputs as inputs_module
from rbsim.store import partial_path

OPTIONS = ("--stars-per-frame", "20", "--realisations", "1", "--gain", "2")


def invoke(*arguments):
    return CliRunner().invoke(
        app, [str(a) for a in arguments], env={"COLUMNS": "200", "NO_COLOR": "1"}, catch_exceptions=False
    )


def files(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(path.rglob("*")) if p.is_file()}


def text_of(result):
    return " ".join((result.stdout + result.stderr).split())


@pytest.fixture(scope="module")
def inputs(tiny_night, tmp_path_factory):
    """Five frames of our own, to be spoilt."""
    folder = tmp_path_factory.mktemp("frames")
    for frame in sorted((tiny_night / "science").glob("*.fits"))[:5]:
        shutil.copy(frame, folder)
    return folder, tiny_night / "reference.fits"


@pytest.fixture(scope="module")
def run(inputs):
    frames, reference = inputs

    def inject(out, *more):
        return invoke("inject", frames, "--reference", reference, "--out", out, *OPTIONS, *more)

    return inject


@pytest.fixture(scope="module")
def whole(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "s.zarr"
    assert run(path).exit_code == 0
    return path


def test_folders_that_only_look_like_ours_stay(run, whole, tmp_path):
    """Names that could be those of an older or unfinished store."""
    path = tmp_path / "s.zarr"
    shutil.copytree(whole, path)
    for name in ("s.zarr.old", "n.zarr.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.txt").write_text("precious")
    assert run(path, "--overwrite").exit_code == 0
    assert files(path) == files(whole)
    for options in ((), ("--resume",), ("--overwrite",)):
        result = run(tmp_path / "n.zarr", *options)
        assert result.exit_code == 1
        assert "n.zarr.partial: is in the way and no unfinished store; move it" in text_of(result)
    for name in ("s.zarr.old", "n.zarr.partial"):
        assert (tmp_path / name / "mine.txt").read_text() == "precious"


def test_what_is_no_frames_fault_ends_the_run(run, whole, tmp_path, monkeypatch):
    """As failed frames they would be missing for good from a store that calls itself finished."""
    path, images = tmp_path / "s.zarr", tmp_path / "images"
    writeto, n_written = fits.HDUList.writeto, 0

    def disk_full(self, name, **options):
        nonlocal n_written
        n_written += 1
        if n_written == 3:
            raise OSError("Not enough space on disk: requested 100, available 3.")
        writeto(self, name, **options)

    with monkeypatch.context() as patch:
        patch.setattr(fits.HDUList, "writeto", disk_full)
        result = run(path, "--images", images)
    assert result.exit_code == 1
    assert "cannot be written (Not enough space on disk: requested 100, available 3.); free" in text_of(
        result
    )
    assert not path.exists()
    assert not images.exists()

    def no_memory(*_, **__):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "ask_for_stars", no_memory)
        result = run(path, "--images", images, "--resume")
    assert result.exit_code == 1
    assert "not enough memory; give fewer --workers" in text_of(result)
    assert run(path, "--images", images, "--resume").exit_code == 0
    assert files(path) == files(whole)
    assert len(list(images.glob("*.fits"))) == 5


def test_jobs_of_an_array_make_the_same_store(run, whole, tmp_path):
    path = tmp_path / "s.zarr"
    first = run(path, "--partition", "2/3")
    assert first.exit_code == 0
    assert "part 2/3 of" in text_of(first)
    assert "is done; rbsim finalise" in text_of(first)
    assert not path.exists()
    early = invoke("finalise", path)
    assert early.exit_code == 1
    assert "partitions 1, 3-4 of 5 are missing" in text_of(early)
    for job in ("3/3", "1/3"):
        assert run(path, "--partition", job).exit_code == 0
    again = run(path, "--partition", "1/3")
    assert "are finished and are skipped" in text_of(again)
    done = invoke("finalise", path, "--json")
    assert done.exit_code == 0
    assert json.loads(done.stdout)["n_frames"] == 5
    assert files(path) == files(whole)
    assert "is finished already" in text_of(invoke("finalise", path))
    assert "no unfinished build" in text_of(invoke("finalise", tmp_path / "none.zarr"))


def test_verify_names_damage_and_resume_repairs_it(run, whole, tmp_path):
    path = tmp_path / "s.zarr"
    shutil.copytree(whole, path)
    fine = invoke("verify", path)
    assert fine.exit_code == 0
    assert "no problems" in text_of(fine)
    shard = path / "stamps" / "c" / "0" / "0" / "0" / "0"
    shard.write_bytes(shard.read_bytes()[:-1])
    bad = invoke("verify", path)
    assert bad.exit_code == 1
    assert "damaged: stamps/c/0/0/0/0 has" in text_of(bad)
    assert "stamps/c/0/0/0/0 has" in text_of(invoke("info", path))
    mended = run(path, "--resume")
    assert mended.exit_code == 0
    assert "0 of 5 frames are whole" in text_of(mended)
    assert files(path) == files(whole)
    idle = run(path, "--resume")
    assert idle.exit_code == 0
    assert "is finished and whole; nothing to do" in text_of(idle)
    other = run(path, "--resume", "--seed", "2")
    assert "was begun with another seed" in text_of(other)


def test_frames_that_changed_between_runs_are_noticed(inputs, run, tmp_path):
    path = tmp_path / "s.zarr"
    assert run(path, "--partition", "1/5").exit_code == 0
    frame = sorted(inputs[0].glob("*.fits"))[-1]
    before = frame.read_bytes()
    content = bytearray(before)
    content[-3000] ^= 1
    frame.write_bytes(content)
    try:
        for how in (("--resume",), ("--partition", "5/5")):
            changed = run(path, *how)
            assert changed.exit_code == 1
            assert f"frames that have changed, e.g. {frame.name}" in text_of(changed)
    finally:
        frame.write_bytes(before)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--partition", "5/4"), "partition is '5/4'; give j/N with j from 1 to N"),
        (("--partition", "1/2", "--overwrite"), "--partition and --overwrite exclude each other"),
        (("--partition", "1/2", "--images", "pictures"), "--images and --partition exclude each other"),
    ],
)
def test_parts_that_cannot_be(run, tmp_path, more, says):
    result = run(tmp_path / "s.zarr", *more)
    assert result.exit_code == 1
    assert says in text_of(result)
    assert not partial_path(tmp_path / "s.zarr").exists()


def test_a_store_in_memory_through_the_command_line(run, whole):
    url = "memory://life/s.zarr"
    assert run(url).exit_code == 0
    shown = json.loads(invoke("info", url, "--json").stdout)
    assert shown["n_stamps"] == json.loads(invoke("info", whole, "--json").stdout)["n_stamps"]
    assert invoke("verify", url).exit_code == 0


def test_a_job_reads_only_its_own_frames_once_another_has_read_all(run, tmp_path, monkeypatch):
    """Their checksums are read; the frames themselves only when their turn comes."""
    read = []
    original = checksums.checksum

    def counted(path):
        read.append(path.name)
        return original(path)

    for module in (checksums, inputs_module):
        monkeypatch.setattr(module, "checksum", counted)
    path = tmp_path / "s.zarr"
    assert run(path, "--partition", "1/5").exit_code == 0
    science = {name for name in read if name != "reference.fits"}
    assert len(science) == 5
    read.clear()
    assert run(path, "--partition", "2/5").exit_code == 0
    assert len({name for name in read if name != "reference.fits"}) == 1
