"""The files that leadpost writes beside the input, as far as it reads them again."""

import csv
import re
from collections.abc import Sequence
from contextlib import suppress
from hashlib import blake2b
from math import ceil
from pathlib import Path

from attrs import frozen

REASON = "leadpost_reason"
"""The column of a rejects file that says why a row is there. It is never posted."""
KEY = "leadpost_key"
"""The column of a rejects file that says which row it is. It is never posted."""
OWN = frozenset((REASON, KEY))
_SAMPLE = 500
_REJECTS = re.compile(r"(.+)\.rejects(?:\.\d+)?\.\w+")
UTF8_WITH_BOM = "utf-8-sig"
"""So that Excel reads it as UTF-8."""


def input_of(name: str) -> str:
    """Return the name of the file that rejects came from; the name of any other file as it is."""
    found = _REJECTS.fullmatch(name)
    return found[1] if found else name


def results_of(path: Path) -> Path:
    """Return where the results of a file are written."""
    return path.with_name(f"{path.name}.results.csv")


@frozen
class Results:
    """What a results file says."""

    posted: int = 0  # how many rows
    request_ids: Sequence[str] = ()  # of some of them, at most 500


def read_results(path: Path) -> Results:
    """Read a results file; if it is none, nothing was posted."""
    posted, request_ids = 0, list[str]()
    with (
        suppress(UnicodeDecodeError, csv.Error),
        path.open(encoding=UTF8_WITH_BOM, newline="") as file,
    ):
        first = file.readline()
        file.seek(0)
        for row in csv.DictReader(file, delimiter=max(",;\t|", key=first.count)):
            posted += row.get("state") in {"accepted", "succeeded", "uncertain"}
            request_ids += filter(None, [row.get("request_id")])
        every = ceil(len(request_ids) / _SAMPLE) or 1
        return Results(posted, tuple(request_ids[::every]))
    return Results()


def digest_of(path: Path) -> str:
    """Return the digest of a file's content."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(2**16):
            digest.update(part)
    return digest.hexdigest()
