"""How to post a file."""

from datetime import timedelta
from typing import Literal

from attrs import field, frozen

from leadpost.bucket import LIMIT
from leadpost.cli.files.reading.settings import Reading


@frozen(kw_only=True)
class Options:
    """How to post a file."""

    path: str  # the file, or `-`
    url: str
    reading: Reading = field(factory=Reading)
    reads_as_before: bool = False  # whether it is read as in the last run, if there was one
    batch: str | None = None  # the name of its batch, None for that of the file
    # What to do with possible duplicates, None to ask.
    duplicates: Literal["skip", "post"] | None = None
    # What to do with what the account finds wrong; see `Checks`.
    account_check: Literal["off", "warn", "strict"] = "off"
    create_leads: bool = False  # whether leads that are not found are created
    update_leads: bool = False  # whether leads that are found get further columns
    first: int | None = None  # how many rows to send at most
    skip_invalid: bool = False  # whether the valid rows are posted although others are invalid
    dry_run: bool = False
    only_results: bool = False  # whether to report what became of the rows, and post nothing
    yes: bool = False
    wait: timedelta = timedelta(minutes=5)  # how long to wait while LeadSquared is away
    limit: int = LIMIT
    # What to do about a post that may have arrived.
    on_uncertain: Literal["raise", "retry"] = "raise"
    as_json: bool = False  # whether standard output gets JSON
    quiet: bool = False  # whether the plan and the progress are left out
