"""A file compared with the outbox: its batch, what is known of its rows, and the plan."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from itertools import islice
from pathlib import Path
from typing import Any

from attrs import define, evolve
from rich.console import Console

from leadpost import Account, AsyncActivityPoster, Bucket, RetryPolicy, TokenBucket
from leadpost.cli.console import number_of, say
from leadpost.cli.exits import InputError
from leadpost.cli.files.comparing.checking import Checks
from leadpost.cli.files.comparing.leads import Leads
from leadpost.cli.files.comparing.ledger import PART, Batch, Ledger, parts_of
from leadpost.cli.files.comparing.matching import Matching
from leadpost.cli.files.comparing.options import Options
from leadpost.cli.files.comparing.plan import Plan, Rows
from leadpost.cli.files.reading.cells import Invalid
from leadpost.cli.files.reading.identity import is_whole_key
from leadpost.cli.files.reading.lead_columns import parts_of_activity
from leadpost.cli.files.reading.opening import STDIN, Opened, opened
from leadpost.cli.files.reading.own_files import (
    KEY,
    REASON,
    digest_of,
    input_of,
    read_results,
    results_of,
)
from leadpost.cli.files.reading.row import Row
from leadpost.cli.files.reading.settings import Reading
from leadpost.cli.files.reading.sources import Source
from leadpost.cli.outbox_url import is_missing
from leadpost.outbox import Outbox, SharedTokenBucket

_PATIENCE = RetryPolicy(max_attempts=3, max_time=60.0)
"""With a query before anything is sent."""
_ANEW = "Write the rejects again: leadpost results FILE, where FILE is the file that they came from"
_EXAMPLES = 2000
"""The most edits that are looked at."""


@define(kw_only=True)
class Comparison:
    """A file, compared."""

    options: Options
    account: Account | None
    name: str  # the name of its batch
    source: Source
    reading: Reading
    are_rejects: bool
    matching: Matching  # its rows and those of earlier runs
    plan: Plan  # its rows, and what a run would do with them
    checks: Checks  # what the account was asked about them
    ledger: Ledger | None  # what is known of earlier runs; None to look at the file alone
    batch: Batch | None  # the batch as it was before, None if it is new

    def activity(self, row: Row) -> Mapping[str, Any]:
        """Return what a valid row sends; nothing if its lead was not looked up."""
        try:
            return self.checks.leads.settled(row)
        except Invalid:
            return {}


async def compared(
    options: Options, account: Account | None, console: Console, stack: AsyncExitStack
) -> Comparison:
    """
    Read a file, and compare it with what is known; without an account, read it alone.

    Raises:
        InputError: the file cannot be used, or is not what the outbox and the files beside it say.
        OutboxError: the outbox cannot be used.
    """
    file = stack.enter_context(opened(options.path))
    rows = stack.enter_context(Rows())
    ledger = poster = None
    if account is not None:
        bucket: Bucket = TokenBucket(options.limit)
        if not (options.dry_run and is_missing(options.url)):  # a dry run leaves no outbox behind
            outbox = await stack.enter_async_context(Outbox(options.url, account))
            ledger = Ledger(outbox, account.host)
            file_name = Path(options.path).name
            last = None if options.command == "post" else await ledger.last_batch(file_name)
            options = evolve(options, batch=options.batch or last)
            bucket = SharedTokenBucket(options.url, limit=options.limit)
        poster = AsyncActivityPoster(account, bucket=bucket, retry=_PATIENCE)
        await stack.enter_async_context(poster)
        stack.push_async_callback(poster.aclose, grace=0)  # it posts nothing
    checks = Checks(
        poster=poster,
        mode=options.account_check,
        leads=Leads(options.create_leads, options.update_leads),
        console=Console(quiet=True) if options.quiet else console,
        limit=options.limit,
    )
    reading = await _reading(options, ledger, checks)
    own, keys = file.own_columns(reading)
    name = await _name(options, ledger, own, keys)
    batch = await ledger.batch_for(options, name) if ledger else None
    if batch is not None and own:
        reading = reading.over(batch.reading.of_rejects())
    reading = reading.over(Reading(timezone=options.default_timezone))
    source = await _read(file, reading, rows, checks)
    matching = Matching(rows, name, are_rejects=bool(own))
    if ledger and batch:
        async for part in ledger.of_batch(name):
            matching.know(part)
    if options.first is not None:  # possible duplicates are not among the first
        await _look_elsewhere(rows, ledger, matching)
    matching.match(options.first)
    if options.command == "post":
        await checks.settle(source, rows)
    await _look_elsewhere(rows, ledger, matching)
    plan = matching.decide(options.first)
    await checks.settle_decided(rows)
    found = Comparison(
        options=options,
        account=account,
        name=name,
        source=source,
        reading=reading,
        are_rejects=bool(own),
        matching=matching,
        plan=plan,
        checks=checks,
        ledger=ledger,
        batch=batch,
    )
    if batch and own and KEY not in own:
        _refuse_changed(found, batch)
    if account and options.command == "post":
        await _check_results(found, ledger)
    return found


async def _reading(options: Options, ledger: Ledger | None, checks: Checks) -> Reading:
    """Return how to read a file: as before, if no option says how."""
    if options.reads_as_before and ledger:
        stored = await ledger.batch(options.batch or name_of_file(options.path))
        if stored is not None:
            if (before := stored.reading.as_options()) and options.command == "post":
                replace = "options on the command line replace these"
                say(checks.console, f"Read as before: {before} ({replace})")
            return stored.reading
    return options.reading


async def _read(file: Opened, reading: Reading, rows: Rows, checks: Checks) -> Source:
    """Read the rows of a file; again from the beginning, if the account was asked for a fact."""
    source = file.source(reading, checks.facts)
    drawn = source.rows()
    with checks.console.status("Reading the file"):
        while part := list(islice(drawn, PART)):
            if await checks.learn():
                rows.clear()
                source = file.source(reading, checks.facts)
                drawn = source.rows()
                continue
            rows.add(part)
            await asyncio.sleep(0)  # a signal is heard between two parts
    return source


async def _look_elsewhere(rows: Rows, ledger: Ledger | None, matching: Matching) -> None:
    """Look for rows in other batches; in such a batch, all rows may be those of this file."""
    if ledger is None:
        return
    digests = rows.open_digests()
    while part := list(islice(digests, PART)):
        matching.know(await ledger.of_occasions(part))
        await asyncio.sleep(0)  # a signal is heard between two parts
    for batch in matching.other_batches:
        async for known in ledger.of_batch(batch):
            matching.know(known)


def _refuse_changed(found: Comparison, batch: Batch) -> None:
    """Refuse rejects without keys that were changed."""
    file = evolve(found.options, path=str(Path(found.options.path).with_name(batch.file)))
    name = None if batch.name == batch.file else batch.name
    for row in found.plan.rows.read("known IS NULL"):
        raise InputError(
            f"{found.source.name}: line {row.line} was changed, and the column {KEY} is"
            " missing or empty, so it is unknown which row it is. Write the rejects again:"
            f" leadpost results {file.arguments(name)}"
        )


async def _check_results(found: Comparison, ledger: Ledger | None) -> None:
    """Stop where the results beside the file say more than the outbox: it may be another one."""
    path = results_of(Path(found.options.path))
    if found.options.path == STDIN or not path.is_file():
        return
    if ledger and await ledger.has_written(await asyncio.to_thread(digest_of, path)):
        return
    results, known = await asyncio.to_thread(read_results, path), found.plan.known
    ids = results.request_ids
    if results.posted <= known or (ledger and ids and await ledger.knows_all(ids)):
        return
    raise InputError(
        f"{path} counts {number_of(results.posted, 'row')} of it as posted, but this outbox"
        f" has {f'only {known:,}' if known else 'none'} of them."
        " Use the outbox that they were posted from (--outbox), or move the results away to"
        " post everything"
    )


def name_of_file(path: str) -> str:
    """Return the name of a file without its folder: by default, its batch has the same."""
    return "stdin" if path == STDIN else Path(path).name


async def _name(
    options: Options, ledger: Ledger | None, own: set[str], keys: Sequence[tuple[int, str]]
) -> str:
    """Return the name of the batch: of a rejects file, the one that its keys say."""
    file = name_of_file(options.path)
    name = options.batch or file
    if "/" in name or not name.isprintable():
        raise InputError(f"--batch: {name!r} has a slash or a control character; use another name")
    if not own or ledger is None:
        return name
    if KEY in own:
        return await batch_of(file, keys, ledger) or name
    if options.batch is None:
        name = input_of(file)
    if await ledger.batch(name) is None:
        raise InputError(
            f"{file}: it has the column {REASON} of a rejects file, but no {KEY}. {_ANEW}"
        )
    return name


async def batch_of(file: str, keys: Sequence[tuple[int, str]], ledger: Ledger) -> str | None:
    """
    Return the batch that the keys of a rejects file belong to, None if it has no key.

    Raises:
        InputError: they are damaged or unknown, or belong to several batches.
    """
    lines: dict[str, int] = {}
    for line, text in keys:
        where, key = f"{file}: line {line}, {KEY}:", text.strip().upper()
        if key and not is_whole_key(key):
            raise InputError(f"{where} {text!r} is damaged. {_ANEW}")
        if key in lines:
            raise InputError(
                f"{where} the same key as in line {lines[key]}. Was it filled down? Delete it in"
                " rows that you added"
            )
        if key:  # a row that was added has none
            lines[key] = line
    batches: dict[str, str] = {}
    for part in parts_of([*lines]):
        batches |= await ledger.batches_of(part)
    if unknown := next((key for key in lines if key not in batches), None):
        raise InputError(
            f"{file}: line {lines[unknown]}, {KEY}: {unknown} is not in this outbox. Use the"
            " outbox that the file came from (--outbox)"
        )
    names = sorted({*batches.values()})
    if len(names) > 1:
        raise InputError(
            f"{file}: it has rows of {names[0]} and of {names[1]}. Save the rows of each in a file"
            " of its own, and post these"
        )
    return names[0] if names else None


@define
class Difference:
    """Rows that differ from posted ones in the same parameters, with the first as an example."""

    names: tuple[str, ...]
    before: str
    after: str
    line: int
    rows: int = 0


async def differences(found: Comparison) -> list[Difference]:
    """Return how rows that look like edits differ from the posted ones, the most frequent first."""
    groups: dict[tuple[str, ...], Difference] = {}
    drawn = islice(found.plan.rows.read("edited IS NOT NULL"), _EXAMPLES)
    while found.ledger and (part := list(islice(drawn, PART))):
        activities = await found.ledger.activities([row.edited for row in part if row.edited])
        for row in part:
            if row.edited not in activities:
                continue
            before = parts_of_activity(activities[row.edited])
            after = parts_of_activity(found.activity(row))
            names = tuple(n for n in {**before, **after} if before.get(n) != after.get(n))
            if names:
                old, new = (str(parts.get(names[0], "")) for parts in (before, after))
                groups.setdefault(names, Difference(names, old, new, row.line)).rows += 1
    return sorted(groups.values(), key=lambda group: -group.rows)
