"""A file compared with the outbox: its batch, what is known of its rows, and the plan."""

import asyncio
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import define

from leadpost import Activity
from leadpost.cli.console import counting, number_of, say
from leadpost.cli.exits import InputError
from leadpost.cli.files.cells import Invalid
from leadpost.cli.files.checking import Checks
from leadpost.cli.files.identity import is_whole_key
from leadpost.cli.files.leads import parts_of_activity
from leadpost.cli.files.ledger import PART, Batch, Ledger, parts_of
from leadpost.cli.files.matching import Matching
from leadpost.cli.files.opening import STDIN, Opened
from leadpost.cli.files.outputs import REJECTS, Outputs, posted_by_results
from leadpost.cli.files.plan import Plan, Rows
from leadpost.cli.files.reading import KEY, REASON, Reading
from leadpost.cli.files.rows import Row, Source

_EXAMPLES = 2000
"""The most edits that are looked at."""


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
    """A file, compared."""

    path: str
    name: str  # the name of its batch
    source: Source
    reading: Reading
    are_rejects: bool
    plan: Plan  # its rows, and what a run would do with them
    checks: Checks  # what the account was asked about them
    ledger: Ledger | None  # what is known of earlier runs; None if only the file is looked at
    # The batch as it was before, None if it is new or the outbox is not known.
    batch: Batch | None = None

    @property
    def outputs(self) -> Outputs:
        return Outputs(self.path, dict(self.batch.outputs) if self.batch else {})

    def activity(self, row: Row) -> Mapping[str, Any]:
        """Return what a valid row sends; nothing if its lead was not looked up."""
        if row.payload is None or "LeadDetails" not in row.payload:
            return row.payload or {}
        try:
            return self.checks.leads.settled(Activity.from_payload(row.payload)).to_payload()
        except Invalid:
            return {}


async def compared(
    path: str,
    file: Opened,
    rows: Rows,
    ledger: Ledger | None,
    checks: Checks,
    *,
    reading: Reading,
    batch: str | None = None,
    first: int | None = None,
    use_stored: bool = False,
) -> Comparison:
    """
    Read a file, and compare it with what is known.

    Args:
        path: The file, or `-`.
        file: The same, opened.
        rows: Where its rows go.
        ledger: What is known; None to look at the file alone.
        checks: What to ask the account.
        reading: How to read it.
        batch: The name of its batch; by default that of the file.
        first: How many rows a run sends at most.
        use_stored: Whether it is read as its batch was before.

    Raises:
        InputError: the file cannot be used, or is not what the outbox and the files beside it say.
    """
    if use_stored and ledger and (stored := await ledger.batch(batch or name_of_file(path))):
        reading = stored.reading.over(reading)
        if (options := stored.reading.as_options()) and not checks.is_looking:
            say(checks.console, f"Read as before: {options} (options that you give replace these)")
    own, keys = file.own_columns(reading)
    name = await _name(path, ledger, batch, own, keys)
    known = await ledger.batch(name) if ledger else None
    if known is not None and own:
        reading = reading.over(known.reading.of_rejects())
    source = await _read(file, reading, rows, checks)
    with Matching(rows, name, are_rejects=bool(own)) as matching:
        if ledger and known:
            async for part in ledger.of_batch(name):
                matching.know(part)
            matching.match()
        await checks.settle(source, rows)
        if ledger:
            await _look_elsewhere(rows, ledger, matching)
        plan = matching.judge(first)
    found = Comparison(
        path=path,
        name=name,
        source=source,
        reading=reading,
        are_rejects=bool(own),
        plan=plan,
        checks=checks,
        ledger=ledger,
        batch=known,
    )
    if ledger and own and KEY not in own:
        _refuse_changed(found)
    if ledger and known is None and not plan.moved and not plan.batches:
        await _check_results(found, ledger)
    return found


async def _look_elsewhere(rows: Rows, ledger: Ledger, matching: Matching) -> None:
    """Look for rows in other batches; in such a batch, all rows may be those of this file."""
    digests = {digest for row in rows if row.is_open for digest in (row.digest, row.present)}
    for part in parts_of([*digests]):
        matching.know(await ledger.of_digests(part))
        await asyncio.sleep(0)  # a signal is heard between two parts
    for batch in matching.other_batches:
        async for part in ledger.of_batch(batch):
            matching.know(part)


async def _read(file: Opened, reading: Reading, rows: Rows, checks: Checks) -> Source:
    """Read the rows of a file; again from the beginning, if the account was asked for a fact."""

    async def state() -> str:
        return f"Reading: {number_of(len(rows), 'row')}"

    source = file.source(reading, checks.facts)
    drawn = source.rows()
    async with counting(checks.console, state):
        while part := list(islice(drawn, PART)):
            if await checks.learn():
                rows.clear()
                source = file.source(reading, checks.facts)
                drawn = source.rows()
                continue
            for row in part:
                rows.add(row)
            await asyncio.sleep(0)  # a signal is heard between two parts
    return source


def _refuse_changed(found: Comparison) -> None:
    """Refuse rejects without keys that were changed."""
    for _, read in found.plan.rows.read(lambda row: row.known is None):
        raise InputError(
            f"{found.source.name}: line {read.line} was changed, and the column {KEY} is"
            " missing, so that nobody can tell which row it is. Get the rejects anew: leadpost"
            f" results {found.batch.file if found.batch else 'FILE'}"
        )


async def _check_results(found: Comparison, ledger: Ledger) -> None:
    """Stop where the results beside the file say more than the outbox: it may be another one."""
    results = found.outputs.results
    if found.path == STDIN or not results.is_file():
        return
    posted = await asyncio.to_thread(posted_by_results, results)
    if posted and not await ledger.knows_file(Path(found.path).name):
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
    ledger: Ledger | None,
    given: str | None,
    own: set[str],
    keys: Sequence[tuple[int, str]],
) -> str:
    """Return the name of the batch: of a rejects file, the one that its keys say."""
    file = name_of_file(path)
    name = given or file
    if "/" in name or not name.isprintable():
        raise InputError(f"--batch: {name!r} has a slash or a control character; use another name")
    if not own or ledger is None:
        return name
    if KEY in own:
        return await _batch_of(file, keys, ledger) or name
    stripped = REJECTS.fullmatch(file)
    name = given or (stripped[1] if stripped else file)
    if await ledger.batch(name) is None:
        raise InputError(
            f"{file}: it has the column {REASON} of a rejects file, and no {KEY}. Get the rejects"
            " anew: leadpost results FILE, where FILE is the file that they came from"
        )
    return name


async def _batch_of(file: str, keys: Sequence[tuple[int, str]], ledger: Ledger) -> str | None:
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
    names = set[str]()
    for part in parts_of([*letters]):
        found = await ledger.batches_of(part)
        names.update(found.values())
        for key in part:
            if key not in found:
                raise InputError(
                    f"{file}: line {letters[key]}, {KEY}: {key} is not in this outbox. Use the"
                    " outbox that the file came from (--outbox)"
                )
    if len(names) > 1:
        first, second, *_ = sorted(names)
        raise InputError(f"{file}: rows of {first} and {second}; post them one by one")
    return names.pop() if names else None


async def differences(found: Comparison) -> list[Difference]:
    """Return how rows that look like edits differ from the posted ones, the most frequent first."""
    groups = dict[tuple[str, ...], Difference]()
    drawn = islice(found.plan.rows.read(lambda row: row.edited), _EXAMPLES)
    while found.ledger and (part := list(islice(drawn, PART))):
        activities = await found.ledger.activities([row.edited for row, _ in part if row.edited])
        for row, read in part:
            if row.edited not in activities:
                continue
            before = parts_of_activity(activities[row.edited])
            after = parts_of_activity(found.activity(read))
            names = tuple(n for n in {**before, **after} if before.get(n) != after.get(n))
            if names:
                old, new = (str(parts.get(names[0], "")) for parts in (before, after))
                groups.setdefault(names, Difference(names, old, new, read.line)).rows += 1
    return sorted(groups.values(), key=lambda group: -group.rows)
