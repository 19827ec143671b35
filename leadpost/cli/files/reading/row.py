"""One row of a file: what it would send, or what is wrong with it, and what a run decides."""

from collections.abc import Iterable, Mapping
from typing import Any, Literal

from attrs import define, field, frozen

_LONGEST = 60

Decision = Literal[
    "new",
    "posted",
    "pending",
    "again",
    "corrected",
    "failed",
    "invalid",
    "elsewhere",
    "edit",
    "later",
]
"""
What a run decides about a row. It sends those that are `new`, `pending` (in the outbox already),
`again` (rejected before) or `corrected` (in a rejects file). It does not send those that are
`posted`, `failed`, `invalid` or `later` (after `--first`). The others are possible duplicates:
`elsewhere` (posted in another batch, or put with other keys), `edit` (it looks like a posted row
that was edited).
"""
DUPLICATES: tuple[Decision, ...] = ("elsewhere", "edit")
SENT: tuple[Decision, ...] = ("new", "pending", "again", "corrected")


@frozen
class Problem:
    """Why a row cannot be posted."""

    column: str  # its heading, or a parameter
    value: str = field(repr=False)  # the cell, "" where there is none
    what: str  # what is wrong with it; the same words for the same kind
    remedy: str = ""

    def __str__(self) -> str:
        said = " ".join(part for part in (shortened(self.value), self.what) if part)
        return f"{self.column}: {said}" + (f"; {self.remedy}" if self.remedy else "")


def shortened(text: str) -> str:
    """Return a cell so that it fits into a message, on one line."""
    line = " ".join(text.split())
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"


@define(eq=False)
class Row:
    """One row of a file, and what a run does with it."""

    line: int  # the line, or the row of a sheet, that it begins on
    # What stands there, without leadpost's own columns: cells, or a JSON object.
    own: Any = field(repr=False)
    # The activity in LeadSquared's shape, without a date-time whose zone is missing; None if it
    # cannot be read.
    payload: Mapping[str, Any] | None = field(repr=False)
    digest_read: str  # of that activity, or of the cells
    item: int | None = None  # its number in a JSON array
    key: str | None = None  # which row of another file it is, in a rejects file
    problems: tuple[Problem, ...] = ()
    digest_sent: str = ""  # of what it sends: another one if a lead was looked up
    decision: Decision | None = None
    # The number of the row of an earlier run that it is, None if it is new.
    known: int | None = None
    # The number of a new row among those of the same digest, from 1; the same in every run of the
    # same file.
    number: int | None = None
    elsewhere: int | None = None  # the number of the posted row of another batch that it is
    edited: int | None = None  # the number of the posted row that it looks like an edit of
    n: int = 0  # its place in the file, from 1

    @property
    def place(self) -> str:
        return f"line {self.line}" + (f", item {self.item}" if self.item else "")


@define
class ProblemGroup:
    """Problems of the same kind: the first, where it is, and how many rows have one."""

    problem: Problem
    place: str
    rows: int = 0


ProblemGroups = dict[tuple[str, str], ProblemGroup]


def count_problems(groups: ProblemGroups, problems: Iterable[Problem], place: str) -> None:
    """Count the problems of a row by kind: by column, and by what is wrong."""
    for problem in {(problem.column, problem.what): problem for problem in problems}.values():
        key = problem.column, problem.what
        groups.setdefault(key, ProblemGroup(problem, place)).rows += 1
