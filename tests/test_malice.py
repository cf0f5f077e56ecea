"""What comes from outside is not trusted: pickles, names that leave a folder, texts for pages."""

import ast
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from _build_store import make, plan_of
from _small_store import SIZES, files

from rbsim import build, schema
from rbsim.errors import InputError
from rbsim.label_sets import read_labels, write_labels
from rbsim.manifest import read_manifest
from rbsim.pack import finalise
from rbsim.store import open_store, partial_path

pytestmark = pytest.mark.usefixtures("small_shards")
ROOT = Path(__file__).parents[1]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "s.zarr"


def test_nothing_unpickles():
    """No pickle of foreign origin: neither by name nor through numpy, torch or pandas."""
    for path in [ROOT / "cli.py", *(ROOT / "rbsim").rglob("*.py"), *(ROOT / "rbmodel").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import | ast.ImportFrom):
                names = [alias.name for alias in node.names] + [getattr(node, "module", "") or ""]
                assert not {"pickle", "cPickle", "dill", "joblib", "shelve"} & set(names), path
            called = node.func if isinstance(node, ast.Call) else None
            if isinstance(called, ast.Attribute) and called.attr == "load":
                owner = ast.unparse(called.value)
                if owner in ("np", "numpy"):
                    keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert keywords.get("allow_pickle") == "False", f"{path}:{node.lineno}"
                if owner == "torch":  # tensors and plain values only
                    keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                    assert keywords.get("weights_only") == "True", f"{path}:{node.lineno}"
                assert owner not in ("pickle", "yaml"), f"{path}:{node.lineno}"
            if isinstance(node, ast.Attribute):
                assert node.attr not in ("read_pickle", "from_pickle", "unsafe_load"), path


def test_every_page_escapes_what_comes_from_files():
    """Names of frames, header values, reasons: only figures that we drew ourselves are marked as safe."""
    n_environments = 0
    for path in [*(ROOT / "rbsim").rglob("*.py"), *(ROOT / "rbmodel").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] == "Environment":
                n_environments += 1
                keywords = {k.arg: ast.unparse(k.value) for k in node.keywords}
                assert keywords.get("autoescape") == "True", path
    assert n_environments >= 2
    for path in ROOT.rglob("rb*/templates/*.j2"):
        for marked in re.findall(r"{{([^}]*)\|\s*safe[^}]*}}", path.read_text()):
            assert re.search(r"svg|style|script", marked), f"{path}: {marked}"


@pytest.mark.parametrize("name", ["../x", "a/b", "/etc/x", "..", ".hidden", "", "a\\b", "x.partial"])
def test_names_of_label_settings_cannot_leave_the_store(whole_path, whole, name):
    store = open_store(whole_path)
    with pytest.raises(InputError, match="label setting"):
        write_labels(store, name, {}, {})
    with pytest.raises(InputError, match="label setting"):
        read_labels(store, name)
    assert files(whole_path) == whole


def test_a_pickle_in_a_partition_is_not_loaded(path):
    build.begin(path, plan_of((3,)))
    file = partial_path(path) / "partition_000000.npz"
    np.savez(file, name=np.array({"a": 1}, object), reason=np.array(""))
    with pytest.raises(InputError, match=r"unreadable partition \(Object arrays cannot be loaded"):
        finalise(path)


def test_a_store_of_a_newer_version_is_refused_with_the_remedy(path, whole_path):
    shutil.copytree(whole_path, path)
    content = (path / "zarr.json").read_text()
    old = f'"version": {schema.FORMAT_VERSION},'
    assert old in content
    (path / "zarr.json").write_text(content.replace(old, '"version": 99,'))
    with pytest.raises(InputError, match=r"has store version 99, .*; update rbsim"):
        open_store(path)
    with pytest.raises(InputError, match="exists already"):
        make(path, SIZES)


def test_the_manifest_has_every_file(whole_path, whole):
    names = set(whole) - {"manifest.json"}
    assert set(read_manifest(whole_path)["files"]) == names
