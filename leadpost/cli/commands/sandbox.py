"""`leadpost sandbox`: a stand-in for LeadSquared until Ctrl-C or SIGTERM."""

import shlex
import signal
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress
from math import inf
from typing import Annotated, Any, Literal

import typer

from leadpost.bucket import LIMIT
from leadpost.cli.exits import InputError
from leadpost.sandbox import Faults, Sandbox

_LASTING = {"429-retry-after": "retry_after", "slow": "slow", "away": "away"}
"""Faults with a length: the parameter of `Faults` for its seconds."""


@contextmanager
def _reading(option: str, text: str, wanted: str) -> Generator[None]:
    """Name the option whose text is not what was wanted."""
    try:
        yield
    except ValueError:
        raise InputError(f"{option}: found {text!r}, wanted {wanted}") from None


def span_of(text: str) -> tuple[float, float]:
    """
    Return the range of seconds that a text names.

    >>> span_of("0.02:0.15"), span_of("1")
    ((0.02, 0.15), (1.0, 1.0))
    """
    with _reading("--delay", text, "seconds, or LOW:HIGH such as 0.02:0.15"):
        low, colon, high = text.partition(":")
        span = float(low), float(high if colon else low)
        if not 0 <= span[0] <= span[1] < inf:
            raise ValueError
        return span


def made(*, faults: Sequence[str], script: str, **options: Any) -> Sandbox:
    """
    Return a sandbox with the command's options; `options` are parameters of `Sandbox`.

    Raises:
        InputError: an option is invalid.
    """
    lengths: dict[str, Any] = {}

    def name_of(fault: str) -> str:
        """Return the name of a fault, and keep its length, if it has one."""
        name, colon, seconds = fault.strip().partition(":")
        if colon and name not in _LASTING:
            raise InputError(f"only {', '.join(_LASTING)} take seconds; not {name}")
        if colon:
            lengths[_LASTING[name]] = int(seconds)
        return name

    shares: dict[str, float] = {}
    for text in faults:
        with _reading("--fault", text, "NAME=PROBABILITY or NAME:SECONDS=PROBABILITY"):
            fault, _, probability = text.partition("=")
            shares[name_of(fault)] = float(probability)
    with _reading("--script", script, "NAME or NAME:SECONDS"):
        names = [name_of(text) for text in script.split(",") if text.strip()]
    try:
        return Sandbox(faults=Faults(shares, names, **lengths), **options)
    except ValueError as error:
        raise InputError(str(error)) from error


def exports(**variables: str) -> str:
    """Return variables as a line for a shell; the sandbox's keys are no secret."""
    return "export " + " ".join(f"{name}={shlex.quote(v)}" for name, v in variables.items())


def _serve(sandbox: Sandbox) -> None:
    """Run it until Ctrl-C or SIGTERM; print how to reach it and, at the end, a report."""
    with sandbox:
        keys = sandbox.account()
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        with suppress(KeyboardInterrupt):
            typer.echo(f"# The sandbox runs at {sandbox.url} until Ctrl-C. In another terminal:")
            typer.echo(exports(LEADPOST_HOST=sandbox.url, LEADPOST_ACCESS_KEY=keys.access_key))
            typer.echo(exports(LEADPOST_SECRET_KEY=keys.secret_key, LEADPOST_API_KEY=keys.api_key))
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
        str, typer.Option(metavar="LOW:HIGH", help="Seconds for each way: a range, or one number.")
    ] = "0",
    fault: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME[:SECONDS]=PROBABILITY",
            help="Such as 500=0.02, keys-refused=1 or away:20=0.01; can be repeated.",
        ),
    ] = None,
    script: Annotated[str, typer.Option(help='Faults of the first calls: "ok,500,away:20".')] = "",
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
            port=port,
            limit=limit or None,
            window=window,
            delay=span_of(delay),
            seed=seed,
        )
    )
