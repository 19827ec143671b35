"""What a run says: the plan before it, what is wrong, and what was done."""

import shlex
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

from attrs import asdict
from rich.table import Table
from rich.text import Text

from leadpost import Account
from leadpost.cli.console import at_best, at_time, duration, number_of, spoken
from leadpost.cli.files.comparing.comparison import Comparison, Difference, name_of_file
from leadpost.cli.files.reading.lead_columns import parts_of_activity
from leadpost.cli.files.reading.row import DUPLICATES, SENT, ProblemGroup, shortened
from leadpost.cli.files.reporting.outputs import Outputs
from leadpost.cli.outbox_url import outbox_option, shown_url

_GROUPS = 20
_KEY_END = 4


def account_shown(account: Account) -> str:
    """Return the host and the end of the access key, which tells two accounts apart."""
    key = account.access_key
    end = key[-_KEY_END:] if len(key) > 2 * _KEY_END else ""
    return f"{urlsplit(account.host).netloc} (access key …{end})"


def plan_table(found: Comparison) -> Table:
    """Return the plan, as people see it."""
    account, options = found.account, found.options
    grid = Table.grid(padding=(0, 2))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    if account is None:
        grid.add_row("account", "no keys: only the file is checked")
    else:
        grid.add_row("account", Text(account_shown(account)))
        grid.add_row("outbox", Text(shown_url(options.url)))
        grid.add_row("batch", Text(found.name))
    for label, lines in (
        ("rows", _rows(found)),
        ("leads", _leads(found)),
        ("checked", _checked(found)),
        ("columns", _columns(found)),
        ("first", _first(found)),
    ):
        for number, line in enumerate(lines):
            grid.add_row("" if number else label, Text(line))
    if sent := found.plan.sent:
        end = at_time(datetime.now(UTC) + timedelta(seconds=duration(sent, options.limit)))
        grid.add_row("time", f"{at_best(sent, options.limit)}, until {end}")
    return grid


def _rows(found: Comparison) -> list[str]:
    plan, counts = found.plan, found.plan.counts
    words = (
        (counts["new"], "new"),
        (counts["pending"], "not sent yet by an earlier run"),
        (counts["again"], "tried again"),
        (counts["corrected"], "corrected"),
        (counts["posted"], "posted before"),
        (plan.duplicates, "possible duplicate" + "s" * (plan.duplicates > 1)),
        (counts["failed"], "failed by LeadSquared, in the rejects"),
        (counts["invalid"], "invalid"),
        (counts["later"], "left for the next run"),
    )
    parts = [f"{number:,} {word}" for number, word in words if number]
    lines = [f"{len(plan.rows):,}: {', '.join(parts)}" if parts else "0"]
    if plan.withdrawn:
        gone = number_of(plan.withdrawn, "unsent row")
        lines.append(f"{gone} of an earlier run, gone from the file: withdrawn")
    if plan.moved:
        lines.append(f"{number_of(plan.moved, 'unsent row')} of another file: moved here")
    if plan.waiting and plan.sent:
        lines.append(f"{number_of(plan.waiting, 'unsent row')} of {found.name}: sent too")
    return lines


def _leads(found: Comparison) -> list[str]:
    checks = found.checks
    leads = checks.leads
    if not checks.to_find:
        return []
    looked_up = number_of(checks.to_find, "lead")
    time = at_best(checks.to_find, checks.limit)
    if checks.poster is None:
        return [f"{looked_up} to look up, a call each: {time}; that needs keys"]
    there = sum(isinstance(lead_id, str) for lead_id in leads.found.values())
    lines = [f"{looked_up} looked up, a call each: {there:,} found ({time})"]
    if leads.created:
        shown = [lead.value for lead in leads.created.values()]
        more = f" and {len(shown) - _GROUPS:,} more" if len(shown) > _GROUPS else ""
        lines.append(f"{len(shown):,} to create: {', '.join(shown[:_GROUPS])}{more}")
    return lines


def _checked(found: Comparison) -> list[str]:
    checks = found.checks
    types = "activity type" if len(checks.types) == 1 else "activity types"
    codes = ", ".join(map(str, sorted(checks.types)))
    lines = [f"against {types} {codes}"] if codes else []
    if checks.updates:
        one, many = "row to change its lead", "rows to change their leads"
        lines.append(number_of(checks.updates, one, many))
    return lines


def _columns(found: Comparison) -> list[str]:
    columns = found.source.columns
    lines = [
        heading if heading == target else f"{heading} → {target}"
        for _, heading, target in columns.sent
    ]
    lines += [f"{value} → {name}" for name, value in columns.constants.items()]
    if columns.ignored:
        lines.append(f"not sent: {', '.join(columns.ignored)}")
    return lines


def _first(found: Comparison) -> list[str]:
    row = next(found.plan.rows.of(*SENT), None)
    if row is None:
        return []
    parts = parts_of_activity(found.activity(row) or row.payload or {})
    shown = [f"  {name}: {_with_zone(name, value)}" for name, value in parts.items()]
    return [f"line {row.line}:", *shown]


def _with_zone(name: str, value: object) -> str:
    """Say that a date-time is in UTC: it may be another one than in the file."""
    return f"{value} UTC" if name == "ActivityDateTime" and value else str(value)


def plan_json(found: Comparison, differences: Sequence[Difference]) -> dict[str, Any]:
    """Return the plan for machines."""
    plan, options = found.plan, found.options
    return {
        "account": None if found.account is None else urlsplit(found.account.host).netloc,
        "outbox": shown_url(options.url),
        "batch": found.name,
        "rows": len(plan.rows),
        "send": plan.sent,
        **{str(decision): number for decision, number in plan.counts.items()},
        "withdrawn": plan.withdrawn,
        "moved": plan.moved,
        "waiting": plan.waiting,
        "leads": {
            "created": [lead.value for lead in found.checks.leads.created.values()],
            "updated": found.checks.updates,
        },
        "problems": [asdict(group) for group in plan.problem_groups()],
        "warnings": [asdict(group) for group in found.checks.warnings.values()],
        "unchecked": sorted(found.checks.unmade),
        "possible_duplicates": _duplicates(found),
        "differences": [asdict(difference) for difference in differences],
    }


def _duplicates(found: Comparison) -> list[dict[str, Any]]:
    return [
        {"line": row.line, "lead": found.source.lead_of(row), "reason": row.decision}
        for row in found.plan.rows.of(*DUPLICATES)
    ]


def problem_lines(found: Comparison) -> list[str]:
    """Say what is wrong with the rows, each kind once."""
    groups = found.plan.problem_groups()
    lines = _group_lines(groups)
    if found.batch is not None and groups:
        options = found.batch.reading.as_options()
        if options and options != found.reading.as_options():
            lines.append(f"An earlier run of {found.options.path} had: {options}")
    return lines


def warning_lines(found: Comparison) -> list[str]:
    """Say what LeadSquared may refuse, and what could not be checked."""
    checks = found.checks
    lines = [f"warning: {line}" for line in _group_lines([*checks.warnings.values()])]
    return lines + [f"not checked: {why}" for why in sorted(checks.unmade)]


def _group_lines(groups: Sequence[ProblemGroup]) -> list[str]:
    lines: list[str] = []
    for group in groups[:_GROUPS]:
        problem = group.problem
        if group.rows == 1:
            lines.append(f"{group.place}, {problem}")
            continue
        value = f' "{shortened(problem.value)}"' if problem.value else ":"
        remedy = f"; {problem.remedy}" if problem.remedy else ""
        rows = number_of(group.rows, "row")
        what = f"{group.place}{value} {problem.what}{remedy}"
        lines.append(f"{problem.column}: {rows}, such as {what}")
    if (more := len(groups) - _GROUPS) > 0:
        lines.append(f"and {number_of(more, 'other kind')} of problems")
    return lines


def duplicate_lines(found: Comparison, differences: Sequence[Difference]) -> list[str]:
    """Say which rows look like posted ones, and how they differ."""
    plan = found.plan
    edits, elsewhere, new = (plan.counts[name] for name in ("edit", "elsewhere", "new"))
    lines: list[str] = []
    if edits:
        one, many = "row looks like an edit of a posted one", "rows look like edits of posted ones"
        unsent = f", {plan.edits_of_unsent:,} of these not sent yet" if plan.edits_of_unsent else ""
        rest = f", {number_of(new, 'is new', 'are new')}" if new else ""
        lines.append(number_of(edits, one, many) + unsent + rest)
    for difference in differences[:5]:
        before, after = (
            shortened(_with_zone(difference.names[0], value))
            for value in (difference.before, difference.after)
        )
        others = ", ".join(difference.names[1:])
        lines.append(
            f"  {difference.names[0]} {before} → {after} (line {difference.line}) in"
            f" {number_of(difference.rows, 'row')}" + (f", and {others}" if others else "")
        )
    if elsewhere:
        rows, names = number_of(elsewhere, "row was", "rows were"), sorted(plan.batches)[:5]
        keys = f", {plan.other_keys:,} of them with other keys" if plan.other_keys else ""
        put = " or put to be posted" if plan.other_keys else ""
        lines.append(f"{rows} posted before{put}, in batch {', '.join(names)}{keys}")
    return lines


def done_lines(
    found: Comparison, outputs: Outputs, seconds: float | None = None, *, has_failed: bool = False
) -> list[str]:
    """
    Say what is done, and what to do next.

    A run has `seconds`; if it ended by an error, that says how to resume it.
    """
    counts, plan = outputs.counts, found.plan
    path, file = shlex.quote(found.options.path), arguments(found)
    if not plan.rows:
        return [f"{path} has no rows"]
    if seconds is not None and plan.counts["posted"] == len(plan.rows):
        lines = [_nothing_new(found), *_kept(outputs), *_next_steps(found, outputs)]
        if not counts["uncertain"] and not found.are_rejects:  # their keys say their batch
            again = shlex.quote(f"{found.name} again")
            command = f"leadpost post {path} --batch {again} --duplicates post"
            command += f"{outbox_option(found.options.url)} {found.reading.as_options()}"
            lines.append(f"To post them a second time: {command}".rstrip())
        return lines
    words = (
        (counts["accepted"], "accepted, not yet processed"),
        (counts["succeeded"], "on their leads"),
        (counts["skipped"], "skipped as possible duplicates"),
        (counts["uncertain"], "uncertain: may have arrived"),
        (counts["rejected"], "rejected by LeadSquared"),
        (counts["failed"], "failed"),
        (counts["invalid"], "invalid"),
        (counts["not_sent"], "not sent"),
    )
    said = ", ".join(f"{number:,} {word}" for number, word in words if number)
    if seconds is not None and plan.sent:
        said += f" ({number_of(plan.sent, 'row')} in {spoken(seconds)})"
    lines = [said]
    if outputs.are_written:
        lines.append(f"Results: {shlex.quote(str(outputs.results))}")
    if outputs.rejects:
        rejects, rows = shlex.quote(str(outputs.rejects)), number_of(outputs.to_fix, "row")
        command = f"leadpost post {rejects}{outbox_option(found.options.url)}"
        lines.append(f"{rows} to fix. Edit {rejects}, then: {command}")
    lines += _kept(outputs)
    if outputs.left and not has_failed:
        again = "Run the same command again"
        how = f"To post them: leadpost post {file}" if seconds is None else again
        lines.append(f"{number_of(outputs.left, 'row')} left. {how}")
    if plan.edits_of_unsent and seconds is not None:
        rows = number_of(plan.edits_of_unsent, "skipped row waits", "skipped rows wait")
        worker = f"leadpost work{outbox_option(found.options.url)}"
        lines.append(f"{rows} in the outbox as another file had them. To post them so: {worker}")
    return lines + _next_steps(found, outputs)


def _kept(outputs: Outputs) -> list[str]:
    return [
        f"{shlex.quote(str(path))} stays: {number_of(rows, 'row')} to fix that this file lacks"
        for path, rows in outputs.kept.items()
    ]


def _nothing_new(found: Comparison) -> str:
    rows = number_of(found.plan.counts["posted"], "row was", "rows were")
    at = found.batch.posted_at if found.batch else None
    when = f" on {at.astimezone().day} {at.astimezone():%b %H:%M}" if at else ""
    return f"{rows} posted{when}, nothing new"


def _next_steps(found: Comparison, outputs: Outputs) -> list[str]:
    """Return the command that says more of what was posted: uncertain rows come first."""
    file, later = arguments(found), outputs.later
    if outputs.uncertain and found.options.command != "reconcile":
        return [f"Look for uncertain ones on their leads: leadpost reconcile {file}"]
    lines: list[str] = []
    if later:
        lines.append(f"{later:,} may still arrive. Look again in 12 h: leadpost reconcile {file}")
    if unclear := outputs.uncertain - later:
        outbox = outbox_option(found.options.url)
        listing = f"leadpost outbox list --state uncertain{outbox}"
        lines.append(f"{unclear:,} could not be settled. See why: {listing}")
        lines.append(f"If one is on its lead: leadpost outbox arrived --id N{outbox}")
        lines.append(f"If it is not: leadpost outbox retry --id N --yes{outbox}")
    if not lines and outputs.counts["accepted"]:
        lines.append(f"See what reaches the leads: leadpost verify {file}")
    return lines


def done_json(found: Comparison, outputs: Outputs, seconds: float | None = None) -> dict[str, Any]:
    """Return the same for machines."""
    return {
        "batch": found.name,
        "rows": outputs.counts.total(),
        **outputs.counts,
        "seconds": seconds,
        "results": str(outputs.results) if outputs.are_written else None,
        "rejects": str(outputs.rejects) if outputs.rejects else None,
        "to_fix": outputs.to_fix,
        "possible_duplicates": _duplicates(found),
    }


def arguments(found: Comparison) -> str:
    """Return the file as a command takes it, with batch and outbox where it has to name them."""
    is_default = found.are_rejects or found.name == name_of_file(found.options.path)
    return found.options.arguments(None if is_default else found.name)
