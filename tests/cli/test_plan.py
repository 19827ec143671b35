"""What a run would do, from the rows of a file and what is known of earlier ones."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from leadpost.cli.files.plan import Known, Plan, Verdict
from leadpost.cli.files.reading import Fault
from leadpost.cli.files.rows import Row
from leadpost.cli.files.snapshot import FAILED_BY_QUEUE, Snapshot

KnownRow = tuple[object, ...]
ENTRIES: dict[Known, tuple[str | None, str | None]] = {
    "waiting": ("pending", None),
    "refused": ("rejected", None),
    "failed": ("failed", "id"),
    "invalid": (None, None),
    "withdrawn": (None, None),
}
"""The state and RequestID of the entry of a row; of one that was posted, `accepted`."""


@pytest.fixture
def snapshot() -> Iterator[Snapshot]:
    with Snapshot() as opened:
        yield opened


def row(digest: str, lead: str = "", *, key: str | None = None, valid: bool = True) -> Row:
    payload = {"RelatedProspectId": lead or digest} if valid else None
    faults = () if valid else (Fault("row", "", "is wrong"),)
    return Row(2, [], payload, digest, faults, key=key)


def lead_of(name: str) -> str:
    return row(name, name).lead


def known(  # noqa: PLR0917  a table's columns
    id_: int,
    origin: str,
    state: Known = "posted",
    present: str | None = None,
    lead: str = "",
    number: int = 1,
) -> KnownRow:
    entry_state, request_id = ENTRIES.get(state, ("accepted", "id"))
    now = None if state == "invalid" else present or origin
    counted = None if state == "withdrawn" else number
    values = (id_, f"K{id_}", origin, now, lead_of(lead or origin), counted, None)
    return (*values, entry_state, request_id, None, None, None)


def judged(
    snapshot: Snapshot,
    rows: Sequence[Row],
    earlier: Sequence[KnownRow] = (),
    *,
    are_rejects: bool = False,
    first: int | None = None,
) -> tuple[Plan, list[Verdict]]:
    snapshot.add(rows)
    snapshot.add_known(earlier)
    if are_rejects:
        snapshot.match_keys()
    snapshot.match()
    plan = snapshot.judge(are_rejects=are_rejects, first=first)
    return plan, [each.verdict for each in snapshot.rows()]


@pytest.mark.parametrize(
    ("state", "verdict"),
    [
        ("posted", "posted"),
        ("waiting", "waiting"),
        ("refused", "again"),
        ("failed", "failed"),
        ("withdrawn", "new"),
    ],
)
def test_a_row_is_what_it_was_before(snapshot: Snapshot, state: Known, verdict: Verdict) -> None:
    plan, verdicts = judged(snapshot, [row("a")], [known(1, "a", state)])
    assert verdicts == [verdict]
    assert plan.withdrawn == 0


def test_posted_ones_are_found_first_among_identical_rows(snapshot: Snapshot) -> None:
    earlier = [known(1, "a", "waiting"), known(2, "a", "posted", number=2)]
    plan, verdicts = judged(snapshot, [row("a")], earlier)
    assert verdicts == ["posted"]
    assert (plan.withdrawn, snapshot.gone()) == (1, [1])


def test_new_rows_are_numbered_above_those_that_are_known(snapshot: Snapshot) -> None:
    _, verdicts = judged(snapshot, [row("a"), row("a"), row("a")], [known(1, "a", number=3)])
    assert verdicts == ["posted", "new", "new"]
    assert [each.number for each in snapshot.rows("new")] == [4, 5]


def test_what_a_row_was_counts_as_well_as_what_it_is_now(snapshot: Snapshot) -> None:
    earlier = [known(1, "bad", "posted", present="fixed")]
    assert judged(snapshot, [row("bad", valid=False)], earlier)[1] == ["posted"]
    with Snapshot() as other:
        assert judged(other, [row("fixed")], earlier)[1] == ["posted"]


def test_an_edit_is_a_new_row_for_a_lead_of_which_a_posted_row_is_gone(snapshot: Snapshot) -> None:
    earlier = [known(1, "old", lead="x"), known(2, "kept", lead="y")]
    rows = [row("new", "x"), row("kept", "y"), row("another", "y"), row("third", "z")]
    plan, verdicts = judged(snapshot, rows, earlier)
    assert verdicts == ["edit", "posted", "new", "new"]
    assert (plan.doubtful, plan.sent) == (1, 2)
    ((edit, id_),) = snapshot.edits(10)
    assert (edit.digest, id_) == ("new", 1)
    snapshot.post_doubtful()
    assert [each.verdict for each in snapshot.rows()] == ["new", "posted", "new", "new"]


@pytest.mark.parametrize("state", ["waiting", "refused", "failed", "invalid"])
def test_a_row_that_is_gone_and_was_not_posted_is_withdrawn(
    snapshot: Snapshot, state: Known
) -> None:
    plan, verdicts = judged(snapshot, [row("new", "x")], [known(1, "old", state, lead="x")])
    assert verdicts == ["new"]
    assert snapshot.gone() == [1]
    assert plan.withdrawn == (0 if state == "invalid" else 1)


def test_what_was_posted_elsewhere_is_doubtful_and_what_was_not_moves(snapshot: Snapshot) -> None:
    snapshot.add([row("a"), row("b"), row("b"), row("c")])
    assert sorted(next(snapshot.unmatched(9))) == ["a", "b", "c"]
    elsewhere = [
        (*known(5, "a"), "other.csv", False),
        (*known(6, "c"), "mine.csv", True),
        (*known(7, "b", "waiting"), "other.csv", False),
        (*known(8, "b", "waiting"), "mine.csv", True),
    ]
    snapshot.add_known(elsewhere, are_elsewhere=True)
    snapshot.match()
    plan = snapshot.judge(are_rejects=False)
    assert [each.verdict for each in snapshot.rows()] == [
        *("elsewhere", "waiting", "new", "elsewhere"),
    ]
    assert (plan.moved, plan.batches, plan.other_keys) == (1, ("mine.csv", "other.csv"), 1)
    assert snapshot.moved() == [7]
    assert [each.number for each in snapshot.rows("new")] == [2]


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
def test_a_row_of_a_rejects_file_is_known_by_its_key(
    snapshot: Snapshot, earlier: KnownRow, read: Row, verdict: Verdict
) -> None:
    plan, verdicts = judged(snapshot, [read], [earlier], are_rejects=True)
    assert verdicts == [verdict]
    assert plan.withdrawn == 0


def test_a_fix_that_was_posted_from_the_input_is_not_posted_from_the_rejects(
    snapshot: Snapshot,
) -> None:
    earlier = [known(1, "bad", "withdrawn"), known(2, "fixed", "posted")]
    _, verdicts = judged(snapshot, [row("fixed", key="K1")], earlier, are_rejects=True)
    assert verdicts == ["posted"]


def test_first_sends_the_first_rows_and_leaves_the_rest(snapshot: Snapshot) -> None:
    earlier = [known(1, "a"), known(2, "d", "waiting")]
    rows = [row("a"), row("b"), row("c"), row("d")]
    plan, verdicts = judged(snapshot, rows, earlier, first=1)
    assert verdicts == ["posted", "new", "later", "later"]
    assert (plan.sent, snapshot.postponed()) == (1, [2])
    snapshot.forget_postponed()
    assert [each.known for each in snapshot.rows("later")] == [None, None]


def test_faults_are_grouped_by_kind(snapshot: Snapshot) -> None:
    faults = [(Fault("A", str(n), "is wrong", "fix it"),) for n in range(3)]
    snapshot.add([Row(n + 2, [], None, str(n), fault) for n, fault in enumerate(faults)])
    plan = snapshot.judge(are_rejects=False)
    (group,) = snapshot.faults()
    assert (group.rows, group.place, str(group.fault)) == (3, "line 2", "A: 0 is wrong; fix it")
    assert plan.newly_invalid == 3


@pytest.mark.parametrize(
    ("last", "state", "request_id", "error_type", "word", "is_to_fix"),
    [
        (None, "pending", None, None, "not_sent", False),
        (None, "pending", None, "DeliveryUncertain", "uncertain", False),
        (None, "sending", None, None, "uncertain", False),
        ("accepted", "succeeded", "id", None, "succeeded", False),
        (None, "rejected", None, "BadRequest", "rejected", True),
        (None, "failed", None, "OutageTimeout", "failed", False),
        (None, "failed", "id", None, "failed", True),
        (FAILED_BY_QUEUE, None, None, None, "failed", True),
        ("accepted", None, None, None, "accepted", False),
    ],
)
def test_what_became_of_a_row_in_a_word(  # noqa: PLR0917  a table's columns
    snapshot: Snapshot,
    last: str | None,
    state: str | None,
    request_id: str | None,
    error_type: str | None,
    word: str,
    is_to_fix: bool,  # noqa: FBT001  a table's column
) -> None:
    entry = (state, request_id, None, error_type, None)
    judged(snapshot, [row("a")], [(1, "K1", "a", "a", lead_of("a"), 1, last, *entry)])
    (outcome,) = snapshot.outcomes()
    assert (outcome.state, outcome.is_to_fix) == (word, is_to_fix)


def test_what_is_not_in_the_outbox_is_not_sent_or_skipped(snapshot: Snapshot) -> None:
    earlier = [known(1, "old", lead="x")]
    judged(snapshot, [row("new", "x"), row("other", "y"), row("bad", valid=False)], earlier)
    assert [outcome.state for outcome in snapshot.outcomes()] == ["skipped", "not_sent", "invalid"]
