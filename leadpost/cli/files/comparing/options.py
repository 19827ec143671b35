"""How to post a file, or to look at what became of it."""

import shlex
from datetime import timedelta
from typing import Literal

from attrs import field, frozen

from leadpost.bucket import LIMIT
from leadpost.cli.files.reading.settings import Reading
from leadpost.cli.outbox_url import outbox_option


@frozen(kw_only=True)
class Options:
    """How to post a file, or to look at what became of it."""

    command: str = "post"  # any other only looks
    path: str  # the file, or `-`
    url: str
    reading: Reading = field(factory=Reading)
    default_timezone: str | None = None  # where neither an option nor an earlier run has one
    reads_as_before: bool = False  # whether it is read as in the last run, if there was one
    batch: str | None = None  # the name of its batch, None for that of the file, or the last one
    # What to do with possible duplicates, None to ask.
    duplicates: Literal["skip", "post"] | None = None
    # What to do with what the account finds wrong; see `Checks`.
    account_check: Literal["off", "warn", "strict"] = "off"
    create_leads: bool = False  # whether leads that are not found are created
    update_leads: bool = False  # whether leads that are found get further columns
    first: int | None = None  # how many rows to send at most
    skip_invalid: bool = False  # whether the valid rows are posted although others are invalid
    dry_run: bool = False
    yes: bool = False
    wait: timedelta = timedelta(minutes=5)  # how long to wait while LeadSquared is away
    limit: int = LIMIT
    # What to do about a post that may have arrived.
    on_uncertain: Literal["raise", "retry"] = "raise"
    as_json: bool = False  # whether standard output gets JSON
    quiet: bool = False  # whether the plan and the progress are left out

    def arguments(self, batch: str | None) -> str:
        """Return the file as a command takes it, with batch and outbox if it has to name them."""
        named = f" --batch {shlex.quote(batch)}" if batch else ""
        return f"{shlex.quote(self.path)}{named}{outbox_option(self.url)}"
