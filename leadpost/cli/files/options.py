"""How to post a file."""

from datetime import timedelta
from typing import Literal

from attrs import field, frozen

from leadpost.bucket import LIMIT
from leadpost.cli.files.reading import Reading


@frozen(kw_only=True)
class Options:
    """
    How to post a file.

    Attributes:
        path: The file, or `-`.
        url: The outbox.
        reading: How to read it.
        reads_as_before: Whether it is read as in the last run, if there was one.
        batch: The name of its batch, None for that of the file.
        duplicates: What to do with doubtful rows, None to ask.
        account_check: What to do with what the account finds wrong; see `Checks`.
        create_leads: Whether leads that are not found are created.
        update_leads: Whether leads that are found get further columns.
        first: How many rows to send at most.
        skip_invalid: Whether the valid rows are posted although others are invalid.
        dry_run: Whether only the plan is shown.
        yes: Whether to post without asking.
        wait: How long to wait while LeadSquared is away.
        limit: Calls per 5 s.
        on_uncertain: What to do about a post that may have arrived.
        as_json: Whether standard output gets JSON.
        quiet: Whether the plan and the progress are left out.
    """

    path: str
    url: str
    reading: Reading = field(factory=Reading)
    reads_as_before: bool = False
    batch: str | None = None
    duplicates: Literal["skip", "post"] | None = None
    account_check: Literal["off", "warn", "strict"] = "warn"
    create_leads: bool = False
    update_leads: bool = False
    first: int | None = None
    skip_invalid: bool = False
    dry_run: bool = False
    yes: bool = False
    wait: timedelta = timedelta(minutes=5)
    limit: int = LIMIT
    on_uncertain: Literal["raise", "retry"] = "raise"
    as_json: bool = False
    quiet: bool = False
