"""Read-only folders, as an ordinary user: every page and the command line say that they cannot save."""

from __future__ import annotations

import json
from pathlib import Path

from lib.storage import checkpoints
from lib.storage.checkpoints import SUFFIX
from tests.test_regular_file import SOUND, as_nobody, needs_root, open_path

__all__ = ["open_path"]

# Root opens every page first: other users may not be able to read what Streamlit imports late.
PAGES = """
import json, shutil
import streamlit as st
from streamlit.testing.v1 import AppTest
from lib.ui.cache import run_manager
folder, writable = map(Path, sys.argv[1:])
names = ("design", "train", "draw", "inspect", "errors", "photos")

def visit(saved, own):
    checkpoints.SAVED_FOLDER, digit_sets.FOLDER = saved, own
    st.cache_resource.clear(); st.cache_data.clear()
    at = AppTest.from_file("app.py", default_timeout=120)
    at.query_params["net"], at.query_params["epochs"] = "2 10 A", "1"
    at.run()
    found = {}
    for name in names:
        if name != "design":
            at.switch_page(f"pages/{name}.py").run()
        if name == "train":
            at.session_state["all_runs"] = True
            next(b for b in at.button if b.label == "Start training").click().run()
            for run in run_manager().runs():
                run.wait(120)
            at.run()
            for label in ("Resume", "Delete"):
                for button in at.button:
                    if button.label == label and not button.disabled:
                        button.click().run()
                        break
        if name == "photos":
            at.text_input(key="set_name").set_value("mine").run()
            next(b for b in at.button if b.label == "Create").click().run()
        found[name] = {
            "exception": [each.value for each in at.exception],
            "said": [str(each.value) for each in [*at.error, *at.warning]],
        }
    return found

visit(writable / "saved", writable / "own")
"""


@needs_root
def test_every_page_says_what_could_not_be_saved(open_path: Path) -> None:
    folder = open_path / "read-only"
    checkpoints.save(SOUND, folder / "saved" / f"sound{SUFFIX}")
    (folder / "own").mkdir()
    for each in (folder / "saved", folder / "own", folder):
        each.chmod(0o555)
    before = {path.relative_to(folder).as_posix() for path in folder.rglob("*")}
    code = 'print(json.dumps(visit(folder / "saved", folder / "own")))'
    output = as_nobody(code, str(folder), str(open_path / "writable"), first=PAGES)
    found = json.loads(output.splitlines()[-1])
    assert {page: each["exception"] for page, each in found.items()} == {page: [] for page in found}
    assert any("could not be saved (Permission denied)" in said for said in found["train"]["said"]), found
    assert any("“mine” could not be saved (Permission denied)" in said for said in found["photos"]["said"]), found
    assert {path.relative_to(folder).as_posix() for path in folder.rglob("*")} == before


@needs_root
def test_the_command_line_says_that_a_folder_is_read_only(open_path: Path) -> None:
    folder = open_path / "runs"
    folder.mkdir()
    folder.chmod(0o555)
    code = """
import contextlib
from lib.__main__ import main
folder = sys.argv[1]
with contextlib.redirect_stderr(sys.stdout):
    for arguments in (["2 10 A", "--runs-dir", folder], ["2 10 A", "--runs-dir", folder + "/inner"]):
        print(main(["train", *arguments]))
"""
    assert as_nobody(code, str(folder)).splitlines() == [
        f"The folder {folder} cannot be written to. Name another one.",
        "2",
        f"The folder {folder}/inner cannot be made (Permission denied). Name another one.",
        "2",
    ]
    assert list(folder.iterdir()) == []
