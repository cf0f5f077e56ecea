"""Coverage, width and scatter of `rbsim audit` on simulated populations, beside simple random samples.

    python benchmarks/audit.py [--audits 500] [--n 300]

Prints the table of docs/classifiers.md.
"""

import argparse

import numpy as np
from sklearn.metrics import roc_auc_score

from rbmodel.audit import draw_sample, estimate_rate, make_strata

POPULATIONS = {
    "1 % flipped": {},
    "the same, a hard task": {"skill": 2.0},
    "the same, half of the mistakes learnt": {"learnt": 0.5},
    "the same, all of them": {"learnt": 1.0},
    "0.2 % flipped": {"rate": 0.002},
    "5 % flipped": {"rate": 0.05},
}


def population(
    rng: np.random.Generator, *, n: int = 20_000, rate: float = 0.01, skill: float = 8.0, learnt: float = 0.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Scores, thrice too sure, that share the `learnt` mistakes; given labels; which of them are wrong."""
    true = (rng.random(n) < 0.5).astype(int)
    wrong = rng.random(n) < rate
    score = rng.normal(skill * (2 * true - 1), np.sqrt(2 * skill))
    score[wrong & (rng.random(n) < learnt)] *= -1
    return 3 * score, np.where(wrong, 1 - true, true), wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--audits", type=int, default=500)
    parser.add_argument("--n", type=int, default=300)
    options = parser.parse_args()
    print("| population | AUC | covers | mean width | rms error |")
    print("|---|---|---|---|---|")
    for name, kind in POPULATIONS.items():
        rng = np.random.default_rng(1)
        score, given, wrong = population(rng, **kind)
        strata = make_strata(score, given)
        k = len(strata.label)
        found: tuple[list, list] = ([], [])
        for _ in range(options.audits):
            index = draw_sample(strata, options.n, rng=rng)
            stratum = strata.of_stamp[index]
            counts = (np.bincount(part, minlength=k) for part in (stratum, stratum[wrong[index]]))
            found[0].append(estimate_rate(strata.n_population, *counts))
            n_wrong = int(wrong[rng.choice(len(wrong), options.n, replace=False)].sum())
            found[1].append(estimate_rate(*(np.array([x]) for x in (len(wrong), options.n, n_wrong))))
        columns = []
        for audits in found:
            value, low, high = (
                np.array([getattr(a, key) for a in audits]) for key in ("value", "low", "high")
            )
            covers = np.mean((low <= wrong.mean()) & (wrong.mean() <= high))
            rms = np.sqrt(np.mean((value - wrong.mean()) ** 2))
            columns.append((100 * covers, 100 * np.mean(high - low), 100 * rms))
        auc = roc_auc_score(np.where(wrong, 1 - given, given), score)
        cells = (
            f"{ours:.{d}f} % ({simple:.{d}f})" for ours, simple, d in zip(*columns, (1, 2, 2), strict=True)
        )
        print(f"| {name} | {auc:.3f} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
