"""The changelog is in the form that it names."""

from __future__ import annotations

import re
from pathlib import Path

import leadpost

CHANGELOG = (Path(__file__).parent.parent / "CHANGELOG.md").read_text(encoding="utf-8")


def test_its_versions_are_in_order_and_the_newest_is_this_one_or_to_be() -> None:
    first, *released = re.findall(r"^## (.*)$", CHANGELOG, re.MULTILINE)
    assert first == "[Unreleased]"
    versions = [re.fullmatch(r"\[(\d+\.\d+\.\d+)\] - \d{4}-\d\d-\d\d", title) for title in released]
    assert all(versions), released
    assert not versions or (versions[0] and versions[0][1] == leadpost.__version__)


def test_its_sections_are_those_of_the_form() -> None:
    sections = re.findall(r"^### (.*)$", CHANGELOG, re.MULTILINE)
    assert sections
    assert set(sections) <= {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
