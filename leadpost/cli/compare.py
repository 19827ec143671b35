"""What a row is, compared with its entry in the outbox: new, as it was, corrected, or wrong."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Literal

from leadpost._validation import name_of
from leadpost.cli.results import Posted, Result, comparable
from leadpost.cli.versions import Version
from leadpost.errors import DeliveryUncertain
from leadpost.outbox import Entry, EntryState

STANDING = "leadpost_standing"
"""In place of the original of an entry whose row could not be posted: a digest of that row."""

OPEN: tuple[EntryState, ...] = ("pending", "failed", "rejected", "uncertain")
"""States in which an entry may be corrected by who has seen what became of its last call."""
_WIDEST = timedelta(hours=14)
_STEP = timedelta(minutes=15)
"""No zone of today is further from UTC, or has a finer offset."""

How = Literal[
    "new",
    "as it was",
    "bad",
    "corrected",
    "changed",
    "untold",
    "waiting",
    "replaced",
    "read otherwise",
    "pruned",
    "foreign",
    "repeated",
]
WRONG: dict[How, tuple[str, str]] = {
    "changed": ("changed since an earlier run", "not as it was when it was put into the outbox"),
    "untold": (
        "not put by an earlier run",
        "rows after it were, and no results tell why: run this once with it as it was, then again",
    ),
    "waiting": (
        "corrected already",
        "another correction of it was put, and is not sent yet: posting the input sends that",
    ),
    "replaced": ("replaced", "has another lead, and more differs too: a correction keeps either"),
    "read otherwise": (
        "read with other options",
        "as if --timezone or --send-empty were forgotten: give them (an offset corrects a time)",
    ),
    "pruned": ("pruned since an earlier run", "had a result, and the outbox forgot its activity"),
    "foreign": (
        "not of this outbox",
        "its leadpost_key and leadpost_version are not as written, or of another --outbox",
    ),
    "repeated": ("there twice", "has the leadpost_key of a row before it"),
}
"""What a row must not be, and how that is told: of how many, and of each."""


def of_input(posted: Posted, before: Result | None) -> How:
    """
    Tell what a row of an input is.

    Args:
        posted: The row.
        before: What the last run made of it.
    """
    entry, content = posted.entry, posted.content
    if entry is None or not entry.payload:
        if _had_entry(before) or entry is not None:
            return "pruned"
        if content is None:
            return "bad"
        return "corrected" if before is not None and before.was_bad else "new"
    original = entry.original or {}
    if content is None:  # of one that did not get through, nothing is sent: so it may be
        is_known = original.get(STANDING) == posted.standing
        return "as it was" if is_known or entry.state in {"failed", "rejected"} else "changed"
    if content in (comparable(original), comparable(entry.payload)):
        return "as it was"
    if _is_read_otherwise(posted, entry):
        return "read otherwise"
    return _correction(posted, entry) if _is_open(entry) else "changed"


def of_rejects(
    posted: Posted, before: Result | None, version: Version | None, latest: Version | None
) -> How:
    """
    Tell what a row of rejects is.

    Args:
        posted: The row.
        before: What the last run of this very file made of it.
        version: What it was when it was written; None where it is no row of this outbox.
        latest: What it is by the results of its input, as far as they tell.
    """
    entry, content = posted.entry, posted.content
    if version is None:
        return "foreign"
    if entry is None or not entry.payload:
        if version.calls or _had_entry(before) or entry is not None:
            return "pruned"
        if latest is not None and latest != version:
            return "changed"  # rows of the input were moved since: now it is another
        return "bad" if content is None else "new"
    if content is None:
        return "bad" if version == posted.version or _is_open(entry) else "changed"
    # Who answers to what became of the last call: it was told in this file, or by its last run.
    is_answer = version == posted.version and entry.state in OPEN
    if is_as_posted(posted, entry):
        return "corrected" if is_answer and entry.state != "pending" else "as it was"
    if is_answer:
        return "corrected"
    if before is not None and before.version == posted.version and _is_open(entry):
        return _correction(posted, entry)
    return "waiting" if entry.state == "pending" else "changed"


def is_as_posted(posted: Posted, entry: Entry) -> bool:
    """Tell whether a row is its entry; a cell of CSV cannot tell nothing from an empty text."""
    if posted.content == comparable(entry.payload):
        return True
    row = posted.row
    if row.activity is None or row.reject is None or not isinstance(row.own, tuple):
        return False
    version = Version.read(row.reject.version)
    is_asked_for = row.sends_empty and not (version and version.sends_empty)
    return not is_asked_for and _plain(row.activity.to_payload()) == _plain(entry.payload)


def _had_entry(before: Result | None) -> bool:
    return before is not None and before.state != "not_sent" and not before.was_bad


def _is_open(entry: Entry) -> bool:
    """Whether it surely did not get through, or is not sent yet."""
    in_doubt = entry.error_type == DeliveryUncertain.__name__
    return entry.state in {"failed", "rejected"} or (entry.state == "pending" and not in_doubt)


def _correction(posted: Posted, entry: Entry) -> How:
    """See that a row is a correction of its entry, and not another one in its place."""
    here, there = _plain(_payload(posted)), _plain(entry.payload)
    leads = [str(each.pop("RelatedProspectId", None)).lower() for each in (here, there)]
    return "corrected" if leads[0] == leads[1] or here == there else "replaced"


def _is_read_otherwise(posted: Posted, entry: Entry) -> bool:
    """Tell whether a row is its entry, read with other options."""
    here, there = _plain(_payload(posted)), _plain(entry.payload)
    moments = [each.pop("ActivityDateTime", None) for each in (here, there)]
    if here != there or (None in moments and moments != [None, None]):
        return False
    if moments[0] == moments[1]:
        own = posted.row.own
        return isinstance(own, tuple) and "" in own and not posted.row.sends_empty
    apart = datetime.fromisoformat(str(moments[0])) - datetime.fromisoformat(str(moments[1]))
    return posted.row.utc_assumed and abs(apart) <= _WIDEST and not apart % _STEP


def _payload(posted: Posted) -> Mapping[str, Any]:
    return {} if posted.row.activity is None else posted.row.activity.to_payload()


def _plain(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Leave out what is empty."""
    fields = {name_of(item): item for item in payload.get("Fields", ()) if item.get("Value") != ""}
    plain = {name: value for name, value in payload.items() if value != ""}
    return {**plain, "Fields": {name: str(item) for name, item in fields.items()}}
