"""Which column goes where: the parameters and their other names, SchemaNames, and the options."""

import re
from collections.abc import Sequence

from attrs import frozen

from leadpost._validation import parameter_like
from leadpost.cli.exits import InputError
from leadpost.cli.files.leads import COLUMN, FINDS
from leadpost.cli.files.reading import Reading

PARAMETERS = ("RelatedProspectId", "ActivityEvent", "ActivityNote", "ActivityDateTime")
_NAMES = {
    "relatedprospectid": "RelatedProspectId",
    "prospectid": "RelatedProspectId",
    "leadid": "RelatedProspectId",
    "leadprospectid": "RelatedProspectId",
    "activityevent": "ActivityEvent",
    "activityeventcode": "ActivityEvent",
    "activitynote": "ActivityNote",
    "activitynotes": "ActivityNote",
    "notes": "ActivityNote",
    "note": "ActivityNote",
    "activitydatetime": "ActivityDateTime",
    "activitydate": "ActivityDateTime",
}
"""The parameters, also by the names that LeadSquared's screens use."""
_SCHEMA_NAME = re.compile(r"mx_\w+|Status|Owner", re.IGNORECASE)
_OF_LEAD = re.compile(r"lead\.(\w+)", re.IGNORECASE)


@frozen
class Columns:
    """Which column goes where."""

    sent: tuple[tuple[int, str, str], ...]  # place, heading and target of each column that is sent
    constants: dict[str, str]  # target to value, the same for all rows
    ignored: tuple[str, ...]

    @property
    def are_of_leads(self) -> bool:
        """Whether some say what is known of a lead, so that its id may be missing."""
        targets = [*self.constants, *(target for _, _, target in self.sent)]
        return any(target.startswith(COLUMN) for target in targets)

    def heading_of(self, target: str) -> str:
        """Return the heading of a target, which may be a parameter of the activity only."""
        return next((heading for _, heading, name in self.sent if name == target), target)


def columns_of(name: str, header: Sequence[str], reading: Reading) -> Columns:
    """
    Find out where each column goes.

    Raises:
        InputError: a heading is unknown, one of two for the same parameter, or one is missing.
    """
    mapped = _found_headings(name, header, reading)
    constants = {parameter_of(text): value for text, value in reading.constants.items()}
    ignored_names = {text.strip().casefold() for text in reading.ignored}
    sent: list[tuple[int, str, str]] = []
    ignored: list[str] = []
    unknown: list[str] = []
    for place, heading in enumerate(header):
        target = mapped.get(heading) or known_target(heading)
        if heading.casefold() in ignored_names or target in constants or not heading:
            ignored += [heading] if heading else []
        elif target is not None:
            sent.append((place, heading, target))
        elif reading.ignore_others:
            ignored.append(heading)
        else:
            unknown.append(heading)
    if unknown:
        raise InputError(_unknown(name, unknown))
    _check_targets(name, sent, constants)
    return Columns(tuple(sent), constants, tuple(ignored))


def known_target(heading: str) -> str | None:
    """
    Return the parameter or SchemaName that a heading means without further options.

    >>> known_target("Lead Id"), known_target("mx_Custom_1"), known_target("Agent")
    ('RelatedProspectId', 'mx_Custom_1', None)
    """
    if parameter := _NAMES.get(re.sub(r"[\W_]", "", heading).lower()):
        return parameter
    if of_lead := _OF_LEAD.fullmatch(heading):
        exact = {name.lower(): name for name in FINDS}
        return COLUMN + exact.get(of_lead[1].lower(), of_lead[1])
    return heading if _SCHEMA_NAME.fullmatch(heading) else None


def parameter_of(text: str) -> str:
    """Return a parameter by any of its names, and a SchemaName as it is."""
    return known_target(text) or text


def _found_headings(name: str, header: Sequence[str], reading: Reading) -> dict[str, str]:
    """Return heading to target as `--map` says, for the headings of this file."""
    headings = {heading.casefold(): heading for heading in header if heading}
    found: dict[str, str] = {}
    for text, target in reading.columns.items():
        heading = headings.get(text.casefold())
        if heading is None:
            raise InputError(
                f"{name}: --map: there is no column {text!r}; there are:"
                f" {', '.join(headings.values())}"
            )
        found[heading] = parameter_of(target)
    return found


def check_unique(name: str, header: Sequence[str]) -> None:
    """Raise `InputError` if two columns have the same heading."""
    seen = set[str]()
    for heading in header:
        if heading and heading in seen:
            raise InputError(
                f"{name}: the heading {heading!r} is there twice; rename or delete one"
            )
        seen.add(heading)


def _check_targets(
    name: str, sent: Sequence[tuple[int, str, str]], constants: dict[str, str]
) -> None:
    headings: dict[str, str] = {}
    for _, heading, target in sent:
        if target in headings:
            raise InputError(
                f"{name}: {headings[target]!r} and {heading!r} are both {target}; leave one out"
                f" with --ignore '{heading}'"
            )
        headings[target] = heading
    for parameter, example in (("RelatedProspectId", None), ("ActivityEvent", "201")):
        is_lead = parameter == "RelatedProspectId"
        others = [f"{COLUMN}{found}" for found in FINDS] if is_lead else []
        if not {parameter, *others} & {*headings, *constants}:
            remedy = f"name it with --map 'Heading={parameter}'"
            remedy += f", or set it with --set {parameter}={example}" if example else ""
            remedy += f", or have a column {' or '.join(others)}" if is_lead else ""
            raise InputError(f"{name}: no column is {parameter}; {remedy}")


def _unknown(name: str, headings: Sequence[str]) -> str:
    first = headings[0]
    similar = parameter_like(first)
    target = similar or "mx_Custom_1"
    what = "column is" if len(headings) == 1 else "columns are"
    return (
        f"{name}: {len(headings)} {what} unknown: {', '.join(headings)}. Send one with"
        f" --map '{first}={target}', leave it out with --ignore '{first}', or leave out all"
        " unknown ones with --ignore-others"
    )
