"""
The `leadpost` command.

Needs the extra: pip install 'leadpost[cli]'.
"""

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command, or name the missing extra."""
    if any(find_spec(name) is None for name in ("typer", "rich", "dotenv")):
        sys.stderr.write("leadpost: the command needs: pip install 'leadpost[cli]'\n")
        sys.exit(2)
    try:
        from leadpost.cli.app import app  # noqa: PLC0415  it needs the extra

        app(prog_name="leadpost")
    except KeyboardInterrupt:  # before a command runs, which says so itself
        sys.stderr.write("interrupted\n")
        sys.exit(130)
