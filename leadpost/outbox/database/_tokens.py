# ruff: noqa: S608  these are statements, and nothing of a caller's is in them
"""
A shared bucket's statements. The bucket has one row, and each token one with a time.

A token that rests is back at its time. A reserved token, and one in use, has the id of its use; its
process writes when it is back, and if that has died, it is back at its time too.

After a pause one call is the trial. It is a pause for all other calls, which ends with it.

Transactions lock rows of tokens before the bucket's row, so that no two of them deadlock.
"""

from __future__ import annotations

from attrs import asdict, frozen

from leadpost._bucket_parts import LONGEST_RETRY_AFTER
from leadpost._refusals import Size
from leadpost.bucket import LIMIT
from leadpost.errors import OutboxError
from leadpost.outbox.database._sql import Transaction


@frozen
class Row:
    """
    The bucket's row, which all processes share.

    Attributes:
        version: Counts the changes of the size.
        size: How many tokens to use, and how long they rest.
        pause: Seconds until the pause is over, below 0 if a trial is due; None without a pause.
        trial_id: The id of the use that is the trial, if there is one.
    """

    version: int
    size: Size
    pause: float | None
    trial_id: str | None


def create(transaction: Transaction, period: float) -> Row:
    """
    Insert the rows that are missing. A lower limit is a process's own, see `reserve`.

    Raises:
        OutboxError: the bucket has another period.
    """
    insert = """
        INSERT INTO leadpost_buckets (bucket, period, version, tokens, most, rest, grow_at)
        VALUES (:bucket, :period, 0, :limit, :limit, :period, 0) ON CONFLICT (bucket) DO NOTHING
    """
    transaction.execute(insert, period=period, limit=LIMIT)
    insert = """
        INSERT INTO leadpost_tokens (bucket, number, back_at, set_at)
        VALUES (:bucket, :number, 0, 0) ON CONFLICT (bucket, number) DO NOTHING
    """
    transaction.execute_many(insert, [{"number": number} for number in range(LIMIT)])
    query = "SELECT period FROM leadpost_buckets WHERE bucket = :bucket"
    found = float(transaction.execute(query).scalar_one())
    if found != period:
        raise OutboxError(
            f"the bucket {transaction.always['bucket']} has a period of {found:g} s, not"
            f" {period:g} s: use another name"
        )
    return read_row(transaction)


def read_row(transaction: Transaction) -> Row:
    """Return the bucket's row."""
    query = """
        SELECT tokens, most, rest, named_until - {now}, grow_at - {now},
            version, paused_until - {now}, trial_id
        FROM leadpost_buckets WHERE bucket = :bucket
    """
    *size, version, pause, trial_id = transaction.execute(query).one()
    return Row(version, Size(*size), pause, trial_id)


def reserve(
    transaction: Transaction, use_id: str, *, limit: int, hold: float, leaves_last: bool
) -> tuple[Row, float | None]:
    """
    Reserve the token that is back first, of those that rest or whose process has died.

    In one statement: a SELECT followed by an UPDATE would hand a token out twice. If a pause is
    over, its use is the trial. If this process dies, it is back `hold` seconds after its use.

    Returns:
        The bucket's row, and seconds until the token may be used, None if there is none.
    """
    row = read_row(transaction)
    longest = max(LONGEST_RETRY_AFTER, row.size.rest)
    if row.pause is not None and 0 < row.pause <= longest:
        return row, None  # if the pause seems longer, the clock has jumped back
    # Tokens that rest for longer, after a call without an answer, would be waited for too long.
    # Where tokens are used several times in a period, the calls of those that no longer are used
    # must be a period old.
    resting = """
        FROM leadpost_tokens
        WHERE bucket = :bucket AND number < :tokens
            AND (back_at <= {now} OR use_id IS NULL AND back_at <= {now} + :rest)
            AND NOT EXISTS (
                SELECT 1 FROM leadpost_buckets b JOIN leadpost_tokens t ON t.bucket = b.bucket
                WHERE b.bucket = :bucket AND b.rest < b.period
                    AND t.number >= b.tokens AND t.back_at > {now}
            )
    """
    update = f"""
        UPDATE leadpost_tokens
        SET back_at = {{greatest}}(back_at, {{now}}) + :hold, use_id = :use_id, set_at = {{now}}
        WHERE bucket = :bucket
            AND number = (SELECT number {resting} ORDER BY back_at, number LIMIT 1 {{or_skipped}})
            AND (SELECT count(*) {resting}) > :left
        RETURNING back_at - :hold - {{now}}
    """
    reserved = transaction.execute(
        update,
        use_id=use_id,
        tokens=min(row.size.tokens, limit),
        rest=row.size.rest,
        hold=hold,
        left=int(leaves_last),
    )
    wait: float | None = reserved.scalar()
    if wait is None:
        _follow_clock(transaction)
    elif row.pause is not None and not _begin_trial(
        transaction, use_id, min(wait + hold, longest), longest
    ):
        put_back(transaction, use_id, hold)
        wait = None
    return row, wait


def _begin_trial(transaction: Transaction, use_id: str, seconds: float, longest: float) -> bool:
    """
    Make a use the trial, for some seconds at most, unless another process has just done so.

    `longest` are the seconds that a pause lasts at most.
    """
    update = """
        UPDATE leadpost_buckets SET paused_until = {now} + :seconds, trial_id = :use_id
        WHERE bucket = :bucket AND paused_until NOT BETWEEN {now} AND {now} + :longest
    """
    begun = transaction.execute(update, use_id=use_id, seconds=seconds, longest=longest)
    return begun.rowcount == 1


def _follow_clock(transaction: Transaction) -> None:
    """
    Correct times that are too far ahead, because the database's clock has jumped back.

    They become what they would be if they were set now: late, but never early. A second is left
    out, as two statements of PostgreSQL may have begun in another order than they were executed.
    """
    update = """
        UPDATE leadpost_tokens SET back_at = back_at - set_at + {now}, set_at = {now}
        WHERE bucket = :bucket AND set_at > {now} + 1
    """
    transaction.execute(update)


def put_back(transaction: Transaction, use_id: str, hold: float) -> None:
    """Undo the reservation of a token, unless another process has taken it since."""
    # `set_at` stays, as `back_at` is still by the clock of that time: see `_follow_clock`.
    update = """
        UPDATE leadpost_tokens SET back_at = back_at - :hold, use_id = NULL
        WHERE bucket = :bucket AND use_id = :use_id
    """
    transaction.execute(update, use_id=use_id, hold=hold)


def let_rest(transaction: Transaction, use_id: str, longer: float) -> None:
    """Let a token rest from now on, and `longer` seconds more, if it is still ours."""
    update = """
        UPDATE leadpost_tokens
        SET back_at = {now} + :longer + (
                SELECT CASE WHEN number < tokens THEN rest ELSE period END
                FROM leadpost_buckets b WHERE b.bucket = :bucket),
            use_id = NULL, set_at = {now}
        WHERE bucket = :bucket AND use_id = :use_id
    """
    transaction.execute(update, use_id=use_id, longer=longer)


def end_trial(transaction: Transaction, use_id: str, *, was_sent: bool) -> None:
    """End the pause, if this use was the trial; if it was not sent, another trial is due."""
    update = """
        UPDATE leadpost_buckets
        SET paused_until = CASE WHEN :was_sent THEN NULL ELSE {now} END, trial_id = NULL
        WHERE bucket = :bucket AND trial_id = :use_id
    """
    transaction.execute(update, use_id=use_id, was_sent=was_sent)


def pause(transaction: Transaction, seconds: float) -> None:
    """Allow no call for some seconds, and then one trial, which is not the one in flight."""
    update = """
        UPDATE leadpost_buckets
        SET paused_until = {greatest}({now} + :seconds,
                CASE WHEN trial_id IS NULL THEN coalesce(paused_until, 0) ELSE 0 END),
            trial_id = NULL
        WHERE bucket = :bucket
    """
    transaction.execute(update, seconds=seconds)


def resize(transaction: Transaction, before: Row, size: Size) -> None:
    """
    Change the size, unless another process has changed it since `before`.

    After a change to a smaller size, tokens rest once more: LeadSquared counts the calls of the
    last period, whichever tokens they used.
    """
    update = """
        UPDATE leadpost_buckets
        SET version = version + 1, tokens = :tokens, most = :most, rest = :rest,
            named_until = {now} + :named_for, grow_at = {now} + :grow_in
        WHERE bucket = :bucket AND version = :version
    """
    transaction.execute(update, version=before.version, **asdict(size))
    if size.tokens < before.size.tokens or size.rest > before.size.rest:
        pause(transaction, size.rest)
