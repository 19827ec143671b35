"""
The arithmetic of a bucket that processes share: who has how many tokens, and when one is free.

Nothing here waits, asks the time or knows a database: a state goes in and comes out changed. Times
are seconds of one clock, the store's. A token that is `out` belongs to a holder, which has a call
under way with it or is about to; every other one is `back`, from a time on that may lie ahead.

Why no 26th call arrives in any 5 s: a token is handed out for no time before it is back, and is
back a period after the answer of its last call at the soonest. The holder tells how far ahead that
is by its own clock, and the store's clock is read after that, so the sum errs to the late side
only. Of a holder that is gone nobody can tell, so its tokens are back a period after its lease.
"""

from __future__ import annotations

import json
from bisect import insort
from typing import Any, Self

from attrs import asdict, define, field, frozen

from leadpost.outbox.share import Share, limit_in

DRIFT = 1e-3
"""Seconds by which two good clocks may part in a second; NTP corrects by half of that at most."""
JITTER = 1e-3
"""Seconds within which the readings of a clock may lie."""
FORGOTTEN = 3600.0
"""Seconds without a call after which a lower limit, once learned, is to be learned anew."""


@frozen
class Release:
    """
    A token that is not needed any more.

    Attributes:
        wait: Seconds until it is back: a period after its call's answer or failure. Negative if
            that has been already.
        let_through: Whether the vendor let the call through.
    """

    wait: float
    let_through: bool = False


@frozen
class Refusal:
    """
    The vendor's word that the account is over its limit.

    Attributes:
        retry_after: Seconds to make no call for.
        limit: The account's limit as (calls, seconds), where the vendor named it.
    """

    retry_after: float
    limit: tuple[int, int] | None = None


@frozen
class Wish:
    """
    What a holder tells and asks.

    Attributes:
        holder: Its name.
        limit: The limit that it was told.
        epoch: How often it has heard that what it kept was lost.
        out: Tokens that it keeps.
        wanted: Tokens that it could use now.
        ahead: Whether it would take one that is back only later, if there is none now.
        released: Tokens that it gives back.
        refusals: What the vendor has said meanwhile.
    """

    holder: str
    limit: int
    epoch: int = 0
    out: int = 0
    wanted: int = 0
    ahead: bool = True
    released: tuple[Release, ...] = ()
    refusals: tuple[Refusal, ...] = ()


@frozen
class Grant:
    """
    What a holder gets.

    Attributes:
        waits: For each token granted, the seconds until it may be used.
        pause: Seconds in which no call may be made.
        lost: Whether the tokens that it kept are its own no more, as its lease had ended: the next
            epoch of the holder begins.
        tokens: Tokens in all, for now.
        holders: How many holders make calls at present, this one included.
    """

    waits: tuple[float, ...]
    pause: float
    lost: bool
    tokens: int
    holders: int


@define
class _Holder:
    lease_until: float
    seen_at: float
    epoch: int = 0
    out: int = 0
    was_shifted: bool = False  # since it was seen last
    waits_since: float | None = None
    granted_at: list[float] = field(factory=list[float])  # within the last period


@define(order=True)
class _Back:
    at: float
    let_through: bool = False


@define
class Tokens:
    """
    The state of one bucket.

    Attributes:
        share: How many of the limit's tokens are ours.
        back: Tokens that nobody has, the first one back first.
        parked: Tokens that are not ours for now.
        holders: Those that have tokens, or want some.
        paused_until: When calls may be made again.
        refused_at: When the vendor refused a call, until the pause for it is over.
        touched_at: The latest time at which the state was changed.
    """

    share: Share
    back: list[_Back]
    parked: list[_Back] = field(factory=list[_Back])
    holders: dict[str, _Holder] = field(factory=dict[str, _Holder])
    paused_until: float = 0.0
    refused_at: float | None = None
    touched_at: float = 0.0

    @classmethod
    def full(cls, limit: int, period: float) -> Self:
        """All tokens are back."""
        return cls(Share(limit, period, limit), [_Back(0.0) for _ in range(limit)])

    @classmethod
    def from_json(cls, text: str) -> Self:
        state: dict[str, Any] = json.loads(text)
        share = {name.lstrip("_"): value for name, value in state.pop("share").items()}
        return cls(
            Share(**share),
            [_Back(*back) for back in state.pop("back")],
            [_Back(*back) for back in state.pop("parked")],
            {name: _Holder(**holder) for name, holder in state.pop("holders").items()},
            **state,
        )

    def to_json(self) -> str:
        state = asdict(self)
        for name in ("back", "parked"):
            state[name] = [[back.at, back.let_through] for back in getattr(self, name)]
        return json.dumps(state, separators=(",", ":"))

    def touch(self, wish: Wish, now: float, *, lease: float, patience: float) -> Grant:
        """
        Take back what a holder releases, and hand out what it may have.

        Args:
            wish: What it tells and asks.
            now: The store's time.
            lease: Seconds for which its tokens are its own without another word from it.
            patience: Seconds for which tokens are left to those that have had less than their
                share, and without a word after which a holder loses its place in the queue.
        """
        if now < self.touched_at:
            self.shift(now)
        idle, self.touched_at = now - self.touched_at, now
        self._reap(now)
        self._obey(wish.limit, idle)
        known = self.holders.get(wish.holder)
        holder = known or _Holder(now, now, wish.epoch)
        self.holders[wish.holder] = holder
        holder.lease_until, holder.seen_at, holder.was_shifted = now + lease, now, False
        # It may have been told before, in an answer that it never heard.
        unheard = holder.epoch != wish.epoch
        lost = unheard or (known is None and wish.out + len(wish.released) > 0)
        if lost:
            self._rest(holder.out, now)
            holder.out, holder.epoch = 0, wish.epoch + 1
        else:
            self._release(holder, wish, now)
        for refusal in wish.refusals:
            self._refuse(refusal, now)
        self._settle(now)
        self._fit()
        waits = self._grant(holder, wish, now, patience)
        return Grant(
            waits=waits,
            pause=max(self.paused_until - now, 0.0),
            lost=lost,
            tokens=self.share.tokens,
            holders=max(sum(self._is_active(h, now) for h in self.holders.values()), 1),
        )

    def leave(self, wish: Wish, now: float) -> None:
        """Take back all that a holder has; what it says it keeps rests as if just answered."""
        if now < self.touched_at:
            self.shift(now)
        self.touched_at = now
        holder = self.holders.pop(wish.holder, None)
        if holder is not None:
            if holder.epoch == wish.epoch:
                self._release(holder, wish, now)
            self._rest(holder.out, now)
            self._fit()

    def shift(self, now: float) -> None:
        """
        Go on from another time, as after a jump of the clock.

        Nobody can tell how long ago the last touch was. Taken to be no time at all, whatever was
        ahead then is as far ahead now: late by that time, and never early.
        """
        jump = now - self.touched_at
        for back in (*self.back, *self.parked):
            back.at += jump
        for holder in self.holders.values():
            holder.was_shifted = True
            holder.lease_until += jump
            holder.seen_at += jump
            if holder.waits_since is not None:
                holder.waits_since += jump
            holder.granted_at = [at + jump for at in holder.granted_at]
        self.paused_until += jump
        if self.refused_at is not None:
            self.refused_at += jump
        self.share.shift(jump)
        self.touched_at = now

    def lapsed(self, now: float) -> bool:
        """
        Tell whether there is a holder whose lease has ended without a good-bye.

        Not of one that has said nothing since the last shift: it had its lease once more.
        """
        return any(h.lease_until < now and not h.was_shifted for h in self.holders.values())

    def _obey(self, limit: int, idle: float) -> None:
        if idle > FORGOTTEN and not self.holders:
            self.share = Share(limit, self.share.period, limit)
            self.parked = []
            self.back = [_Back(self.touched_at) for _ in range(limit)]
        elif limit < self.share.limit:
            self.share.lowered(limit)

    def _reap(self, now: float) -> None:
        for name in [name for name, h in self.holders.items() if h.lease_until < now]:
            self._rest(self.holders.pop(name).out, now)

    def _rest(self, count: int, now: float) -> None:
        for _ in range(count):
            insort(self.back, _Back(now + self.share.period))

    def _release(self, holder: _Holder, wish: Wish, now: float) -> None:
        if holder.out != wish.out + len(wish.released):
            # A touch was done and its answer lost: nobody can tell which token is which.
            self._rest(holder.out - wish.out, now)
        else:
            for release in wish.released:
                insort(self.back, _Back(now + release.wait, release.let_through))
        holder.out = min(wish.out, holder.out)

    def _refuse(self, refusal: Refusal, now: float) -> None:
        if now >= self.paused_until:
            self.refused_at = now
        self.paused_until = max(self.paused_until, now + refusal.retry_after)
        limit = limit_in(self.share.period, *refusal.limit) if refusal.limit else 0
        if 0 < limit < self.share.limit:
            self.share.lowered(limit)
            self.refused_at = None  # that explains it

    def _settle(self, now: float) -> None:
        if now < self.paused_until:
            return
        if self.refused_at is not None:
            since = self.refused_at  # a token back after that was answered in the period before
            through = sum(t.let_through and t.at > since for t in (*self.back, *self.parked))
            self.share.refused(now, through)
            self.refused_at = None
        else:
            self.share.may_raise(now)

    def _fit(self) -> None:
        """Park the tokens that are not ours for now, fetch them when they are, drop the rest."""
        out = sum(holder.out for holder in self.holders.values())
        missing = self.share.tokens - out - len(self.back)
        for _ in range(min(-missing, len(self.back))):
            # Those that are back first: the others rest longer, as the calls just made want it.
            self.parked.append(self.back.pop(0))
        del self.parked[max(self.share.limit - out - len(self.back), 0) :]
        for _ in range(min(missing, len(self.parked))):
            insort(self.back, self.parked.pop(0))

    def _grant(self, holder: _Holder, wish: Wish, now: float, patience: float) -> tuple[float, ...]:
        if not wish.wanted:
            holder.waits_since = None
            return ()
        if holder.waits_since is None:
            holder.waits_since = now
        self._is_active(holder, now)  # forgets what is long ago
        others = [h for h in self.holders.values() if h is not holder and self._is_active(h, now)]
        # The first tokens are left to those that have waited for longer.
        ahead = sum(
            other.waits_since is not None
            and other.waits_since < holder.waits_since
            and other.seen_at >= now - patience
            for other in others
        )
        fair = -(-self.share.tokens // (1 + len(others)))
        # Of the last ones that are back, each of the others is left one more than it has had of
        # late, up to its share, for a while: it may be just about to ask.
        left = sum(min(max(fair - len(h.granted_at), 0), len(h.granted_at) + 1) for h in others)
        waits: list[float] = []
        while len(waits) < wish.wanted and len(self.back) > ahead:
            at = self.back[ahead].at
            if (
                len(holder.granted_at) >= fair
                and sum(back.at <= now for back in self.back) <= left
                and now - patience < at <= now
            ):
                break
            wait = max(at, self.paused_until) - now
            if wait > 0 and (waits or not wish.ahead):
                break
            del self.back[ahead]
            waits.append(max(wait, 0.0))
            holder.granted_at.append(now + waits[-1])
        holder.out += len(waits)
        if waits:
            holder.waits_since = None if len(waits) == wish.wanted else now
        return tuple(waits)

    def _is_active(self, holder: _Holder, now: float) -> bool:
        """Tell whether a holder waits, or has got a token within the last period."""
        since = now - self.share.period
        holder.granted_at = [at for at in holder.granted_at if at > since]
        return bool(holder.granted_at) or holder.waits_since is not None


@define
class Clock:
    """
    Watches the store's clock by this process's own, which never jumps.

    Attributes:
        least: The store's time less our own is this much at least, as far as is known.
        most: And this much at most.
        read_at: Our own time of the last reading; None before the first.
    """

    least: float = 0.0
    most: float = 0.0
    read_at: float | None = None

    def jumped(self, before: float, now: float, after: float) -> bool:
        """
        Take in a reading, and tell whether the store's clock has jumped since the last one.

        Args:
            before: Our own time before the store was asked for its.
            now: The store's time.
            after: Our own time after it had answered.
        """
        least, most = now - after - JITTER, now - before + JITTER
        if self.read_at is None:
            self.least, self.most, self.read_at = least, most, after
            return False
        drift = DRIFT * (after - self.read_at)
        known = max(self.least - drift, least), min(self.most + drift, most)
        jumped = known[0] > known[1]
        self.least, self.most = (least, most) if jumped else known
        self.read_at = after
        return jumped
