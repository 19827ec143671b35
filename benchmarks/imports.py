"""
How long does `import leadpost` take beside its dependencies, and `leadpost --help` beside its own?

Each is a process of its own. They take turns, and the shortest time of each counts.

    python benchmarks/imports.py [--rounds 15]
"""

from __future__ import annotations

import os
import subprocess
import sys
import time

from common import options, show

COMMANDS = {
    "import leadpost": ["-c", "import leadpost"],
    "its four packages": ["-c", "import httpx, aiolimiter, tenacity, attrs"],
    "import httpx, typer, rich": ["-c", "import httpx, typer, rich"],
    "leadpost --help": ["-m", "leadpost.cli", "--help"],
}


# With bytecode written and read, as after an installation.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}


def seconds(arguments: list[str]) -> float:
    begun = time.perf_counter()
    subprocess.run(
        [sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL, env=ENVIRONMENT
    )
    return time.perf_counter() - begun


def main() -> None:
    chosen = options(__doc__, rounds=15)
    least = dict.fromkeys(COMMANDS, float("inf"))
    for _ in range(chosen.rounds):
        for name, arguments in COMMANDS.items():
            least[name] = min(least[name], seconds(arguments))
    pairs = (
        ("import leadpost", "its four packages"),
        ("leadpost --help", "import httpx, typer, rich"),
    )
    rows = [
        {"what": a, "beside": b, "ratio": least[a] / least[b], "s": least[a], "s beside": least[b]}
        for a, b in pairs
    ]
    show("imports", "start-up", rows, save=not chosen.no_save)


if __name__ == "__main__":
    main()
