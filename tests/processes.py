"""
Python processes that start at once, for tests of what a process does: signals, exit codes, output.

Importing SQLAlchemy, typer and rich takes half a second of CPU time. One process, the template,
does so once and forks all others. Run as a script, this is the template.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

from attrs import define

ENVIRONMENT = {
    "PATH": os.environ["PATH"],
    "PYTHONPATH": os.pathsep.join(sys.path),
    # Certificates, as conftest.py says; and coverage, where it runs, sees these processes too.
    **{
        name: value
        for name, value in os.environ.items()
        if name.startswith(("SSL_CERT_", "COVERAGE_"))
    },
}
"""The environment that a process needs to run the command."""
_IMPORTED = (
    *("leadpost.outbox", "leadpost.sandbox", "sqlalchemy.ext.asyncio", "asyncpg"),
    *("sqlalchemy.dialects.sqlite.pysqlite", "sqlalchemy.dialects.postgresql.asyncpg"),
    *("leadpost.cli.app", "leadpost.cli.commands.post", "typer.rich_utils", "rich.live"),
)
"""The modules that the template imports."""
_NUMBER = 4
"""Bytes of what a process reports: its id, and later its exit code."""
_starting = threading.Lock()


@define
class Process:
    """
    A process, with what tests need of `subprocess.Popen`.

    Attributes:
        pid: Its id.
        returncode: Its exit code, or the negative number of a signal; None while it runs.
    """

    pid: int
    _reports: socket.socket
    returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, None if it still runs."""
        try:
            return self.wait(0)
        except BlockingIOError:
            return None

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit code; raise TimeoutError if it runs for longer than `timeout` seconds."""
        if self.returncode is None:
            self._reports.settimeout(timeout)
            self.returncode = _number_from(self._reports)
            self._reports.close()
        return self.returncode

    def send_signal(self, number: signal.Signals) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it, and wait for its end."""
        self.send_signal(signal.SIGKILL)
        self.wait()

    def stop(self) -> None:
        """Freeze it, and wait until the last of its threads has stopped."""
        self.send_signal(signal.SIGSTOP)
        for thread in Path(f"/proc/{self.pid}/task").glob("*/stat"):
            while thread.read_text().rpartition(")")[2].split()[0] != "T":
                time.sleep(0.001)


def start(
    arguments: Sequence[object],
    env: Mapping[str, str],
    directory: Path,
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int | IO[Any] = subprocess.DEVNULL,
    stderr: int | IO[Any] = subprocess.DEVNULL,
) -> Process:
    """
    Start Python, with warnings as errors.

    Args:
        arguments: `-m MODULE` or a file, and then those of the program.
        env: Its whole environment.
        directory: Where it runs.
        stdin: A descriptor or `subprocess.DEVNULL`.
        stdout: A file, a descriptor or `subprocess.DEVNULL`.
        stderr: As `stdout`.
    """
    reports, its_end = socket.socketpair()
    with its_end, Path(os.devnull).open("r+b") as nothing:
        files = [
            nothing if each == subprocess.DEVNULL else each for each in (stdin, stdout, stderr)
        ]
        descriptors = [each if isinstance(each, int) else each.fileno() for each in files]
        with _starting:
            template = _template()
        socket.send_fds(template, [b"\n"], [*descriptors, its_end.fileno()])
    job = [*map(str, arguments)], dict(env), str(directory)
    reports.sendall(json.dumps(job).encode() + b"\n")
    return Process(_number_from(reports), reports)


def run(
    arguments: Sequence[object], env: Mapping[str, str], directory: Path, timeout: float = 60.0
) -> subprocess.CompletedProcess[str]:
    """Run Python to its end, and return what it printed."""
    with TemporaryFile("w+") as out, TemporaryFile("w+") as error:
        process = start(arguments, env, directory, stdout=out, stderr=error)
        with ExitStack() as finally_:
            finally_.callback(process.kill)
            code = process.wait(timeout)
        out.seek(0)
        error.seek(0)
        command = [*map(str, arguments)]
        return subprocess.CompletedProcess(command, code, out.read(), error.read())


def _number_from(reports: socket.socket) -> int:
    number = reports.recv(_NUMBER)
    assert number, "the template has ended"
    return int.from_bytes(number, signed=True)


@cache
def _template() -> socket.socket:
    """Start the template; it ends with this process, and so do its processes."""
    requests, its_end = socket.socketpair()
    with its_end:
        process = subprocess.Popen(
            [sys.executable, "-W", "error", __file__, str(its_end.fileno())],
            env=ENVIRONMENT,
            pass_fds=[its_end.fileno()],
            start_new_session=True,
        )

    def end() -> None:
        requests.close()
        process.wait()

    atexit.register(end)
    return requests


def _forked(requests: socket.socket) -> list[str]:
    """Fork on each request, and return the arguments in the new process."""
    for name in _IMPORTED:
        import_module(name)
    gc.freeze()  # so that no collection touches, and copies, what the processes share
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the system reaps the keepers
    while True:
        request, descriptors, _, _ = socket.recv_fds(requests, 1, 4)
        if not request:
            os.killpg(0, signal.SIGKILL)
        if os.fork() == 0:
            requests.close()
            return _kept(*descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _kept(*descriptors: int) -> list[str]:
    """Fork, and return the arguments in the new process; in this one, report how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    *files, its_end = descriptors
    reports = socket.socket(fileno=its_end)
    with reports.makefile() as lines:
        arguments, environment, directory = json.loads(lines.readline())
    pid = os.fork()
    if pid == 0:
        reports.close()
        _become(files, environment, directory)
        return list(arguments)
    for file in files:
        os.close(file)
    reports.sendall(pid.to_bytes(_NUMBER, signed=True))
    _, status = os.waitpid(pid, 0)
    reports.sendall(os.waitstatus_to_exitcode(status).to_bytes(_NUMBER, signed=True))
    os._exit(0)


def _become(files: Sequence[int], environment: Mapping[str, str], directory: str) -> None:
    """Take over standard streams, environment and directory."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(directory)
    time.tzset()
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        before = getattr(sys, name)
        is_block = number < 2 and "PYTHONUNBUFFERED" not in os.environ and not os.isatty(number)
        stream = open(  # noqa: SIM115  # a descriptor, until the process ends
            number,
            "w" if number else "r",
            -1 if is_block else 1,
            encoding=before.encoding,
            errors=before.errors,
            closefd=False,
        )
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def main() -> None:
    program, *rest = _forked(socket.socket(fileno=int(sys.argv[1])))
    if program == "-m":
        sys.path.insert(0, str(Path.cwd()))
        sys.argv[:] = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.path.insert(0, str(Path(program).parent))
        sys.argv[:] = [program, *rest]
        runpy.run_path(program, run_name="__main__")


if __name__ == "__main__":
    main()
