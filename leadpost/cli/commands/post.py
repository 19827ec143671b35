"""`leadpost post`: post the activities of a file."""

import asyncio
from typing import Annotated, Literal

import typer
from rich.console import Console

from leadpost.bucket import LIMIT
from leadpost.cli import options
from leadpost.cli.account import read_account, read_account_if_any
from leadpost.cli.console import logged
from leadpost.cli.files.comparing.options import Options
from leadpost.cli.files.posting import post_file
from leadpost.cli.files.reading.settings import Reading, pairs_of, zone_of
from leadpost.cli.outbox_url import url_of


def post(
    context: typer.Context,
    file: options.File,
    *,
    batch: options.Batch = None,
    duplicates: Annotated[
        Literal["skip", "post"] | None,
        typer.Option(help="Skip or post rows that look like posted ones; by default, ask."),
    ] = None,
    account_check: Annotated[
        Literal["warn", "strict", "off"],
        typer.Option(
            envvar="LEADPOST_ACCOUNT_CHECK",
            help="Check rows against the account's activity types. warn: unknown types and fields"
            " make a row invalid, other problems are warnings. strict: any problem makes a row"
            " invalid, wrong options of dropdowns too.",
        ),
    ] = "warn",
    create_leads: Annotated[
        bool, typer.Option("--create-leads", help="Create the leads that are not found.")
    ] = False,
    update_leads: Annotated[
        bool,
        typer.Option("--update-leads", help="Set the Lead.X columns on leads that are found."),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Only show the plan. Without keys, check the file alone."),
    ] = False,
    first: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Post at most N rows.")
    ] = None,
    skip_invalid: Annotated[
        bool,
        typer.Option("--skip-invalid", help="Post the valid rows, not the others."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Post without asking.")] = False,
    timezone: options.Timezone = None,
    date_format: options.DateFormat = None,
    map_: options.Map = None,
    set_: options.Set = None,
    ignore: options.Ignore = None,
    ignore_others: options.IgnoreOthers = False,
    send_empty: options.SendEmpty = False,
    sheet: options.Sheet = None,
    include_hidden: options.IncludeHidden = False,
    delimiter: options.Delimiter = None,
    encoding: options.Encoding = None,
    wait: Annotated[
        str, typer.Option(metavar="TIME", help="How long to wait for the end of an outage.")
    ] = "5m",
    on_uncertain: Annotated[
        Literal["raise", "retry"],
        typer.Option(help="Report a post that may have arrived (raise), or post it again (retry)."),
    ] = "raise",
    limit: options.Limit = LIMIT,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    quiet: options.Quiet = False,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    Post the activities of a file: CSV, .xlsx or JSON.

    Columns are named as in LeadSquared's API or on its screens; --map, --set and --ignore are for
    the others. In place of the lead's id, a row may have Lead.EmailAddress or Lead.Phone: the lead
    is looked up, and not changed.

    However a run ends, even with `kill -9`, the same command resumes it. A later run posts what is
    new in the file; the options for reading it need not be repeated. What looks like an activity
    that was posted is never posted again without asking.

    FILE.results.csv has the state of each row. FILE.rejects.csv has the rows to fix: edit it, then
    post it.

    Examples:
    - `leadpost post calls.csv --timezone Asia/Kolkata --dry-run`
    - `leadpost post calls.xlsx --set ActivityEvent=201 --ignore Agent --first 3`
    - `leadpost post calls.csv --map Mail=Lead.EmailAddress --set 'ActivityEvent=Phone Call'`
    """
    if timezone:
        zone_of(timezone)
    source = context.get_parameter_source("timezone")
    is_default = source is not None and source.name == "ENVIRONMENT"
    reading = Reading(
        sheet=sheet,
        delimiter=delimiter,
        encoding=encoding,
        include_hidden=include_hidden,
        timezone=None if is_default else timezone or None,
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
        default_timezone=timezone if is_default else None,
        reads_as_before=reading == Reading(),
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
        on_uncertain=on_uncertain,
        as_json=as_json,
        quiet=quiet,
    )
    console = Console(stderr=True)
    with logged(console, verbose=verbose):
        account = read_account_if_any(env_file) if dry_run else read_account(env_file)
        raise typer.Exit(asyncio.run(post_file(chosen, account, console)))
