"""
Rows of an input in a file of their own: BASE.rejects.csv, BASE.uncertain.csv.

Each says which entry of which outbox it has, and what that was when the row was written. So it is
the same row wherever it is posted from, and what was sent or put since is not sent from there.
"""

import re
from pathlib import Path

from leadpost.cli.check import Check, number_of
from leadpost.cli.exits import InputError
from leadpost.cli.rows import KEY, VERSION

_NAME = re.compile(r"(?P<input>.+)\.(?:rejects|uncertain)(?:\.\d+)?(?:\.csv|\.jsonl)", re.DOTALL)
_WANTED = f"{KEY} and {VERSION} in each, as they were written"
_ANEW = "To have them written anew, move this file away and post {} again"


def input_of(path: str, base: str, check: Check) -> Path | None:
    """
    Tell which input the rows of a file are of: by what they say, it has stood beside the file.

    Args:
        path: The file.
        base: What the names of its results begin with.
        check: What was found in it.

    Returns:
        None where the file is an input of its own.

    Raises:
        InputError: only some of the rows say so, or they are of several, or none says so though the
            file has the name of rejects; or its results would replace those of the input.
    """
    if not check.rows:
        return None
    if not check.rejects:
        named = _NAME.fullmatch(path)
        if named is None or not Path(f"{named['input']}.outbox.db").exists():
            return None
        raise InputError(
            f"{path}: found rows that do not say which of {named['input']} they are, wanted"
            f" {_WANTED}. {_ANEW.format(named['input'])}"
        )
    if check.not_whole:
        raise InputError(
            f"{path}: found {number_of(check.not_whole, 'row')} not saying which row of the input"
            f" it is, the first at {check.first_not_whole}, wanted {_WANTED}."
            f" {_ANEW.format(min(check.inputs, default='the file that they are of'))}"
        )
    if len(check.inputs) > 1:
        names = " and ".join(sorted(check.inputs))
        raise InputError(f"{path}: found rows of {names}, wanted a file for each")
    rejects_of = Path(path).parent / min(check.inputs)
    if Path(base).resolve() == rejects_of.resolve():
        raise InputError(f"{base}: found the base of the input's results, wanted another")
    return rejects_of


def outbox_beside(base: str, rejects_of: Path | None) -> str:
    """
    Give the outbox that a file is posted with by default.

    Args:
        base: What the names of its results begin with.
        rejects_of: The input that its rows are of, if it is none itself.

    Raises:
        InputError: that of the input is not at its place.
    """
    outbox = Path(f"{rejects_of or base}.outbox.db")
    if rejects_of is not None and not outbox.exists():
        raise InputError(
            f"{outbox}: found no outbox there, wanted the one that {rejects_of.name} was posted"
            " with: --outbox names it"
        )
    return str(outbox)
