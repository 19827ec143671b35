"""`leadpost post FILE`: compare it with the outbox, show the plan, ask, post, and report."""

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack
from pathlib import Path

import typer
from attrs import define
from rich.console import Console

from leadpost import Account
from leadpost.cli.console import is_interactive, number_of, say
from leadpost.cli.exits import Exit, exit_of
from leadpost.cli.files.comparing.comparison import Comparison, Difference, compared, differences
from leadpost.cli.files.comparing.ledger import Batch, Ledger
from leadpost.cli.files.comparing.options import Options
from leadpost.cli.files.reporting.showing import (
    account_shown,
    arguments,
    duplicate_lines,
    plan_json,
    plan_table,
    problem_lines,
    warning_lines,
)
from leadpost.cli.files.results import echo_json, report, write_outputs
from leadpost.cli.files.sending import entries
from leadpost.cli.files.sending.sender import Sender
from leadpost.cli.signals import Stop, asking, exit_of_signal, on_signals
from leadpost.errors import ConnectionFailed, LeadpostError, NotFound, Unauthorized


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
                async with AsyncExitStack() as stack:
                    found = await compared(options, account, console, stack)
                    return await _Run(options, found, console, stop).run()
        except asyncio.CancelledError:
            if stop.signal is None:
                raise
            say(console, "Stopped: nothing was sent")
            return exit_of_signal(stop.signal)


@define
class _Run:
    """One run over a file."""

    _options: Options
    _found: Comparison
    _console: Console
    _stop: Stop

    async def run(self) -> Exit:
        options, found, plan = self._options, self._found, self._found.plan
        edits = await differences(found)
        self._show(edits)
        unmade = options.account_check == "strict" and bool(found.checks.unmade)
        if options.dry_run or found.account is None or found.ledger is None:
            is_fine = not plan.counts["invalid"] and not plan.duplicates and not unmade
            return Exit.ALL_ACCEPTED if is_fine else Exit.BAD_INPUT
        if unmade:
            why: str | None = "To post without that check, add --account-check warn"
        else:
            why = self._invalid() or self._too_many() or self._duplicates() or self._declined()
        if why is not None:
            if options.as_json:
                echo_json(plan_json(found, edits))
            say(self._console, f"Nothing was sent. {why}".rstrip())
            return Exit.BAD_INPUT
        return await self._post(found.account, found.ledger)

    def _show(self, edits: Sequence[Difference]) -> None:
        """Show the plan, and what is wrong or a possible duplicate."""
        options, found = self._options, self._found
        if options.dry_run and options.as_json:
            echo_json(plan_json(found, edits))
        elif options.dry_run:
            Console().print(plan_table(found))
        elif (found.plan.sent or found.plan.duplicates) and not options.quiet:
            self._console.print(plan_table(found))
        for line in [*problem_lines(found), *warning_lines(found), *duplicate_lines(found, edits)]:
            say(self._console, line)

    # Why nothing is sent, None if it may be.

    def _invalid(self) -> str | None:
        plan = self._found.plan
        if not plan.newly_invalid or self._options.skip_invalid:
            return None
        valid = "valid one" if plan.sent == 1 else f"{plan.sent:,} valid ones"
        rest = f", or post the {valid} with --skip-invalid" if plan.sent else ""
        return f"Fix the rows above{rest}"

    def _too_many(self) -> str | None:
        options, found = self._options, self._found
        if options.first is None or not (found.plan.waiting and found.plan.sent):
            return None
        rows = number_of(found.plan.waiting, "unsent row")
        return (
            f"{rows} of {found.name} would be sent too. Leave out --first, or post that file first"
        )

    def _duplicates(self) -> str | None:
        plan = self._found.plan
        answer: str = self._options.duplicates or ""
        if not plan.duplicates:
            return None
        if not answer and is_interactive() and not self._options.yes:
            with asking():
                answer = typer.prompt(
                    "Skip the possible duplicates, post them too, or stop? [skip/post/stop]",
                    default="stop",
                    show_default=False,
                    err=True,
                )
        answer = answer.strip().lower()
        if answer == "post":
            self._found.plan = self._found.matching.decide(self._options.first, asks=False)
        if answer in {"post", "skip"}:
            return None
        return (
            "Skip the possible duplicates with --duplicates skip, or post them too with"
            " --duplicates post"
        )

    def _declined(self) -> str | None:
        account, count = self._found.account, self._found.plan.sent
        if not count or self._options.yes or account is None or account.is_loopback:
            return None
        if not is_interactive():
            return "There is no terminal to ask at: add --yes to post"
        activities = number_of(count, "activity", "activities")
        with asking():
            agreed = typer.confirm(f"Post {activities} to {account_shown(account)}?", err=True)
        return None if agreed else ""

    async def _post(self, account: Account, ledger: Ledger) -> Exit:
        found, plan = self._found, self._found.plan
        found.batch = batch = await self._begin(ledger)
        if sent_meanwhile := await entries.withdraw(ledger, plan.unsent):
            # What replaces these rows could be a second time the same, or an edit.
            rows = number_of(sent_meanwhile, "unsent row")
            say(
                self._console,
                f"Nothing was sent: {rows} of this file may have been sent meanwhile, by another"
                " run or a worker. Run the same command again",
            )
            return Exit.BAD_INPUT
        await ledger.record_gone(plan.gone, plan.back)
        if plan.withdrawn:
            rows = number_of(plan.withdrawn, "unsent row")
            say(self._console, f"{rows} gone from the file: withdrawn, and not sent")
        found.matching.number()
        sender = Sender(found, account, ledger, batch, self._console, self._stop)
        try:
            await sender.send()
            outputs = await write_outputs(found, ledger, self._console)
        except asyncio.CancelledError:
            if self._stop.signal is None:
                raise
            say(
                self._console,
                "Stopped. To resume, run the same command again. What was done so far: leadpost"
                f" results {arguments(found)}",
            )
            return exit_of_signal(self._stop.signal)
        if sender.error is not None:
            say(self._console, _said_of(sender.error, account))
        elif sender.has_given_up:
            say(
                self._console,
                f"{sender.uncertain} posts in a row are uncertain; nothing more was sent",
            )
        report(found, outputs, sender.progress.elapsed, has_failed=sender.error is not None)
        if sender.error is not None:
            return exit_of(sender.error)
        left = len(plan.rows) - outputs.accepted - plan.counts["later"]
        return Exit.SOME_NOT if left > 0 or outputs.has_failed else Exit.ALL_ACCEPTED

    async def _begin(self, ledger: Ledger) -> Batch:
        """Record the batch; a rejects file leaves it as it was."""
        found = self._found
        if found.batch is not None and found.are_rejects:
            return found.batch
        return await ledger.begin(found.name, Path(found.options.path).name, found.reading)


def _said_of(error: LeadpostError, account: Account) -> str:
    match error:
        case Unauthorized():
            return (
                "The keys were rejected; nothing more was sent. See which: leadpost doctor. Correct"
                " them, then run the same command again"
            )
        case NotFound():
            return f"The URL is wrong; nothing more was sent: {error}"
        case ConnectionFailed():
            return f"No connection: {error} (at {account.host}: see leadpost doctor)"
        case _:  # OutageTimeout
            what = str(error).removesuffix("; nothing was sent")
            return f"{what}; nothing more was sent. Run the same command again later"
