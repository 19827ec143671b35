"""The error tree: its docstring is right, and its members survive pickling."""

from __future__ import annotations

import copy
import pickle
import re

import pytest
from support import activity

import leadpost
from leadpost import (
    ApplicationError,
    BatchError,
    ConnectionFailed,
    InvalidActivity,
    KeyConflict,
    LeadpostError,
    NotSent,
    Outcome,
    Problem,
    RateLimited,
    StatusTimeout,
    errors,
)


def test_the_docstring_draws_the_tree_as_it_is() -> None:
    drawn = re.findall(r"^    ([│ ]*)(?:[├└]── )?([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE)
    parents: list[str] = []
    for indent, name in drawn:
        depth = 0 if name == "LeadpostError" else len(indent) // 4 + 1
        parents[depth:] = [name]
        if depth:
            assert getattr(leadpost, parents[depth - 1]) in getattr(leadpost, name).__bases__
    public = {
        name
        for name in leadpost.__all__
        if isinstance(value := getattr(leadpost, name), type) and issubclass(value, LeadpostError)
    }
    assert {name for _, name in drawn} == public


@pytest.mark.parametrize(
    "error",
    [
        ApplicationError("no", status=500, exception_type="MX", attempts=2),
        RateLimited("no", limit=(10, 5), retry_after=3.0),
        InvalidActivity.of([Problem("a", "b", "c")]),
        StatusTimeout("late"),
        ConnectionFailed("no answer", sent=True),
        KeyConflict("another activity", keys=("a", "b")),
    ],
)
def test_errors_survive_pickling(error: LeadpostError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert vars(again) == vars(error)


def test_a_batch_error_survives_pickling_with_its_outcomes() -> None:
    outcomes = [Outcome(0, activity(), "r1"), Outcome(1, activity(), error=NotSent("no"))]
    error = BatchError.of(outcomes)
    again = pickle.loads(pickle.dumps(error))
    assert [o.request_id for o in again.outcomes] == ["r1", None]
    assert again.message == error.message == "1 of 2 activities were accepted (1 not_sent)"
    assert isinstance(again, ExceptionGroup)
    assert copy.copy(error).outcomes == error.outcomes


def test_the_repr_of_an_outcome_has_no_activity() -> None:
    secret = activity(activity_note="call him Jo")
    assert "Jo" not in repr(Outcome(0, secret, "r1"))
