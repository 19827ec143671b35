"""What a row is, compared with its entry in the outbox: new, as it was, corrected, or wrong."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from leadpost.cli.results import Posted, Result, comparable
from leadpost.errors import DeliveryUncertain
from leadpost.outbox import Entry, EntryState

OPEN: tuple[EntryState, ...] = ("pending", "failed", "rejected", "uncertain")
"""States in which an entry may be corrected by who has seen what became of its last call."""
_WIDEST = timedelta(hours=14)
_STEP = timedelta(minutes=15)
"""No zone is further from UTC, or has a finer offset."""

How = Literal[
    "new",
    "as it was",
    "bad",
    "corrected",
    "changed",
    "read otherwise",
    "pruned",
    "foreign",
    "repeated",
]
WRONG: dict[How, str] = {
    "changed": "not as it was when it was sent",
    "read otherwise": "differs by what --timezone or --send-empty do: give them as they were given",
    "pruned": "had a result, and is in the outbox no more",
    "foreign": "its leadpost_key and leadpost_version are not as written, or of another outbox",
    "repeated": "has the leadpost_key of a row before it",
}
"""What a row must not be, by now, and how that is told."""


def of_input(posted: Posted, before: Result | None) -> How:
    """
    Tell what a row of an input is.

    Args:
        posted: The row.
        before: What the last run made of it.
    """
    entry, content = posted.entry, posted.content
    if entry is None:
        if _had_entry(before):
            return "pruned"
        if content is None:
            return "bad"
        return "corrected" if before is not None and before.was_bad else "new"
    if content == comparable(entry.original):
        return "as it was"
    if content is None:
        return "changed"
    if content == comparable(entry.payload):
        return "as it was"
    return _correction(posted, entry) if _is_open(entry) else "changed"


def of_rejects(posted: Posted, before: Result | None, calls: int | None) -> How:
    """
    Tell what a row of rejects is.

    Args:
        posted: The row.
        before: What the last run of this very file made of it.
        calls: How often it had been sent when it was written; None where it is no row of this
            outbox.
    """
    entry, content = posted.entry, posted.content
    if calls is None:
        return "foreign"
    if entry is None:
        if calls or _had_entry(before):
            return "pruned"
        return "bad" if content is None else "new"
    if content is None:
        return "bad"
    # Who answers to what became of the last call: it was told in this file, or by its last run.
    is_answer = calls == entry.calls and entry.state in OPEN
    if content == comparable(entry.payload):
        return "corrected" if is_answer and entry.state != "pending" else "as it was"
    has_seen = before is not None and before.calls == entry.calls
    if is_answer or (has_seen and _is_open(entry)):
        return _correction(posted, entry)
    return "changed"


def _had_entry(before: Result | None) -> bool:
    return before is not None and before.state != "not_sent" and not before.was_bad


def _is_open(entry: Entry) -> bool:
    """Whether it surely did not get through, or is not sent yet."""
    in_doubt = entry.error_type == DeliveryUncertain.__name__
    return entry.state in {"failed", "rejected"} or (entry.state == "pending" and not in_doubt)


def _correction(posted: Posted, entry: Entry) -> How:
    """See that a row is another than its entry, and not the same one read with other options."""
    here, there = (_plain(each) for each in (posted.content, comparable(entry.payload)))
    moments = [each.pop("ActivityDateTime", None) for each in (here, there)]
    if here != there:
        return "corrected"
    if None in moments:
        return "read otherwise" if moments == [None, None] else "corrected"
    apart = datetime.fromisoformat(moments[0]) - datetime.fromisoformat(moments[1])
    if not apart or (posted.row.utc_assumed and abs(apart) <= _WIDEST and not apart % _STEP):
        return "read otherwise"
    return "corrected"


def _plain(content: Mapping[str, Any] | None) -> dict[str, Any]:
    """Leave out what is empty."""
    plain = {name: value for name, value in (content or {}).items() if value != ""}
    if "Fields" in plain:
        items = plain["Fields"].items()
        plain["Fields"] = {name: item for name, item in items if item.get("Value") != ""}
    return {name: value for name, value in plain.items() if value != {}}
