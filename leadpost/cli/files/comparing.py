"""A file compared with the outbox: its batch, what is known of its rows, and the plan."""

import asyncio
import re
from collections.abc import Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import define, field

from leadpost import Activity
from leadpost.cli.exits import InputError
from leadpost.cli.files.batches import PART, Batch, Batches
from leadpost.cli.files.cells import Invalid
from leadpost.cli.files.checking import Checks
from leadpost.cli.files.identity import is_whole_key
from leadpost.cli.files.leads import parts_of_activity
from leadpost.cli.files.opening import STDIN, Opened
from leadpost.cli.files.outputs import Outputs, posted_by_results
from leadpost.cli.files.plan import Plan
from leadpost.cli.files.reading import KEY, REASON, Reading
from leadpost.cli.files.records import Stored
from leadpost.cli.files.rows import Source
from leadpost.cli.files.snapshot import Snapshot

_REJECTS = re.compile(r"(.+)\.rejects(?:\.\d+)?\.\w+")
_EXAMPLES = 2000


@define
class Difference:
    """Rows that differ from posted ones in the same parameters, with the first as an example."""

    names: tuple[str, ...]
    before: str
    after: str
    line: int
    rows: int = 0


@define(kw_only=True)
class Comparison:
    """
    A file, compared.

    Attributes:
        path: The file.
        name: Of its batch.
        source: How it was read.
        reading: With which options.
        are_rejects: Whether it is a rejects file.
        snapshot: Its rows.
        checks: What the account was asked about them.
        plan: What a run would do.
        batch: The batch as it was before, None if it is new or the outbox is not known.
    """

    path: str
    name: str
    source: Source
    reading: Reading
    are_rejects: bool
    snapshot: Snapshot
    checks: Checks
    plan: Plan = field(factory=Plan)
    batch: Batch | None = None

    @property
    def outputs(self) -> Outputs:
        return Outputs(self.path, dict(self.batch.outputs) if self.batch else {})

    def activity(self, row: Stored) -> dict[str, Any]:
        """Return what a valid row sends; nothing where its lead was not looked up."""
        payload, _ = self.source.payload(row.own)
        if payload is None or "LeadDetails" not in payload:
            return payload or {}
        try:
            return self.checks.leads.settled(Activity.from_payload(payload)).to_payload()
        except Invalid:
            return {}


async def compared(
    path: str,
    file: Opened,
    snapshot: Snapshot,
    batches: Batches | None,
    checks: Checks,
    *,
    reading: Reading,
    batch: str | None = None,
    first: int | None = None,
    use_stored: bool = False,
    on_row: Callable[[int], None] = lambda _: None,
) -> Comparison:
    """
    Read a file, and compare it with what is known.

    Args:
        path: The file, or `-`.
        file: The same, opened.
        snapshot: Where its rows go.
        batches: What is known; None to look at the file alone.
        checks: What to ask the account.
        reading: How to read it.
        batch: The name of its batch; by default that of the file.
        first: How many rows a run sends at most.
        use_stored: Whether it is read as its batch was before, as far as `reading` says nothing.
        on_row: Called with the number of rows read, now and then.

    Raises:
        InputError: the file cannot be used, or is not what the outbox and the files beside it say.
    """
    if use_stored and batches and (stored := await batches.find(batch or name_of_file(path))):
        reading = reading.over(stored.reading, are_rejects=False)
    own, keys = file.own_columns(reading)
    are_rejects = bool(own)
    name = await _name(path, batches, batch, own, keys)
    known = await batches.find(name) if batches else None
    if known is not None and are_rejects:
        reading = reading.over(known.reading, are_rejects=True)
    source = file.source(reading, checks.facts)
    total = 0
    rows = source.rows()
    while part := list(islice(rows, PART)):
        if await checks.learn():
            snapshot.clear()
            source, total = file.source(reading, checks.facts), 0
            rows = source.rows()
            continue
        total += snapshot.add(part)
        on_row(total)
        await asyncio.sleep(0)  # a signal is heard between two parts
    found = Comparison(
        path=path,
        name=name,
        source=source,
        reading=reading,
        are_rejects=are_rejects,
        snapshot=snapshot,
        checks=checks,
        batch=known,
    )
    if batches is not None:
        await _compare(found, batches, has_keys=KEY in own)
    else:
        await checks.settle(source, snapshot)
    found.plan = snapshot.judge(are_rejects=are_rejects, first=first)
    return found


async def _compare(found: Comparison, batches: Batches, *, has_keys: bool) -> None:
    snapshot = found.snapshot
    if found.batch is not None:
        await load(found.batch, snapshot, batches)
    if not has_keys:
        snapshot.match()  # what is in the outbox needs no call
    await found.checks.settle(found.source, snapshot)
    if has_keys:
        snapshot.match_keys()
    snapshot.match()
    if found.are_rejects and not has_keys and (line := snapshot.unknown_row()) is not None:
        raise InputError(
            f"{found.source.name}: line {line} was changed, and the column {KEY} is missing, so"
            f" that nobody can tell which row it is. Get the rejects anew: leadpost results"
            f" {found.batch.file if found.batch else 'FILE'}"
        )
    is_known_elsewhere = await _look_elsewhere(found, batches)
    if found.batch is None and not is_known_elsewhere:
        await _check_results(found, batches)


async def _look_elsewhere(found: Comparison, batches: Batches) -> bool:
    """Look for rows that are new to the batch in the others; whether there are any."""
    snapshot, is_known = found.snapshot, False
    if not await batches.has_others(found.name):
        return False
    for digests in snapshot.unmatched(PART):
        rows = await batches.elsewhere(found.name, digests)
        snapshot.add_known(rows, are_elsewhere=True)
        is_known |= bool(rows)
    snapshot.match()
    return is_known


async def load(batch: Batch, snapshot: Snapshot, batches: Batches) -> None:
    """Bring into the snapshot what the outbox knows of a batch at this moment."""
    async for part in batches.known(batch):
        snapshot.add_known(part)


async def _check_results(found: Comparison, batches: Batches) -> None:
    """Stop where the results beside the file say more than the outbox: it may be another one."""
    results = found.outputs.results
    if found.path == STDIN or not results.is_file():
        return
    posted = await asyncio.to_thread(posted_by_results, results)
    if posted and not await batches.knows_file(Path(found.path).name):
        raise InputError(
            f"{results} says that {posted:,} rows were posted, this outbox knows nothing of them."
            " Use the outbox that they were posted from (--outbox), or move the results away to"
            " post everything"
        )


def name_of_file(path: str) -> str:
    """Return the name of a file without its folder: by default, its batch has the same."""
    return "stdin" if path == STDIN else Path(path).name


async def _name(
    path: str,
    batches: Batches | None,
    given: str | None,
    own: set[str],
    keys: Sequence[tuple[int, str]],
) -> str:
    """Return the name of the batch: of a rejects file, the one that its keys say."""
    file = name_of_file(path)
    name = given or file
    if "/" in name or not name.isprintable():
        raise InputError(f"--batch: {name!r} has a slash or a control character; use another name")
    if not own or batches is None:
        return name
    if KEY in own:
        return await _batch_of(file, keys, batches) or name
    stripped = _REJECTS.fullmatch(file)
    name = given or (stripped[1] if stripped else file)
    if await batches.find(name) is None:
        raise InputError(
            f"{file}: it has the column {REASON} of a rejects file, and no {KEY}. Get the rejects"
            " anew: leadpost results FILE, where FILE is the file that they came from"
        )
    return name


async def _batch_of(file: str, keys: Sequence[tuple[int, str]], batches: Batches) -> str | None:
    letters: dict[str, int] = {}
    for line, text in keys:
        key = text.strip().upper()
        if not key:
            continue  # a row that was added
        if not is_whole_key(key):
            raise InputError(
                f"{file}: line {line}, {KEY}: {text!r} is damaged. Get the rejects anew: leadpost"
                " results FILE, where FILE is the file that they came from"
            )
        if key in letters:
            raise InputError(
                f"{file}: line {line}, {KEY}: the same key as in line {letters[key]}. Was it"
                " filled down? Delete it in rows that you added"
            )
        letters[key] = line
    found = await batches.of_letters(letters)
    for key, line in letters.items():
        if key not in found:
            raise InputError(
                f"{file}: line {line}, {KEY}: {key} is not in this outbox. Use the outbox that the"
                " file came from (--outbox)"
            )
    names = sorted(set(found.values()))
    if len(names) > 1:
        raise InputError(f"{file}: rows of {names[0]} and {names[1]}; post them one by one")
    return names[0] if names else None


async def differences(found: Comparison, batches: Batches) -> list[Difference]:
    """Return how rows that look like edits differ from the posted ones, the most frequent first."""
    groups: dict[tuple[str, ...], Difference] = {}
    edits = found.snapshot.edits(_EXAMPLES)
    while part := list(islice(edits, PART)):
        activities = await batches.activities([id_ for _, id_ in part])
        for row, id_ in part:
            if id_ not in activities:
                continue
            before = parts_of_activity(activities[id_])
            after = parts_of_activity(found.activity(row))
            names = tuple(n for n in {**before, **after} if before.get(n) != after.get(n))
            if names:
                old, new = (str(parts.get(names[0], "")) for parts in (before, after))
                groups.setdefault(names, Difference(names, old, new, row.line)).rows += 1
    return sorted(groups.values(), key=lambda group: -group.rows)
