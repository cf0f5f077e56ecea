"""The page on populations and catalogues says what the code does."""

import tomllib
from pathlib import Path

import catalogs
from rbsim import schema
from rbsim.injected_files import PROOF
from rbsim.population_settings import population_from_table

PAGE = (Path(__file__).parents[1] / "docs" / "injection.md").read_text()


def table(header):
    """Rows of the table with this header, as lists of cells."""
    lines = PAGE.split(f"{header}\n")[1].splitlines()[1:]
    rows = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_kinds_flags_and_columns_are_those_of_the_schema():
    assert table("| code | kind | `label_true` | meaning |") == [
        [str(kind.code), f"`{kind.name}`", str(kind.label_true), kind.description]
        for kind in schema.KINDS
        if kind.label_true_source == "injected"
    ]
    assert table("| bit of `injection_flag` | name | meaning |") == [
        [str(flag.bit), f"`{flag.name}`", flag.description] for flag in schema.INJECTION_FLAGS
    ]
    assert table("| column of the truth | unit | meaning |") == [
        [f"`{spec.name}`", spec.unit, spec.description] for spec in schema.TRUTH_COLUMNS
    ]


def test_populations_are_those_that_are_shipped_and_the_example_works():
    names = [row[0].strip("`") for row in table("| name | what |")]
    assert names == list(catalogs.read_toml("populations.toml"))
    example = PAGE.split("```toml\n")[1].split("```")[0]
    population = population_from_table(tomllib.loads(example)["mine"], "mine")
    assert population.variable.fainter == 0.3
    assert PROOF in PAGE
