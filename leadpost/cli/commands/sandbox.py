"""`leadpost sandbox`: a stand-in for LeadSquared until Ctrl-C or SIGTERM."""

import shlex
import signal
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from math import inf, nan
from typing import Annotated, Any, Literal, TypeVar

import typer

from leadpost.bucket import LIMIT
from leadpost.cli.exits import InputError
from leadpost.sandbox import Faults, Sandbox

T = TypeVar("T")

_LASTING: Mapping[str, tuple[str, type[int | float]]] = {
    "429-retry-after": ("retry_after", int),
    "slow": ("slow", float),
    "away": ("away", float),
}
"""Faults with a length: the parameter of `Faults` for its seconds, and their type."""


def span_of(option: str, text: str) -> float | tuple[float, float]:
    """
    Return the seconds, or the range of seconds, that a text names.

    >>> span_of("--delay", "0.02:0.15")
    (0.02, 0.15)
    """
    low, colon, high = text.partition(":")
    try:
        span = float(low), float(high if colon else low)
    except ValueError:
        span = nan, nan
    if not 0 <= span[0] <= span[1] < inf:
        raise InputError(f"{option}: found {text!r}, wanted seconds, or LOW:HIGH such as 0.02:0.15")
    return span if colon else span[0]


def _read(option: str, texts: Iterable[str], wanted: str, value_of: Callable[[str], T]) -> list[T]:
    """Return the values of an option that can be repeated."""
    values: list[T] = []
    for text in texts:
        try:
            values.append(value_of(text))
        except ValueError:
            raise InputError(f"{option}: found {text!r}, wanted {wanted}") from None
    return values


def made(*, faults: Sequence[str], script: str, ends: Sequence[str], **options: Any) -> Sandbox:
    """
    Return a sandbox with the command's options; `options` are parameters of `Sandbox`.

    Raises:
        InputError: an option is invalid.
    """
    lengths: dict[str, Any] = {}

    def fault(text: str) -> str:
        """Return the name of a fault, and keep its length, if it has one."""
        name, colon, seconds = text.strip().partition(":")
        if colon and name not in _LASTING:
            raise InputError(f"only {', '.join(_LASTING)} take seconds; not {name}")
        if colon:
            parameter, number = _LASTING[name]
            lengths[parameter] = number(seconds)
        return name

    def share(text: str) -> tuple[str, float]:
        name, _, probability = text.partition("=")
        return fault(name), float(probability)

    def end(text: str) -> tuple[int, str]:
        code, equals, status = text.partition("=")
        if not (equals and status):
            raise ValueError
        return int(code), status

    shares = _read("--fault", faults, "NAME=PROBABILITY or NAME:SECONDS=PROBABILITY", share)
    names = filter(str.strip, script.split(","))
    steps = _read("--script", names, "NAME or NAME:SECONDS", fault)
    codes = _read("--end", ends, "CODE=STATUS such as 207=ERROR", end)
    try:
        found = Faults(dict(shares), steps, **lengths)
        return Sandbox(faults=found, ends=dict(codes), **options)
    except ValueError as error:
        raise InputError(str(error)) from error


def exports(**variables: str) -> str:
    """Return variables as a line for a shell; the sandbox's keys are no secret."""
    return "export " + " ".join(f"{name}={shlex.quote(v)}" for name, v in variables.items())


def _serve(sandbox: Sandbox) -> None:
    """Run it until Ctrl-C or SIGTERM; print how to reach it and, at the end, a report."""
    with sandbox:
        keys = sandbox.account()
        typer.echo(f"# The sandbox runs at {sandbox.url} until Ctrl-C. In another terminal:")
        typer.echo(exports(LEADPOST_HOST=sandbox.url, LEADPOST_ACCESS_KEY=keys.access_key))
        typer.echo(exports(LEADPOST_SECRET_KEY=keys.secret_key, LEADPOST_API_KEY=keys.api_key))
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            sandbox.wait()
        report = sandbox.report()
    typer.echo(
        f"# calls: {report.arrivals:,}, activities accepted: {report.accepted:,}, refused by the"
        f" limit: {report.refused:,}, fullest window: {report.fullest_window}"
    )
    for name, count in report.faults.items():
        typer.echo(f"# fault {name}: {count:,}")
    typer.echo(f"# duplicates: {report.duplicates:,}, still in the queue: {report.pending:,}")


def sandbox(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for a free one.")] = 0,
    limit: Annotated[int, typer.Option(min=0, help="Calls in each 5 s; 0 for no limit.")] = LIMIT,
    window: Annotated[
        Literal["sliding", "fixed", "bucket"], typer.Option(help="How calls are counted.")
    ] = "sliding",
    delay: Annotated[
        str, typer.Option(metavar="LOW:HIGH", help="Seconds that each way takes, or one number.")
    ] = "0",
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:SECONDS]=PROBABILITY",
            help="Such as 500=0.02, keys-refused=1 or away:20=0.01; can be repeated.",
        ),
    ] = None,
    script: Annotated[str, typer.Option(help='Faults of the first calls: "ok,500,away:20".')] = "",
    end: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE=STATUS", help="Final status of an activity type."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Makes delays and faults repeatable.")] = None,
) -> None:
    """
    Run a strict stand-in for LeadSquared on this machine until stopped.

    It prints two lines to paste into another terminal and, at the end, a report. An unknown
    --fault lists the known ones.

    Examples:
    - `leadpost sandbox --delay 0.02:0.15`
    - `leadpost sandbox --script ok,ok,away:20 --fault 500=0.02`
    """
    _serve(
        made(
            faults=fault or [],
            script=script,
            ends=end or [],
            port=port,
            limit=limit or None,
            window=window,
            delay=span_of("--delay", delay),
            seed=seed,
        )
    )
