"""
How close do 200 posts come to the limit, and how many are refused?

leadpost and five other limiters, one after the other, over real sockets against the same strict
sandbox, with delays of 0.02-0.15 s each way, for each way in which a server may count. The ceiling
is 25 at once and 25 more every 5 s. Draws results/ceiling.svg and .png, the arrivals in the last 5
s, and writes results/ceiling.md, the README's table.

    python benchmarks/ceiling.py              # 200 posts, about 13 minutes
    python benchmarks/ceiling.py --posts 100 --windows 1   # sliding window only, under 2 minutes
"""

# pyright: reportUnknownMemberType=false
# matplotlib's types are partial.

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right
from typing import Any

import matplotlib as mpl
from common import RESULTS, activities, ceiling_seconds, options, sandbox_process, show
from contenders import CONTENDERS, Contender

mpl.use("agg")
from matplotlib import pyplot as plt  # after the choice of the backend

WINDOWS = ("sliding", "fixed", "bucket")


async def measure(
    name: str, contend: Contender, window: str, posts: int
) -> tuple[dict[str, Any], list[float]]:
    with sandbox_process(delay=(0.02, 0.15), window=window, seed=1) as sandbox:
        begun = time.perf_counter()
        await contend(sandbox.account, activities(posts))
        took = time.perf_counter() - begun
        seen = sandbox.seen()
    row = {
        "contender": name,
        "server counts by": window,
        "refused": seen.report.refused,
        "fullest 5 s": seen.report.fullest_window,
        "share of the ceiling": ceiling_seconds(posts) / took,
    }
    return row, [time - seen.arrival_times[0] for time in seen.arrival_times]


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return the README's table: a line for each contender, a figure for each way of counting."""
    lines = ["| 200 posts | refused | fullest 5 s | share of the ceiling |", "|---|---|---|---|"]
    for name in dict.fromkeys(row["contender"] for row in rows):
        own = [row for row in rows if row["contender"] == name]
        cells = (
            " / ".join(str(row["refused"]) for row in own),
            " / ".join(str(row["fullest 5 s"]) for row in own),
            " / ".join(f"{row['share of the ceiling']:.2f}" for row in own),
        )
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def draw(arrivals: dict[str, list[float]]) -> None:
    """Draw the number of arrivals in the last 5 s over time, a panel for each contender."""
    mpl.rcParams["svg.hashsalt"] = "leadpost"
    figure, panels = plt.subplots(2, 3, figsize=(12, 5.2), sharex=True, sharey=True)
    for panel, (name, times) in zip(panels.flat, arrivals.items(), strict=True):
        ordered = sorted(times)
        moments = sorted([*ordered, *(time + 5 for time in ordered)])
        counts = [bisect_right(ordered, m) - bisect_right(ordered, m - 5) for m in moments]
        over = max(counts) > 25
        panel.step(moments, counts, where="post", color="tab:red" if over else "tab:green")
        panel.axhline(25, color="black", linewidth=0.8, linestyle="--")
        panel.set_title(f"{name}: at most {max(counts)}", fontsize=9)
        panel.set_xlim(0, 60)
        panel.set_ylim(0, 55)
    figure.supxlabel("seconds")
    figure.supylabel("calls that arrived in the last 5 s")
    figure.tight_layout()
    RESULTS.mkdir(exist_ok=True)
    figure.savefig(RESULTS / "ceiling.svg", metadata={"Date": None})
    figure.savefig(RESULTS / "ceiling.png", dpi=110)


async def main() -> None:
    chosen = options(__doc__, posts=200, windows=3)
    rows: list[dict[str, Any]] = []
    arrivals: dict[str, list[float]] = {}
    for window in WINDOWS[: chosen.windows]:
        for name, contend in CONTENDERS.items():
            row, times = await measure(name, contend, window, chosen.posts)
            rows.append(row)
            arrivals.setdefault(name, times)
    show("ceiling", f"{chosen.posts} posts", rows, save=not chosen.no_save)
    if not chosen.no_save:
        (RESULTS / "ceiling.md").write_text(markdown(rows), encoding="utf-8")
        draw(arrivals)


if __name__ == "__main__":
    asyncio.run(main())
