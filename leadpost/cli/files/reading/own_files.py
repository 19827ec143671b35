"""The files that leadpost writes beside the input, as far as it reads them again."""

import csv
import re
from collections import Counter
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path

REASON = "leadpost_reason"
"""The column of a rejects file that says why a row is there. It is never posted."""
KEY = "leadpost_key"
"""The column of a rejects file that says which row it is. It is never posted."""
OWN = frozenset((REASON, KEY))
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


def states_in(path: Path) -> Counter[str]:
    """Count the rows of a results file by state; nothing if it is none."""
    with (
        suppress(UnicodeDecodeError, csv.Error),
        path.open(encoding=UTF8_WITH_BOM, newline="") as file,
    ):
        first = file.readline()
        file.seek(0)
        rows = csv.DictReader(file, delimiter=max(",;\t|", key=first.count))
        return Counter(row.get("state") or "" for row in rows)
    return Counter()


def digest_of(path: Path) -> str:
    """Return the digest of a file's content."""
    digest = blake2b(digest_size=16)
    with path.open("rb") as file:
        while part := file.read(2**16):
            digest.update(part)
    return digest.hexdigest()
