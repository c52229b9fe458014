"""A server as a process of its own, which tells on standard output how far it is and is told things on its input."""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path


class Process:
    """`python ARGUMENTS`; its standard error goes to `log`."""

    def __init__(self, arguments: Sequence[str | Path], log: Path):
        self._log = log
        with log.open("w") as errors:
            self.popen = subprocess.Popen(
                [sys.executable, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=log.parent,
                env=os.environ | {"PYTHONUNBUFFERED": "1"},
            )

    @property
    def said(self) -> str:
        """What it said on standard error so far."""
        return self._log.read_text(errors="replace")

    def until(self, beginning: str) -> str:
        """The next line that begins so."""
        assert self.popen.stdout is not None
        for line in self.popen.stdout:
            if line.startswith(beginning):
                return line.strip()
        raise AssertionError(f"it ended before it said {beginning!r}: {self.said}")

    def tell(self, order: str) -> str:
        """Gives an order; what it answers that it did."""
        assert self.popen.stdin is not None
        self.popen.stdin.write(order + "\n")
        self.popen.stdin.flush()
        return self.until(f"did {order}")

    def end(self) -> int:
        """Waits for its end; its exit code."""
        self.popen.communicate(timeout=120)
        return self.popen.returncode

    def kill(self) -> None:
        self.popen.kill()
        self.popen.communicate()
