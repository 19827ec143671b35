"""Progress: how a run counts, and what it shows at a terminal and elsewhere."""

import asyncio
import io
import logging
import re
from datetime import UTC, datetime, timedelta

import pytest
from rich.console import Console

from leadpost.cli.console import at_time, counting, duration, logged, spoken
from leadpost.cli.files.sending.progress import Progress, shown
from leadpost.hooks import Ended, Operation, Paused, Sent


def terminal(width: int = 90) -> tuple[Console, io.StringIO]:
    screen = io.StringIO()
    return Console(file=screen, force_terminal=True, width=width, no_color=True), screen


@pytest.mark.parametrize(
    ("calls", "limit", "seconds"),
    [(0, 25, 0), (1, 25, 0), (25, 25, 0), (26, 25, 5), (10_000, 25, 1995), (11, 10, 5)],
)
def test_how_long_a_run_takes(calls: int, limit: int, seconds: float) -> None:
    assert duration(calls, limit) == seconds


def test_times_in_words() -> None:
    assert [spoken(seconds) for seconds in (0, 59.4, 59.6)] == ["0 s", "59 s", "1 min 0 s"]
    now = datetime.now(UTC)
    assert at_time(now) == f"{now.astimezone():%H:%M}"
    assert at_time(datetime(2020, 2, 3, 12, tzinfo=UTC)).startswith("3 Feb ")


class Clock:
    """A clock that is set by hand."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def progress_of(clock: Clock, *, calls: int = 0, **counts: int) -> Progress:
    progress = Progress("leads.csv", 200, "asyncapi-in21.leadsquared.com", clock=clock)
    for _ in range(calls):
        operation = Operation("post")
        progress.count(Sent(operation, 1, 0.0))
        progress.count(Ended(operation, "accepted", 1))
    progress.counts = counts
    return progress


def test_the_rate_is_that_of_the_last_10_seconds_and_never_above_the_limit() -> None:
    clock = Clock()
    progress = progress_of(clock, calls=25, accepted=25)
    assert progress.rate == 5.0
    assert progress.seconds_left == 35.0
    clock.now += 10
    assert progress.rate == 2.5
    clock.now += 1
    assert (progress.rate, progress.seconds_left) == (0.0, 35.0)


def test_only_posts_are_counted() -> None:
    clock = Clock()
    progress = Progress("posting", 50, "the sandbox", clock=clock)
    for name in ("post", "status", "post", "metrics", *["post"] * 8):
        progress.count(Sent(Operation(name), 1, 0.0))
    assert progress.rate == 2.0  # ten in a period


def test_it_is_known_whether_calls_are_being_made_or_paused() -> None:
    clock = Clock()
    progress = progress_of(clock)
    clock.now += 3
    assert not progress.is_sending(2)
    operation = Operation("post")
    progress.count(Sent(operation, 1, 0.0))
    clock.now += 60
    assert progress.is_sending(2)
    progress.count(Ended(operation, "failed", 1))
    assert not progress.is_sending(2)
    assert progress.paused_for == 0
    progress.count(Paused(5.0))
    assert progress.paused_for == 5.0


@pytest.mark.parametrize("width", [60, 90])
def test_a_bar_on_a_terminal_is_readable(width: int) -> None:
    console, screen = terminal(width)
    progress = progress_of(Clock(), calls=25, accepted=99, rejected=1)
    end = datetime.now(UTC) + timedelta(seconds=progress.seconds_left)
    progress.waits_for = "LeadSquared away since 14:03: waiting"
    with shown(progress, console, quiet=False) as changed:
        changed()
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.getvalue())
    for part in (
        "100 of 200 to asyncapi-in21.lead",
        "99 accepted  1 rejected",
        "5.0 calls/s, 20 s",
    ):
        assert part in text
    assert "LeadSquared away since 14:03" in text
    assert any(f"left, until {at_time(at)}" in text for at in (end, end + timedelta(seconds=60)))
    last = [line for line in text.splitlines() if "accepted" in line][-1]
    assert len(last.rstrip()) <= width


def test_a_warning_does_not_break_the_bar() -> None:
    console, screen = terminal()
    progress = progress_of(Clock(), accepted=100)
    with logged(console, verbose=False), shown(progress, console, quiet=False) as changed:
        changed()
        logging.getLogger("leadpost").warning("LeadSquared is away")
        changed()
    text = screen.getvalue()
    before, _, after = text.partition("LeadSquared is away")
    assert "\x1b[2K" in before  # the bar is erased first
    assert "100 of 200" in after  # and drawn again below
    line = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", before).splitlines()[-1]
    assert line == "warning: "


def test_the_states_have_colours() -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=90, color_system="standard")
    with shown(progress_of(Clock(), accepted=99, rejected=1), console, quiet=False) as changed:
        changed()
    assert "\x1b[32m99 accepted" in screen.getvalue()
    assert "\x1b[31m1 rejected" in screen.getvalue()


def test_lines_elsewhere_and_not_too_many() -> None:
    screen, clock = io.StringIO(), Clock()
    progress = progress_of(clock, accepted=99, rejected=1)
    began = clock.now
    with shown(progress, Console(file=screen, width=40), quiet=False) as changed:
        for seconds in (1.0, 9.9, 10.0, 19.0, 20.0):
            clock.now = began + seconds
            progress.waits_for = "Settling 2 rows" if seconds == 9.9 else ""
            changed()
    waits, first, second = screen.getvalue().splitlines()
    assert waits == "leads.csv: Settling 2 rows"
    assert first.startswith(
        "leads.csv: 100 of 200: 99 accepted, 1 rejected; 0.0 calls/s, 20 s left"
    )
    assert first == second


def test_nothing_is_shown_if_nobody_wants_it() -> None:
    console, screen = terminal()
    with shown(progress_of(Clock()), console, quiet=True) as changed:
        changed()
    assert screen.getvalue() == ""


@pytest.mark.parametrize("is_terminal", [False, True])
async def test_what_takes_long_is_counted_on_a_terminal(*, is_terminal: bool) -> None:
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=is_terminal, width=60)

    async def text() -> str:
        return "1 of 3"

    async with counting(console, text):
        await asyncio.sleep(0.2)
    assert ("1 of 3" in screen.getvalue()) is is_terminal


@pytest.mark.parametrize("is_terminal", [False, True])
def test_the_log_goes_to_standard_error_while_a_command_runs(*, is_terminal: bool) -> None:
    console, screen = terminal() if is_terminal else (Console(file=io.StringIO()), None)
    shown = screen or console.file
    assert isinstance(shown, io.StringIO)
    logger = logging.getLogger("leadpost._poster")
    with logged(console, verbose=False):
        logger.info("a detail")
        logger.warning("a warning")
    with logged(console, verbose=True):
        logger.info("one more")
    logger.warning("afterwards")
    assert "a warning" in shown.getvalue()
    assert "one more" in shown.getvalue()
    assert "a detail" not in shown.getvalue()
    assert "afterwards" not in shown.getvalue()
