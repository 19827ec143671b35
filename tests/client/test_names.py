"""The public names: complete, documented, and shown under the package they are imported from."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import pickle
import pkgutil
import pydoc
import subprocess
import sys
import traceback
import typing
from collections.abc import Iterator
from pathlib import Path
from types import FunctionType, ModuleType

import attrs
import pytest

import leadpost
import leadpost.hooks
import leadpost.otel
import leadpost.outbox
import leadpost.sandbox

PACKAGES = (leadpost, leadpost.outbox, leadpost.sandbox)
OBJECTS = [
    pytest.param(package, value, id=f"{package.__name__}.{name}")
    for package in PACKAGES
    for name in package.__all__
    if isinstance(value := getattr(package, name), type | FunctionType)
]
OTHERS = [
    pytest.param(module, value, id=f"{module.__name__}.{name}")
    for module in (leadpost.hooks, leadpost.otel)
    for name, value in vars(module).items()
    if isinstance(value, type) and value.__module__ == module.__name__
]
"""Also public, in their own modules: the events for hooks, and OpenTelemetry's hook."""
CLASSES = [param for param in OBJECTS if isinstance(param.values[1], type)]


def in_a_new_process(script: str, *arguments: str, stdin: bytes = b"") -> str:
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    done = subprocess.run(command, input=stdin, capture_output=True, check=False)
    return (done.stdout + done.stderr).decode()


def described(value: object) -> Iterator[tuple[str, object, str]]:
    """Yield name, object with the signature and docstring of a value and its members."""
    name = getattr(value, "__qualname__", "")
    yield name, value, getattr(value, "__doc__", None) or ""
    if isinstance(value, type):
        for attribute, member in vars(value).items():
            if attribute.startswith("_"):
                continue
            if isinstance(member, property):
                yield f"{name}.{attribute}", None, member.__doc__ or ""
            elif isinstance(member, FunctionType | classmethod):
                found = getattr(value, attribute)
                function = getattr(found, "__func__", found)
                yield f"{name}.{attribute}", function, function.__doc__ or ""


def arguments(value: object) -> set[str]:
    if isinstance(value, FunctionType):
        parameters = inspect.signature(value).parameters.values()
        named = {
            each.name
            for each in parameters
            if each.kind not in {each.VAR_POSITIONAL, each.VAR_KEYWORD}
        }
        return named - {"self", "cls"}
    if not isinstance(value, type):
        return set()
    if attrs.has(value):
        return {attribute.name for attribute in attrs.fields(value) if attribute.init}
    own = arguments(vars(value).get("__init__"))
    return own - {"message"} if issubclass(value, Exception) else own


@pytest.mark.parametrize("package", PACKAGES, ids=lambda package: package.__name__)
def test_all_is_every_public_name_sorted(package: ModuleType) -> None:
    tree = ast.parse(Path(str(package.__file__)).read_text(encoding="utf-8"))
    imported = [
        alias.name
        for statement in ast.walk(tree)
        if isinstance(statement, ast.ImportFrom)
        if (statement.module or "").startswith("leadpost.")
        for alias in statement.names
    ]
    assert set(package.__all__) == set(imported)
    assert package.__all__ == sorted(imported, key=lambda name: (not name.isupper(), name))
    assert set(package.__all__) <= set(dir(package))
    for name in package.__all__:
        assert getattr(package, name) is not None


@pytest.mark.parametrize(("package", "value"), [*OBJECTS, *OTHERS])
def test_each_docstring_names_every_argument(package: ModuleType, value: object) -> None:
    del package
    for name, what, docstring in described(value):
        assert docstring, name
        missing = [each for each in arguments(what) if each not in docstring]
        assert not missing, f"{name} does not mention {', '.join(missing)}"


@pytest.mark.parametrize(("package", "value"), OBJECTS)
def test_each_shows_the_package_as_its_module(package: ModuleType, value: type) -> None:
    assert value.__module__ == package.__name__
    assert inspect.getmodule(value) is package
    shown = pydoc.plain(pydoc.render_doc(value))
    assert f"{value.__name__} in module {package.__name__}" in shown.replace("\n\n", " ")


@pytest.mark.parametrize(("package", "value"), OBJECTS)
def test_each_can_be_pickled_by_its_name(package: ModuleType, value: type) -> None:
    pickled = pickle.dumps(value)
    assert package.__name__.encode() in pickled
    assert pickle.loads(pickled) is value


@pytest.mark.parametrize(("package", "value"), CLASSES)
def test_the_type_hints_of_each_can_be_resolved(package: ModuleType, value: type) -> None:
    del package
    hints = typing.get_type_hints(value)
    if attrs.has(value):
        assert {attribute.name for attribute in attrs.fields(value)} <= hints.keys()
        attrs.resolve_types(value)
        assert not any(isinstance(each.type, str) for each in attrs.fields(value))
    inspect.signature(value, eval_str=True)
    for _, member in inspect.getmembers(value, inspect.isfunction):
        if member.__module__.startswith("leadpost"):
            inspect.signature(member, eval_str=True)
            assert inspect.getsource(member)


def test_a_traceback_names_the_class_to_catch() -> None:
    script = "from leadpost.errors import RateLimited\nraise RateLimited('no', attempts=5)"
    assert in_a_new_process(script).splitlines()[-1] == "leadpost.RateLimited: no"
    error = leadpost.BatchError("none", [leadpost.NotSent("stopped")], [])
    assert traceback.format_exception_only(error) == [
        "leadpost.BatchError: none (1 sub-exception)\n"
    ]


def test_the_examples_in_docstrings_are_right() -> None:
    modules = pkgutil.walk_packages(leadpost.__path__, "leadpost.")
    results = [
        doctest.testmod(importlib.import_module(module.name))
        for module in modules
        if not module.name.endswith("__main__")
    ]
    assert sum(result.attempted for result in results) > 0
    assert not any(result.failed for result in results)
