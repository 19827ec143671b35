"""The module that public names show as theirs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from types import FunctionType


def show_in(package: str, names: Mapping[str, object]) -> None:
    """
    Let public classes and functions show the package as their module.

    Reprs and tracebacks then say `leadpost.RateLimited`, which is what callers import and catch.
    Called at the end of the module that defines them, so it holds however they are imported.
    `typing.get_type_hints` looks up hints that are strings in the package from then on, so those
    modules do without `from __future__ import annotations` where the hints of a class need it.

    Args:
        package: The package, whose `__all__` tells what is public.
        names: The module's own.
    """
    for name in sys.modules[package].__all__:
        value = names.get(name)
        if isinstance(value, type | FunctionType):
            value.__module__ = package
