"""`leadpost post`: post the activities of a file."""

import asyncio
import os
from typing import Annotated, Literal

import typer
from rich.console import Console

from leadpost.bucket import LIMIT
from leadpost.cli import options
from leadpost.cli.account import read_account, read_account_if_any
from leadpost.cli.console import logged
from leadpost.cli.files.options import Options
from leadpost.cli.files.posting import post_file
from leadpost.cli.files.reading import Reading, pairs_of, zone_of
from leadpost.cli.options import OnUncertain
from leadpost.cli.outbox_url import url_of


def post(
    file: options.File,
    *,
    batch: options.Batch = None,
    duplicates: Annotated[
        Literal["skip", "post"] | None,
        typer.Option(help="What to do with rows that look like posted ones; by default ask."),
    ] = None,
    account_check: Annotated[
        Literal["warn", "strict", "off"],
        typer.Option(
            envvar="LEADPOST_ACCOUNT_CHECK",
            help="Check rows against the account's activity types: unknown types and fields are"
            " invalid and the rest is a warning; or all of it, and dropdowns, are invalid; or not.",
        ),
    ] = "warn",
    create_leads: Annotated[
        bool, typer.Option("--create-leads", help="Create leads that are not found.")
    ] = False,
    update_leads: Annotated[
        bool,
        typer.Option("--update-leads", help="Change leads that are found to what the columns say."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show the plan only; with keys, look up and check too."),
    ] = False,
    first: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Post so many rows, and stop.")
    ] = None,
    skip_invalid: Annotated[
        bool, typer.Option("--skip-invalid", help="Post the valid rows although others are not.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Post without asking.")] = False,
    timezone: options.Timezone = None,
    date_format: options.DateFormat = None,
    map_: options.Map = None,
    set_: options.Set = None,
    ignore: options.Ignore = None,
    ignore_others: options.IgnoreOthers = False,
    send_empty: options.SendEmpty = False,
    form: options.FormatOption = None,
    sheet: options.Sheet = None,
    include_hidden: options.IncludeHidden = False,
    delimiter: options.Delimiter = None,
    encoding: options.Encoding = None,
    wait: Annotated[
        str, typer.Option(metavar="TIME", help="How long to wait while LeadSquared is away.")
    ] = "5m",
    on_uncertain: Annotated[
        OnUncertain, typer.Option(help="A post that may have arrived: report it, or post again.")
    ] = OnUncertain.RAISE,
    limit: options.Limit = LIMIT,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    Post the activities of a file: CSV, .xlsx or JSON.

    Columns are LeadSquared's parameters, by the names of its API or of its screens, and
    SchemaNames; --map, --set and --ignore say the rest. In place of the lead's id a row may have
    Lead.EmailAddress or Lead.Phone: the lead is looked up, and nothing of it is changed.

    However a run ends, even with `kill -9`, the same command resumes it. The options that say how
    to read the file need not be repeated. Run again, it posts what is new in the file. What looks
    like an activity that was posted is never posted again without asking.

    FILE.results.csv says what became of each row. FILE.rejects.csv has the rows to fix: edit it,
    then post it. A rejects file needs no options; those of the first run are used.

    Examples:
    - `leadpost post calls.csv --timezone Asia/Kolkata --dry-run`
    - `leadpost post calls.xlsx --set ActivityEvent=201 --ignore Agent --first 3`
    - `leadpost post calls.csv --map Mail=Lead.EmailAddress --set 'ActivityEvent=Phone Call'`
    """
    if timezone:
        zone_of(timezone)
    reading = Reading(
        form=form,
        sheet=sheet,
        delimiter=delimiter,
        encoding=encoding,
        include_hidden=include_hidden,
        timezone=timezone or None,
        date_formats=tuple(date_format or ()),
        columns=pairs_of("--map", map_ or ()),
        constants=pairs_of("--set", set_ or ()),
        ignored=tuple(ignore or ()),
        ignore_others=ignore_others,
        send_empty=send_empty,
    )
    chosen = Options(
        path=file,
        url=url_of(outbox),
        reading=reading,
        reads_as_before=reading == Reading(timezone=os.environ.get(options.TIMEZONE) or None),
        batch=batch,
        duplicates=duplicates,
        account_check=account_check,
        create_leads=create_leads,
        update_leads=update_leads,
        first=first,
        skip_invalid=skip_invalid,
        dry_run=dry_run,
        yes=yes,
        wait=options.span(wait),
        limit=limit,
        on_uncertain=on_uncertain.value,
        as_json=as_json,
        quiet=quiet,
    )
    console = Console(stderr=True)
    with logged(console, verbose=verbose):
        account = read_account_if_any(env_file) if dry_run else read_account(env_file)
        raise typer.Exit(asyncio.run(post_file(chosen, account, console)))
