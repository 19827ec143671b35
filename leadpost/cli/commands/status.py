"""`leadpost status`: what became of requests."""

import json
import os
import shlex
from typing import Annotated, Any

import typer

from leadpost import AsyncActivityPoster
from leadpost.cli import options
from leadpost.cli.exits import Exit, InputError
from leadpost.cli.outbox_url import outbox_option, url_of
from leadpost.cli.queries import asked
from leadpost.errors import NotFound, Rejected, Unauthorized, UnexpectedAnswer


def status(
    request_ids: Annotated[list[str], typer.Argument(metavar="REQUEST_ID", help="RequestIDs.")],
    *,
    outbox: options.OutboxUrl = None,
    env_file: options.EnvFile = None,
    as_json: options.Json = False,
    verbose: options.Verbose = False,
) -> None:
    """
    Ask what became of accepted activities, by their RequestIDs.

    To ask about all rows of a file: `leadpost verify FILE`. The exit code is 0 if all succeeded, 1
    if some failed or are still in the queue.

    Examples:
    - `leadpost status 3661d7b1-93e8-5ba9-9356-b61e0cab2edb`
    - `leadpost status 3661d7b1-93e8-5ba9-9356-b61e0cab2edb --json`
    """
    found: list[dict[str, Any]] = []
    for file in filter(os.path.isfile, request_ids):
        verify = f"leadpost verify {shlex.quote(file)}{outbox_option(url_of(outbox))}"
        raise InputError(f"{file} is a file, not a RequestID. To ask about its rows: {verify}")

    async def ask(poster: AsyncActivityPoster) -> None:
        for request_id in request_ids:
            found.append(await _record(poster, request_id))
            if not as_json:
                typer.echo(_line(found[-1]))

    try:
        asked(ask, env_file, outbox, verbose=verbose)
    finally:
        # What was answered is printed even after Ctrl-C or an error.
        if as_json:
            typer.echo(json.dumps(found))
    if any(record["state"] != "succeeded" for record in found):
        raise typer.Exit(Exit.SOME_NOT)


async def _record(poster: AsyncActivityPoster, request_id: str) -> dict[str, Any]:
    """Return the status of a request; an unknown RequestID does not stop the others."""
    names = ("request_id", "state", "is_final", "status", "status_reason", "activity_id", "error")
    try:
        status = await poster.status(request_id)
    except (Unauthorized, NotFound):
        raise
    except (Rejected, UnexpectedAnswer) as error:
        unknown = {"request_id": request_id, "state": "unknown", "is_final": False}
        return dict.fromkeys(names) | unknown | {"error": str(error)}
    return {name: getattr(status, name, None) for name in names} | {"request_id": request_id}


def _line(record: dict[str, Any]) -> str:
    parts = (
        record["status"],
        record["activity_id"] and f"activity {record['activity_id']}",
        record["status_reason"] if record["state"] == "failed" else None,
        record["error"] or (None if record["is_final"] else "may still change"),
    )
    said = ", ".join(part for part in parts if part)
    return f"{record['request_id']}  {record['state']:9}  {said}"
