"""The check before the first call: every row, and how long posting them would take."""

from collections.abc import Iterable, Iterator
from math import ceil
from typing import Any

from attrs import define, field

from leadpost.bucket import LIMIT, PERIOD
from leadpost.cli.results import Result
from leadpost.cli.rows import Row
from leadpost.errors import Problem

_SHOWN = 20
_FORM = "of the form"
_LEGEND = "(in forms, 9 stands for a digit and a for a letter)"
_UTC = "date-times without a zone are read as UTC: --timezone names another"


@define
class Check:
    """
    What a check found.

    Attributes:
        good: Rows that can be posted.
        bad: Rows that cannot.
        newly_bad: Those of them that no earlier run has left to the rejects, or has posted.
        problems: Reasons why they cannot; a row may have several.
        shown: The first of those reasons, with their places.
        utc_assumed: Whether the date-time of some row says no zone and was read as UTC.
        rejects: How many say which row of another input they are.
        inputs: The names of those inputs, the first two.
        not_whole: How many do not say so, or not as it was written.
        first_not_whole: The place of the first of these.
    """

    good: int = 0
    bad: int = 0
    newly_bad: int = 0
    problems: int = 0
    shown: list[tuple[Row, Problem]] = field(factory=list[tuple[Row, Problem]])
    utc_assumed: bool = False
    rejects: int = 0
    inputs: set[str] = field(factory=set[str])
    not_whole: int = 0
    first_not_whole: str | None = None

    @property
    def rows(self) -> int:
        return self.good + self.bad

    def lines(self) -> list[str]:
        """List for people the problems, and what was assumed."""
        lines = [f"{row.place}, {problem}" for row, problem in self.shown]
        if more := self.problems - len(self.shown):
            lines.append(f"… and {more} more")
        if any(_FORM in problem.found for _, problem in self.shown):
            lines.append(_LEGEND)
        if self.utc_assumed:
            lines.append(_UTC)
        return lines

    def as_json(self, limit: int) -> dict[str, Any]:
        return {
            "rows": self.rows,
            "good": self.good,
            "bad": self.bad,
            "seconds": duration(self.good, limit),
            "problems": [
                {
                    "line": row.line,
                    "item": row.item,
                    "column": problem.field,
                    "found": problem.found,
                    "wanted": problem.wanted,
                }
                for row, problem in self.shown
            ],
        }


def checked(rows: Iterable[Row], last: Iterator[Result]) -> Check:
    """Check all rows, keeping none but the first bad ones; `last` are the last run's results."""
    check = Check()
    for row in rows:
        before = next(last, None)
        if row.reject is not None:
            check.rejects += 1
            if len(check.inputs) <= 1 and row.reject.is_whole:
                check.inputs.add(row.reject.name)
            if before is not None and before.key != row.reject.key:
                before = None
        if row.reject is None or not row.reject.is_whole:
            check.not_whole += 1
            check.first_not_whole = check.first_not_whole or row.place
        if row.activity is not None:
            check.good += 1
            check.utc_assumed |= row.utc_assumed
            continue
        check.bad += 1
        check.newly_bad += before is None or before.state == "not_sent"
        if before is not None and before.state == "accepted":
            continue  # from the rejects
        check.problems += len(row.problems)
        check.shown += [(row, problem) for problem in row.problems][: _SHOWN - len(check.shown)]
    return check


def duration(calls: int, limit: int = LIMIT) -> float:
    """Give the seconds that so many calls take at best: a first burst, then one each 5 s."""
    return max(ceil(calls / limit) - 1, 0) * PERIOD


def number_of(count: int, noun: str) -> str:
    """
    Write a number of things.

    >>> number_of(1, "row"), number_of(2, "row")
    ('1 row', '2 rows')
    """
    return f"{count} {noun}" + ("" if count == 1 else "s")


def spoken(seconds: float) -> str:
    """
    Write a length of time in its two largest units.

    >>> spoken(4.2), spoken(75), spoken(7500)
    ('4 s', '1 min 15 s', '2 h 5 min')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
