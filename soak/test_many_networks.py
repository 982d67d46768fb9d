"""Memory does not grow with the number of networks that were trained and read."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from soak.many_networks import NETWORKS
from tools import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_twenty_networks_leave_little_memory_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "soak.many_networks", str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-2000:]
    used = json.loads(done.stdout)
    assert len(used) == len(NETWORKS) == 20
    assert max(used) < 1_800
    # Between these two groups are ten networks: a leak of each of them would count ten times.
    assert min(used[-5:]) - min(used[5:10]) < 200, used
