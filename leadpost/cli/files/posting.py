"""`leadpost post FILE`: compare it with the outbox, show the plan, post, and say what was done."""

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import typer
from attrs import define
from rich.console import Console

from leadpost import Account, AsyncActivityPoster, RetryPolicy
from leadpost.bucket import TokenBucket
from leadpost.cli.account import where_to_look
from leadpost.cli.console import is_interactive, number_of, say
from leadpost.cli.exits import Exit, exit_of, told
from leadpost.cli.files import entries
from leadpost.cli.files.checking import Checks
from leadpost.cli.files.comparing import Comparison, compared, differences
from leadpost.cli.files.leads import Leads
from leadpost.cli.files.ledger import Ledger
from leadpost.cli.files.opening import opened
from leadpost.cli.files.options import Options
from leadpost.cli.files.outputs import Outputs
from leadpost.cli.files.plan import Rows
from leadpost.cli.files.sending import Sender
from leadpost.cli.files.showing import (
    account_shown,
    done_json,
    done_lines,
    doubt_lines,
    fault_lines,
    nothing_new,
    plan_json,
    plan_table,
    warning_lines,
)
from leadpost.cli.outbox_url import is_missing, shown_url
from leadpost.cli.signals import Stop, exit_of_signal, on_signals
from leadpost.errors import (
    ConnectionFailed,
    LeadpostError,
    NotFound,
    OutageTimeout,
    Unauthorized,
)
from leadpost.outbox import Outbox, SharedTokenBucket

_PATIENCE = RetryPolicy(max_attempts=3, max_time=60.0)
"""With a question that is asked before anything is sent."""


async def post_file(options: Options, account: Account | None, console: Console) -> Exit:
    """
    Post a file; without an account, check it.

    Raises:
        InputError: it cannot be used.
        OutboxError: the outbox cannot be used.
    """
    stop = Stop()
    with on_signals(stop):
        try:
            with stop.cancelling():
                return await _Run(options, account, console, stop).run()
        except asyncio.CancelledError:
            if stop.signal is None:
                raise
            say(console, "Stopped: nothing was sent")
            return exit_of_signal(stop.signal)


@define
class _Run:
    """One run over a file."""

    _options: Options
    _account: Account | None
    _console: Console
    _stop: Stop

    async def run(self) -> Exit:
        options, account = self._options, self._account
        async with AsyncExitStack() as stack:
            file = stack.enter_context(opened(options.path))
            rows = stack.enter_context(Rows())
            knows_nothing = account is None or (options.dry_run and is_missing(options.url))
            poster = None
            if account is not None:
                poster = await stack.enter_async_context(
                    self._asking(account, knows_nothing=knows_nothing)
                )
            checks = Checks(
                poster=poster,
                mode=options.account_check,
                leads=Leads(options.create_leads, options.update_leads),
                console=Console(quiet=True) if options.quiet else self._console,
                limit=options.limit,
            )
            ledger = None
            if account is not None and not knows_nothing:
                outbox = await stack.enter_async_context(Outbox(options.url, account))
                ledger = await Ledger(outbox, account.host).open()
            found = await compared(
                options.path,
                file,
                rows,
                ledger,
                checks,
                reading=options.reading,
                batch=options.batch,
                first=options.first,
                use_stored=options.reads_as_before,
            )
            decided = await self._decide(found)
            if decided is not None or account is None or ledger is None:
                return decided or Exit.ALL_ACCEPTED
            return await self._post(found, account, ledger)

    def _asking(self, account: Account, *, knows_nothing: bool) -> AsyncActivityPoster:
        """Return what asks the account; a dry run leaves no outbox behind."""
        limit = self._options.limit
        bucket = (
            TokenBucket(limit)
            if knows_nothing
            else SharedTokenBucket(self._options.url, limit=limit)
        )
        return AsyncActivityPoster(account, bucket=bucket, retry=_PATIENCE)

    async def _decide(self, found: Comparison) -> Exit | None:
        """Show the plan, and ask where needed; return how the run ends if it sends nothing."""
        options, plan = self._options, found.plan
        edits = await differences(found)
        shown = found, self._account, shown_url(options.url), options.limit
        if options.dry_run and options.as_json:
            echo_json(plan_json(*shown, edits))
        elif options.dry_run or ((plan.sent or plan.doubtful) and not options.quiet):
            console = Console() if options.dry_run else self._console
            console.print(plan_table(*shown))
        for line in [*fault_lines(found), *warning_lines(found), *doubt_lines(found, edits)]:
            say(self._console, line)
        if options.dry_run:
            is_fine = not plan.counts["invalid"] and not plan.doubtful and not self._unmade(found)
            return Exit.ALL_ACCEPTED if is_fine else Exit.BAD_INPUT
        refused = self._refusal(found) or self._confirm(found)
        if refused is None:
            return None
        if options.as_json:
            echo_json(plan_json(*shown, edits))
        say(self._console, refused)
        return Exit.BAD_INPUT

    def _refusal(self, found: Comparison) -> str | None:
        """Return why nothing is sent, for rows that are invalid or doubtful; None if it may be."""
        options, plan = self._options, found.plan
        if self._unmade(found):
            return "Nothing was sent. To post without that check, say --account-check warn"
        if plan.newly_invalid and not options.skip_invalid:
            valid = plan.sent
            rest = f", or post the {valid:,} valid ones with --skip-invalid" if valid else ""
            return f"Nothing was sent. Fix the rows above{rest}"
        if not plan.doubtful:
            return None
        answer = options.duplicates
        if answer is None and is_interactive() and not options.yes:
            with self._stop.asking():
                answer = _ask_about_doubt()
        if answer is None:
            return (
                "Nothing was sent. Leave the doubtful rows out with --duplicates skip, or post them"
                " too with --duplicates post"
            )
        if answer == "post":
            plan.post_doubtful()
        return None

    def _unmade(self, found: Comparison) -> bool:
        """Whether a check that has to be made could not be made."""
        return self._options.account_check == "strict" and bool(found.checks.unmade)

    def _confirm(self, found: Comparison) -> str | None:
        """Ask, unless that is not needed; return why nothing is sent, None if it may be."""
        account, count = self._account, found.plan.sent
        if not count or self._options.yes or account is None or account.is_loopback:
            return None
        if not is_interactive():
            return "Nothing was sent. There is no terminal to ask at: add --yes to post"
        activities = "1 activity" if count == 1 else f"{count:,} activities"
        with self._stop.asking():
            agreed = typer.confirm(f"Post {activities} to {account_shown(account)}?", err=True)
        return None if agreed else "Nothing was sent"

    async def _post(self, found: Comparison, account: Account, ledger: Ledger) -> Exit:
        plan, options = found.plan, self._options
        before = found.batch if found.are_rejects else None
        found.batch = await ledger.begin(
            found.name,
            before.file if before else Path(options.path).name,
            before.reading if before else found.reading,
        )
        if sent_meanwhile := await entries.withdraw(ledger, plan.unsent):
            # What replaces these rows could be a second time the same, or an edit.
            rows = number_of(sent_meanwhile, "row")
            say(
                self._console,
                f"Nothing was sent: another run or a worker has just sent {rows} of this file. Run"
                " the same command again",
            )
            return Exit.BAD_INPUT
        if plan.withdrawn:
            rows = number_of(plan.withdrawn, "unsent row")
            say(self._console, f"{rows} gone from the file: withdrawn, nothing sends them")
        sender = Sender(options, account, found, ledger, found.batch, self._console, self._stop)
        if plan.sent:
            await sender.send()
        else:
            await sender.put()
        if self._stop.signal is not None:
            say(
                self._console,
                "Stopped. To resume, run the same command again. What was done so far: leadpost"
                f" results {options.path}",
            )
            return exit_of_signal(self._stop.signal)
        outputs = await write_outputs(found, ledger, self._console)
        if sender.error is not None:
            say(self._console, _said_of(sender.error, account))
        elif sender.is_in_doubt:
            say(
                self._console,
                f"{sender.in_doubt} posts in a row ended in doubt; nothing more was sent",
            )
        if not options.as_json and plan.counts["posted"] == len(plan.rows):
            typer.echo("\n".join(nothing_new(found, outputs)))
        else:
            report(found, outputs, sender.progress.elapsed, as_json=options.as_json)
        return _exit(found, outputs, sender)


async def write_outputs(found: Comparison, ledger: Ledger, console: Console) -> Outputs:
    """Write the results and the rejects; where that fails, say how to do it later."""
    outputs, batch = found.outputs, found.batch
    try:
        await outputs.write(found.source, found.plan, ledger)
    except OSError as error:
        say(
            console,
            f"The results could not be written: {told(error)}. Close it, then: leadpost results"
            f" {found.path}",
        )
    if batch is not None:
        await ledger.record_ended(batch)
        await ledger.record_outputs(batch, outputs.written)
    return outputs


def report(
    found: Comparison, outputs: Outputs, seconds: float | None = None, *, as_json: bool
) -> None:
    """Print what became of the rows."""
    if as_json:
        echo_json(done_json(found, outputs, seconds))
    else:
        typer.echo("\n".join(done_lines(found, outputs, seconds)))


def echo_json(record: dict[str, Any]) -> None:
    typer.echo(json.dumps(record, ensure_ascii=False))


def _ask_about_doubt() -> Literal["skip", "post"] | None:
    answer: str = typer.prompt(
        "Leave the doubtful rows out, post them too, or stop? [skip/post/stop]",
        default="stop",
        show_default=False,
        err=True,
    )
    match answer.strip().lower():
        case "skip":
            return "skip"
        case "post":
            return "post"
        case _:
            return None


def _said_of(error: LeadpostError, account: Account) -> str:
    match error:
        case Unauthorized():
            return "The keys were refused; nothing more was sent. See which: leadpost doctor"
        case NotFound():
            return f"The URL is wrong; nothing more was sent: {error}"
        case ConnectionFailed():
            return f"No connection: {error} {where_to_look(account)}"
        case OutageTimeout():
            what = str(error).removesuffix("; nothing was sent")
            return f"{what}; nothing more was sent. Run the same command again later"
        case _:
            return str(error)


def _exit(found: Comparison, outputs: Outputs, sender: Sender) -> Exit:
    if sender.error is not None:
        return exit_of(sender.error)
    left = len(found.plan.rows) - outputs.accepted - found.plan.counts["later"]
    return Exit.SOME_NOT if left > 0 else Exit.ALL_ACCEPTED
