"""Which column goes where: the parameters and their other names, SchemaNames, and the options."""

import re
import shlex
from collections.abc import Collection, Iterable, Sequence

from attrs import frozen

from leadpost._validation import parameter_like
from leadpost.cli.console import number_of
from leadpost.cli.exits import InputError
from leadpost.cli.files.reading.lead_columns import COLUMN, FINDS
from leadpost.cli.files.reading.settings import Reading

_NAMES = {
    "RelatedProspectId": ("prospectid", "leadid", "leadprospectid"),
    "ActivityEvent": ("activityeventcode",),
    "ActivityNote": ("activitynotes", "notes", "note"),
    "ActivityDateTime": ("activitydate",),
}
"""The other names of the parameters, which LeadSquared's screens use."""
PARAMETERS = tuple(_NAMES)
_PARAMETER_OF = {
    name: parameter for parameter, names in _NAMES.items() for name in (parameter.lower(), *names)
}
_SCHEMA_NAME = re.compile(r"mx_\w+|Status|Owner", re.IGNORECASE)
_ABOUT_LEADS = {
    "email": "EmailAddress",
    "mail": "EmailAddress",
    "phone": "Phone",
    "telephone": "Phone",
    "mobile": "Phone",
    "contact": "Phone",
    "firstname": "FirstName",
    "lastname": "LastName",
    "surname": "LastName",
    "company": "Company",
}
"""What people call columns about leads: it is suggested only, as an activity may have such too."""
_OF_LEAD = re.compile(r"lead\.(\w+)", re.IGNORECASE)


@frozen
class Columns:
    """Which column goes where."""

    sent: tuple[tuple[int, str, str], ...]  # place, heading and target of each column that is sent
    constants: dict[str, str]  # target to value, the same for all rows
    ignored: tuple[str, ...]
    # Whether some say what is known of a lead, so that its id may be missing.
    are_of_leads: bool

    def heading_of(self, target: str) -> str:
        """Return the heading of a target, which may be a parameter of the activity only."""
        return next((heading for _, heading, name in self.sent if name == target), target)


def columns_of(name: str, header: Sequence[str], reading: Reading) -> Columns:
    """
    Find out where each column goes.

    Raises:
        InputError: a heading is unknown, one of two for the same parameter, or one is missing.
    """
    mapped = _mapped(name, header, reading)
    constants = constants_of(reading)
    not_sent = {text.strip().casefold() for text in reading.ignored}
    sent: dict[str, tuple[int, str, str]] = {}
    ignored: list[str] = []
    unknown: list[str] = []
    for place, heading in enumerate(header):
        if not heading:
            continue
        if header.index(heading) < place:
            raise InputError(f"{name}: the heading {heading!r} occurs twice; rename or delete one")
        target = mapped.get(heading) or known_target(heading)
        if heading.casefold() in not_sent or target in constants:
            ignored.append(heading)
        elif target is None:
            (ignored if reading.ignore_others else unknown).append(heading)
        elif target in sent:
            raise InputError(
                f"{name}: {sent[target][1]!r} and {heading!r} are both {target}; leave one out"
                f" with --ignore {shlex.quote(heading)}"
            )
        else:
            sent[target] = place, heading, target
    if unknown:
        raise InputError(_unknown(name, unknown))
    targets = {*sent, *constants}
    _check_needed(name, targets)
    are_of_leads = any(target.startswith(COLUMN) for target in targets)
    return Columns(tuple(sent.values()), constants, tuple(ignored), are_of_leads)


def constants_of(reading: Reading) -> dict[str, str]:
    """Return target to value of what is the same for all rows."""
    return {_target_of(name): value for name, value in reading.constants.items()}


def is_field(target: str) -> bool:
    """Whether a target is a field of the activity: no parameter, and nothing of its lead."""
    return target not in PARAMETERS and not target.startswith(COLUMN)


def known_target(heading: str) -> str | None:
    """
    Return the parameter or SchemaName that a heading means without further options.

    >>> known_target("Lead Id"), known_target("mx_Custom_1"), known_target("Agent")
    ('RelatedProspectId', 'mx_Custom_1', None)
    """
    if parameter := _PARAMETER_OF.get(re.sub(r"[\W_]", "", heading).lower()):
        return parameter
    if of_lead := _OF_LEAD.fullmatch(heading):
        exact = {name.lower(): name for name in FINDS}
        return COLUMN + exact.get(of_lead[1].lower(), of_lead[1])
    return heading if _SCHEMA_NAME.fullmatch(heading) else None


def _target_of(text: str) -> str:
    """Return a parameter by any of its names, and a SchemaName as it is."""
    return known_target(text) or text


def _mapped(name: str, header: Sequence[str], reading: Reading) -> dict[str, str]:
    """Return heading to target as `--map` says, for the headings of this file."""
    headings = {heading.casefold(): heading for heading in header if heading}
    for text in reading.columns:
        if text.casefold() not in headings:
            raise InputError(
                f"{name}: --map: it has no column {text!r}, only {', '.join(headings.values())}"
            )
    return {headings[text.casefold()]: _target_of(to) for text, to in reading.columns.items()}


def _check_needed(name: str, targets: Collection[str]) -> None:
    of_lead = [COLUMN + found for found in FINDS]
    for parameter, others, otherwise in (
        ("RelatedProspectId", of_lead, f"add a column {' or '.join(of_lead)}"),
        ("ActivityEvent", [], "set it with --set ActivityEvent=201"),
    ):
        if not any(target in targets for target in (parameter, *others)):
            raise InputError(
                f"{name}: no column is {parameter}; name it with --map 'Heading={parameter}', or"
                f" {otherwise}"
            )


def _unknown(name: str, headings: Sequence[str]) -> str:
    those = number_of(len(headings), "column is", "columns are")
    pairs = [f"{heading}={_likely_target(heading) or 'SCHEMANAME'}" for heading in headings]
    return (
        f"{name}: {those} unknown. To send such a column: {_options('--map', pairs)}\n"
        f"To leave it out: {_options('--ignore', headings)}\n"
        "To leave out all that are unknown: --ignore-others"
    )


def _options(option: str, values: Iterable[str]) -> str:
    """Return an option with each of the values, on a line to paste."""
    return " ".join(f"{option} {shlex.quote(value)}" for value in values)


def _likely_target(heading: str) -> str | None:
    """
    Return what a heading probably means.

    >>> _likely_target("E-mail ID"), _likely_target("Phone No."), _likely_target("Agent")
    ('Lead.EmailAddress', 'Lead.Phone', None)
    """
    plain = re.sub(r"[\W_]", "", heading).lower()
    if about_lead := _ABOUT_LEADS.get(re.sub("(id|address|number|no)$", "", plain)):
        return COLUMN + about_lead
    return parameter_like(heading)
