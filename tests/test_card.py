"""The dataset card: what the specifications want, true counts, and nothing of a file that acts as markup."""

import json
import re

import numpy as np
import pytest
import yaml
from _synthetic_store import make_store

from rbsim import build, schema
from rbsim.card import card_files
from rbsim.convert.rows import failed_partition, store_config, store_summary
from rbsim.manifest import sha256_of
from rbsim.pack import finalise

PUBLICATION = {
    "url": "https://example.org/night",
    "license": "https://creativecommons.org/licenses/by/4.0/",
    "creator": {"@type": "sc:Person", "name": "A. Nyone"},
    "datePublished": "2024-01-01",
}


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return make_store(tmp_path_factory.mktemp("card") / "night.zarr", n_stamps=400)


def croissant(store, **facts):
    return json.loads(card_files(store, facts)["croissant.json"])


def test_croissant_has_what_the_specification_requires(store):
    data = croissant(store, publication=PUBLICATION)
    for key in ("@context", "@type", "conformsTo", "description", "license", "name", "url", "creator"):
        assert data[key], key
    assert data["datePublished"] == "2024-01-01"
    assert data["conformsTo"] == "http://mlcommons.org/croissant/1.1"
    assert data["@type"] == "sc:Dataset"
    kinds = {part["@type"] for part in data["distribution"]}
    assert kinds == {"cr:FileObject", "cr:FileSet"}
    for part in data["distribution"]:
        wanted = ("contentUrl", "sha256") if part["@type"] == "cr:FileObject" else ("includes",)
        assert all(part[key] for key in ("@id", "name", "encodingFormat", *wanted))


def test_ids_are_unique_and_references_lead_somewhere(store):
    data = croissant(store)
    parts = [*data["distribution"], *data["recordSet"], *(f for r in data["recordSet"] for f in r["field"])]
    ids = [part["@id"] for part in parts]
    assert len(ids) == len(set(ids))
    for record in data["recordSet"]:
        for field in record["field"]:
            assert field["@id"] == f"{record['@id']}/{field['name']}"
            assert field["source"]["fileSet"]["@id"] in ids


def test_every_column_is_a_field_and_every_glob_finds_files(store):
    data = croissant(store)
    fields = {r["@id"]: [f["name"] for f in r["field"]] for r in data["recordSet"]}
    assert fields["candidates"] == [*(s.name for s in schema.CANDIDATE_COLUMNS), "stamps"]
    assert fields["truth"] == [s.name for s in schema.TRUTH_COLUMNS]
    assert fields["frames"] == [s.name for s in schema.FRAME_COLUMNS]
    for part in data["distribution"]:
        if part["@type"] == "cr:FileSet" and part["@id"] != "truth-files":  # this store has no truth
            globs = [part["includes"]] if isinstance(part["includes"], str) else part["includes"]
            for glob in globs:
                assert any(p.is_file() for p in store.path.glob(glob + "/*")), glob


def test_checksums_are_those_of_the_files(store):
    files = {p["name"]: p["sha256"] for p in croissant(store)["distribution"] if "sha256" in p}
    assert set(files) == {"zarr.json", "plan.json"}
    assert all(sha256_of(store.path / name) == value for name, value in files.items())


def test_the_yaml_header_reads_as_yaml(store):
    text = card_files(store, {})["README.md"]
    header = yaml.safe_load(text.split("---\n")[1])
    assert header["pretty_name"] == "night.zarr"
    assert header["size_categories"] == ["n<1K"]
    assert header["task_categories"] == ["image-classification"]
    assert header["license"] == "other"


def test_the_body_counts_what_is_in_the_store(store):
    text = card_files(store, {})["README.md"]
    kind = store.column("kind")
    for name in ("artefact", "injected_random", "emulated_transient"):
        n = int(np.sum(kind == schema.KIND_CODES[name]))
        assert re.search(rf"\| {name} \| \w+ \| \w+ \| {n} \|", text)
    assert "only assumed to be" in text
    for spec in schema.CANDIDATE_COLUMNS:
        assert f"| `{spec.name}` | {spec.dtype} |" in text


def test_the_same_store_gives_the_same_bytes_wherever_it_lies(store, tmp_path):
    other = make_store(tmp_path / "other.zarr", n_stamps=400)
    assert card_files(store, {"name": "n"}) == card_files(other, {"name": "n"})
    assert str(store.path.parent) not in card_files(store, {})["README.md"]


def test_names_and_reasons_of_files_stay_text(tmp_path):
    evil = '<script>alert(1)</script> | [x](http://evil) `rm` "quote"\n---\nlicense: mit\n'
    config = store_config("test", {"note": evil})
    path = tmp_path / "s.zarr"
    build.init(path, config=config, inputs=["a"], summary=store_summary({}))
    build.write_partition(path, 0, failed_partition(evil, evil))
    files = card_files(finalise(path), {"name": evil})
    text = files["README.md"]
    body = text.split("---\n", 2)[2]
    prose = re.sub(r"```.*?```", "", body, flags=re.DOTALL)
    assert "<script" not in prose
    assert "](http" not in prose
    assert body.count("```") == 2
    assert yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))["license"] == "other"
    assert "\nlicense: mit" not in body
    assert json.loads(files["croissant.json"])["name"] == evil
