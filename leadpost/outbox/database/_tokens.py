# ruff: noqa: S608  these are statements, and nothing of a caller's is in them
"""
A shared bucket's statements. The bucket has one row, and each token one with a time.

A resting token is back at its time. A token in use is back at its time if its process dies: its
call must have ended one rest before that.
"""

from __future__ import annotations

from attrs import frozen

from leadpost._refusals import Size
from leadpost.errors import OutboxError
from leadpost.outbox.database._sql import Transaction


@frozen
class State:
    """What the processes of a bucket share."""

    version: int  # counts the changes of the size
    size: Size
    is_paused: bool  # whether no token may be taken now
    has_trial: bool  # whether a trial call must end before other calls
    is_ahead: bool  # whether times are ahead of the clock, because it has jumped back


async def create(transaction: Transaction, limit: int, period: float) -> State:
    """
    Insert the rows that are missing.

    Raises:
        OutboxError: the bucket has another period.
    """
    insert = """
        INSERT INTO leadpost_buckets
            (bucket, period, version, tokens, most, rest, grow_at, paused_until, set_at)
        VALUES (:bucket, :period, 0, :limit, :limit, :period, 0, 0, 0)
        ON CONFLICT (bucket) DO NOTHING
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
    """Return the state that the processes share."""
    query = """
        SELECT version, tokens, most, rest, named_until - {now} AS named_for,
            grow_at - {now} AS grow_in, paused_until > {now} AS is_paused,
            trial_until IS NOT NULL AS has_trial,
            set_at > {now} OR EXISTS (
                SELECT 1 FROM leadpost_tokens WHERE bucket = :bucket AND set_at > {now}
            ) AS is_ahead
        FROM leadpost_buckets WHERE bucket = :bucket
    """
    row = (await transaction.execute(query)).one()
    size = Size(row.tokens, row.most, row.rest, row.named_for, row.grow_in)
    return State(
        row.version,
        size,
        is_paused=bool(row.is_paused),
        has_trial=bool(row.has_trial),
        is_ahead=bool(row.is_ahead),
    )


async def take(
    transaction: Transaction,
    use_id: str,
    *,
    limit: int,
    hold: float,
    leaves_last: bool,
    is_trial: bool,
) -> float | None:
    """
    Reserve the token that is back first, of those that rest or whose process has died.

    In one statement: a SELECT followed by an UPDATE would hand a token out twice.

    Of all tokens, only the first `limit` are used. `use_id` is the reservation's new random id. The
    token is back `hold` seconds after its use if this process dies. `leaves_last` leaves the last
    resting token to other processes. `is_trial` says whether it is for the trial after a pause.

    Returns:
        Seconds until the token may be used; None if there is none, or none may be taken now.
    """
    # The token of a call without an answer returns after half a minute, so others are sooner.
    resting = """
        FROM leadpost_tokens
        WHERE bucket = :bucket
            AND number < (
                SELECT {least}(tokens, :limit) FROM leadpost_buckets WHERE bucket = :bucket
                    AND paused_until <= {now} AND (trial_until IS NULL OR :is_trial)
            )
            AND back_at <= {now} + CASE WHEN use_id IS NULL
                THEN (SELECT rest FROM leadpost_buckets WHERE bucket = :bucket) ELSE 0 END
    """
    update = f"""
        UPDATE leadpost_tokens
        SET back_at = {{greatest}}(back_at, {{now}}) + :hold, use_id = :use_id, set_at = {{now}}
        WHERE bucket = :bucket
            AND number = (SELECT number {resting} ORDER BY back_at, number LIMIT 1 {{or_skipped}})
            AND (SELECT count(*) {resting}) > :left
        RETURNING back_at - :hold - {{now}}
    """
    values = {"limit": limit, "hold": hold, "is_trial": is_trial, "left": int(leaves_last)}
    taken = await transaction.execute(update, use_id=use_id, **values)
    wait: float | None = taken.scalar()
    return wait


async def begin_trial(transaction: Transaction, use_id: str, hold: float) -> bool:
    """Make a call the trial, if one is due, and return whether it is."""
    update = """
        UPDATE leadpost_buckets
        SET trial_until = {now} + :hold, trial_id = :use_id, set_at = {now}
        WHERE bucket = :bucket AND trial_until <= {now} AND paused_until <= {now}
    """
    begun = await transaction.execute(update, use_id=use_id, hold=hold)
    return begun.rowcount == 1


async def end_trial(transaction: Transaction, use_id: str, *, was_made: bool) -> None:
    """Allow calls again after the trial; or let another call be it, if this one was not made."""
    update = """
        UPDATE leadpost_buckets SET trial_until = :until, trial_id = NULL, set_at = {now}
        WHERE bucket = :bucket AND trial_id = :use_id
    """
    until = None if was_made else 0.0
    await transaction.execute(update, use_id=use_id, until=until)


async def put_back(transaction: Transaction, use_id: str, hold: float) -> None:
    """Undo the reservation of a token, unless another process has taken it since."""
    update = """
        UPDATE leadpost_tokens SET back_at = back_at - :hold, use_id = NULL, set_at = {now}
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


_PAUSE = "paused_until = {greatest}(paused_until, {now} + :pause), set_at = {now}"


async def pause(transaction: Transaction, seconds: float) -> None:
    """Allow no call for some seconds, and then one trial call before all others."""
    update = f"""
        UPDATE leadpost_buckets SET trial_until = 0, trial_id = NULL, {_PAUSE}
        WHERE bucket = :bucket
    """
    await transaction.execute(update, pause=seconds)


async def resize(transaction: Transaction, size: Size, pause: float, version: int) -> bool:
    """Change the size, unless another process has since `version`; return whether it changed."""
    query = """
        SELECT tokens, rest FROM leadpost_buckets
        WHERE bucket = :bucket AND version = :version {locked}
    """
    before = (await transaction.execute(query, version=version)).one_or_none()
    if before is None:
        return False
    await transaction.execute(
        f"""
        UPDATE leadpost_buckets
        SET version = version + 1, tokens = :tokens, most = :most, rest = :rest,
            named_until = {{now}} + :named_for, grow_at = {{now}} + :grow_in, {_PAUSE}
        WHERE bucket = :bucket
        """,
        tokens=size.tokens,
        most=size.most,
        rest=size.rest,
        named_for=size.named_for,
        grow_in=size.grow_in,
        pause=pause,
    )
    if size.tokens < before.tokens or size.rest > before.rest:
        # The calls of a whole rest count, whichever tokens they used: so all rest once more.
        begin = """
            UPDATE leadpost_tokens SET back_at = {now} + :rest, set_at = {now}
            WHERE bucket = :bucket AND use_id IS NULL AND back_at < {now} + :rest
        """
        await transaction.execute(begin, rest=size.rest)
    return True


async def follow_clock(transaction: Transaction) -> None:
    """
    Correct times that are too far ahead, because the database's clock has jumped back.

    They become what they would be if they were set now: late, but never early.
    """
    update = """
        UPDATE leadpost_tokens SET back_at = back_at - set_at + {now}, set_at = {now}
        WHERE bucket = :bucket AND set_at > {now}
    """
    await transaction.execute(update)
    update = """
        UPDATE leadpost_buckets
        SET named_until = named_until - set_at + {now}, grow_at = grow_at - set_at + {now},
            paused_until = paused_until - set_at + {now},
            trial_until = trial_until - set_at + {now}, set_at = {now}
        WHERE bucket = :bucket AND set_at > {now}
    """
    await transaction.execute(update)
