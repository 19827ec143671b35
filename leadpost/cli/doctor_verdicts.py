"""What the answers to `leadpost doctor` mean for the settings: a verdict on each. No I/O here."""

from collections.abc import Iterator
from enum import StrEnum

from attrs import field, frozen

from leadpost._account import Account
from leadpost.cli.doctor_calls import WAYS, Findings, Kind, Way

_KEYS = "LEADPOST_ACCESS_KEY and LEADPOST_SECRET_KEY"
HOST = "LEADPOST_HOST or LEADPOST_REGION"
_REFUSED = "cannot be told while the keys are refused"


class Verdict(StrEnum):
    OK = "ok"
    NO = "no"
    UNCLEAR = "unclear"
    SKIPPED = "skipped"


@frozen
class Check:
    """
    One line of the diagnosis.

    Attributes:
        name: What was checked.
        verdict: What is said of it.
        found: Why, in plain words.
        setting: The environment variable to set, None where none would help.
        in_use: Whether the account as it is configured needs it.
    """

    name: str
    verdict: Verdict
    found: str
    setting: str | None = None
    in_use: bool = field(default=True, kw_only=True)

    def as_json(self) -> dict[str, str | None]:
        return {
            "check": self.name,
            "verdict": self.verdict.value,
            "found": self.found,
            "setting": self.setting,
        }

    def __str__(self) -> str:
        setting = f"; set {self.setting}" if self.setting else ""
        return f"{self.verdict:8} {self.name:16} {self.found}{setting}"


def judge(account: Account, findings: Findings) -> Iterator[Check]:
    """Give a verdict on each of the settings, or a single one if there was no connection."""
    if not findings.reached:
        (unreached,) = findings.metrics.values()
        yield Check("host", Verdict.NO, f"{account.host}: {unreached.text}", HOST)
        return
    yield _api_key(findings)
    for way in WAYS:
        yield _keys(account, findings, way)
    yield _status_path(account, findings)
    yield _metrics_path(account, findings)
    yield _activity_types(account, findings)


def _api_key(findings: Findings) -> Check:
    name = "x-api-key"
    found = {finding.kind: finding.text for finding in findings.of_async_host}
    if Kind.ANSWERED in found:
        return Check(name, Verdict.OK, "the gateway let calls through")
    if Kind.API_KEY_REFUSED in found:
        return Check(name, Verdict.NO, found[Kind.API_KEY_REFUSED], "LEADPOST_API_KEY")
    return Check(name, Verdict.UNCLEAR, "the gateway neither refused it nor let a call through")


def _keys(account: Account, findings: Findings, way: Way) -> Check:
    name = f"keys in {way}"
    found = {finding.kind: finding.text for finding in reversed(findings.with_keys_in(way))}
    if Kind.ANSWERED in found:
        return Check(name, Verdict.OK, found[Kind.ANSWERED])
    if Kind.KEYS_REFUSED not in found:
        return Check(name, Verdict.UNCLEAR, findings.metrics[way].text)
    text = found[Kind.KEYS_REFUSED]
    if way != account.keys_in:
        text += f"; not in use, as LEADPOST_KEYS_IN is {account.keys_in}"
        return Check(name, Verdict.NO, text, in_use=False)
    if findings.way != way:
        return Check(name, Verdict.NO, text, f"LEADPOST_KEYS_IN={findings.way}")
    if findings.types is not None and findings.types.kind is Kind.ANSWERED:
        return Check(name, Verdict.NO, f"{text}; the synchronous API takes them", HOST)
    return Check(name, Verdict.NO, text, _KEYS)


def _status_path(account: Account, findings: Findings) -> Check:
    name = "status path"
    if not findings.status:
        return Check(name, Verdict.SKIPPED, _REFUSED)
    text = "; ".join(f"{path}: {finding.text}" for path, finding in findings.status.items())
    kind = findings.status[account.status_path].kind
    if kind is Kind.ANSWERED:
        return Check(name, Verdict.OK, text)
    if kind is Kind.NO_PATH:
        right = f"={findings.status_path}" if findings.status_path else ""
        return Check(name, Verdict.NO, text, _where(findings, f"LEADPOST_STATUS_PATH{right}"))
    return Check(name, Verdict.UNCLEAR, text)


def _metrics_path(account: Account, findings: Findings) -> Check:
    name = "metrics path"
    finding = findings.metrics[findings.way]
    text = f"{account.metrics_path}: {finding.text}"
    match finding.kind:
        case Kind.ANSWERED:
            return Check(name, Verdict.OK, text)
        case Kind.NO_PATH:
            return Check(name, Verdict.NO, text, _where(findings, "LEADPOST_METRICS_PATH"))
        case Kind.KEYS_REFUSED | Kind.API_KEY_REFUSED:
            return Check(name, Verdict.SKIPPED, _REFUSED)
        case _:
            return Check(name, Verdict.UNCLEAR, text)


def _activity_types(account: Account, findings: Findings) -> Check:
    name, where = "activity types", _where(findings, "LEADPOST_SYNC_HOST")
    if findings.types is None:
        text = f"the synchronous host cannot be told from {account.host}"
        return Check(name, Verdict.SKIPPED, text, where)
    text = f"{account.sync_host}: {findings.types.text}"
    match findings.types.kind:
        case Kind.ANSWERED:
            count, codes = len(findings.types.value or ()), findings.codes
            if not codes or len(codes) < count:
                text = f"a list of {count}, {len(codes)} with a code: see `leadpost types --json`"
                return Check(name, Verdict.UNCLEAR, text)
            return Check(name, Verdict.OK, f"{count}, the first is {codes[0]}")
        case Kind.KEYS_REFUSED:
            return Check(name, Verdict.NO, text, _KEYS if findings.refused else where)
        case Kind.NO_PATH | Kind.NO_CONNECTION:
            return Check(name, Verdict.NO, text, where)
        case _:
            return Check(name, Verdict.UNCLEAR, text)


def _where(findings: Findings, variable: str) -> str:
    """Name the variable, but the host's first where no path of the Async API is there."""
    return f"{HOST}, or if that is right {variable}" if findings.nowhere else variable
