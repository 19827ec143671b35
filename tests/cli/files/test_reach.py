"""Rows without a lead's id, and rows checked against the account before anything is sent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_support import until
from files_support import Desk, lead, read_csv, write_csv
from reach_support import ADA, BOB, by_email, changed, leads_of, plan, row, sent

from leadpost.cli.files.reading.lead_columns import details_of
from leadpost.sandbox import Sandbox


@pytest.fixture(autouse=True)
def checked(desk: Desk) -> None:
    del desk.environment["LEADPOST_ACCOUNT_CHECK"]


def test_all_problems_are_found_even_if_no_time_zone_is_named(desk: Desk) -> None:
    desk.sandbox.add_lead(EmailAddress=ADA)
    rows = [by_email(0), by_email(1, ActivityEvent="208"), by_email(2, "nobody@example.com")]
    rows.append(by_email(3, mx_Custom_60="x", ActivityEvent="call?"))
    path = write_csv(desk.folder / "calls.csv", rows)
    done = desk.run("post", path)
    assert (done.exit_code, sent(desk.sandbox)) == (2, [])
    for said in (
        "ActivityDateTime: 4 rows, such as line 2",
        "line 3, ActivityEvent: the account has no activity type 208",
        "line 4, Lead.EmailAddress: nobody@example.com belongs to no lead",
        "line 5, ActivityEvent: call? is not a positive whole number",
    ):
        assert said in done.output
    code, said = desk.post(path, "--skip-invalid")
    assert (code, len(sent(desk.sandbox))) == (1, 1), said
    invalid = [(r["line"], r["lead"]) for r in desk.results(path) if r["state"] == "invalid"]
    assert invalid == [("3", ADA), ("4", "nobody@example.com"), ("5", ADA)]


def test_a_hundred_rows_with_ten_kinds_of_mistakes(desk: Desk) -> None:
    people = [
        desk.sandbox.add_lead(EmailAddress=f"p{n}@example.com", Phone=f"+91-98000000{n:02}")
        for n in range(25)
    ]
    before = desk.sandbox.leads
    rows = [row(n, RelatedProspectId=lead(n)) for n in range(50)]
    rows += [by_email(50 + n, f"P{n}@example.com", Lead_FirstName="Else") for n in range(25)]
    rows += [row(75 + n, Lead_Phone=f"+91 98000000{n:02}") for n in range(25)]
    mistakes = {
        3: ("ActivityEvent", "208"),  # deactivated
        9: ("ActivityEvent", "299"),  # unknown
        14: ("mx_Custom_60", "x"),  # no such field
        21: ("mx_Custom_1", ""),  # mandatory
        30: ("mx_Custom_2", "many"),  # no number
        52: ("mx_Custom_3", "soon"),  # no date
        58: ("mx_Custom_5", "x" * 51),  # too long
        64: ("mx_Custom_1", "Bussy"),  # not an option
        77: ("Lead.Phone", "+91-9700000000"),  # nobody's
        83: ("ActivityNote", "x" * 1900),  # near the limit
    }
    for number, (column, value) in mistakes.items():
        rows[number][column] = value
    path = write_csv(desk.folder / "calls.csv", rows)
    code, said = desk.post(path, "--account-check", "strict")
    assert code == 2
    assert sent(desk.sandbox) == []
    assert "Nothing was sent. Fix the rows above, or post the 90 valid ones" in said
    for line in (
        "line 16, mx_Custom_60: activity type 210 has no such field",
        "line 23, mx_Custom_1: is mandatory for activity type 210",
        "line 32, mx_Custom_2: many is not a number such as 12.5",
        "line 54, mx_Custom_3: soon is not a date such as 2024-05-06",
        "mx_Custom_5: xxx",
        "line 66, mx_Custom_1: Bussy is not among its 4 options; did you mean 'Busy'?",
        "line 79, Lead.Phone: +91-9700000000 belongs to no lead; --create-leads creates one",
        "line 5, ActivityEvent: the account has no activity type 208, or has deactivated it",
        "line 11, ActivityEvent: the account has no activity type 299, or has deactivated it",
        "ActivityNote: xxx",
    ):
        assert line in said
    assert "50 leads looked up, a call each: 49 found (5 s at best)" in said
    code, said = desk.post(path, "--account-check", "strict", "--skip-invalid", "--yes")
    assert code == 1
    results = {r["line"]: r for r in desk.results(path)}
    invalid = [int(line) - 2 for line, r in results.items() if r["state"] == "invalid"]
    assert invalid == [*mistakes]
    assert len(desk.notes()) == 90
    expected = [lead(n) for n in range(50)] + people + people
    assert sorted(leads_of(desk.sandbox)) == sorted(
        who for n, who in enumerate(expected) if n not in mistakes
    )
    assert changed(desk.sandbox) == (0, 0)
    assert desk.sandbox.leads == before
    assert results["52"]["lead"] == "P0@example.com"
    rejects = read_csv(path.with_name("calls.csv.rejects.csv"))
    assert "+91-9700000000" in [r["Lead.Phone"] for r in rejects]


def test_each_lead_is_looked_up_once_and_a_second_run_asks_nothing(desk: Desk) -> None:
    ada = desk.sandbox.add_lead(EmailAddress=ADA)
    path = write_csv(desk.folder / "a.csv", [by_email(0), by_email(1, ADA.upper()), by_email(2)])
    code, said = desk.post(path)
    assert code == 0, said
    assert "Looking up 1 lead: a few seconds" in said
    assert "1 lead looked up, a call each: 1 found (a few seconds)" in said
    assert leads_of(desk.sandbox) == [ada] * 3
    calls = desk.sandbox.report().arrivals
    assert calls == 1 + 1 + 3  # the lead, the activity type, the posts
    code, said = desk.post(path)
    assert (code, desk.sandbox.report().arrivals) == (0, calls)
    assert "3 rows were posted" in said
    write_csv(path, [by_email(n) for n in range(4)])
    assert desk.post(path)[0] == 0
    assert len(desk.notes()) == 4


def test_first_looks_up_no_more_leads_than_it_needs(desk: Desk) -> None:
    people = [f"p{n}@example.com" for n in range(9)]
    for address in people:
        desk.sandbox.add_lead(EmailAddress=address)
    path = write_csv(desk.folder / "a.csv", [by_email(n, who) for n, who in enumerate(people)])
    code, said = desk.post(path, "--first", "2")
    assert (code, desk.notes()) == (0, ["Note 0", "Note 1"]), said
    assert "2 new, 7 left for the next run" in said
    assert desk.sandbox.report().arrivals == 2 + 1 + 2  # the leads, the activity type, the posts
    assert desk.post(path, "--first", "2")[0] == 0
    assert desk.notes() == [f"Note {n}" for n in range(4)]
    assert desk.post(path)[0] == 0
    assert len(desk.notes()) == 9


def test_first_sends_fewer_rows_where_the_account_refuses_some(desk: Desk) -> None:
    desk.sandbox.add_lead(EmailAddress=ADA)
    path = write_csv(
        desk.folder / "a.csv", [by_email(0, "nobody@example.com"), *map(by_email, range(1, 4))]
    )
    code, said = desk.post(path, "--first", "2", "--skip-invalid")
    assert (code, desk.notes()) == (1, ["Note 1"]), said
    assert desk.states(path) == ["invalid", "accepted", "not_sent", "not_sent"]
    assert desk.post(path, "--skip-invalid")[0] == 1
    assert desk.notes() == ["Note 1", "Note 2", "Note 3"]


def test_the_same_activity_by_id_is_the_same_row(desk: Desk) -> None:
    ada = desk.sandbox.add_lead(EmailAddress=ADA, Phone=BOB)
    path = write_csv(desk.folder / "a.csv", [by_email(0)])
    assert desk.post(path)[0] == 0
    for known in ({"RelatedProspectId": ada}, {"Lead_Phone": BOB}):
        write_csv(path, [row(0, **known)])
        code, said = desk.post(path)
        assert (code, len(desk.notes())) == (0, 1), said
    other = write_csv(desk.folder / "b.csv", [row(0, RelatedProspectId=ada)])
    code, said = desk.post(other)
    assert (code, len(desk.notes())) == (2, 1)
    assert "1 row was posted before, in batch a.csv" in said


def test_what_was_posted_by_id_is_a_possible_duplicate_by_email_elsewhere(desk: Desk) -> None:
    ada = desk.sandbox.add_lead(EmailAddress=ADA)
    assert desk.post(write_csv(desk.folder / "a.csv", [row(0, RelatedProspectId=ada)]))[0] == 0
    code, said = desk.post(write_csv(desk.folder / "b.csv", [by_email(0)]))
    assert (code, len(desk.notes())) == (2, 1)
    assert "1 row was posted before, in batch a.csv" in said


def test_an_edit_is_a_possible_duplicate_whatever_finds_its_lead(desk: Desk) -> None:
    ada = desk.sandbox.add_lead(EmailAddress=ADA)
    path = write_csv(desk.folder / "a.csv", [by_email(0)])
    assert desk.post(path)[0] == 0
    write_csv(path, [row(0, RelatedProspectId=ada, ActivityNote="another")])
    code, said = desk.post(path)
    assert (code, len(desk.notes())) == (2, 1)
    assert "ActivityNote Note 0 → another" in said


def test_leads_are_created_only_if_wanted_and_none_is_changed(desk: Desk) -> None:
    ada = desk.sandbox.add_lead(EmailAddress=ADA, FirstName="Ada")
    rows = [
        by_email(0, Lead_FirstName="Other"),
        by_email(1, "new@example.com", Lead_FirstName="New"),
        by_email(2, "new@example.com", Lead_FirstName="Newer"),
    ]
    path = write_csv(desk.folder / "a.csv", rows)
    code, said = desk.post(path)
    assert (code, desk.notes()) == (2, [])
    assert 'Lead.EmailAddress: 2 rows, such as line 3 "new@example.com" belongs to no lead' in said
    code, found = plan(desk, path, "--create-leads")
    assert (code, found["leads"]["created"]) == (0, ["new@example.com"])
    assert changed(desk.sandbox) == (0, 0)
    code, said = desk.post(path, "--create-leads")
    assert code == 0, said
    assert "1 to create: new@example.com" in said
    assert desk.sandbox.report().leads_created == 1
    assert [(who["EmailAddress"], who["FirstName"]) for who in desk.sandbox.leads] == [
        (ADA, "Ada"),
        ("new@example.com", "New"),
    ]
    assert leads_of(desk.sandbox).count(ada) == 1
    assert desk.post(path, "--create-leads")[0] == 0
    assert len(desk.notes()) == 3


def test_a_row_that_is_not_sent_creates_no_lead_and_gives_it_no_data(desk: Desk) -> None:
    ada = desk.sandbox.add_lead(EmailAddress=ADA)
    new = "new@example.com"
    rows = [
        by_email(0, new, Lead_FirstName="Wrong", ActivityEvent="208"),
        by_email(1, new, Lead_FirstName="Right"),
        by_email(2, new, Lead_FirstName="Later"),
        by_email(3, "none@example.com", ActivityEvent="208"),
        row(4, RelatedProspectId=ada, Lead_FirstName="Wrong", ActivityEvent="208"),
        row(5, RelatedProspectId=ada, Lead_FirstName="Augusta"),
    ]
    path = write_csv(desk.folder / "a.csv", rows)
    wanted = ("--create-leads", "--skip-invalid")
    for update, updated in (([], 0), (["--update-leads"], 1)):
        _, found = plan(desk, path, *wanted, *update)
        assert found["leads"] == {"created": [new], "updated": updated}
    code, said = desk.post(path, *wanted)
    assert code == 1
    assert f"1 to create: {new} " in said
    assert [who.get("FirstName") for who in desk.sandbox.leads] == [None, "Right"]


def test_a_possible_duplicate_creates_its_lead_only_if_it_is_posted(desk: Desk) -> None:
    first = write_csv(desk.folder / "a.csv", [by_email(n) for n in range(2)])
    assert desk.post(first, "--create-leads")[0] == 0
    rows = [by_email(0, Lead_FirstName="Ada"), by_email(1, Lead_FirstName="Augusta")]
    path = write_csv(desk.folder / "b.csv", rows)
    with Sandbox(limit=None) as other:  # the same account, before its queue has created the lead
        desk.environment["LEADPOST_SYNC_HOST"] = other.url
        assert plan(desk, path, "--create-leads")[1]["leads"]["created"] == []
        assert desk.post(path, "--create-leads", "--duplicates", "post")[0] == 0
    assert [details_of(posted).get("FirstName") for posted in sent(desk.sandbox)] == [
        *(None, None),
        *("Ada", "Ada"),
    ]


def test_a_run_that_is_resumed_gives_a_new_lead_the_same_data(desk: Desk) -> None:
    rows = [by_email(0, Lead_FirstName="Ada"), by_email(1, Lead_FirstName="Augusta")]
    path = write_csv(desk.folder / "a.csv", rows)
    assert desk.post(path, "--create-leads", "--first", "1")[0] == 0
    with Sandbox(limit=None) as other:  # the same account, before its queue has created the lead
        assert desk.post(path, "--create-leads", LEADPOST_SYNC_HOST=other.url)[0] == 0
    assert [details_of(posted)["FirstName"] for posted in sent(desk.sandbox)] == ["Ada", "Ada"]


def test_a_row_of_a_created_lead_is_a_possible_duplicate_once_it_has_the_leads_id(
    desk: Desk,
) -> None:
    path = write_csv(desk.folder / "a.csv", [by_email(0), by_email(1, "bob@example.com")])
    assert desk.post(path, "--create-leads")[0] == 0
    until(lambda: len(desk.sandbox.leads) == 2)
    ids = {who["EmailAddress"]: str(who["ProspectID"]) for who in desk.sandbox.leads}
    table = [row(0, RelatedProspectId=ids[ADA]), by_email(1, "bob@example.com")]
    write_csv(path, [*table, row(2, RelatedProspectId=lead(2))])
    code, said = desk.post(path)
    assert (code, len(desk.notes())) == (2, 2), said
    assert "1 row looks like an edit of a posted one, 1 is new" in said
    assert "Lead.EmailAddress ada@example.com → " in said
    assert desk.post(path, "--duplicates", "skip")[0] == 0
    assert len(desk.notes()) == 3


def test_leads_are_changed_only_if_wanted_and_never_to_empty_values(desk: Desk) -> None:
    ada = desk.sandbox.add_lead(EmailAddress=ADA, FirstName="Ada", Phone=BOB)
    rows = [
        by_email(0, Lead_FirstName="Augusta"),
        row(1, RelatedProspectId=ada),
        row(2, RelatedProspectId=ada, Lead_FirstName="Augusta"),
    ]
    path = write_csv(
        desk.folder / "a.csv", [{k: v for k, v in r.items() if k != "mx_Custom_60"} for r in rows]
    )
    code, found = plan(desk, path, "--update-leads", "--send-empty")
    assert (code, found["leads"]["updated"]) == (0, 2)
    assert desk.post(path, "--update-leads", "--send-empty")[0] == 0
    assert changed(desk.sandbox) == (0, 2)
    (who,) = desk.sandbox.leads
    assert (who["FirstName"], who["Phone"], who["EmailAddress"]) == ("Augusta", BOB, ADA)


def test_a_lead_given_by_id_is_changed_only_if_it_is_there(desk: Desk) -> None:
    """LeadSquared would create it."""
    ada = desk.sandbox.add_lead(FirstName="Ada")
    rows = [
        row(0, RelatedProspectId=ada, Lead_FirstName="Augusta"),
        row(1, RelatedProspectId=lead(1), Lead_FirstName="New"),
        row(2, RelatedProspectId=lead(2)),
    ]
    path = write_csv(desk.folder / "a.csv", rows)
    code, said = desk.post(path, "--update-leads")
    assert (code, desk.notes()) == (2, [])
    assert f"line 3, RelatedProspectId: {lead(1)} belongs to no lead; --create-leads" in said
    code, found = plan(desk, path, "--update-leads", "--create-leads")
    assert (code, found["leads"]) == (0, {"created": [lead(1)], "updated": 1})
    assert desk.post(path, "--update-leads", "--skip-invalid")[0] == 1
    assert (len(desk.notes()), changed(desk.sandbox)) == (2, (0, 1))
    assert desk.sandbox.leads == [{"ProspectID": ada, "FirstName": "Augusta"}]
    assert desk.post(path)[0] == 0  # without the option, each is posted by its id
    assert (len(desk.notes()), changed(desk.sandbox)) == (3, (0, 1))
    assert desk.states(path) == ["accepted"] * 3


def test_several_leads_of_one_address(desk: Desk) -> None:
    desk.sandbox.add_lead(Phone=BOB)
    desk.sandbox.add_lead(Phone=BOB)
    path = write_csv(desk.folder / "a.csv", [row(0, Lead_Phone=BOB)])
    code, said = desk.post(path, "--create-leads")
    assert (code, desk.notes()) == (2, [])
    assert "belongs to several leads; enter the id of one" in said


def test_a_row_needs_something_that_finds_its_lead(desk: Desk) -> None:
    rows = [row(0, Lead_FirstName="Ada"), by_email(1, "ada"), by_email(2, "bob 7")]
    path = write_csv(desk.folder / "a.csv", rows)
    code, said = desk.post(path)
    assert (code, desk.notes()) == (2, [])
    assert "line 2, lead: is missing; enter its id, e-mail address or phone number" in said
    assert 'Lead.EmailAddress: 2 rows, such as line 3 "ada" is not an email address' in said


def test_rejects_are_looked_up_too(desk: Desk) -> None:
    path = write_csv(desk.folder / "a.csv", [by_email(0)])
    assert desk.post(path, "--skip-invalid")[0] == 1
    desk.sandbox.add_lead(EmailAddress=ADA)
    rejects = path.with_name("a.csv.rejects.csv")
    code, said = desk.post(rejects)
    assert code == 0, said
    for file in (rejects, path):
        assert desk.post(file)[0] == 0
    assert (len(desk.notes()), changed(desk.sandbox)) == (1, (0, 0))


def test_a_refused_row_is_sent_again_with_its_lead(desk: Desk) -> None:
    ada = desk.sandbox.add_lead(EmailAddress=ADA)
    path = write_csv(desk.folder / "a.csv", [by_email(0)])
    desk.sandbox.fail("ok", "ok", "500-mx")
    assert desk.post(path)[0] == 1
    assert desk.post(path)[0] == 0
    assert leads_of(desk.sandbox) == [ada]


def as_json(path: Path, search_by: str) -> Path:
    """Write an activity in the shape of `CreateCustom`."""
    details = {"EmailAddress": ADA, "FirstName": "Other", "SearchBy": search_by}
    items = [{"Attribute": name, "Value": value} for name, value in details.items()]
    fields = [{"SchemaName": "mx_Custom_1", "Value": "Busy"}]
    activity = {"ActivityEvent": 210, "ActivityNote": "Note 0", "Fields": fields}
    path.write_text(json.dumps({"LeadDetails": items, "Activity": activity}))
    return path


def test_json_in_the_shape_of_createcustom_is_looked_up_too(desk: Desk) -> None:
    ada = desk.sandbox.add_lead(EmailAddress=ADA, FirstName="Ada")
    assert desk.post(as_json(desk.folder / "a.jsonl", "EmailAddress"))[0] == 0
    assert (leads_of(desk.sandbox), changed(desk.sandbox)) == ([ada], (0, 0))


def email_form(path: Path, address: object = ADA) -> Path:
    """Write an activity as the synchronous API has it for a lead whose id is not known."""
    lead = {"EmailAddress": address, "FirstName": "Other", "LastName": "", "Phone": None}
    fields = [{"SchemaName": "mx_Custom_1", "Value": "Busy"}]
    activity = {"ActivityEvent": 210, "ActivityNote": "Note 0", "Fields": fields}
    path.write_text(json.dumps(activity | lead))
    return path


def test_json_in_the_email_form_is_looked_up_too(desk: Desk) -> None:
    path = email_form(desk.folder / "a.jsonl")
    code, said = desk.post(path)
    assert (code, desk.notes(), changed(desk.sandbox)) == (2, [], (0, 0))
    assert "belongs to no lead; --create-leads creates one" in said
    ada = desk.sandbox.add_lead(EmailAddress=ADA, FirstName="Ada")
    assert desk.post(path)[0] == 0
    assert (leads_of(desk.sandbox), changed(desk.sandbox)) == ([ada], (0, 0))
    table = [row(0, Lead_EmailAddress=ADA, ActivityDateTime="")]
    code, said = desk.post(write_csv(desk.folder / "other.csv", table))
    assert (code, len(desk.notes())) == (2, 1), said


def test_json_in_the_email_form_creates_a_lead_if_told(desk: Desk) -> None:
    assert desk.post(email_form(desk.folder / "a.jsonl"), "--create-leads")[0] == 0
    (who,) = desk.sandbox.leads
    assert (who["EmailAddress"], who["FirstName"]) == (ADA, "Other")
    assert not who.keys() & {"LastName", "Phone"}


@pytest.mark.parametrize("address", ["ada", 7, [ADA]])
def test_an_address_of_the_email_form_is_checked(desk: Desk, address: object) -> None:
    code, said = desk.post(email_form(desk.folder / "a.jsonl", address), "--create-leads")
    assert (code, desk.notes()) == (2, [])
    assert "Lead.EmailAddress: found" in said
    assert "wanted an email address" in said


@pytest.mark.parametrize("mode", ["off", "warn"])
def test_json_that_finds_its_lead_by_something_else_is_refused(desk: Desk, mode: str) -> None:
    path = as_json(desk.folder / "a.jsonl", "FirstName")
    code, said = desk.post(path, "--create-leads", "--account-check", mode)
    assert (code, desk.notes(), changed(desk.sandbox)) == (2, [], (0, 0))
    assert "Other cannot be looked up by FirstName; use EmailAddress or Phone" in said


def test_without_keys_the_plan_says_what_would_be_asked(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [by_email(n, f"p{n}@example.com", ActivityEvent="Phone Call") for n in range(60)]
    path = write_csv(desk.folder / "a.csv", rows)
    for name in ("HOST", "ACCESS_KEY", "SECRET_KEY", "API_KEY"):
        desk.environment.pop(f"LEADPOST_{name}")
        monkeypatch.delenv(f"LEADPOST_{name}", raising=False)
    code, said = desk.post(path, "--dry-run", "--set", "ActivityEvent=210")
    assert code == 0, said
    assert "60 leads to look up, a call each: 10 s at best; that needs keys" in said
    code, said = desk.post(path, "--dry-run")
    assert code == 2
    assert "names of activity types need your keys: leadpost setup" in said


def test_a_lead_that_was_not_found_can_be_created_later(desk: Desk) -> None:
    path = write_csv(desk.folder / "a.csv", [by_email(0)])
    assert desk.post(path, "--skip-invalid")[0] == 1
    assert desk.states(path) == ["invalid"]
    for _ in range(2):  # the second time, the lead is there
        assert desk.post(path, "--create-leads")[0] == 0
        assert desk.states(path) == ["accepted"]
    assert (len(desk.notes()), changed(desk.sandbox)) == (1, (1, 0))


def test_an_edit_is_seen_once_the_lead_that_was_created_is_found(desk: Desk) -> None:
    path = write_csv(desk.folder / "a.csv", [by_email(0)])
    assert desk.post(path, "--create-leads")[0] == 0
    write_csv(path, [by_email(0, ActivityNote="edited"), by_email(1, "bob@example.com")])
    code, said = desk.post(path, "--create-leads")
    assert code == 2
    assert "1 row looks like an edit of a posted one, 1 is new" in said


def test_a_daily_file_that_says_the_same_of_new_leads_is_not_asked_about(desk: Desk) -> None:
    same = {"ActivityNote": "Called", "ActivityDateTime": ""}
    desk.sandbox.add_lead(EmailAddress="dan@example.com")
    path = desk.folder / "new.csv"
    for day, names in enumerate((("ada", "bob"), ("eve", "dan"))):
        write_csv(path, [by_email(0, f"{name}@example.com", **same) for name in names])
        code, said = desk.post(path, "--create-leads")
        assert (code, len(desk.notes())) == (0, 2 * (day + 1)), said
