"""The page on classifiers says what the code does."""

import re
from pathlib import Path

from rbmodel.audit import LEAST_PER_STRATUM, LEAST_PROBABILITY, STRATUM_EDGES
from rbmodel.export import CHECKED_BATCHES, TOLERANCE
from rbmodel.model import CARD, FACTS, WEIGHTS
from rbmodel.score import STAMPS_PER_PART, STAMPS_PER_PIECE
from rbmodel.temperature import N_BINS
from rbsim.convert.triplets import CARD as ORDER_CARD

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "classifiers.md").read_text()
WORDS = " ".join(PAGE.split())


def test_numbers_in_the_text_are_those_of_the_code():
    low, high = STRATUM_EDGES
    for words in (
        f"stamps below {low:g}, from there to {high:g} and above",
        f"at least {LEAST_PER_STRATUM} stamps",
        f"No stamp counts as surer than {LEAST_PROBABILITY:g}",
        f"onnxruntime on {sum(CHECKED_BATCHES)} stamps",
        "in batches of four sizes",
        f"more than {TOLERANCE:g} is not written".replace("0.0001", "1e-4"),
        f"parts of {STAMPS_PER_PART:,}",
        f"One piece of {STAMPS_PER_PIECE:,} stamps",
        f"error ({N_BINS} bins)",
        f"the card `{ORDER_CARD}`",
    ):
        assert words in WORDS, words
    assert len(CHECKED_BATCHES) == 4
    assert all(f"`{name}`" in PAGE for name in (WEIGHTS, FACTS, CARD))


def test_intervals_cover_and_are_narrower_as_the_page_says():
    rows = re.findall(
        r"\| ([\d.]+) % \(([\d.]+)\) \| ([\d.]+) % \(([\d.]+)\) \| ([\d.]+) % \(([\d.]+)\)", PAGE
    )
    assert len(rows) == 6
    for row in rows:
        covers, _, width, simple_width, rms, simple_rms = map(float, row)
        assert covers >= 94
        assert width < simple_width
        assert rms < simple_rms
