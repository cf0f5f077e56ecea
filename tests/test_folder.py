"""A folder of results: whole or not there, and nothing of anybody else's is removed."""

import pytest

from rbsim.errors import InputError
from rbsim.folder import new_folder


def write(out, text="new", *, overwrite=False, error=None):
    with new_folder(out, overwrite=overwrite, proof="table", command="rbsim test") as work:
        (work / "table").write_text(text)
        if error is not None:
            raise error


def test_it_is_there_when_it_is_whole(tmp_path):
    write(tmp_path / "out")
    assert [path.name for path in tmp_path.rglob("*")] == ["out", "table"]


@pytest.mark.parametrize("error", [InputError("x"), KeyboardInterrupt(), OSError(28, "No space left")])
def test_a_failure_leaves_nothing_and_keeps_the_old(tmp_path, error):
    write(tmp_path / "out", "old")
    expected = InputError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected):
        write(tmp_path / "out", overwrite=True, error=error)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / "table").read_text() == "old"


def test_what_a_killed_run_left_is_started_anew(tmp_path):
    stale = tmp_path / "out.partial"
    stale.mkdir()
    (stale / ".rbsim-unfinished").touch()
    (stale / "half").touch()
    write(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["table"]


def test_nothing_foreign_is_removed(tmp_path):
    for name, message in (("a.partial", "in the way"), ("a", "not an output of rbsim test")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine").touch()
        with pytest.raises(InputError, match=message):
            write(tmp_path / "a", overwrite=True)
        assert (tmp_path / name / "mine").exists()
        (tmp_path / name / "mine").unlink()
        (tmp_path / name).rmdir()


def test_it_is_replaced_only_when_asked(tmp_path, monkeypatch):
    write(tmp_path / "out", "old")
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        write(tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "out")
    write(tmp_path / "link", overwrite=True)
    assert (tmp_path / "out" / "table").read_text() == "new"
    assert (tmp_path / "link").is_symlink()
