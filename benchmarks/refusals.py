"""
What share of the remaining limit is used after refusals (429), and how many calls are refused?

Each case is an hour on a virtual clock, with posts of 0.05-0.3 s and a strict sliding window. The
bucket's rule is compared with a bucket that only retries the refused call.

    python benchmarks/refusals.py [--seeds 3]
"""

# pyright: reportPrivateUsage=false
# No option makes a bucket that does not slow down.

from __future__ import annotations

import logging
import sys
from pathlib import Path
from statistics import fmean

from common import options, show

from leadpost import TokenBucket
from leadpost._refusals import Refusals

sys.path.append(str(Path(__file__).parent.parent / "tests"))
from refusal_trial import CASES, Case, Result, run  # after the path to it


class RepeatOnly(Refusals):
    """Ignores refusals."""

    def record(self, *_: object, **__: object) -> None:
        return None


def repeating() -> TokenBucket:
    bucket = TokenBucket()
    bucket._brakes.rule = RepeatOnly(25, 5.0)  # noqa: SLF001  no option does it
    return bucket


def row(case: Case, name: str, results: list[Result]) -> dict[str, object]:
    others = fmean(result.others for result in results)
    return {
        "case": case.name,
        "client": name,
        "share of what is left": min(result.share for result in results),
        "wanted": case.share,
        "refused": max(result.refused for result in results),
        "at most": case.refused,
        "the other keeps": others or "-",
    }


def main() -> None:
    chosen = options(__doc__, seeds=3)
    logging.disable(logging.WARNING)
    seeds = range(1, chosen.seeds + 1)
    rows = [
        row(case, name, [run(case, make(), seed) for seed in seeds])
        for case in CASES
        for name, make in (("leadpost", TokenBucket), ("repeats only", repeating))
    ]
    show("refusals", "an hour of each; the worst of the seeds", rows, save=not chosen.no_save)


if __name__ == "__main__":
    main()
