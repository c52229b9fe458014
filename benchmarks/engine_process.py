"""An engine in a process of its own: it gets a task a line and answers each with a line, both JSON.

Both ends are here, and neither knows what a task does, nor needs more than Python: the child may run in another
environment. What an engine prints goes to a log, so that it cannot get between the answers.
"""

import contextlib
import functools
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

Tasks = Mapping[str, Callable[..., Any]]
LAST_LINES = 15


class EngineProcessError(Exception):
    """A task failed, or the process ended; the message says which and shows the end of the log, `reason` is a line."""

    def __init__(self, reason: str, log: Path):
        lines = log.read_text(errors="replace").splitlines()[-LAST_LINES:]
        super().__init__(f"{reason}; the end of {log}:\n" + "\n".join(lines))
        self.reason = f"{' '.join(reason.split())} (see {log})"


class EngineProcess:
    """The parent's end; ready for tasks once made. Raises `EngineProcessError` where the engine does not start."""

    def __init__(self, command: Sequence[str], log: Path, environment: Mapping[str, str] | None = None):
        log.parent.mkdir(parents=True, exist_ok=True)
        self._log = log
        with log.open("w") as errors:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                env=dict(os.environ if environment is None else environment),
            )
        try:
            self._answer("start")
        except EngineProcessError:
            self.close()
            raise

    def __enter__(self) -> "EngineProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def ask(self, task: str, **arguments: Any) -> Any:
        """What the task returns; nothing else runs in the process meanwhile."""
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # it ended: reading its answer says so
            self._process.stdin.write(json.dumps([task, arguments]) + "\n")
            self._process.stdin.flush()
        return self._answer(task)

    def close(self) -> None:
        """Ends the process: its input ends, and it is killed where it does not follow in half a minute."""
        if self._process.stdin is not None and not self._process.stdin.closed:
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.close()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _answer(self, task: str) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise EngineProcessError(f"{task}: the process ended with code {self._process.wait()}", self._log)
        answer = json.loads(line)
        if "error" in answer:
            raise EngineProcessError(f"{task}: {answer['error']}", self._log)
        return answer["result"]


def answer_tasks(start: Callable[[], Tasks]) -> None:
    """The child's end: starts the engine, then runs tasks until the input ends, and `close`, if it is one, last.

    Standard output becomes the answers' alone: whatever else is written to it goes to standard error.
    """
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def run(call: Callable[[], Any]) -> Any:
        result = None
        try:
            result = call()
            answer: dict[str, Any] = {"result": None if call is start else result}
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        return result

    tasks = run(start)
    if tasks is None:
        sys.exit(1)
    for line in sys.stdin:
        task, arguments = json.loads(line)
        run(functools.partial(tasks[task], **arguments))
    if "close" in tasks:
        tasks["close"]()
