"""What was found out about an account, as lines: verdict, meaning, and what to do."""

import json
from collections.abc import Collection, Sequence
from typing import Literal

import typer
from attrs import asdict, frozen

from leadpost.cli.account import in_words
from leadpost.cli.exits import Exit

_COLOURS = {"ok": "green", "failed": "red", "unknown": "yellow"}


@frozen
class Line:
    """A line: `ok`, `failed` or `unknown`, what that means, and what to do."""

    verdict: Literal["ok", "failed", "unknown"]
    meaning: str
    remedy: str = ""
    exit_code: Exit = Exit.ALL_ACCEPTED
    name: str = ""  # of the check
    setting: str = ""  # the variable that changes it, "" if there is none


def show(found: Sequence[Line], variables: Collection[str], *, as_json: bool = False) -> Exit:
    """Print what was found, see `in_words`, and return the highest exit code."""
    if as_json:
        typer.echo(json.dumps([asdict(line) for line in found]))
    for place, each in enumerate(() if as_json else found, 1):
        verdict = typer.style(f"{each.verdict:7}", fg=_COLOURS[each.verdict])
        setting = f" ({each.setting})" if each.setting and each.verdict == "unknown" else ""
        meaning = in_words(" ".join(each.meaning.split())[:300], variables)
        typer.echo(f"{verdict}  {each.name:25}  {meaning}{setting}")
        if each.remedy and each.remedy not in [later.remedy for later in found[place:]]:
            typer.echo(f"{'':36}→ {in_words(each.remedy, variables)}")
    return max((line.exit_code for line in found), default=Exit.ALL_ACCEPTED)
