# ruff: noqa: S608  these are statements, and nothing of a caller's is in them
"""
A shared bucket's statements. The bucket has one row, and each token one with a time.

A resting token is back at its time. A token in use is back at its time if its process dies: its
call must have ended one rest before that.

After a pause, one call is the trial: until it has ended, no other token is taken. Its token is the
only one in use that was taken after the end of the pause, so nothing else has to mark it.

Statements lock the bucket's row before the rows of tokens, so that no two processes deadlock.
"""

from __future__ import annotations

from attrs import frozen

from leadpost._refusals import Size
from leadpost.bucket import LONGEST_RETRY_AFTER
from leadpost.errors import OutboxError
from leadpost.outbox.database._sql import Transaction


@frozen
class State:
    """What the processes of a bucket share."""

    version: int  # counts the changes of the size
    size: Size
    is_paused: bool  # whether a pause, or the trial after it, is not over


async def create(transaction: Transaction, limit: int, period: float) -> State:
    """
    Insert the rows that are missing.

    Raises:
        OutboxError: the bucket has another period.
    """
    insert = """
        INSERT INTO leadpost_buckets (bucket, period, version, tokens, most, rest, grow_at)
        VALUES (:bucket, :period, 0, :limit, :limit, :period, 0) ON CONFLICT (bucket) DO NOTHING
    """
    await transaction.execute(insert, period=period, limit=limit)
    insert = """
        INSERT INTO leadpost_tokens (bucket, number, back_at, set_at)
        VALUES (:bucket, :number, 0, 0) ON CONFLICT (bucket, number) DO NOTHING
    """
    rows = [{"number": number} for number in range(limit)]
    await transaction.execute_many(insert, rows)
    query = "SELECT period FROM leadpost_buckets WHERE bucket = :bucket"
    found = float((await transaction.execute(query)).scalar_one())
    if found != period:
        raise OutboxError(
            f"the bucket {transaction.always['bucket']} has a period of {found:g} s, not"
            f" {period:g} s: give it another name"
        )
    return await state(transaction)


async def state(transaction: Transaction) -> State:
    """Return what the processes share."""
    query = """
        SELECT tokens, most, rest, named_until - {now}, grow_at - {now}, version,
            paused_until IS NOT NULL
        FROM leadpost_buckets WHERE bucket = :bucket
    """
    *size, version, is_paused = (await transaction.execute(query)).one()
    return State(version, Size(*size), bool(is_paused))


async def take(
    transaction: Transaction,
    use_id: str,
    *,
    limit: int,
    hold: float,
    leaves_last: bool,
    is_paused: bool,
) -> float | None:
    """
    Reserve the token that is back first, of those that rest or whose process has died.

    In one statement: a SELECT followed by an UPDATE would hand a token out twice.

    Of all tokens, only the first `limit` are used. `use_id` is the reservation's new random id. The
    token is back `hold` seconds after its use if this process dies. `leaves_last` leaves the last
    resting token to other processes. `is_paused` is the state's, in the same transaction.

    Returns:
        Seconds until the token may be used; None if there is none, or none may be taken now.
    """
    if is_paused:  # wait for others that are just taking the trial's token
        lock = "SELECT 1 FROM leadpost_buckets WHERE bucket = :bucket {locked}"
        await transaction.execute(lock)
    # A token in use is taken only once its hold is over: the process that used it has died.
    resting = """
        FROM leadpost_tokens
        WHERE bucket = :bucket
            AND back_at <= {now} + CASE WHEN use_id IS NULL
                THEN (SELECT rest FROM leadpost_buckets WHERE bucket = :bucket) ELSE 0 END
            AND number < (
                SELECT {least}(tokens, :limit) FROM leadpost_buckets
                WHERE bucket = :bucket AND (
                    paused_until IS NULL
                    OR paused_until <= {now} AND NOT EXISTS (
                        SELECT 1 FROM leadpost_tokens AS trial
                        WHERE trial.bucket = :bucket AND trial.use_id IS NOT NULL
                            AND trial.back_at > {now} AND trial.set_at >= paused_until
                    )
                )
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
    values = {"limit": limit, "hold": hold, "left": int(leaves_last)}
    wait: float | None = (await transaction.execute(update, use_id=use_id, **values)).scalar()
    if wait is None:
        await _follow_clock(transaction)
    return wait


async def _follow_clock(transaction: Transaction) -> None:
    """
    Correct times that are too far ahead, because the database's clock has jumped back.

    They become what they would be if they were set now: late, but never early. A second is left
    out, as two statements of PostgreSQL may have begun in another order than they were executed.
    """
    update = """
        UPDATE leadpost_buckets SET paused_until = {now}
        WHERE bucket = :bucket AND paused_until > {now} + :longest
    """
    await transaction.execute(update, longest=LONGEST_RETRY_AFTER)
    update = """
        UPDATE leadpost_tokens SET back_at = back_at - set_at + {now}, set_at = {now}
        WHERE bucket = :bucket AND set_at > {now} + 1
    """
    await transaction.execute(update)


async def may_use(transaction: Transaction, use_id: str) -> bool:
    """Whether a reserved token is still ours, and no pause has begun since."""
    query = """
        SELECT 1 FROM leadpost_tokens AS token
        JOIN leadpost_buckets AS own ON own.bucket = token.bucket
        WHERE token.bucket = :bucket AND use_id = :use_id
            AND (paused_until IS NULL OR paused_until <= set_at)
    """
    return (await transaction.execute(query, use_id=use_id)).one_or_none() is not None


async def put_back(transaction: Transaction, use_id: str, hold: float) -> None:
    """Undo the reservation of a token, unless another process has taken it since."""
    # `set_at` stays, as `back_at` is still by the clock of that time: see `_follow_clock`.
    update = """
        UPDATE leadpost_tokens SET back_at = back_at - :hold, use_id = NULL
        WHERE bucket = :bucket AND use_id = :use_id
    """
    await transaction.execute(update, use_id=use_id, hold=hold)


async def let_rest(transaction: Transaction, use_id: str, longer: float) -> None:
    """Let a token rest from now on, and `longer` seconds more, if it is still ours."""
    update = """
        UPDATE leadpost_tokens
        SET back_at = {now} + :longer
                + (SELECT rest FROM leadpost_buckets WHERE bucket = :bucket),
            use_id = NULL, set_at = {now}
        WHERE bucket = :bucket AND use_id = :use_id
    """
    await transaction.execute(update, use_id=use_id, longer=longer)


async def pause(transaction: Transaction, seconds: float) -> None:
    """Allow no call for some seconds, and then one trial call before all others."""
    update = """
        UPDATE leadpost_buckets
        SET paused_until = {greatest}(coalesce(paused_until, 0), {now} + :seconds)
        WHERE bucket = :bucket
    """
    await transaction.execute(update, seconds=seconds)


async def end_pause(transaction: Transaction, use_id: str) -> None:
    """Allow calls again, if the call that has ended was the trial."""
    update = """
        UPDATE leadpost_buckets SET paused_until = NULL
        WHERE bucket = :bucket AND paused_until <= (
            SELECT set_at FROM leadpost_tokens WHERE bucket = :bucket AND use_id = :use_id
        )
    """
    await transaction.execute(update, use_id=use_id)


async def resize(transaction: Transaction, before: State, size: Size, pause: float) -> None:
    """
    Change the size, unless another process has changed it since `before`.

    If it is smaller, no token that rests is back before `pause` seconds have passed.
    """
    resized = await transaction.execute(
        """
        UPDATE leadpost_buckets
        SET version = version + 1, tokens = :tokens, most = :most, rest = :rest,
            named_until = {now} + :named_for, grow_at = {now} + :grow_in
        WHERE bucket = :bucket AND version = :version
        """,
        version=before.version,
        tokens=size.tokens,
        most=size.most,
        rest=size.rest,
        named_for=size.named_for,
        grow_in=size.grow_in,
    )
    is_smaller = size.tokens < before.size.tokens or size.rest > before.size.rest
    if resized.rowcount and is_smaller:
        # LeadSquared counts the calls of the last period, whichever tokens they used. So that these
        # are over, every token rests once more.
        update = """
            UPDATE leadpost_tokens SET back_at = {now} + :rest, set_at = {now}
            WHERE bucket = :bucket AND use_id IS NULL AND back_at < {now} + :rest
        """
        await transaction.execute(update, rest=max(size.rest, pause))
