"""Every method on digits with wrong labels: the case of ``tests/test_rivals.py`` at several noise rates.

    python benchmarks/rivals.py [--json]

Prints the share of test digits that are classified wrongly, mean of four seeds. The method `confident` needs
cleanlab.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from _digits import Small, error_on_digits

from rbmodel.networks import NETWORKS
from rbmodel.recipes.table import RECIPES

RATES = (0.2, 0.3, 0.4)
SEEDS = (0, 1, 2, 3)


def main() -> None:
    torch.set_num_threads(1)
    NETWORKS["small"] = Small
    found = {}
    for method in (*RECIPES, "oracle"):
        if method != "confident" or find_spec("cleanlab"):
            found[method] = [error_on_digits(method, flipped=rate, seeds=SEEDS) for rate in RATES]
            if "--json" not in sys.argv:
                print(
                    f"| `{method}` | " + " | ".join(f"{error:.3f}" for error in found[method]) + " |",
                    flush=True,
                )
    if "--json" in sys.argv:
        print(json.dumps({"rates": RATES, "seeds": SEEDS, "wrong": found}))


if __name__ == "__main__":
    main()
