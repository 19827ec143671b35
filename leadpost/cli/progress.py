"""Showing progress: a bar on a terminal, now and then a line elsewhere."""

import time
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager

from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.text import Text

from leadpost.cli.tally import Tally

_BETWEEN_LINES = 5.0


@contextmanager
def shown(tally: Tally, console: Console) -> Generator[Callable[[], None]]:
    """Show a tally while the context lasts; call what it gives after each change."""
    if console.is_terminal:
        with _Bar(tally, console) as bar:
            yield bar.changed
    else:
        yield _Lines(tally, console).changed


@contextmanager
def busy(console: Console, what: str) -> Generator[None]:
    """Tell on a terminal what is being done while the context lasts."""
    if console.is_terminal:
        with console.status(what):
            yield
    else:
        yield


class _Bar(Progress):
    """A bar, and the counts on a line below it."""

    def __init__(self, tally: Tally, console: Console) -> None:
        self._tally = tally
        super().__init__(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            console=console,
            expand=True,
        )
        self._task = self.add_task(tally.what, total=tally.total)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        yield Text(f"{self._tally.told()}; {self._tally.pace()}")

    def changed(self) -> None:
        self.update(self._task, completed=self._tally.done, total=self._tally.total)


class _Lines:
    def __init__(self, tally: Tally, console: Console) -> None:
        self._tally = tally
        self._console = console
        self._last = time.monotonic()
        self._line = ""

    def changed(self) -> None:
        now = time.monotonic()
        if now - self._last < _BETWEEN_LINES:
            return
        self._last = now
        tally = self._tally
        line = f"{tally.what}: {tally.done} of {tally.total}: {tally.told()}; {tally.pace()}"
        if line != self._line:  # where there is nothing to do but wait, once is enough
            self._console.out(line, highlight=False)
        self._line = line
