"""The arithmetic of a shared bucket: whatever holders and clocks do, no 26th call in any period."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from attrs import define, evolve, field
from hypothesis import example, given, settings
from hypothesis import strategies as st

from leadpost.bucket import LIMIT, PERIOD
from leadpost.outbox.tokens import FORGOTTEN, Clock, Grant, Refusal, Release, Tokens, Wish

LEASE = 15.0


def touch(tokens: Tokens, now: float, holder: str = "a", **wish: Any) -> Grant:
    """Touch a bucket; `wish` as for `Wish`."""
    told = Wish(holder, LIMIT, **wish)
    return tokens.touch(told, now, lease=LEASE, patience=2.0)


def full() -> Tokens:
    return Tokens.full(LIMIT, PERIOD)


def test_all_tokens_are_there_at_first_and_one_more_is_reserved_by_nobody() -> None:
    grant = touch(full(), 100.0, wanted=30)
    assert grant.waits == (0.0,) * 25
    assert (grant.tokens, grant.holders, grant.pause, grant.lost) == (25, 1, 0.0, False)


def test_a_token_is_back_when_its_holder_says_and_no_sooner() -> None:
    tokens = full()
    touch(tokens, 0.0, wanted=25)
    grant = touch(tokens, 1.0, out=24, released=(Release(4.5, let_through=True),), wanted=1)
    assert grant.waits == pytest.approx((4.5,))
    grant = touch(tokens, 2.0, out=25, wanted=1)
    assert grant.waits == ()


def test_a_token_without_a_call_is_as_good_as_before() -> None:
    tokens = full()
    touch(tokens, 0.0, wanted=25)
    assert touch(tokens, 1.0, out=24, released=(Release(0.0),), wanted=1).waits == (0.0,)


def test_a_token_that_is_not_back_is_only_given_to_whom_would_wait_for_it() -> None:
    tokens = full()
    touch(tokens, 0.0, wanted=25)
    released = (Release(3.0), Release(4.0))
    assert touch(tokens, 0.0, out=23, released=released, wanted=2, ahead=False).waits == ()
    assert touch(tokens, 0.0, out=23, wanted=2).waits == pytest.approx((3.0,))


def test_those_that_wait_longer_come_first() -> None:
    tokens = full()
    touch(tokens, 0.0, "a", wanted=25)
    tokens.holders["a"].granted_at.clear()  # long ago
    assert touch(tokens, 0.1, "b", wanted=1).waits == ()
    released = (Release(1.0), Release(2.0))
    # The first of the two is b's, although a asks again at once and more often.
    assert touch(tokens, 0.2, "a", out=23, released=released, wanted=5).waits == pytest.approx(
        (2.0,)
    )
    assert touch(tokens, 0.3, "b", wanted=1).waits == pytest.approx((0.9,))


def test_one_that_asks_no_more_holds_up_nobody() -> None:
    tokens = full()
    touch(tokens, 0.0, "a", wanted=25)
    touch(tokens, 0.1, "gone", wanted=1)
    assert touch(
        tokens, 5.0, "a", out=24, released=(Release(1.0),), wanted=1
    ).waits == pytest.approx((1.0,))


def test_the_tokens_of_one_that_died_come_back_late() -> None:
    tokens = full()
    touch(tokens, 0.0, "dead", wanted=25)
    assert touch(tokens, LEASE, "b", wanted=1).waits == ()
    assert touch(tokens, LEASE + 0.1, "b", wanted=1).waits == pytest.approx((PERIOD,))


def test_one_that_was_frozen_learns_that_its_tokens_are_lost() -> None:
    tokens = full()
    touch(tokens, 0.0, "frozen", wanted=20)
    touch(tokens, 20.0, "b", wanted=1)
    grant = touch(tokens, 21.0, "frozen", out=19, released=(Release(0.0),), wanted=1)
    assert grant.lost
    assert grant.waits == (0.0,)  # one of the five that nobody had
    assert sum(holder.out for holder in tokens.holders.values()) + len(tokens.back) == 25


def test_one_that_never_heard_of_its_loss_is_told_again() -> None:
    tokens = full()
    touch(tokens, 0.0, "frozen", wanted=20)
    touch(tokens, 20.0, "b", wanted=1)
    assert touch(tokens, 21.0, "frozen", out=20, wanted=3).lost  # but the answer was lost
    grant = touch(tokens, 22.0, "frozen", out=20, wanted=1)
    assert (grant.lost, grant.waits) == (True, (0.0,))
    assert sum(holder.out for holder in tokens.holders.values()) == 2
    assert not touch(tokens, 23.0, "frozen", epoch=1, out=1).lost
    tokens.leave(Wish("frozen", LIMIT, epoch=0, out=20), 24.0)
    assert sum(holder.out for holder in tokens.holders.values()) == 1


def test_newcomers_who_fear_a_jump_keep_the_tokens_of_a_dead_one_no_longer_than_once() -> None:
    tokens = full()
    touch(tokens, 0.0, "dead", wanted=5)
    all_got: list[int] = []
    for minute in range(1, 5):
        moment, name = 60.0 * minute, f"run {minute}"
        if tokens.lapsed(moment):
            tokens.shift(moment)
        got = len(touch(tokens, moment, name, wanted=25).waits)
        tokens.leave(Wish(name, LIMIT, released=(Release(5.0),) * got), moment + 2.0)
        all_got.append(got)
    assert all_got[2:] == [25, 25]


def test_an_idle_one_loses_nothing_by_its_lease() -> None:
    tokens = full()
    touch(tokens, 0.0)
    assert not touch(tokens, 100.0, wanted=1).lost


def test_where_an_answer_was_lost_the_tokens_rest() -> None:
    tokens = full()
    touch(tokens, 0.0, wanted=3)
    # The holder never heard of the three.
    grant = touch(tokens, 1.0, out=0, wanted=25)
    assert grant.waits == (0.0,) * 22
    assert touch(tokens, 1.0, out=22, wanted=1).waits == pytest.approx((PERIOD,))


def test_a_good_bye_gives_all_back() -> None:
    tokens = full()
    touch(tokens, 0.0, "a", wanted=25)
    tokens.leave(Wish("a", LIMIT, out=23, released=(Release(0.5), Release(1.0))), 1.0)
    assert not tokens.holders
    assert [round(back.at, 6) for back in tokens.back] == [1.5, 2.0] + [6.0] * 23
    tokens.leave(Wish("stranger", LIMIT), 0.5)
    assert tokens.touched_at == 0.5


def test_a_refusal_stops_all() -> None:
    tokens = full()
    touch(tokens, 0.0, "a", wanted=1)
    assert touch(tokens, 1.0, "a", out=1, refusals=(Refusal(30.0),)).pause == 30.0
    grant = touch(tokens, 2.0, "b", wanted=5)
    assert grant.waits == pytest.approx((29.0,))
    assert grant.pause == 29.0
    assert grant.tokens == 25  # that others use the account shows when the pause is over
    assert touch(tokens, 32.0, "b", out=1).tokens < 25


def test_a_second_refusal_may_only_make_the_pause_longer() -> None:
    tokens = full()
    touch(tokens, 0.0, refusals=(Refusal(5.0), Refusal(2.0), Refusal(8.0)))
    assert touch(tokens, 1.0).pause == 7.0
    assert tokens.refused_at == 0.0


def test_a_refusal_that_names_a_lower_limit_is_learned_for_all() -> None:
    tokens = full()
    touch(tokens, 0.0, "a", wanted=12)
    touch(tokens, 1.0, "a", out=12, refusals=(Refusal(5.0, (10, 5)),))
    released = tuple(Release(5.0, let_through=True) for _ in range(12))
    touch(tokens, 1.0, "a", released=released)
    assert len(touch(tokens, 20.0, "b", wanted=25).waits) == 10
    assert len(tokens.back) + len(tokens.parked) == 0


def test_a_learned_limit_is_forgotten_when_nobody_called_for_an_hour() -> None:
    tokens = full()
    touch(tokens, 0.0, refusals=(Refusal(5.0, (10, 5)),))
    tokens.leave(Wish("a", LIMIT), 10.0)
    assert touch(tokens, 20.0).tokens == 10
    tokens.leave(Wish("a", LIMIT), 20.0)
    assert len(touch(tokens, 21.0 + FORGOTTEN, wanted=25).waits) == 25


def test_the_lowest_limit_that_any_was_told_goes_for_all() -> None:
    tokens = full()
    low = Wish("a", 3, wanted=25)
    assert len(tokens.touch(low, 0.0, lease=LEASE, patience=2.0).waits) == 3
    assert touch(tokens, 0.0, "b", wanted=25).waits == ()


def test_a_clock_that_goes_back_holds_nobody_up_for_longer_than_the_rest() -> None:
    tokens = full()
    touch(tokens, 10_000.0, wanted=25)
    touch(tokens, 10_001.0, released=tuple(Release(5.0) for _ in range(25)))
    touch(tokens, 10_001.0, refusals=(Refusal(3.0),))
    assert touch(tokens, 6401.0, wanted=1).waits == pytest.approx((5.0,))
    assert touch(tokens, 6401.0, out=1).pause == 3.0


def test_the_state_survives_its_json() -> None:
    tokens = full()
    touch(tokens, 1.0, "a", wanted=20)
    touch(tokens, 2.0, "a", out=17, released=tuple(Release(5.0) for _ in range(3)))
    touch(tokens, 2.0, "b", out=0, wanted=25)
    touch(tokens, 3.0, "a", out=17, refusals=(Refusal(1.0),))
    touch(tokens, 9.0, "b", wanted=2)
    assert Tokens.from_json(tokens.to_json()) == tokens


def test_a_lease_without_a_good_bye_shows() -> None:
    tokens = full()
    touch(tokens, 0.0, wanted=1)
    assert not tokens.lapsed(LEASE)
    assert tokens.lapsed(LEASE + 1)


# A clock beside ours.


def test_readings_within_what_the_asking_took_are_no_jump() -> None:
    clock = Clock()
    assert not clock.jumped(0.0, 1000.05, 0.1)
    assert not clock.jumped(10.0, 1010.0, 10.2)
    assert not clock.jumped(3610.0, 4610.9, 3610.1)  # a second's drift in an hour


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 1.0, -1.0])
def test_a_jump_shows_once(jump: float) -> None:
    clock = Clock()
    clock.jumped(0.0, 1000.0, 0.01)
    assert clock.jumped(1.0, 1001.0 + jump, 1.01)
    assert not clock.jumped(2.0, 1002.0 + jump, 2.01)


# Any holders, any clock.


@define
class Caller:
    """A holder as `SharedTokenBucket` is one: what it has, and what it told last."""

    name: str
    clock: Clock = field(factory=Clock)
    known: bool = False
    epoch: int = 0
    ready: list[float] = field(factory=list[float])  # when each token may be used
    in_use: list[float] = field(factory=list[float])  # when each call arrived
    released: list[tuple[float, float]] = field(factory=list[tuple[float, float]])
    lease_ends: float = 0.0


@define
class World:
    """Real time, the store's clock beside it, and what arrived at the vendor."""

    now: float = 0.0
    jump: float = 50_000.0
    tokens: Tokens = field(factory=full)
    arrivals: list[float] = field(factory=list[float])

    def touch(self, caller: Caller, wanted: int, *, answer_is_lost: bool) -> None:
        store = self.now + self.jump
        before = evolve(caller.clock)
        self.mind_jumps(caller, store)
        grant = self.tokens.touch(self.wish_of(caller, wanted), store, lease=LEASE, patience=2.0)
        if answer_is_lost:
            caller.clock = before
            return
        caller.known = True
        caller.lease_ends = self.now + LEASE
        caller.released = []
        if grant.lost:
            caller.epoch += 1
            caller.ready, caller.in_use = [], []
        caller.ready += [self.now + wait for wait in grant.waits]

    def mind_jumps(self, caller: Caller, store: float) -> None:
        if caller.clock.jumped(self.now, store, self.now) or (
            not caller.known and self.tokens.lapsed(store)
        ):
            self.tokens.shift(store)

    def leave(self, caller: Caller) -> None:
        store = self.now + self.jump
        self.mind_jumps(caller, store)
        self.tokens.leave(self.wish_of(caller), store)

    def wish_of(self, caller: Caller, wanted: int = 0) -> Wish:
        return Wish(
            caller.name,
            LIMIT,
            caller.epoch,
            out=len(caller.ready) + len(caller.in_use),
            wanted=wanted,
            released=tuple(Release(back - self.now) for back, _ in caller.released),
        )

    def send(self, caller: Caller) -> None:
        ready = [at for at in caller.ready if at <= self.now]
        if ready and self.now < caller.lease_ends:
            caller.ready.remove(ready[0])
            caller.in_use.append(self.now)
            self.arrivals.append(self.now)

    def answer(self, caller: Caller) -> None:
        if caller.in_use:
            caller.in_use.pop(0)
            caller.released.append((self.now + PERIOD, self.now))


steps = st.lists(
    st.tuples(
        st.sampled_from(["wait", "touch", "lose", "send", "answer", "kill", "leave", "jump"]),
        st.integers(0, 3),
        st.floats(0.01, 4.0),
        st.integers(0, 30),
        st.sampled_from([3600.0, -3600.0, 40.0, -7.0]),
    ),
    min_size=20,
    max_size=200,
)


LOST_UNHEARD = [
    ("touch", 1, 1.0, 0, 0.0),
    ("touch", 0, 1.0, 1, 0.0),
    *[("wait", 0, 4.0, 0, 0.0)] * 5,
    ("touch", 1, 1.0, 25, 0.0),
    ("wait", 0, 4.0, 0, 0.0),
    ("wait", 0, 2.0, 0, 0.0),
    ("touch", 1, 1.0, 1, 0.0),
    ("wait", 0, 0.01, 0, 0.0),
    ("send", 1, 1.0, 25, 0.0),
    ("lose", 0, 1.0, 0, 0.0),
    ("touch", 0, 1.0, 0, 0.0),
    ("send", 0, 1.0, 1, 0.0),
]
"""A holder's token is lost with its lease, and so is the answer that tells it so."""


LEFT_AFTER_A_JUMP = [
    ("wait", 0, 13.0, 0, 0.0),
    ("touch", 3, 1.0, 13, 0.0),
    ("send", 3, 1.0, 13, 0.0),
    ("answer", 3, 1.0, 0, 0.0),
    ("jump", 0, 1.0, 0, 3600.0),
    ("leave", 0, 1.0, 0, 0.0),
    ("touch", 0, 1.0, 13, 0.0),
    ("send", 0, 1.0, 13, 0.0),
]
"""A good-bye is the first word after a jump of the clock."""


@settings(max_examples=300, deadline=None)
@example(LOST_UNHEARD)
@example(LEFT_AFTER_A_JUMP)
@given(steps)
def test_no_26th_call_leaves_in_any_period(  # noqa: C901  # one case for each kind of event
    plan: list[tuple[str, int, float, int, float]],
) -> None:
    world = World()
    callers = [Caller(str(number)) for number in range(4)]
    for number, (what, which, seconds, wanted, jump) in enumerate(plan):
        caller = callers[which]
        match what:
            case "wait":
                world.now += seconds
            case "touch" | "lose":
                world.touch(caller, wanted, answer_is_lost=what == "lose")
            case "send":
                for _ in range(wanted):
                    world.send(caller)
            case "answer":
                world.answer(caller)
            case "kill":
                callers[which] = Caller(f"{which}, new at {number}")
            case "leave":
                world.leave(caller)
                callers[which] = Caller(f"{which}, new at {number}")
            case _:
                # Those that have heard of the store see a jump; for the first word of a newcomer
                # there is no reading to compare with, so all are known before.
                for each in callers:
                    world.touch(each, 0, answer_is_lost=False)
                world.jump += jump
        total = sum(holder.out for holder in world.tokens.holders.values())
        assert total + len(world.tokens.back) == LIMIT
    world.arrivals.sort()
    for first, last in zip(world.arrivals, world.arrivals[LIMIT:], strict=False):
        assert last - first >= PERIOD - 1e-6
    assert all(a <= b for a, b in pairwise(world.arrivals))
