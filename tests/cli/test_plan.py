"""What a run would do, from the rows of a file and what is known of earlier ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from typing import cast

import pytest
from files_support import lead

from leadpost.cli.files import entries
from leadpost.cli.files.ledger import FAILED_BY_QUEUE, PART, Kind, Known, Ledger
from leadpost.cli.files.matching import Matching
from leadpost.cli.files.outcomes import outcome, outcomes
from leadpost.cli.files.plan import Plan, Rows, Verdict
from leadpost.cli.files.reading import Fault, Reading
from leadpost.cli.files.rows import Row
from leadpost.outbox import Outbox
from leadpost.outbox.database._sql import execute

BATCH = "calls.csv"


@pytest.fixture
def rows() -> Iterator[Rows]:
    with Rows() as opened:
        yield opened


def row(digest: str, lead: str = "", *, key: str | None = None, valid: bool = True) -> Row:
    payload = {"RelatedProspectId": lead or digest} if valid else None
    faults = () if valid else (Fault("row", "", "is wrong"),)
    return Row(2, [], payload, digest, faults, key=key)


def lead_of(name: str) -> str:
    return row(name, name).lead


EarlierRow = tuple[Known, str]
"""A row of an earlier run, and the digest of its lead."""


def known(  # noqa: PLR0917  a table's columns
    id_: int,
    origin: str,
    kind: Kind = "posted",
    present: str | None = None,
    lead: str = "",
    number: int = 1,
    batch: str = BATCH,
    *,
    has_other_keys: bool = False,
) -> EarlierRow:
    now = None if kind == "invalid" else present or origin
    counted = None if kind == "withdrawn" else number
    is_own = batch == BATCH and not has_other_keys
    found = Known(id_, batch, is_own, has_other_keys, f"K{id_}", origin, now, counted, kind)
    return found, lead_of(lead or origin)


class Memory:
    """A ledger that knows these rows."""

    def __init__(self, earlier: Sequence[EarlierRow]) -> None:
        self._rows = earlier

    async def of_digests(self, name: str, digests: Iterable[str]) -> list[Known]:
        del name
        wanted = {*digests}
        return [known for known, _ in self._rows if {known.origin, known.present} & wanted]

    async def of_letters(self, name: str, letters: Sequence[str]) -> dict[str, Known]:
        del name
        return {known.letters: known for known, _ in self._rows if known.letters in letters}

    async def of_batch(self, name: str) -> AsyncIterator[tuple[int, str, Kind]]:
        for known, digest in self._rows:
            if known.batch == name and not known.has_other_keys:
                yield known.id, digest, known.kind


async def judged(
    rows: Rows,
    read: Sequence[Row],
    earlier: Sequence[EarlierRow] = (),
    *,
    are_rejects: bool = False,
    first: int | None = None,
) -> tuple[Plan, list[Verdict | None]]:
    for each in read:
        rows.add(each)
    plan = Plan(rows)
    ledger = cast("Ledger", Memory(earlier))
    matching = Matching(plan, ledger, BATCH, are_rejects=are_rejects)
    if are_rejects:
        await matching.match_keys()
    await matching.match(elsewhere=True)
    await matching.judge(first)
    return plan, [each.verdict for each in rows]


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("posted", "posted"),
        ("waiting", "waiting"),
        ("refused", "again"),
        ("failed", "failed"),
        ("withdrawn", "new"),
    ],
)
async def test_a_row_is_what_it_was_before(rows: Rows, kind: Kind, verdict: Verdict) -> None:
    plan, verdicts = await judged(rows, [row("a")], [known(1, "a", kind)])
    assert verdicts == [verdict]
    assert plan.withdrawn == 0


async def test_posted_ones_are_found_first_among_identical_rows(rows: Rows) -> None:
    earlier = [known(1, "a", "waiting"), known(2, "a", "posted", number=2)]
    plan, verdicts = await judged(rows, [row("a")], earlier)
    assert verdicts == ["posted"]
    assert (plan.withdrawn, [*plan.gone]) == (1, [1])


async def test_each_row_that_is_known_is_found_once(rows: Rows) -> None:
    read = [row("a")] * (2 * PART)
    earlier = [known(n, "a", number=n) for n in range(1, PART + 2)]
    _, verdicts = await judged(rows, read, earlier)
    assert verdicts == ["posted"] * (PART + 1) + ["new"] * (PART - 1)
    assert [each.known for each in rows][: PART + 1] == [known.id for known, _ in earlier]


async def test_new_rows_are_numbered_above_those_that_are_known(rows: Rows) -> None:
    _, verdicts = await judged(rows, [row("a"), row("a"), row("a")], [known(1, "a", number=3)])
    assert verdicts == ["posted", "new", "new"]
    assert [each.number for each in rows if each.verdict == "new"] == [4, 5]


@pytest.mark.parametrize("read", [row("bad", valid=False), row("fixed")])
async def test_what_a_row_was_counts_as_well_as_what_it_is_now(rows: Rows, read: Row) -> None:
    earlier = [known(1, "bad", "posted", present="fixed")]
    assert (await judged(rows, [read], earlier))[1] == ["posted"]


async def test_an_edit_is_a_new_row_for_a_lead_of_which_a_posted_row_is_gone(rows: Rows) -> None:
    earlier = [known(1, "old", lead="x"), known(2, "kept", lead="y")]
    read = [row("new", "x"), row("kept", "y"), row("another", "y"), row("third", "z")]
    plan, verdicts = await judged(rows, read, earlier)
    assert verdicts == ["edit", "posted", "new", "new"]
    assert (plan.doubtful, plan.sent) == (1, 2)
    ((edit, id_),) = plan.edits.items()
    assert (edit.digest, id_) == ("new", 1)
    plan.post_doubtful()
    assert [each.verdict for each in rows] == ["new", "posted", "new", "new"]


@pytest.mark.parametrize(
    ("others", "verdict"), [(["kept", "also"], "edit"), (["kept"], "new"), ([], "new")]
)
async def test_an_edit_is_seen_if_most_rows_of_another_batch_are_there(
    rows: Rows, others: list[str], verdict: Verdict
) -> None:
    """With fewer of them, the row may as well be the day's next activity of the same lead."""
    old = [known(n, name, batch="old.csv") for n, name in enumerate(("a", "kept", "also"))]
    _, verdicts = await judged(rows, [row("new", "a"), *map(row, others)], old)
    assert verdicts == [verdict] + ["elsewhere"] * len(others)


@pytest.mark.parametrize("kind", ["waiting", "refused", "failed", "invalid"])
async def test_a_row_that_is_gone_and_was_not_posted_is_withdrawn(rows: Rows, kind: Kind) -> None:
    plan, verdicts = await judged(rows, [row("new", "x")], [known(1, "old", kind, lead="x")])
    assert verdicts == ["new"]
    assert [*plan.gone] == [1]
    assert plan.withdrawn == (0 if kind == "invalid" else 1)


@pytest.mark.parametrize(
    ("kind", "verdict", "moved"),
    [
        ("posted", "elsewhere", []),
        ("failed", "elsewhere", []),
        ("waiting", "new", [1]),
        ("refused", "new", [1]),
        ("withdrawn", "new", []),
    ],
)
async def test_a_row_of_another_batch_moves_if_it_was_not_sent(
    rows: Rows, kind: Kind, verdict: Verdict, moved: list[int]
) -> None:
    plan, verdicts = await judged(rows, [row("a")], [known(1, "a", kind, batch="old.csv")])
    assert (verdicts, plan.moved) == ([verdict], moved)


async def test_what_was_posted_elsewhere_is_doubtful_and_what_was_not_moves(rows: Rows) -> None:
    earlier = [
        known(5, "a", batch="other.csv"),
        known(6, "c", batch="mine.csv", has_other_keys=True),
        known(7, "b", "waiting", batch="other.csv"),
        known(8, "b", "waiting", batch="mine.csv", has_other_keys=True),
    ]
    plan, verdicts = await judged(rows, [row("a"), row("b"), row("b"), row("c")], earlier)
    assert verdicts == ["elsewhere", "new", "new", "elsewhere"]
    assert sorted(plan.batches) == ["mine.csv", "other.csv"]
    assert (plan.moved, plan.other_keys) == ([7], 1)
    assert [each.number for each in rows if each.verdict == "new"] == [1, 2]


@pytest.mark.parametrize(
    ("earlier", "read", "verdict"),
    [
        (known(1, "bad", "invalid"), row("good", key="K1"), "corrected"),
        (known(1, "bad", "invalid"), row("bad", key="K1", valid=False), "invalid"),
        (known(1, "a", "refused"), row("a", key="K1"), "again"),
        (known(1, "a", "failed"), row("a", key="K1"), "again"),
        (known(1, "a", "failed"), row("b", key="K1"), "corrected"),
        (known(1, "a", "waiting"), row("a", key="K1"), "waiting"),
        (known(1, "a", "waiting"), row("b", key="K1"), "corrected"),
        (known(1, "a", "posted"), row("a", key="K1"), "posted"),
        (known(1, "a", "posted"), row("b", key="K1"), "edit"),
        (known(1, "a", "posted"), row("b", key="K1", valid=False), "invalid"),
        (known(1, "a", "withdrawn"), row("a", key="K1"), "edit"),
        (known(1, "a", "withdrawn"), row("a", key="K1", valid=False), "invalid"),
        (known(1, "a", "posted"), row("a"), "posted"),
        (known(1, "a", "failed"), row("a"), "again"),
        (known(1, "a", "posted"), row("z", "a"), "new"),
    ],
)
async def test_a_row_of_a_rejects_file_is_known_by_its_key(
    rows: Rows, earlier: EarlierRow, read: Row, verdict: Verdict
) -> None:
    plan, verdicts = await judged(rows, [read], [earlier], are_rejects=True)
    assert verdicts == [verdict]
    assert plan.withdrawn == 0


async def test_a_fix_that_was_posted_from_the_input_is_not_posted_from_the_rejects(
    rows: Rows,
) -> None:
    earlier = [known(1, "bad", "withdrawn"), known(2, "fixed", "posted")]
    _, verdicts = await judged(rows, [row("fixed", key="K1")], earlier, are_rejects=True)
    assert verdicts == ["posted"]


async def test_first_sends_the_first_rows_and_leaves_the_rest(rows: Rows) -> None:
    earlier = [known(1, "a"), known(2, "d", "waiting")]
    read = [row("a"), row("b"), row("c"), row("d")]
    plan, verdicts = await judged(rows, read, earlier, first=1)
    assert verdicts == ["posted", "new", "later", "later"]
    assert (plan.sent, plan.postponed) == (1, [2])
    assert [each.known for each in rows if each.verdict == "later"] == [None, None]


async def test_faults_are_grouped_by_kind(rows: Rows) -> None:
    faults = [(Fault("A", str(n), "is wrong", "fix it"),) for n in range(3)]
    read = [Row(n + 2, [], None, str(n), fault) for n, fault in enumerate(faults)]
    plan, _ = await judged(rows, read)
    (group,) = plan.fault_groups()
    assert (group.rows, group.place, str(group.fault)) == (3, "line 2", "A: 0 is wrong; fix it")
    assert plan.newly_invalid == 3


@pytest.mark.parametrize(
    ("last", "state", "request_id", "error_type", "kind", "word", "is_to_fix"),
    [
        (None, "pending", None, None, "waiting", "not_sent", False),
        (None, "pending", None, "DeliveryUncertain", "waiting", "uncertain", False),
        (None, "sending", None, None, "posted", "uncertain", False),
        ("accepted", "succeeded", "id", None, "posted", "succeeded", False),
        (None, "rejected", None, "BadRequest", "refused", "rejected", True),
        (None, "failed", None, "OutageTimeout", "refused", "failed", False),
        (None, "failed", "id", None, "failed", "failed", True),
        (FAILED_BY_QUEUE, None, None, None, "failed", "failed", True),
        ("accepted", None, None, None, "posted", "accepted", False),
        (None, None, None, None, "posted", "accepted", False),
    ],
)
async def test_what_became_of_a_row_in_a_word(  # noqa: PLR0917  a table's columns
    rows: Rows,
    store_url: str,
    last: str | None,
    state: str | None,
    request_id: str | None,
    error_type: str | None,
    kind: Kind,
    word: str,
    is_to_fix: bool,  # noqa: FBT001  a table's column
) -> None:
    activity = {"RelatedProspectId": lead(0), "ActivityEvent": 201}
    rows.add(row("a"))
    (planned,) = rows
    planned.number = 1
    async with Outbox(store_url, "acme") as outbox:
        ledger = await Ledger(outbox, "host").open()
        batch = await ledger.begin(BATCH, BATCH, Reading())
        await entries.put(ledger, batch, [(planned, activity)])
        statement = "UPDATE leadpost_entries SET state = :state, request_id = :request_id,"
        statement += " error_type = :error_type"
        values = {"state": state, "request_id": request_id, "error_type": error_type}
        if state is None:
            statement, values = "DELETE FROM leadpost_entries", {}
        await outbox.database.write(lambda own: execute(own, statement, **values))
        mark = "UPDATE leadpost_rows SET last = :last"
        await outbox.database.write(lambda own: execute(own, mark, last=last))
        assert [found[2] async for found in ledger.of_batch(BATCH)] == [kind]
        (found,) = await ledger.of_digests(BATCH, ["a"])
        assert (found.kind, found.is_own) == (kind, True)
        planned.verdict = "posted"
        (outcome,) = [each async for each in outcomes(Plan(rows), ledger)]
        assert (outcome.state, outcome.is_to_fix) == (word, is_to_fix)


async def test_what_is_not_in_the_outbox_is_not_sent_or_skipped(rows: Rows) -> None:
    earlier = [known(1, "old", lead="x")]
    await judged(rows, [row("new", "x"), row("other", "y"), row("bad", valid=False)], earlier)
    found = [outcome(each, read, None) for each, read in rows.read()]
    assert [each.state for each in found] == ["skipped", "not_sent", "invalid"]
