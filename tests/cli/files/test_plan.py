"""What a run would do, from the rows of a file and what is known of earlier ones."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import sqlalchemy as sa
from files_support import lead

from leadpost import OutboxUnavailable
from leadpost.cli.files.comparing.ledger import Kind, Known, Ledger
from leadpost.cli.files.comparing.matching import Matching
from leadpost.cli.files.comparing.plan import Plan, Rows
from leadpost.cli.files.reading.row import Decision, Problem, Row
from leadpost.cli.files.reading.settings import Reading
from leadpost.cli.files.reporting.outputs import result_of
from leadpost.cli.files.sending import entries
from leadpost.outbox import Outbox
from leadpost.outbox.database._sql import execute

BATCH = "calls.csv"


@pytest.fixture
def rows() -> Iterator[Rows]:
    with Rows() as opened:
        yield opened


def digest_of(name: str, lead: str = "") -> str:
    """Return 32 letters, those for lead and time, which an unreadable row lacks, and no seconds."""
    return f"{name:32}" + ("" if name == "bad" else f"{lead or name}{name:16}") + "--"


def row(name: str, lead: str = "", *, key: str | None = None, valid: bool = True) -> Row:
    payload = {"RelatedProspectId": lead or name} if valid else None
    problems = () if valid else (Problem("row", "", "is wrong"),)
    return Row(2, [], payload, digest_of(name, lead), key=key, problems=problems)


def known(  # noqa: PLR0917  a table's columns
    id_: int,
    read: str,
    kind: Kind = "posted",
    sent: str | None = None,
    lead: str = "",
    number: int = 1,
    batch: str = BATCH,
    *,
    has_other_keys: bool = False,
    is_gone: bool = False,
) -> Known:
    """A row of an earlier run."""
    digest_sent = None if kind == "invalid" else digest_of(sent or read, lead)
    counted = 0 if kind == "withdrawn" else number
    of_batch = (id_, batch, int(has_other_keys), f"K{id_}")
    return (*of_batch, digest_of(read, lead), digest_sent, counted, int(is_gone), kind)


def decided(
    rows: Rows,
    read: Sequence[Row],
    earlier: Sequence[Known] = (),
    *,
    are_rejects: bool = False,
    first: int | None = None,
    posts_duplicates: bool = False,
) -> tuple[Plan, list[Decision | None]]:
    rows.add(read)
    matching = Matching(rows, BATCH, are_rejects=are_rejects)
    matching.know(earlier)
    matching.match(first)
    plan = matching.decide(first)
    if posts_duplicates:
        plan = matching.decide(first, asks=False)
    matching.number()
    return plan, [each.decision for each in rows.read()]


@pytest.mark.parametrize(
    ("kind", "decision"),
    [
        ("posted", "posted"),
        ("pending", "pending"),
        ("rejected", "again"),
        ("failed", "failed"),
        ("withdrawn", "new"),
    ],
)
def test_a_row_is_what_it_was_before(rows: Rows, kind: Kind, decision: Decision) -> None:
    plan, decisions = decided(rows, [row("a")], [known(1, "a", kind)])
    assert decisions == [decision]
    assert plan.withdrawn == 0


def test_posted_ones_are_found_first_among_identical_rows(rows: Rows) -> None:
    earlier = [known(1, "a", "pending"), known(2, "a", "posted", number=2)]
    plan, decisions = decided(rows, [row("a")], earlier)
    assert decisions == ["posted"]
    assert (plan.withdrawn, plan.unsent) == (1, [1])


def test_each_row_that_is_known_is_found_once(rows: Rows) -> None:
    read = [row("a")] * 1000
    earlier = [known(n, "a", number=n) for n in range(1, 502)]
    _, decisions = decided(rows, read, earlier)
    assert decisions == ["posted"] * 501 + ["new"] * 499
    assert [each.known for each in rows.read()][:501] == list(range(1, 502))


def test_new_rows_are_numbered_above_those_that_are_known(rows: Rows) -> None:
    _, decisions = decided(rows, [row("a"), row("a"), row("a")], [known(1, "a", number=3)])
    assert decisions == ["posted", "new", "new"]
    assert [each.number for each in rows.of("new")] == [4, 5]


@pytest.mark.parametrize("read", [row("bad", valid=False), row("fixed")])
def test_what_a_row_was_counts_as_well_as_what_it_is_now(rows: Rows, read: Row) -> None:
    earlier = [known(1, "bad", "posted", sent="fixed")]
    assert decided(rows, [read], earlier)[1] == ["posted"]


def test_an_edit_is_a_new_row_for_a_lead_of_which_a_posted_row_is_gone(rows: Rows) -> None:
    earlier = [known(1, "old", lead="x"), known(2, "kept", lead="y")]
    read = [row("new", "x"), row("kept", "y"), row("another", "y"), row("third", "z")]
    plan, decisions = decided(rows, read, earlier)
    assert decisions == ["edit", "posted", "new", "new"]
    assert (plan.duplicates, plan.sent) == (1, 2)
    assert [each.edited for each in rows.read()] == [1, None, None, None]


def test_a_row_that_was_put_is_compared_as_what_it_sends(rows: Rows) -> None:
    """Its lead is not looked up again."""
    earlier = [
        known(1, "by address", "pending", sent="a"),
        known(2, "by phone", sent="a", has_other_keys=True),
    ]
    assert decided(rows, [row("by address")], earlier)[1] == ["elsewhere"]


@pytest.mark.parametrize(
    ("posts_duplicates", "wanted", "unsent"),
    [
        (False, ["edit", "elsewhere", "new", "new", "new"], [2]),
        (True, ["new", "pending", "new", "later", "later"], [4]),
    ],
)
def test_what_is_withdrawn_depends_on_whether_possible_duplicates_are_posted(
    rows: Rows, *, posts_duplicates: bool, wanted: list[Decision], unsent: list[int]
) -> None:
    read = [row("new", "x"), row("b"), row("c"), row("d"), row("e")]
    earlier = [
        known(1, "old", lead="x"),
        known(2, "b", "pending"),
        known(3, "b", has_other_keys=True),
        known(4, "new", "pending", lead="x", batch="other.csv"),
    ]
    plan, decisions = decided(rows, read, earlier, first=3, posts_duplicates=posts_duplicates)
    assert (decisions, plan.unsent) == (wanted, unsent)


@pytest.mark.parametrize(
    ("earlier", "decision"),
    [
        (known(1, "a", lead="?Eada@example.com"), "edit"),  # it was created by its address
        (known(1, "bad", sent="a", lead="x"), "edit"),  # it was entered in the rejects
        (known(1, "a", lead="x"), "new"),
    ],
)
def test_a_row_for_another_lead_is_an_edit_if_the_first_lead_was_not_in_the_file(
    rows: Rows, earlier: Known, decision: Decision
) -> None:
    assert decided(rows, [row("a", "y"), row("b", "z")], [earlier])[1] == [decision, "new"]
    assert [each.edited for each in rows.read()] == [1 if decision == "edit" else None, None]


@pytest.mark.parametrize(
    ("lead", "decision"), [("?Eeve@example.com", "new"), ("?P91981", "edit"), ("x", "edit")]
)
def test_leads_that_were_created_are_told_apart_where_several_rows_say_the_same(
    rows: Rows, lead: str, decision: Decision
) -> None:
    """So a daily file that says the same of everyone is not asked about."""
    old = [known(n, "same", lead=f"?E{name}@example.com") for n, name in enumerate(("ada", "bob"))]
    assert decided(rows, [row("same", lead)], old)[1] == [decision]


def test_another_address_for_a_lead_that_was_created_is_an_edit(rows: Rows) -> None:
    old = [known(1, "a", lead="?Eada@exmaple.com"), known(2, "b", lead="?Ebob@example.com")]
    read = [row("a", "?Eada@example.com"), row("b", "?Ebob@example.com")]
    assert decided(rows, read, old)[1] == ["edit", "posted"]


@pytest.mark.parametrize(("name", "decision"), [("a", "edit"), ("b", "corrected")])
def test_a_reject_that_had_no_lead_is_an_edit_of_a_posted_row_that_is_gone(
    rows: Rows, name: str, decision: Decision
) -> None:
    earlier = [known(1, "a", lead="x", is_gone=True), known(2, "bad", "invalid")]
    assert decided(rows, [row(name, "y", key="K2")], earlier, are_rejects=True)[1] == [decision]


def test_a_row_that_was_corrected_in_the_rejects_of_another_file_is_a_possible_duplicate(
    rows: Rows,
) -> None:
    old = [known(1, "a", sent="corrected", lead="x", batch="old.csv")]
    assert decided(rows, [row("a", "x")], old)[1] == ["elsewhere"]


@pytest.mark.parametrize(
    ("others", "decision"), [(["kept", "also"], "edit"), (["kept"], "new"), ([], "new")]
)
def test_an_edit_is_seen_if_most_rows_of_another_batch_are_there(
    rows: Rows, others: list[str], decision: Decision
) -> None:
    """With fewer of them, the row may as well be the day's next activity of the same lead."""
    old = [known(n, name, batch="old.csv") for n, name in enumerate(("a", "kept", "also"))]
    _, decisions = decided(rows, [row("new", "a"), *map(row, others)], old)
    assert decisions == [decision] + ["elsewhere"] * len(others)


@pytest.mark.parametrize(
    ("kind", "unsent", "gone"),
    [
        ("pending", [1], []),
        ("rejected", [1], []),
        ("failed", [], [1]),
        ("invalid", [], [1]),
        ("withdrawn", [], []),
    ],
)
def test_a_row_that_is_gone_is_withdrawn_if_a_run_would_send_it(
    rows: Rows, kind: Kind, unsent: list[int], gone: list[int]
) -> None:
    plan, decisions = decided(rows, [row("new", "x")], [known(1, "old", kind, lead="x")])
    assert decisions == ["new"]
    assert (plan.unsent, plan.withdrawn, plan.gone) == (unsent, len(unsent), gone)


@pytest.mark.parametrize(
    ("kind", "decision", "moved"),
    [
        ("posted", "elsewhere", []),
        ("failed", "elsewhere", []),
        ("pending", "new", [1]),
        ("rejected", "new", [1]),
        ("withdrawn", "new", []),
    ],
)
def test_a_row_of_another_batch_moves_if_it_was_not_sent(
    rows: Rows, kind: Kind, decision: Decision, moved: list[int]
) -> None:
    plan, decisions = decided(rows, [row("a")], [known(1, "a", kind, batch="old.csv")])
    assert (decisions, plan.unsent, plan.moved) == ([decision], moved, len(moved))


def test_what_was_posted_elsewhere_is_a_possible_duplicate_and_what_was_not_moves(
    rows: Rows,
) -> None:
    earlier = [
        known(5, "a", batch="other.csv"),
        known(6, "c", batch="mine.csv", has_other_keys=True),
        known(7, "b", "pending", batch="other.csv"),
        known(8, "d", "pending", batch="other.csv"),
        known(9, "d", "pending", batch="mine.csv", has_other_keys=True),
    ]
    read = [row(name) for name in ("a", "b", "b", "c", "d")]
    plan, decisions = decided(rows, read, earlier)
    assert decisions == ["elsewhere", "new", "new", "elsewhere", "elsewhere"]
    assert sorted(plan.batches) == ["mine.csv", "other.csv"]
    assert (plan.unsent, plan.moved, plan.other_keys) == ([7], 1, 2)
    assert [each.number for each in rows.of("new")] == [1, 2]


def same_time(name: str, lead: str = "lead") -> Row:
    """A row about the same moment as others of its lead."""
    found = row(name)
    found.digest_read = f"{name:32}{lead:16}{'at ten':16}--"
    return found


@pytest.mark.parametrize(
    ("kind", "has_other_keys", "batch", "decisions"),
    [
        ("posted", False, "other.csv", ["edit", "edit", "new"]),
        ("posted", True, BATCH, ["edit", "edit", "new"]),
        ("pending", True, "other.csv", ["edit", "edit", "new"]),
        ("pending", False, "other.csv", ["edit", "edit", "new"]),
        ("failed", False, "other.csv", ["new", "new", "new"]),
        ("rejected", False, "other.csv", ["new", "new", "new"]),
    ],
)
def test_what_another_batch_has_of_the_same_lead_type_and_time_is_asked_about(
    rows: Rows, kind: Kind, *, has_other_keys: bool, batch: str, decisions: list[Decision]
) -> None:
    digest = same_time("a").digest_read
    earlier = (1, batch, int(has_other_keys), "K1", digest, digest, 1, 0, kind)
    read = [same_time("b"), same_time("c"), same_time("d", "other")]
    plan, found = decided(rows, read, [earlier])
    assert found == decisions
    assert [each.edited for each in rows.of("edit")] == [1] * decisions.count("edit")
    assert (plan.unsent, plan.moved) == ([], 0)
    assert plan.known == (2 if kind == "posted" else 0)


@pytest.mark.parametrize(
    ("kind", "decision"), [("posted", "posted"), ("rejected", "edit"), ("invalid", "edit")]
)
def test_a_row_that_was_not_posted_is_an_edit_if_another_batch_posted_the_same_time(
    rows: Rows, kind: Kind, decision: Decision
) -> None:
    own, other = (same_time(name).digest_read for name in "ab")
    sent = None if kind == "invalid" else own
    earlier: list[Known] = [
        (1, BATCH, 0, "K1", own, sent, 1, 0, kind),
        (2, "other.csv", 0, "K2", other, other, 1, 0, "posted"),
    ]
    assert decided(rows, [same_time("a")], earlier)[1] == [decision]


def test_a_row_that_is_in_three_batches_is_not_edited_by_a_new_one(rows: Rows) -> None:
    digest = same_time("a").digest_read
    of = (BATCH, "other.csv", "third.csv")
    earlier = [(n, batch, 0, f"K{n}", digest, digest, 1, 0, "posted") for n, batch in enumerate(of)]
    assert decided(rows, [same_time("a"), same_time("b")], earlier)[1] == ["posted", "new"]


@pytest.mark.parametrize(
    ("earlier", "read", "decision"),
    [
        (known(1, "bad", "invalid"), row("good", key="K1"), "corrected"),
        (known(1, "bad", "invalid"), row("bad", key="K1", valid=False), "invalid"),
        (known(1, "a", "rejected"), row("a", key="K1"), "again"),
        (known(1, "a", "failed"), row("a", key="K1"), "again"),
        (known(1, "a", "failed"), row("b", key="K1"), "corrected"),
        (known(1, "a", "pending"), row("a", key="K1"), "pending"),
        (known(1, "a", "pending"), row("b", key="K1"), "corrected"),
        (known(1, "a", "posted"), row("a", key="K1"), "posted"),
        (known(1, "a", "posted"), row("b", key="K1"), "edit"),
        (known(1, "a", "posted"), row("b", key="K1", valid=False), "invalid"),
        (known(1, "a", "withdrawn"), row("a", key="K1"), "new"),
        (known(1, "a", "withdrawn"), row("a", key="K1", valid=False), "invalid"),
        (known(1, "a", "posted"), row("a"), "posted"),
        (known(1, "a", "failed"), row("a"), "again"),
        (known(1, "a", "posted"), row("z", "a"), "new"),
    ],
)
def test_a_row_of_a_rejects_file_is_known_by_its_key(
    rows: Rows, earlier: Known, read: Row, decision: Decision
) -> None:
    plan, decisions = decided(rows, [read], [earlier], are_rejects=True)
    assert decisions == [decision]
    assert plan.withdrawn == 0


def test_a_fix_that_was_posted_from_the_input_is_not_posted_from_the_rejects(
    rows: Rows,
) -> None:
    earlier = [known(1, "bad", "withdrawn"), known(2, "fixed", "posted")]
    _, decisions = decided(rows, [row("fixed", key="K1")], earlier, are_rejects=True)
    assert decisions == ["posted"]


@pytest.mark.parametrize(("kind", "unasked"), [("withdrawn", "new"), ("failed", "corrected")])
@pytest.mark.parametrize(
    ("posted", "is_asked"),
    [(row("x", "lead"), True), (row("fixed", "x"), True), (row("x", "y"), False)],
)
def test_a_fix_of_a_row_that_is_gone_is_an_edit_if_a_posted_row_is_like_it(
    rows: Rows, kind: Kind, unasked: Decision, posted: Row, *, is_asked: bool
) -> None:
    fixed = row("fixed", "lead", key="K1")
    earlier = [known(1, "a", kind, is_gone=True), known(2, "x")]
    earlier[1] = (*earlier[1][:4], posted.digest_read, posted.digest_read, *earlier[1][6:])
    _, decisions = decided(rows, [fixed], earlier, are_rejects=True)
    assert decisions == ["edit" if is_asked else unasked]


def test_first_sends_the_first_rows_and_leaves_the_rest(rows: Rows) -> None:
    earlier = [known(1, "a"), known(2, "d", "pending")]
    read = [row("a"), row("b"), row("c"), row("d")]
    plan, decisions = decided(rows, read, earlier, first=1)
    assert decisions == ["posted", "new", "later", "later"]
    assert (plan.sent, plan.unsent, plan.withdrawn) == (1, [2], 0)


def test_problems_are_grouped_by_kind(rows: Rows) -> None:
    problems = [Problem("A", str(n), "is wrong", "fix it") for n in range(3)]
    read = [Row(n + 2, [], None, str(n), problems=(each,)) for n, each in enumerate(problems)]
    plan, _ = decided(rows, read)
    (group,) = plan.problem_groups()
    assert (group.rows, group.place, str(group.problem)) == (3, "line 2", "A: 0 is wrong; fix it")
    assert plan.newly_invalid == 3


@pytest.mark.parametrize(
    ("state", "request_id", "error_type", "kind", "word", "is_to_fix"),
    [
        ("pending", None, None, "pending", "not_sent", False),
        ("pending", None, "DeliveryUncertain", "pending", "uncertain", False),
        ("sending", None, None, "posted", "uncertain", False),
        ("uncertain", None, "DeliveryUncertain", "posted", "uncertain", False),
        ("accepted", "id", None, "posted", "accepted", False),
        ("succeeded", "id", None, "posted", "succeeded", False),
        ("rejected", None, "BadRequest", "rejected", "rejected", True),
        ("failed", None, "OutageTimeout", "rejected", "failed", False),
        ("failed", "id", None, "failed", "failed", True),
    ],
)
async def test_what_became_of_a_row_in_a_word(  # noqa: PLR0917  a table's columns
    store_url: str,
    state: str,
    request_id: str | None,
    error_type: str | None,
    kind: Kind,
    word: str,
    is_to_fix: bool,  # noqa: FBT001  a table's column
) -> None:
    planned = row("a")
    planned.digest_sent, planned.number = planned.digest_read, 1
    async with Outbox(store_url, "acme") as outbox:
        ledger = Ledger(outbox, "host")
        batch = await ledger.begin(BATCH, BATCH, Reading())
        activity = {"RelatedProspectId": lead(0), "ActivityEvent": 201}
        await entries.put(ledger, batch, [(planned, activity)])
        statement = "UPDATE leadpost_entries SET state = :state, request_id = :request_id,"
        statement += " error_type = :error_type"
        values = {"state": state, "request_id": request_id, "error_type": error_type}
        await outbox.database.write(lambda own: execute(own, statement, **values))
        (found,) = await ledger.of_occasions([digest_of("a")])
        assert [[found]] == [part async for part in ledger.of_batch(BATCH)]
        assert found[-1] == kind
        assert planned.known is not None
        of_row = (await ledger.states([planned.known]))[planned.known]
        became = result_of(planned, of_row)
        assert (became.state, became.is_to_fix) == (word, is_to_fix)

        delete = "DELETE FROM leadpost_entries"
        await outbox.database.write(lambda own: execute(own, delete))
        (found,) = await ledger.of_occasions([digest_of("a")])
        assert found[-1] == (kind if kind in {"rejected", "failed"} else "posted")
        of_row = (await ledger.states([planned.known]))[planned.known]
        became = result_of(planned, of_row)
        ended = kind in {"rejected", "failed"}
        assert (became.state, became.is_to_fix) == (
            "failed" if ended else "accepted",
            kind == "failed",
        )


def test_what_is_not_in_the_outbox_is_not_sent_or_skipped(rows: Rows) -> None:
    earlier = [known(1, "old", lead="x")]
    decided(rows, [row("new", "x"), row("other", "y"), row("bad", valid=False)], earlier)
    found = [result_of(each, None) for each in rows.read()]
    assert [each.state for each in found] == ["skipped", "not_sent", "invalid"]


async def test_rows_are_put_though_their_first_transaction_was_rolled_back(
    store_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on SQLite, if somebody reads a file without WAL during the COMMIT: it is repeated."""
    rows = [row(name) for name in "abc"]
    for one in rows:
        one.digest_sent, one.number = one.digest_read, 1
    async with Outbox(store_url, "acme") as outbox:
        ledger = Ledger(outbox, "host")
        batch = await ledger.begin(BATCH, BATCH, Reading())
        write = outbox.database.write

        async def write_twice(work: Callable[[sa.Connection], Any]) -> Any:
            def roll_back(connection: sa.Connection) -> None:
                work(connection)
                raise OutboxUnavailable("locked")

            with pytest.raises(OutboxUnavailable):
                await write(roll_back)
            return await write(work)

        monkeypatch.setattr(outbox.database, "write", write_twice)
        activity = {"RelatedProspectId": lead(0), "ActivityEvent": 201}
        await entries.put(ledger, batch, [(one, activity) for one in rows])
        [found] = [part async for part in ledger.of_batch(BATCH)]
        assert [one.known for one in rows] == [known[0] for known in found]
        assert (await outbox.counts())["pending"] == 3
