"""Train many different networks for some batches in one process, and open the pages with each.

    python -m soak.many_networks FOLDER

Prints the memory in use after each network, in MB, as a JSON list.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from streamlit.testing.v1 import AppTest

from lib.design.notation import parse
from lib.design.recipe import Recipe
from lib.runs.training_run import StopAt
from lib.storage import checkpoints
from lib.ui.cache import run_manager
from tools import ROOT

# Networks with and without the fast path; narrow, wide, deep; with and without a fully connected head.
NETWORKS = [
    "4 4 8 M 8 8 8 M 8v 10v A", "4 8 M 8v 10v A", "16 M 16 M 10 A", "8n 8n M 16n M 10n A", "32 M 32 M 10 A",
    "64 M 64 10 A", "4k5 M 8k5 10 A", "8 8 8 8 8 8 M 10 A", "16s2 32s2 10 A", "8 M 8 M 32f 10f",
    "100 M 10 A", "12 12 M 12 12 M 12v 10v A", "8d2 8d2 M 10 A", "24b M 24b M 10 A", "16 A2s2 16 A2s2 10 A",
    "6 6 6 M 10 A", "20k3p2 M 20 M 10 A", "4 M 4 M 4 10 A", "48n M 48n M 10 A", "16 D20 M 16 D20 10 A",
]  # fmt: skip
STEPS, SECONDS = 20, 120


def resident() -> float:
    """Memory of this process, in MB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1000


def main(folder: Path) -> None:
    checkpoints.SAVED_FOLDER = folder
    used = []
    for network in NETWORKS:
        run = run_manager().start(parse(network), Recipe(batch_size=256), stop_at=StopAt(step=STEPS))
        assert run.wait(SECONDS)
        assert run.status == "paused", run.snapshot()
        for page in ("draw", "inspect", "errors"):
            at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=SECONDS).run()
            at.switch_page(f"pages/{page}.py").run()
            at.selectbox(key="reader").set_value(run.identity).run()
            assert not at.exception, at.exception
            assert at.selectbox(key="reader").value == run.identity
        used.append(resident())
    print(json.dumps(used))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
