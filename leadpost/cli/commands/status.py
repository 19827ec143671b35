"""`leadpost status`: what became of requests."""

import json
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from attrs import frozen

from leadpost import AsyncActivityPoster, RequestStatus
from leadpost.bucket import LIMIT
from leadpost.cli import options
from leadpost.cli.asking import asked
from leadpost.cli.exits import Exit
from leadpost.errors import LeadpostError, NotFound, Rejected, Unauthorized, UnexpectedAnswer


def status(
    request_ids: Annotated[list[str], typer.Argument(metavar="REQUEST_ID", help="RequestIDs.")],
    *,
    limit: options.Limit = LIMIT,
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
    ended = asked(
        lambda poster: show_status(poster, request_ids, as_json=as_json),
        env_file,
        outbox,
        limit,
        verbose=verbose,
    )
    raise typer.Exit(ended)


@frozen
class Answer:
    """The status of one request, or the error of asking."""

    request_id: str
    status: RequestStatus | None
    error: LeadpostError | None = None

    def as_json(self) -> dict[str, Any]:
        status = self.status
        return {
            "request_id": self.request_id,
            "state": status.state if status else "unknown",
            "final": status.final if status else False,
            "status": status.status if status else None,
            "status_reason": status.status_reason if status else None,
            "activity_id": status.activity_id if status else None,
            "error": str(self.error) if self.error else None,
        }

    def __str__(self) -> str:
        if self.status is None:
            return f"{self.request_id}  unknown    {self.error}"
        what = f"activity {self.status.activity_id}" if self.status.activity_id else ""
        reason = self.status.status_reason if self.status.state == "failed" else None
        final = "" if self.status.final else "may still change"
        parts = (self.status.status, what, reason, final)
        said = ", ".join(part for part in parts if part)
        return f"{self.request_id}  {self.status.state:9}  {said}"


async def show_status(
    poster: AsyncActivityPoster, request_ids: Iterable[str], *, as_json: bool
) -> Exit:
    """Print the status of each request; an unknown RequestID does not stop the others."""

    async def ask(request_id: str) -> Answer:
        try:
            return Answer(request_id, await poster.status(request_id))
        except (Unauthorized, NotFound):
            raise
        except (Rejected, UnexpectedAnswer) as error:
            return Answer(request_id, None, error)

    answers: list[dict[str, Any]] = []
    all_succeeded = True
    try:
        for request_id in request_ids:
            one = await ask(request_id)
            all_succeeded &= one.status is not None and one.status.state == "succeeded"
            if as_json:
                answers.append(one.as_json())
            else:
                typer.echo(str(one))
    finally:
        # What was answered is printed even after Ctrl-C or an error.
        if as_json:
            typer.echo(json.dumps(answers))
    return Exit.ALL_ACCEPTED if all_succeeded else Exit.SOME_NOT
