"""The page on label noise says what the code does."""

import tomllib
from pathlib import Path

from rbsim.label_noise import REASON_CODES
from rbsim.label_sets import ARRAYS
from rbsim.relabel import MISLABEL_BOGUS, MISLABEL_REAL, PARTS, RelabelConfig, make_parts

PAGE = (Path(__file__).parents[1] / "docs" / "label_noise.md").read_text()


def test_mechanisms_reasons_and_arrays_are_those_of_the_code():
    for name in PARTS:
        assert f"### `{name}`" in PAGE
    for name, code in REASON_CODES.items():
        assert f"| {code} | `{name}` |\n" in PAGE
    for spec in ARRAYS:
        assert f"| `{spec.name}` | {spec.dtype} |" in PAGE
    text = " ".join(PAGE.split())
    assert f"about {100 * MISLABEL_BOGUS:.1f} % of what was called bogus was real, and" in text
    assert f"{100 * MISLABEL_REAL:.1f} % of what was called real was bogus" in text


def test_the_mixture_of_the_page_works(tmp_path):
    example = PAGE.split("```toml\n")[1].split("```")[0]
    assert list(tomllib.loads(example)) == ["class-conditional", "mechanism", "score-binned"]
    (tmp_path / "mix.toml").write_text(example.split("[score-binned]")[0])
    parts = make_parts(RelabelConfig("mixed", mix=tmp_path / "mix.toml"), 10)
    assert parts["mechanism"].left == ("transient",)
    assert parts["class-conditional"].mislabel_real == 0.005
