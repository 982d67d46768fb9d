"""A server that can be killed at any moment and started again on the same folder."""

from __future__ import annotations

from pathlib import Path

from tools.server import LOG, start_server

START_SECONDS = 90
# Streamlit, with a run saved more often than usual, so that more kills meet a save.
CODE = """
import sys
from lib.runs import training_run
training_run.SAVE_SECONDS, training_run.SAVE_FACTOR = float(sys.argv.pop(1)), 1
from streamlit.web import cli
sys.exit(cli.main())
"""


class Server:
    """`streamlit run app.py` in `folder`, a copy of the project. A run is saved every `save_seconds`."""

    def __init__(self, folder: Path, save_seconds: float) -> None:
        self.log = folder / LOG
        python = ("-c", CODE, str(save_seconds))
        self.process, self.url = start_server(folder, python=python, seconds=START_SECONDS)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        """Send SIGKILL: nothing that is not yet written will be."""
        self.process.kill()
        self.process.wait(30)

    def stop(self) -> None:
        """Send SIGTERM. Raises AssertionError if the log has a traceback."""
        self.process.terminate()
        self.process.wait(timeout=30)
        log = self.log.read_text()
        assert "Traceback" not in log, log

    def resident_bytes(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
