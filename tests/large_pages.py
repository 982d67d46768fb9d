"""The pages with an untrained network of 7,290 parameters whose maps grow to 1,148 pixels a side, under a limit.

python -m tests.large_pages FOLDER PAGE...    prints as JSON what each page says, and the peak above the start in MB
"""

from __future__ import annotations

import json
import resource
import sys
from pathlib import Path

from streamlit.testing.v1 import AppTest

from lib.data import dataset
from lib.design.notation import parse
from lib.design.recipe import Recipe
from lib.nn.network import build
from lib.storage import checkpoints, digit_sets
from lib.storage.checkpoints import Checkpoint, Summary
from tests.large_networks import LIMIT, memory

TEXT = "16k1p28 " * 20 + "10 A"
ROOT = Path(__file__).parent.parent


def main(folder: Path, pages: list[str]) -> None:
    checkpoints.FOLDER, checkpoints.SAVED_FOLDER, digit_sets.FOLDER = folder, folder / "saved", folder / "own"
    architecture = parse(TEXT)
    summary = Summary("Large", architecture, Recipe(epochs=1, batch_size=1), 0, None, "2026-11-25T00:00:00+00:00")
    weights = build(architecture).state_dict()
    checkpoints.save(Checkpoint(summary, weights), checkpoints.FOLDER / "large.safetensors")
    dataset.load()
    # What a server has anyway: all that the pages import, and the first page that was opened.
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=300)
    at.query_params["net"] = TEXT
    at.run()
    start, address_space = memory("VmRSS"), memory("VmSize")
    resource.setrlimit(resource.RLIMIT_AS, (address_space + LIMIT, address_space + LIMIT))
    at.session_state["reader"], at.session_state["source"] = "large", "A test image"
    said: dict[str, object] = {}
    for page in pages:
        at.switch_page(f"pages/{page}.py").run()
        assert not at.exception, at.exception[0].value
        said[page] = [str(element.value) for element in (*at.error, *at.caption, *at.markdown)]
        if page == "inspect":
            for section in ("What decides", "Receptive fields"):
                at.segmented_control(key="section").set_value(section).run()
                assert not at.exception, at.exception[0].value
                said[section] = [str(element.value) for element in (*at.error, *at.caption)]
    print(json.dumps({"peak": (memory("VmHWM") - start) // 10**6, **said}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
