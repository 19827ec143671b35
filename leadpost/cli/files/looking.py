"""`leadpost results`, `verify` and `reconcile` with a FILE: what became of its rows."""

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from rich.console import Console

from leadpost import Account, AsyncActivityPoster
from leadpost.cli.exits import Exit, InputError
from leadpost.cli.files.checking import Checks
from leadpost.cli.files.comparing import compared, name_of_file
from leadpost.cli.files.ledger import Ledger
from leadpost.cli.files.opening import opened
from leadpost.cli.files.plan import Rows
from leadpost.cli.files.posting import report, write_outputs
from leadpost.cli.files.reading import Reading
from leadpost.outbox import Outbox, SharedTokenBucket


async def look(
    path: str,
    url: str,
    account: Account,
    console: Console,
    *,
    batch: str | None = None,
    as_json: bool = False,
    before: Callable[[Outbox, str], Awaitable[object]] | None = None,
) -> Exit:
    """
    Write the results of a file that was posted before, and print them.

    Args:
        path: The file.
        url: The outbox.
        account: Whose rows.
        console: Where to show that it is read.
        batch: The name of its batch.
        as_json: Whether standard output gets JSON.
        before: What to do first, given the outbox and what the keys of the file's rows begin with.

    Returns:
        0 if all rows were accepted, 1 if some were not.

    Raises:
        InputError: the file cannot be used, or was never posted.
    """
    async with AsyncExitStack() as stack:
        outbox = await stack.enter_async_context(Outbox(url, account))
        ledger = await Ledger(outbox, account.host).open()
        file = stack.enter_context(opened(path))
        name = batch or name_of_file(path)
        if await ledger.batch(name) is None and not file.own_columns(Reading())[0]:
            raise InputError(f"{path}: nothing of it was posted from this outbox (batch {name})")
        bucket = SharedTokenBucket(url)
        poster = await stack.enter_async_context(AsyncActivityPoster(account, bucket=bucket))
        rows = stack.enter_context(Rows())
        found = await compared(
            path,
            file,
            rows,
            ledger,
            Checks(poster=poster, console=console, is_looking=True),
            reading=Reading(),
            batch=batch,
            use_stored=True,
        )
        if before is not None:
            await before(outbox, f"{found.name}/")
        outputs = await write_outputs(found, ledger, console)
        report(found, outputs, as_json=as_json)
        return Exit.ALL_ACCEPTED if outputs.accepted == len(rows) else Exit.SOME_NOT
