"""Checks of what callers pass, where a wrong type would fail late and obscurely."""

from __future__ import annotations

from collections.abc import Sequence

from leadpost._validation import is_list


def check_type(name: str, value: object, wanted: type) -> None:
    """
    See that an argument is what it is to be, where it would fail late and obscurely.

    Raises:
        TypeError: naming the argument and what it is, without its value.
    """
    if isinstance(value, type):
        found = f"the class {value.__name__} itself"
    elif isinstance(value, wanted):
        return
    else:
        found = f"a value of type {type(value).__name__}"
    module = "" if wanted.__module__ == "builtins" else f"{wanted.__module__}."
    raise TypeError(f"{name}: found {found}, wanted {module}{wanted.__name__}")


def check_texts(name: str, values: object) -> None:
    """
    See that an argument is a sequence of texts, and not one text, which Python takes for one too.

    Raises:
        TypeError: naming the argument and what it is, without its value.
    """
    if isinstance(values, str):
        raise TypeError(f"{name}: found one str, wanted a sequence of them")
    check_type(name, values, Sequence)
    for value in values if is_list(values) else ():
        check_type(name, value, str)
