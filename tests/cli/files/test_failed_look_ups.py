"""Look-ups of leads that fail: nothing is created, and the row can be posted later."""

from __future__ import annotations

import json

import pytest
from files_support import Desk, lead, read_csv, write_csv
from reach_support import ADA, by_email, changed, leads_of, row

from leadpost import RetryPolicy
from leadpost.sandbox import Answer


@pytest.fixture(autouse=True)
def checked(desk: Desk) -> None:
    del desk.environment["LEADPOST_ACCOUNT_CHECK"]


@pytest.mark.parametrize("args", [(), ("--create-leads", "--update-leads")])
def test_a_look_up_that_fails_creates_nothing(desk: Desk, args: tuple[str, ...]) -> None:
    rows = [by_email(0), row(1, RelatedProspectId=lead(1))]
    path = write_csv(desk.folder / "a.csv", rows)
    answer = json.dumps({"Status": "Error", "ExceptionType": "MXOops", "ExceptionMessage": "no"})
    desk.sandbox.fail(Answer(500, answer, {"content-type": "application/json"}))
    code, said = desk.post(path, "--skip-invalid", *args)
    assert code == 1
    assert "line 2, Lead.EmailAddress: ada@example.com could not be looked up; run it again" in said
    assert (desk.notes(), changed(desk.sandbox)) == (["Note 1"], (0, 0))
    assert desk.states(path) == ["invalid", "accepted"]
    assert desk.run("results", path).exit_code == 1
    assert desk.states(path) == ["invalid", "accepted"]
    message = desk.results(path)[0]["message"]  # the outbox keeps the reason, without the address
    assert message.startswith("Lead.EmailAddress: could not be looked up; run it again later")
    (reject,) = read_csv(path.with_name("a.csv.rejects.csv"))
    assert (reject["leadpost_reason"], reject["Lead.EmailAddress"]) == (message, ADA)
    desk.sandbox.add_lead(EmailAddress=ADA)
    assert desk.post(path, *args)[0] == 0
    assert (len(desk.notes()), changed(desk.sandbox)) == (2, (0, 0))


JSON = {"content-type": "application/json"}
EVE = [{"ProspectID": lead(9), "EmailAddress": "eve@example.com"}]


@pytest.mark.parametrize(
    ("faults", "why"),
    [
        (["503"] * 3, "ServerError, HTTP 503"),
        (["500"] * 3, "ServerError, HTTP 500"),
        ([Answer(200, "<html>", {"content-type": "text/html"})], "UnexpectedAnswer, HTTP 200"),
        ([Answer(200, "{}", JSON)], "UnexpectedAnswer, HTTP 200"),
        ([Answer(200, json.dumps(EVE), JSON)], "UnexpectedAnswer, HTTP 200"),
        ([Answer(400, "", {})], "BadRequest, HTTP 400"),
    ],
    ids=["503", "500", "html", "no list", "another lead", "400"],
)
def test_a_look_up_that_fails_in_any_way_creates_nothing(
    desk: Desk, faults: list[str | Answer], why: str
) -> None:
    path = write_csv(desk.folder / "a.csv", [by_email(0), row(1, RelatedProspectId=lead(1))])
    desk.sandbox.fail(*faults)
    code, said = desk.post(path, "--skip-invalid", "--create-leads", "--update-leads")
    assert code == 1
    assert f"could not be looked up; run it again later ({why})" in said
    assert (desk.notes(), changed(desk.sandbox)) == (["Note 1"], (0, 0))


@pytest.mark.parametrize(
    ("faults", "ended"),
    [(["cut-before"] * 3, 75), (["keys-refused"], 3), ([Answer(404, "", {})], 1)],
    ids=["cut", "keys", "404"],
)
def test_a_look_up_that_the_next_would_fail_like_ends_the_run(
    desk: Desk, faults: list[str | Answer], ended: int
) -> None:
    path = write_csv(desk.folder / "a.csv", [by_email(0), row(1, RelatedProspectId=lead(1))])
    desk.sandbox.fail(*faults)
    code, _ = desk.post(path, "--skip-invalid", "--create-leads")
    assert (code, desk.notes(), changed(desk.sandbox)) == (ended, [], (0, 0))


def test_look_ups_end_when_leadsquared_is_away(desk: Desk) -> None:
    people = [by_email(n, f"p{n}@example.com") for n in range(100)]
    path = write_csv(desk.folder / "a.csv", [*people, row(1, RelatedProspectId=lead(1))])
    desk.sandbox.fail(*["503"] * 400)
    code, said = desk.post(path, "--skip-invalid")
    assert (code, desk.notes()) == (75, []), said
    assert "503: Service Unavailable (in three look-ups in a row, so nothing was sent; " in said
    assert desk.sandbox.report().arrivals <= 3 * 25
    assert desk.files() == ["a.csv"]


def test_types_are_not_asked_for_once_three_could_not_be_read(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    once = RetryPolicy(max_attempts=1)
    monkeypatch.setattr("leadpost.cli.files.comparing.comparison._PATIENCE", once)
    rows = [row(n, RelatedProspectId=lead(n), ActivityEvent=str(300 + n)) for n in range(9)]
    path = write_csv(desk.folder / "a.csv", rows)
    desk.sandbox.fail(*["503"] * 3)
    code, said = desk.post(path)
    assert (code, len(desk.notes()), desk.sandbox.report().arrivals) == (0, 9, 3 + 9)
    assert "not checked: ActivityEvent: type 308 could not be read: ServerError, HTTP 503" in said


def test_a_look_up_that_is_refused_for_the_limit_is_repeated(desk: Desk) -> None:
    ada = desk.sandbox.add_lead(EmailAddress=ADA)
    desk.sandbox.fail("429", "ok")
    code, said = desk.post(write_csv(desk.folder / "a.csv", [by_email(0)]), "--create-leads")
    assert (code, leads_of(desk.sandbox), changed(desk.sandbox)) == (0, [ada], (0, 0)), said


def test_without_a_connection_nothing_is_sent(desk: Desk) -> None:
    path = write_csv(desk.folder / "a.csv", [by_email(0), row(1, RelatedProspectId=lead(1))])
    code, said = desk.post(path, LEADPOST_SYNC_HOST="http://127.0.0.1:9")
    assert (code, desk.notes()) == (75, [])
    assert "(at http://127.0.0.1:9: see leadpost doctor)" in said
