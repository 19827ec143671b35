"""
A shared bucket's statements: one row for the bucket, and one for each token with a time.

A token that rests is back at its time. One that is in use has the time at which it is back if its
process dies: its call must have ended so many seconds before that.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from attrs import frozen
from sqlalchemy.ext.asyncio import AsyncConnection

from leadpost._refusals import Size
from leadpost.errors import OutboxError
from leadpost.outbox.database._entries import insert_into
from leadpost.outbox.database._schema import buckets, now, tokens


@frozen
class State:
    """
    What the processes of a bucket share.

    Attributes:
        version: Counts the changes of the size.
        size: How many tokens to use, and how long they rest.
        is_paused: Whether no token may be taken now.
        has_trial: Whether one call has to show first that calls may go again.
        is_ahead: Whether times are ahead of the clock, as it has jumped back since.
    """

    version: int
    size: Size
    is_paused: bool
    has_trial: bool
    is_ahead: bool


async def create(connection: AsyncConnection, bucket: str, limit: int, period: float) -> State:
    """
    Insert the rows that are missing.

    Raises:
        OutboxError: the bucket has another period.
    """
    row = {"bucket": bucket, "period": period, "version": 0, "tokens": limit, "most": limit}
    row |= {"rest": period, "grow_at": 0.0, "paused_until": 0.0, "set_at": 0.0}
    await connection.execute(insert_into(connection.dialect, buckets), row)
    token = {"bucket": bucket, "back_at": 0.0, "set_at": 0.0}
    rows = [token | {"number": number} for number in range(limit)]
    await connection.execute(insert_into(connection.dialect, tokens), rows)
    known = sa.select(buckets.c.period).where(buckets.c.bucket == bucket)
    found = float((await connection.execute(known)).scalar_one())
    if found != period:
        raise OutboxError(
            f"the bucket {bucket} has a period of {found:g} s, not {period:g} s:"
            " give it another name"
        )
    return await state(connection, bucket)


async def state(connection: AsyncConnection, bucket: str) -> State:
    """Return what the processes share."""
    latest = sa.select(sa.func.max(tokens.c.set_at)).where(tokens.c.bucket == bucket)
    query = sa.select(buckets, now().label("now"), latest.scalar_subquery().label("latest")).where(
        buckets.c.bucket == bucket
    )
    row = (await connection.execute(query)).one()
    named_for = None if row.named_until is None else row.named_until - row.now
    size = Size(row.tokens, row.most, row.rest, named_for, row.grow_at - row.now)
    return State(
        row.version,
        size,
        is_paused=row.paused_until > row.now,
        has_trial=row.trial_until is not None,
        is_ahead=max(row.set_at, row.latest) > row.now,
    )


async def take(
    connection: AsyncConnection,
    bucket: str,
    use_id: str,
    *,
    limit: int,
    hold: float,
    leaves_last: bool,
    is_trial: bool,
) -> float | None:
    """
    Reserve the token that is back first, of those that are not in use or should have been back.

    In one statement: a SELECT and an UPDATE after it would hand a token out twice.

    Args:
        connection: Where.
        bucket: The bucket.
        use_id: The id of the reservation, made at random.
        limit: Tokens to use at most.
        hold: Seconds from the use of the token until it is back if its process dies.
        leaves_last: Whether the last token that rests is left to others.
        is_trial: Whether it is for the trial after a pause.

    Returns:
        Seconds until the token may be used; None if there is none, or none may be taken now.
    """
    size = sa.select(sa.case((buckets.c.tokens < limit, buckets.c.tokens), else_=limit)).where(
        buckets.c.bucket == bucket,
        buckets.c.paused_until <= now(),
        buckets.c.trial_until.is_(None) | sa.literal(is_trial),
    )
    rest = sa.select(buckets.c.rest).where(buckets.c.bucket == bucket).scalar_subquery()

    def rests(table: sa.FromClause) -> sa.ColumnElement[bool]:
        # Not one of a call without an answer, which is back in half a minute: others are sooner.
        is_resting = table.c.use_id.is_(None) & (table.c.back_at <= now() + rest)
        return sa.and_(
            table.c.bucket == bucket,
            table.c.number < size.scalar_subquery(),
            is_resting | (table.c.back_at <= now()),
        )

    first = (
        sa.select(tokens.c.number)
        .where(rests(tokens))
        .order_by(tokens.c.back_at, tokens.c.number)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    use_at = sa.case((tokens.c.back_at > now(), tokens.c.back_at), else_=now())
    update = (
        sa.update(tokens)
        .where(tokens.c.bucket == bucket, tokens.c.number == first.scalar_subquery())
        .values(back_at=use_at + hold, use_id=use_id, set_at=now())
        .returning(tokens.c.back_at - hold - now())
    )
    if leaves_last:
        others = sa.select(sa.func.count()).where(rests(tokens.alias("others")))
        update = update.where(others.scalar_subquery() > 1)
    wait: float | None = (await connection.execute(update)).scalar()
    return wait


async def begin_trial(connection: AsyncConnection, bucket: str, hold: float) -> bool:
    """Make this process's next call the trial, if one is due; return whether it is."""
    due = sa.and_(buckets.c.trial_until <= now(), buckets.c.paused_until <= now())
    update = sa.update(buckets).where(buckets.c.bucket == bucket, due)
    return (
        await connection.execute(update.values(trial_until=now() + hold, set_at=now()))
    ).rowcount == 1


async def end_trial(connection: AsyncConnection, bucket: str, *, was_made: bool) -> None:
    """Let calls go again; or let another call be the trial, if this one was not made."""
    update = sa.update(buckets).where(
        buckets.c.bucket == bucket, buckets.c.trial_until.is_not(None)
    )
    await connection.execute(update.values(trial_until=None if was_made else 0.0, set_at=now()))


async def put_back(connection: AsyncConnection, bucket: str, use_id: str, hold: float) -> None:
    """Make a token what it was before it was reserved, unless it was taken since."""
    await _give_back(connection, bucket, use_id, tokens.c.back_at - hold)


async def let_rest(connection: AsyncConnection, bucket: str, use_id: str, longer: float) -> None:
    """Let a token rest from now on, so many seconds longer than it has to, if it is still ours."""
    rest = sa.select(buckets.c.rest).where(buckets.c.bucket == bucket).scalar_subquery()
    await _give_back(connection, bucket, use_id, now() + rest + longer)


async def _give_back(
    connection: AsyncConnection, bucket: str, use_id: str, back_at: sa.ColumnElement[Any]
) -> None:
    update = sa.update(tokens).where(tokens.c.bucket == bucket, tokens.c.use_id == use_id)
    await connection.execute(update.values(back_at=back_at, use_id=None, set_at=now()))


async def pause(connection: AsyncConnection, bucket: str, seconds: float) -> None:
    """Let no token be taken for so long; then one call has to show that calls may go again."""
    await _change(connection, bucket, pause=seconds, trial_until=0.0)


async def resize(
    connection: AsyncConnection, bucket: str, size: Size, pause: float, version: int
) -> bool:
    """Change the size, unless another process has done so since `version`; whether it did."""
    changed = await _change(
        connection,
        bucket,
        buckets.c.version == version,
        pause=pause,
        version=version + 1,
        tokens=size.tokens,
        most=size.most,
        rest=size.rest,
        named_until=None if size.named_for is None else now() + size.named_for,
        grow_at=now() + size.grow_in,
    )
    if changed:
        # Which of the tokens stay does not depend on when they were used: all that rest begin to.
        # They are back after the pause, or after one rest that is longer or of fewer tokens.
        begin = sa.update(tokens).where(tokens.c.bucket == bucket, tokens.c.use_id.is_(None))
        late = begin.where(tokens.c.back_at > now(), tokens.c.back_at < now() + size.rest)
        await connection.execute(late.values(back_at=now() + size.rest, set_at=now()))
    return changed


async def _change(
    connection: AsyncConnection,
    bucket: str,
    *conditions: sa.ColumnElement[bool],
    pause: float,
    **values: Any,
) -> bool:
    end = now() + pause
    paused_until = sa.case((buckets.c.paused_until > end, buckets.c.paused_until), else_=end)
    update = sa.update(buckets).where(buckets.c.bucket == bucket, *conditions)
    done = await connection.execute(
        update.values(**values, paused_until=paused_until, set_at=now())
    )
    return done.rowcount == 1


async def follow_clock(connection: AsyncConnection, bucket: str) -> None:
    """Cut times that are further ahead than can be: the database's clock has jumped back since."""
    for table, names in (
        (tokens, ("back_at",)),
        (buckets, ("named_until", "grow_at", "paused_until", "trial_until")),
    ):
        # As they would be if they had been set just now: late, and never early.
        cut = {name: table.c[name] - (table.c.set_at - now()) for name in names}
        ahead = sa.update(table).where(table.c.bucket == bucket, table.c.set_at > now())
        await connection.execute(ahead.values(**cut, set_at=now()))
