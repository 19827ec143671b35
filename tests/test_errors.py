"""The error tree: its docstring is true, its members survive pickling, names are all there."""

from __future__ import annotations

import ast
import copy
import pickle
import re
from pathlib import Path

import pytest
from support import activity

import leadpost
from leadpost import (
    ApplicationError,
    BatchError,
    InvalidActivity,
    LeadpostError,
    NotSent,
    Outcome,
    Problem,
    RateLimited,
    StatusTimeout,
    errors,
)


def test_all_is_the_sorted_public_names() -> None:
    source = Path(leadpost.__file__).read_text(encoding="utf-8")
    imports = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    public = {n.name for i in imports if (i.module or "").startswith("leadpost.") for n in i.names}
    assert leadpost.__all__ == sorted(public)
    assert set(leadpost.__all__) <= set(dir(leadpost))


def test_each_public_name_is_there_on_first_use_and_no_other_is() -> None:
    for name in leadpost.__all__:
        assert getattr(leadpost, name).__name__ == name
    with pytest.raises(AttributeError, match="module 'leadpost' has no attribute 'Poster'"):
        leadpost.Poster  # type: ignore[attr-defined]  # noqa: B018  # misspelt


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    drawn = re.findall(r"^    ([│ ]*)(?:[├└]── )?([A-Z]\w+)", errors.__doc__ or "", re.MULTILINE)
    parents: list[str] = []
    for indent, name in drawn:
        depth = 0 if name == "LeadpostError" else len(indent) // 4 + 1
        parents[depth:] = [name]
        if depth:
            assert issubclass(getattr(errors, name), getattr(errors, parents[depth - 1]))
    defined = {
        name
        for name, value in vars(errors).items()
        if isinstance(value, type) and issubclass(value, LeadpostError)
    }
    assert {name for _, name in drawn} == defined


@pytest.mark.parametrize(
    "error",
    [
        ApplicationError("no", status=500, exception_type="MX", attempts=2),
        RateLimited("no", limit=(10, 5), retry_after=3.0),
        InvalidActivity.of([Problem("a", "b", "c")]),
        StatusTimeout("late"),
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


def test_an_outcome_shows_no_activity() -> None:
    secret = activity(activity_note="call him Jo")
    assert "Jo" not in repr(Outcome(0, secret, "r1"))
