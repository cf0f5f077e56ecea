"""The documentation says what the code does: tables, limits, options and links."""

import re
from dataclasses import fields
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from rbsim import schema
from rbsim.difference_files import CARDS, LEFT_OUT
from rbsim.kernel import MAX_STAMPS, MIN_STAMPS
from rbsim.quality import LIMITS, Quality
from rbsim.register import MAX_RMS_PIX, MIN_MATCHES
from rbsim.significance import NOISE_BOX_PIX, SNR_SCALE_LIMITS
from rbsim.subtract import MIN_OVERLAP

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE = (ROOT / "docs" / "subtraction.md").read_text()


def table(header):
    """Rows of the table of the subtraction page with this header, as lists of cells."""
    lines = PAGE.split(f"{header}\n")[1].splitlines()[1:]
    rows = lines[: next((i for i, line in enumerate(lines) if not line.startswith("|")), len(lines))]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def test_the_page_on_stores_says_of_the_codec_what_was_measured():
    lines = (ROOT / "benchmarks" / "README.md").read_text().split("| codec, level |")[1].split("\n\n")[0]
    rows = {}
    for line in lines.splitlines()[2:]:
        name, _, size, _, write, read = (cell.strip(" *") for cell in line.strip("|").split("|"))
        rows[name] = (
            float(size),
            write,
            read,
            *(float(r.split()[0].replace(",", "")) for r in (write, read)),
        )
    ours, small = rows["blosc lz4 5, bits"], rows["blosc zstd 3, bytes"]
    smaller = [row for row in rows.values() if row[0] < ours[0]]
    assert small == min(smaller)
    assert all(row[3] < ours[3] and row[4] < ours[4] for row in smaller)
    page = " ".join((ROOT / "docs" / "stores.md").read_text().split())
    assert (
        f"{ours[0]:.3f} of their size on real frames, written at {ours[1]} stamps/s and read at {ours[2]}"
        in page
    )
    assert f"{1 - small[0] / ours[0]:.0%}".replace("%", " %") + f" smaller ({small[0]:.3f})" in page
    assert f"({small[1]} stamps/s)" in page


def test_every_sanity_figure_is_there_with_card_limits_and_remedy():
    rows = {
        row[0].strip("`"): row
        for row in table("| figure | card | allowed | what it is, and what to do beyond the limit |")
    }
    assert list(rows) == [field.name for field in fields(Quality)]
    for name, (_, card, allowed, text) in rows.items():
        assert card == f"`{CARDS[name]}`"
        if name in LIMITS:
            low, high, remedy = LIMITS[name]
            assert allowed == f"{low:g} to {high:g}"
            assert remedy in text
        elif name == "snr_scale":
            assert allowed == "{:g} to {:g}".format(*SNR_SCALE_LIMITS)
        else:
            assert allowed == ""


@pytest.mark.parametrize(
    ("header", "flags"),
    [
        ("| bit of `flags` | name | meaning |", schema.CANDIDATE_FLAGS),
        ("| bit of `MASK` | plane | meaning |", schema.MASK_PLANES),
    ],
)
def test_flags_and_mask_planes_are_those_of_the_schema(header, flags):
    assert table(header) == [[str(flag.bit), f"`{flag.name}`", flag.description] for flag in flags]


def test_columns_are_those_that_are_written():
    assert table("| column of candidates | unit | meaning |") == [
        [f"`{column.name}`", column.unit, column.description]
        for column in schema.CANDIDATE_COLUMNS
        if column.name not in LEFT_OUT
    ]


def test_numbers_in_the_text_are_those_of_the_code():
    text = " ".join(PAGE.split())
    for phrase in (
        f"at most {MAX_STAMPS}. At least {MIN_STAMPS} are needed",
        f"a frame above {MAX_RMS_PIX} px fails",
        f"registration needs {MIN_MATCHES}",
        f"boxes of about {NOISE_BOX_PIX} px",
        f"less than {MIN_OVERLAP:.0%} of the frame".replace("%", " %"),
        "outside {:g} to {:g} the frame fails".format(*SNR_SCALE_LIMITS),
    ):
        assert phrase in text, phrase


def test_options_in_the_pages_exist():
    runner = CliRunner()
    helps = ""
    names = (
        "finalise",
        "verify",
        "convert",
        "relabel",
        "inject",
        "subtract",
        "calibrate",
        "completeness",
        "fidelity",
        "info",
        "benchmark",
        "emulate",
        "train",
        "score",
        "export",
        "audit",
    )
    for command in (*names, "reference stack", "reference ps1"):
        result = runner.invoke(app, [*command.split(), "--help"], env={"COLUMNS": "250", "NO_COLOR": "1"})
        helps += result.stdout
    known = set(re.findall(r"--[a-z][a-z-]+", helps))
    for page in PAGES:
        if page.parent.name == "benchmarks":
            continue  # options of its own scripts
        others = r"`benchmarks/[^`]*`|`dask worker[^`]*`|^#SBATCH.*$|^job_extra.*$"
        text = re.sub(others, "", page.read_text(), flags=re.MULTILINE)
        unknown = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", text)) - known
        assert not unknown, f"{page.name}: {unknown}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.name}")
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith("http"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path) if path else page
        assert file.exists(), f"{page.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.+)$", file.read_text(), flags=re.MULTILINE)
            slugs = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in headings]
            assert anchor in slugs, f"{page.name}: {target}"


def test_columns_of_the_psf_are_those_of_the_frames():
    page = (ROOT / "docs" / "psf.md").read_text()
    for column in schema.PSF_COLUMNS:
        assert f"| `{column.name}` | {column.unit} | {column.description} |\n" in page
