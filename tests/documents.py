"""
The documents of this repository, and the examples in them.

The blocks of one language below one heading are one example: a reader copies them together. As a
program, this writes the Python ones to a folder, for a type checker:

    python tests/documents.py FOLDER
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from textwrap import indent

from attrs import frozen

ROOT = Path(__file__).parent.parent
FOLDERS = ("", "leadpost", "leadpost/outbox", "leadpost/cli", "leadpost/sandbox", "benchmarks")
DOCUMENTS = (
    *(f"{folder}/README.md".removeprefix("/") for folder in FOLDERS),
    *("CHANGELOG.md", ".github/CONTRIBUTING.md", ".github/SECURITY.md"),
)
_HEADING_OR_BLOCK = re.compile(r"^#+ ([^\n]+)$|^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@frozen
class Example:
    """
    The code of one language below one heading.

    Attributes:
        place: The document and the heading's anchor: `README.md#a-service`.
        language: As the fence names it.
        code: The blocks, one after the other.
    """

    place: str
    language: str
    code: str


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def anchor_of(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-")


def examples(*languages: str) -> list[Example]:
    """Return the examples in these languages, in the order of the documents."""
    blocks: dict[tuple[str, str], list[str]] = {}
    for document in DOCUMENTS:
        place = document
        for heading, language, code in _HEADING_OR_BLOCK.findall(text_of(document)):
            if heading:
                place = f"{document}#{anchor_of(heading)}"
            else:
                blocks.setdefault((place, language), []).append(code)
    return [
        Example(place, language, "\n".join(codes))
        for (place, language), codes in blocks.items()
        if language in languages
    ]


def logged_messages() -> dict[str, str]:
    """Return each message that is logged as a warning or an error, `…` for values: its level."""
    found: dict[str, str] = {}
    for path in (ROOT / "leadpost").rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
                found |= logged_by(function)
    return found


def logged_by(function: ast.FunctionDef | ast.AsyncFunctionDef) -> dict[str, str]:
    nodes = list(ast.walk(function))
    values = {
        ast.unparse(node.targets[0]): node.value for node in nodes if isinstance(node, ast.Assign)
    }
    found: dict[str, str] = {}
    for node in nodes:
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        logger, method = ast.unparse(node.func.value), node.func.attr
        if logger != "_log" and not logger.startswith("logging.getLogger("):
            continue
        arguments = [values.get(ast.unparse(argument), argument) for argument in node.args]
        level = ast.unparse(arguments.pop(0)) if method == "log" else method.upper()
        named = re.search("WARNING|ERROR|EXCEPTION|CRITICAL", level)
        if named:
            text = ast.literal_eval(arguments[0])
            found[re.sub(r"%[\d.]*[a-z]", "…", text)] = named[0]
    return found


def main(folder: Path) -> None:
    """Write each Python example to a file in `folder`."""
    for example in examples("python"):
        code = example.code
        if "django" in code:
            continue  # no types to check
        if re.search(r"^\S.*\bawait ", code, re.MULTILINE):  # a notebook
            code = "async def notebook() -> None:\n" + indent(code, "    ")
        name = re.sub(r"\W+", "_", example.place)
        (folder / f"{name}.py").write_text(f"# pyright: strict\n{code}", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
