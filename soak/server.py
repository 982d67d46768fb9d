"""A server that can be killed at any moment and started again on the same folder."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

START_SECONDS = 90
# The real server, which writes its runs more often than it would: as many kills as possible shall meet a save.
CODE = """
import sys
from lib.runs import training_run
training_run.SAVE_SECONDS, training_run.SAVE_FACTOR = float(sys.argv.pop(1)), 1
from streamlit.web import cli
sys.exit(cli.main())
"""


class Server:
    """`streamlit run app.py` in `folder`, a copy of the project."""

    def __init__(self, folder: Path, save_seconds: float) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / "server.log"
        options = ["run", "app.py", "--server.port", str(port), "--server.headless", "true"]
        with self.log.open("a") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-c", CODE, str(save_seconds), *options],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        end = time.monotonic() + START_SECONDS
        while True:
            try:
                with urllib.request.urlopen(f"{self.url}/_stcore/health", timeout=1):
                    return
            except OSError:
                assert time.monotonic() < end, self.log.read_text()
                assert self.process.poll() is None, self.log.read_text()
                time.sleep(0.1)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.kill()

    def kill(self) -> None:
        """SIGKILL: nothing that the process holds back is written."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """As by ctrl-C; fails where a traceback was printed."""
        self.process.terminate()
        self.process.wait(timeout=30)
        assert "Traceback" not in self.log.read_text(), self.log.read_text()

    def resident_bytes(self) -> int:
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmRSS:"))
