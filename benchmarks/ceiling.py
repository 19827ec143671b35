"""
How near do posts come to the vendor's ceiling, and is any refused?

200 posts against the strict sandbox, over real sockets, delays of 0.02-0.15 s each way, once for
each way a server may count. The ceiling: 25 at once, and 25 more every 5 s.

    python benchmarks/ceiling.py [--posts 200]
"""

from __future__ import annotations

import argparse
import asyncio
import time

from rich.console import Console
from rich.table import Table

from leadpost import Activity, AsyncActivityPoster
from leadpost.sandbox import Sandbox

LEAD = "00727844-51aa-11e2-9e64-12314004ac6b"
WINDOWS = ("sliding", "fixed", "bucket")


async def measure(window: str, posts: int) -> tuple[str, ...]:
    activities = [Activity(LEAD, 201, f"call {number}") for number in range(posts)]
    with Sandbox(delay=(0.02, 0.15), window=window) as sandbox:
        async with AsyncActivityPoster(sandbox.account()) as poster:
            begun = time.perf_counter()
            await poster.post_many(activities)
            took = time.perf_counter() - begun
        report = sandbox.report()
    ceiling = (posts - 1) // 25 * 5
    share = f"{ceiling / took:.3f}"
    return window, str(report.refused), str(report.fullest_window), share


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[1] if __doc__ else None)
    parser.add_argument("--posts", type=int, default=200)
    posts = parser.parse_args().posts
    table = Table("server counts by", "refused", "fullest 5 s", "share of the ceiling")
    for row in await asyncio.gather(*(measure(window, posts) for window in WINDOWS)):
        table.add_row(*row)
    Console().print(f"{posts} posts", table)


if __name__ == "__main__":
    asyncio.run(main())
