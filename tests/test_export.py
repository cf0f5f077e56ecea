"""ONNX: the normalisation of the graph is ours, and onnxruntime gives torch's numbers or there is no file."""

import sys

import numpy as np
import pytest
import torch
from _models import make_model
from typer.testing import CliRunner

from cli import app
from rbmodel import export as export_module
from rbmodel.dataset import normalise
from rbmodel.export import NORMALISATIONS, TOLERANCE, export_model
from rbmodel.model import save_model
from rbsim import schema
from rbsim.errors import InputError

torch.set_num_threads(1)
REASON = 'pip install "rbsim[onnx]"'
PATTERN = r'export to ONNX needs onnx, onnxscript, onnxruntime .*; pip install "rbsim\[onnx\]"'


def _stamps(n=200):
    """Triplets as difficult as they come; the seed is not that of the export's own check."""
    rng = np.random.default_rng(5)
    noise_adu = 10 ** rng.uniform(-2, 3, n)
    stamps = rng.normal(size=(n, *schema.STAMP_SHAPE)) * noise_adu[:, None, None, None]
    stamps[:, :, 14, 14] += (10 ** rng.uniform(0, 6, n) * rng.choice([-1, 1], n))[:, None]
    stamps[rng.random(stamps.shape) < 0.01] = np.nan
    stamps[0, 0] = np.nan
    stamps[1, 1] = 4.0
    stamps[2, 2, :3] = np.inf
    stamps[3, 2, 3:6] = -np.inf
    stamps[4] = np.nan
    return stamps.astype(np.float32), noise_adu.astype(np.float32)


@pytest.mark.parametrize("method", ["minmax", "asinh"])
def test_the_normalisation_of_the_graph_is_that_of_the_training(method):
    stamps, noise_adu = _stamps()
    arguments = [torch.from_numpy(stamps)] + ([torch.from_numpy(noise_adu)] if method == "asinh" else [])
    found = NORMALISATIONS[method]()(*arguments).numpy()
    expected = normalise(stamps, method=method, noise_adu=noise_adu)
    np.testing.assert_allclose(found, expected, atol=2e-6, rtol=2e-6)


def test_without_the_packages_the_remedy_is_said(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(InputError, match=PATTERN):
        export_model(make_model(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []


def test_other_formats_and_files_in_the_way_are_refused(tmp_path):
    (tmp_path / "m").mkdir()
    save_model(tmp_path / "m", make_model(), {})
    done = CliRunner().invoke(
        app, ["export", str(tmp_path / "m"), "--format", "tflite", "--out", str(tmp_path / "x")]
    )
    assert done.exit_code == 1
    assert "format is 'tflite'; choose one of onnx" in " ".join(done.stderr.split())
    (tmp_path / "x").write_text("mine")
    with pytest.raises(InputError, match="exists already; give --overwrite"):
        export_model(make_model(), tmp_path / "x")
    with pytest.raises(InputError, match="the normalisation 'magic' cannot be exported"):
        export_model(make_model(normalisation="magic"), tmp_path / "y")


@pytest.fixture(scope="module")
def packages():
    """What the extra onnx installs."""
    return [pytest.importorskip(name, reason=REASON) for name in ("onnx", "onnxscript", "onnxruntime")]


@pytest.fixture(scope="module", params=[("simple", "minmax"), ("simple", "asinh"), ("complex", "minmax")])
def exported(request, packages, tmp_path_factory):
    assert packages
    name, normalisation = request.param
    model = make_model(name, normalisation=normalisation)
    out = tmp_path_factory.mktemp("onnx") / "m.onnx"
    return model, out, export_model(model, out)


@pytest.mark.parametrize("n", [1, 3, 200])
def test_raw_triplets_in_calibrated_probabilities_out(exported, n):
    runtime = pytest.importorskip("onnxruntime")
    model, out, done = exported
    stamps, noise_adu = (values[:n] for values in _stamps())
    session = runtime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    given = {"stamps": stamps} | ({"noise_adu": noise_adu} if "noise_adu" in done.inputs else {})
    score, probability = session.run(["score", "probability"], given)
    expected = model.score(stamps, noise_adu=noise_adu)
    np.testing.assert_allclose(probability, model.probability(expected), atol=TOLERANCE)
    np.testing.assert_allclose(score, expected, atol=TOLERANCE, rtol=TOLERANCE)
    assert done.largest_difference_probability < TOLERANCE


def test_the_file_says_what_it_is(exported):
    onnx = pytest.importorskip("onnx")
    model, out, done = exported
    found = {entry.key: entry.value for entry in onnx.load(str(out)).metadata_props}
    assert found["model_version"] == model.version == done.version
    assert found["channels"] == "reference,science,difference"
    assert float(found["temperature"]) == model.temperature
    assert done.inputs == (("stamps", "noise_adu") if model.normalisation == "asinh" else ("stamps",))


@pytest.mark.usefixtures("packages")
def test_a_file_that_disagrees_with_torch_gets_no_name(tmp_path, monkeypatch):
    wrong = export_module._exported

    def other_temperature(module, *what):
        module.temperature *= 2
        try:
            return wrong(module, *what)
        finally:
            module.temperature /= 2

    monkeypatch.setattr(export_module, "_exported", other_temperature)
    with pytest.raises(InputError, match="is not written: onnxruntime differs from torch by"):
        export_model(make_model(), tmp_path / "m.onnx")
    assert list(tmp_path.iterdir()) == []
