"""`leadpost sandbox`: the stand-in for the vendor until Ctrl-C or SIGTERM."""

import shlex
import signal
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager, suppress
from enum import StrEnum
from math import inf, nan
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from leadpost.bucket import LIMIT, PERIOD
from leadpost.cli.exits import InputError

if TYPE_CHECKING:
    from leadpost.sandbox import Sandbox

N = TypeVar("N")
V = TypeVar("V")


class Window(StrEnum):
    SLIDING = "sliding"
    FIXED = "fixed"
    BUCKET = "bucket"


def sandbox_module() -> ModuleType:
    """
    Import the sandbox.

    Raises:
        InputError: what it needs is not installed.
    """
    try:
        import leadpost.sandbox  # noqa: PLC0415  an extra, and slow to import
    except ImportError as error:
        raise InputError(str(error)) from error
    return leadpost.sandbox


def span_of(option: str, text: str) -> float | tuple[float, float]:
    """
    Read seconds, or a range of them.

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


def pairs_of(
    option: str,
    texts: Sequence[str],
    wanted: str,
    name_of: Callable[[str], N],
    value_of: Callable[[str], V],
) -> dict[N, V]:
    """Read options of the form NAME=VALUE."""
    pairs: dict[N, V] = {}
    for text in texts:
        name, _, value = text.partition("=")
        with suppress(ValueError):
            if name and value:
                pairs[name_of(name)] = value_of(value)
                continue
        raise InputError(f"{option}: found {text!r}, wanted {wanted}")
    return pairs


def made(
    *,
    faults: Sequence[str],
    script: str,
    retry_after: int,
    slow: float,
    ends: Sequence[str],
    **options: Any,
) -> "Sandbox":
    """
    Make a sandbox of the command's options; those not named here are its own.

    Raises:
        InputError: one of them cannot be used.
    """
    module = sandbox_module()
    shares = pairs_of("--fault", faults, "NAME=PROBABILITY such as 500=0.02", str, float)
    codes = pairs_of("--end", ends, "CODE=STATUS such as 207=ERROR", int, str)
    try:
        sandbox: Sandbox = module.Sandbox(
            faults=module.Faults(
                shares,
                [name.strip() for name in script.split(",") if name.strip()],
                retry_after=retry_after,
                slow=slow,
            ),
            ends=codes,
            **options,
        )
    except ValueError as error:
        raise InputError(str(error)) from error
    return sandbox


def exports(variables: Mapping[str, str]) -> str:
    """Write variables for a shell. The keys among them are made up and open nothing."""
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in variables.items())


@contextmanager
def _stopped() -> Generator[None]:
    """Take SIGTERM for what Ctrl-C is, and both for the end of the context."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with suppress(KeyboardInterrupt):
            yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(sandbox: "Sandbox", status_path: str, metrics_path: str) -> None:
    """Run it until Ctrl-C or SIGTERM, telling how to reach it and, in the end, what it has seen."""
    from leadpost.cli.check import number_of  # noqa: PLC0415  --help has no need of it

    with sandbox:
        account = sandbox.account()
        variables = {
            "LEADPOST_HOST": sandbox.url,
            "LEADPOST_ACCESS_KEY": account.access_key,
            "LEADPOST_SECRET_KEY": account.secret_key,
            "LEADPOST_API_KEY": account.api_key,
            "LEADPOST_STATUS_PATH": status_path,
            "LEADPOST_METRICS_PATH": metrics_path,
        }
        typer.echo(
            f"# sandbox at {sandbox.url}, until Ctrl-C; to post there:\n{exports(variables)}"
        )
        with _stopped():
            sandbox.wait()
    report = sandbox.report()
    typer.echo(
        f"# {number_of(report.arrivals, 'call')}, {report.taken} taken, {report.refused} refused,"
        f" fullest window {report.fullest_window}"
    )


def sandbox_command(
    *,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for a free one.")] = 0,
    limit: Annotated[
        int, typer.Option(min=0, help="Calls in each period; 0 for no limit.")
    ] = LIMIT,
    period: Annotated[float, typer.Option(help="Seconds.")] = PERIOD,
    window: Annotated[Window, typer.Option(help="How calls are counted.")] = Window.SLIDING,
    delay: Annotated[
        str, typer.Option(metavar="LOW:HIGH", help="Seconds each way takes, or one number.")
    ] = "0",
    idle_timeout: Annotated[
        str,
        typer.Option(
            metavar="LOW:HIGH", help="Seconds until an idle connection is closed, or one number."
        ),
    ] = "60",
    pace: Annotated[float, typer.Option(help="Queued activities worked off a second.")] = 20.0,
    end: Annotated[
        list[str] | None,
        typer.Option(metavar="CODE=STATUS", help="Final status of an event code's requests."),
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PROBABILITY", help="Such as 500=0.02; any number of them."),
    ] = None,
    script: Annotated[
        str, typer.Option(help='What happens to the first calls: "ok,500,cut-after".')
    ] = "",
    retry_after: Annotated[int, typer.Option(help="Seconds that 429-retry-after names.")] = 2,
    slow: Annotated[float, typer.Option(help="Seconds by which the fault slow is late.")] = 60.0,
    seed: Annotated[int | None, typer.Option(help="Makes delays and faults repeatable.")] = None,
    status_path: Annotated[str, typer.Option(help="Path of the Status API.")] = (
        "/activity/create/status"
    ),
    metrics_path: Annotated[str, typer.Option(help="Path of the Metrics API.")] = (
        "/activity/create/metrics"
    ),
) -> None:
    """
    Run a strict stand-in for LeadSquared on this machine, until Ctrl-C or SIGTERM.

    It prints the variables to set and, in the end, how many calls came and were taken. An
    unknown --fault tells the names there are.
    """
    sandbox = made(
        faults=fault or [],
        script=script,
        retry_after=retry_after,
        slow=slow,
        ends=end or [],
        port=port,
        limit=limit or None,
        period=period,
        window=window.value,
        delay=span_of("--delay", delay),
        idle_timeout=span_of("--idle-timeout", idle_timeout),
        pace=pace,
        seed=seed,
        status_path=status_path,
        metrics_path=metrics_path,
    )
    _serve(sandbox, status_path, metrics_path)
