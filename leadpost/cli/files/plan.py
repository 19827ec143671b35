"""What a run does with the rows of a file."""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from tempfile import TemporaryFile
from typing import Literal, Self

from attrs import define, field

from leadpost.cli.files.reading import Fault
from leadpost.cli.files.rows import Row

Verdict = Literal[
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
What a run does with a row. It sends those that are `new`, `pending` (in the outbox already),
`again` (rejected before) or `corrected` (in a rejects file). It does not send those that are
`posted`, `failed`, `invalid` or `later` (after `--first`). The others are doubtful: `elsewhere`
(posted in another batch, or with other keys), `edit` (it looks like a posted row that was edited).
"""
DOUBTFUL: tuple[Verdict, ...] = ("elsewhere", "edit")
SENT: tuple[Verdict, ...] = ("new", "pending", "again", "corrected")


@define(eq=False, weakref_slot=False)
class Planned:
    """A row of the file, and what to do with it."""

    digest: str  # the digest of its activity, or of its cells if it cannot be posted
    present: str  # the digest of what it sends: another one if a lead was looked up
    faults: tuple[Fault, ...] = ()
    letters: str | None = None  # the key that a rejects file has for it
    # The number of the row of an earlier run that it is, None if it is new.
    known: int | None = None
    verdict: Verdict | None = None  # what to do with it, None until that is decided
    # The number of a new row among those of the same digest, from 1; the same in every run of the
    # same file.
    number: int | None = None
    edited: int | None = None  # the number of the posted row that it looks like an edit of

    @property
    def is_open(self) -> bool:
        """Whether it may be sent, as far as is known."""
        return self.verdict is None and not self.faults

    def refuse(self, faults: Iterable[Fault]) -> None:
        """Record that the account finds it to be invalid."""
        self.faults = tuple(faults)


@define
class FaultGroup:
    """Faults of the same kind: the first, where it is, and how many rows have one."""

    fault: Fault
    place: str
    rows: int = 0


FaultGroups = dict[tuple[str, str], FaultGroup]


def count_faults(groups: FaultGroups, faults: Iterable[Fault], place: str) -> None:
    """Count the faults of a row by kind: by column, and by what is wrong."""
    for fault in {(fault.column, fault.what): fault for fault in faults}.values():
        key = fault.column, fault.what
        groups.setdefault(key, FaultGroup(fault, place)).rows += 1


class Rows:
    """
    The rows of a file as they were when it was read.

    In memory is only what they are compared by. Their contents are in a temporary file without a
    name: nothing stays behind, and a file that is changed while it is posted does no harm.
    """

    def __init__(self) -> None:
        self._rows: list[Planned] = []
        self._contents = TemporaryFile()  # noqa: SIM115  closed by __exit__

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._contents.close()

    def __iter__(self) -> Iterator[Planned]:
        return iter(self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> None:
        """Add the next row of the file."""
        self._rows.append(Planned(row.digest, row.digest, row.faults, row.key))
        content = json.dumps((row.line, row.item, row.own, row.payload))
        self._contents.write(content.encode() + b"\n")

    def clear(self) -> None:
        """Remove all rows, to read them again."""
        self._rows.clear()
        self._contents.seek(0)
        self._contents.truncate()

    def read(
        self, wanted: Callable[[Planned], object] = lambda _: True
    ) -> Iterator[tuple[Planned, Row]]:
        """Yield the wanted rows as they were read, in their order."""
        at = 0
        for row in self._rows:
            self._contents.seek(at)  # several may read at the same time
            content = self._contents.readline()
            at += len(content)
            if wanted(row):
                line, item, own, payload = json.loads(content)
                yield row, Row(line, own, payload, row.digest, row.faults, item, row.letters)

    def of(self, *verdicts: Verdict) -> Iterator[tuple[Planned, Row]]:
        """Yield the rows of these verdicts as they were read."""
        return self.read(lambda row: row.verdict in verdicts)


@define
class Plan:
    """What a run would do."""

    rows: Rows
    # The numbers of rows of earlier runs that nothing is to send any more.
    unsent: list[int] = field(factory=list[int])
    withdrawn: int = 0  # how many of them are gone from the file, and could have been sent
    moved: int = 0  # how many of them were put for another file, and are new rows here
    # The numbers of posted rows that are gone from the file, and of those that are in it again.
    gone: list[int] = field(factory=list[int])
    back: list[int] = field(factory=list[int])
    waiting: int = 0  # how many unsent rows of the batch a rejects file lacks: they are sent too
    # How many doubtful rows were posted in each other batch.
    batches: Counter[str] = field(factory=Counter[str])
    other_keys: int = 0  # how many doubtful rows were posted with other keys of the same host
    # How many invalid rows no earlier run has left to the rejects as they are.
    newly_invalid: int = 0

    @property
    def counts(self) -> Counter[Verdict]:
        """The number of rows of each verdict."""
        return Counter(row.verdict for row in self.rows if row.verdict is not None)

    @property
    def sent(self) -> int:
        """How many rows are sent by this run, if none is doubtful."""
        own = sum(row.verdict in SENT for row in self.rows)
        return own + self.waiting if own else 0

    @property
    def doubtful(self) -> int:
        return sum(row.verdict in DOUBTFUL for row in self.rows)

    def post_doubtful(self) -> None:
        """Have doubtful rows posted too."""
        for row in self.rows:
            if row.verdict in DOUBTFUL:
                row.verdict = "new" if row.known is None else "corrected"

    def fault_groups(self) -> list[FaultGroup]:
        """Return the faults of invalid rows by kind, in the order of their first rows."""
        groups: FaultGroups = {}
        for row, read in self.rows.of("invalid"):
            count_faults(groups, row.faults, read.place)
        return list(groups.values())
