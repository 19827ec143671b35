"""The commands and their options, nothing else; what they do is in the modules beside."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer
from rich.console import Console
from typer.core import TyperGroup

import leadpost
from leadpost.bucket import LIMIT
from leadpost.cli import serve, work_commands
from leadpost.cli.exits import Exit, InputError, exit_of, told
from leadpost.cli.options import EnvFile, Format, Json, Limit, OnUncertain, Verbose
from leadpost.cli.outbox_commands import outbox_app

# What the commands do is imported where it is done, so that --help is quick.
# ruff: noqa: PLC0415

if TYPE_CHECKING:
    from leadpost._poster import AsyncActivityPoster

T = TypeVar("T")


class _Group(TyperGroup):
    """Ends every command with its exit code, and an error with one line."""

    def invoke(self, ctx: typer.Context) -> object:  # type: ignore[override]  # click's Any
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(Exit.INTERRUPTED) from None
        except BrokenPipeError:
            raise  # `leadpost types | head`: typer ends it quietly
        except (leadpost.LeadpostError, InputError, OSError) as error:
            typer.echo(f"error: {told(error)}", err=True)
            raise typer.Exit(exit_of(error)) from None


_EXIT_CODES = (
    "Exit codes: 0 all accepted, 1 some not, 2 bad usage or input, 3 keys refused, 130 interrupted,"
    " 143 ended by SIGTERM."
)

app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",  # or else paragraphs keep the line breaks of the docstrings
    pretty_exceptions_enable=False,  # they show the locals, keys among them
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog=_EXIT_CODES,
)


def _show_version(value: bool) -> None:  # noqa: FBT001  typer's form
    if value:
        typer.echo(f"leadpost {leadpost.__version__}")
        raise typer.Exit


@app.callback()
def common(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """
    Post activities to LeadSquared through its Async API.

    Keys come from the environment or an env file: LEADPOST_REGION or LEADPOST_HOST,
    LEADPOST_ACCESS_KEY, LEADPOST_SECRET_KEY, LEADPOST_API_KEY.
    """
    del version


@app.command("demo")
def demo_command(*, as_json: Json = False, verbose: Verbose = False) -> None:
    """Post 50 sample activities to a sandbox on this machine: no keys, no network, under 30 s."""
    from leadpost.cli import demo
    from leadpost.cli.logs import logged

    console = Console(stderr=True)
    with (
        logged(console, verbose=verbose),
        serve.sandbox_module().Sandbox(delay=(0.02, 0.15), idle_timeout=(4.9, 5.3)) as sandbox,
    ):
        summary = asyncio.run(demo.run_demo(sandbox, leadpost.TokenBucket(), console))
    demo.tell(summary, as_json=as_json)
    raise typer.Exit(summary.exit)


@app.command("doctor")
def doctor_command(
    *,
    lead_id: Annotated[
        str | None,
        typer.Option(
            "--post",
            metavar="LEAD_ID",
            help="Post one test activity on this lead too, and say what became of it.",
        ),
    ] = None,
    event: Annotated[
        int | None,
        typer.Option(
            min=1, metavar="CODE", help="Its activity type; by default the first one listed."
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(min=0, metavar="SECONDS", help="How long to wait for its status.")
    ] = 60.0,
    yes: Annotated[
        bool, typer.Option("--yes", help="Post it without asking; for where there is no terminal.")
    ] = False,
    limit: Limit = LIMIT,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """
    Check keys, hosts and paths with one call each, and name the setting to change.

    Nothing is posted without --post. The exit code is 0 if nothing in use is `no`, 1 if something
    is or nothing is `ok`, 2 if the configuration cannot be right, 3 if the keys are refused.
    """
    from leadpost.cli import doctor
    from leadpost.cli.keys import read_account
    from leadpost.cli.logs import logged

    if event is not None and lead_id is None:
        raise typer.BadParameter("--event wants --post LEAD_ID")
    account = read_account(env_file)
    trial = None if lead_id is None else doctor.trial_on(lead_id, event, timeout)
    if trial is not None and not yes and not doctor.confirmed(trial):
        raise typer.Abort
    with logged(Console(stderr=True), verbose=verbose):
        bucket = leadpost.TokenBucket(limit)
        raise typer.Exit(asyncio.run(doctor.diagnose(account, trial, bucket, as_json=as_json)))


@app.command("post", epilog=_EXIT_CODES)
def post_command(
    *,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="CSV, JSON lines or a JSON array; - for stdin.")
    ],
    form: Annotated[
        Format | None,
        typer.Option("--format", help="By default told by the name, or else by the content."),
    ] = None,
    timezone: Annotated[
        str | None,
        typer.Option(
            help="Zone, such as Asia/Kolkata, of an ActivityDateTime without an offset:"
            " YYYY-MM-DD HH:MM:SS, or with a T between. Without this option the former is UTC and"
            " the latter is refused. ISO 8601 with an offset is always taken."
        ),
    ] = None,
    send_empty: Annotated[
        bool, typer.Option("--send-empty", help='Send an empty CSV cell as "", not leave it out.')
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check only, and tell how long it would take.")
    ] = False,
    skip_invalid: Annotated[
        bool,
        typer.Option(
            "--skip-invalid", help="Post the good rows, and leave the bad ones to the rejects."
        ),
    ] = False,
    output_base: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="What the names of the results begin with; by default FILE, or stdin for -.",
        ),
    ] = None,
    outbox: Annotated[
        str | None,
        typer.Option(
            "--outbox",
            metavar="URL",
            help="Where the rows are kept until they are posted; by default FILE.outbox.db.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Replace results that are not of this outbox.")
    ] = False,
    on_uncertain: Annotated[
        OnUncertain,
        typer.Option(help="Of a post that may have arrived: report it, or post it again."),
    ] = OnUncertain.RAISE,
    limit: Limit = LIMIT,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """
    Post the activities of a file.

    CSV has the columns RelatedProspectId, ActivityEvent, ActivityNote, ActivityDateTime; every
    other one is a SchemaName. JSON has the vendor's own shape. All rows are checked before the
    first call.

    The rows go through FILE.outbox.db, so a run that was ended in any way, even killed, is gone on
    with by the same command: no row is posted twice. Rows appended since are taken up, and so are
    corrections of rows that did not get through; where others were changed, that is told and
    nothing is sent. To post all of it again, move that file away.

    FILE.results.csv tells what became of each row. FILE.rejects.csv (or .jsonl) has the rows that
    did not get through, with the reason, to be posted again, corrected where they were rejected.
    FILE.uncertain.csv has those that may have arrived. Posted from there, they are the same rows
    still: the outbox of FILE has them, and its next run knows what became of them.
    """
    from leadpost.cli import inputs, post
    from leadpost.cli.keys import read_account
    from leadpost.cli.logs import logged
    from leadpost.cli.outbox_url import url_of
    from leadpost.cli.outputs import Outputs
    from leadpost.cli.rejects import input_of, outbox_beside
    from leadpost.outbox import SharedTokenBucket

    console = Console(stderr=True)
    how = post.How(
        limit=limit,
        on_uncertain=on_uncertain.value,
        skip_invalid=skip_invalid,
        as_json=as_json,
        force=force,
    )
    with ExitStack() as stack:
        stack.enter_context(logged(console, verbose=verbose))
        account = None if dry_run else read_account(env_file)
        source = stack.enter_context(inputs.opened(file, form, timezone, send_empty=send_empty))
        base = inputs.base_of(file, output_base)
        outputs = Outputs(base, source)
        check = post.check_file(source, outputs, console, force=force)
        rejects_of = input_of(file, base, check)
        if account is None or (check.newly_bad and not skip_invalid):
            post.tell_check(check, source, how, dry_run=dry_run)
            raise typer.Exit(post.exit_of_check(check, how))
        url = url_of(outbox or outbox_beside(base, rejects_of))
        bucket = SharedTokenBucket(url, account, limit=limit)
        posting = post.post_file(
            source,
            outputs,
            url,
            account,
            check,
            rejects_of=rejects_of,
            how=how,
            bucket=bucket,
            console=console,
        )
        raise typer.Exit(asyncio.run(posting))


@app.command("status")
def status_command(
    *,
    request_ids: Annotated[
        list[str] | None, typer.Argument(metavar="REQUEST_ID", help="RequestIDs.")
    ] = None,
    results: Annotated[
        Path | None,
        typer.Option(exists=True, dir_okay=False, help="Ask about the accepted rows of this file."),
    ] = None,
    limit: Limit = LIMIT,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """
    Ask what became of accepted activities.

    The exit code is 0 if all succeeded, 1 if some failed or are not final yet.
    """
    from leadpost.cli import status

    if (results is None) == (not request_ids):
        raise typer.BadParameter("give REQUEST_IDs, or --results FILE")
    wanted = status.accepted_in(results) if results else request_ids or []
    ended = _asked(
        lambda poster: status.tell_status(poster, wanted, as_json=as_json),
        env_file,
        limit,
        verbose=verbose,
    )
    raise typer.Exit(ended)


@app.command("metrics")
def metrics_command(
    *, env_file: EnvFile = None, as_json: Json = False, verbose: Verbose = False
) -> None:
    """Ask how far behind LeadSquared's queue is."""
    from leadpost.cli import ask

    _asked(
        lambda poster: ask.tell_metrics(poster, as_json=as_json),
        env_file,
        verbose=verbose,
    )


@app.command("types")
def types_command(
    *,
    code: Annotated[int | None, typer.Argument(min=1, help="Show the fields of this one.")] = None,
    env_file: EnvFile = None,
    as_json: Json = False,
    verbose: Verbose = False,
) -> None:
    """List the activity types, or the fields of one."""
    from leadpost.cli import ask

    async def tell(poster: "AsyncActivityPoster") -> None:
        if code is None:
            await ask.tell_types(poster, as_json=as_json)
        else:
            await ask.tell_type(poster, code, as_json=as_json)

    _asked(tell, env_file, sync=True, verbose=verbose)


def _asked(
    question: "Callable[[AsyncActivityPoster], Awaitable[T]]",
    env_file: Path | None,
    limit: int = LIMIT,
    *,
    sync: bool = False,
    verbose: bool,
) -> T:
    from leadpost.cli.keys import naming, read_account
    from leadpost.cli.logs import logged

    account = read_account(env_file)
    bucket = leadpost.TokenBucket(limit)

    async def asking() -> T:
        async with leadpost.AsyncActivityPoster(account, bucket=bucket) as poster:
            with naming(account, sync=sync):
                return await question(poster)

    with logged(Console(stderr=True), verbose=verbose):
        return asyncio.run(asking())


app.command("work")(work_commands.work_command)
app.command("verify")(work_commands.verify_command)
app.command("reconcile")(work_commands.reconcile_command)
app.add_typer(outbox_app, name="outbox")
app.command("sandbox")(serve.sandbox_command)
