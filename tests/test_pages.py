"""Every page, run by Streamlit without a browser: what it shows, and what it says when something is wrong."""

from __future__ import annotations

import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
import torch
from streamlit.runtime.scriptrunner import magic
from streamlit.testing.v1 import AppTest

from lib.data import dataset, handwriting, public_results
from lib.data.dataset import Dataset
from lib.data.public_results import PublicResult
from lib.design.layers import MAX_LAYERS, ArchitectureError
from lib.design.notation import parse
from lib.design.notation_tables import TABLES, markdown_table
from lib.design.presets import PRESETS
from lib.design.recipe import RECIPES, Recipe
from lib.inference import photos
from lib.runs import run_store
from lib.runs.training_run import Run
from lib.storage import checkpoints, digit_sets
from lib.ui import public_results_panel, warm_up, widgets
from lib.ui.cache import live_calibrator, run_manager
from lib.ui.page import DESIGN, INSPECT, PAGES, Page
from lib.ui.url_state import HIDEABLE_SECTIONS
from tests.drawings import LETTER_H, SEVEN, canvas_state
from tests.photographs import photo
from tools.waiting import until

ROOT = Path(__file__).parent.parent
# As many layers as a network may have, with a suffix each.
LONGEST = " ".join(["4k3s1d1p1b"] * (MAX_LAYERS - 2) + ["10", "A"])


@pytest.fixture(autouse=True)
def own_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calibrated_once: None) -> Iterator[None]:
    """Each test finds a server that has just started, and saves into a folder of its own."""
    monkeypatch.setattr(checkpoints, "SAVED_FOLDER", tmp_path / "saved")
    monkeypatch.setattr(digit_sets, "FOLDER", tmp_path / "own")
    st.cache_resource.clear()
    st.cache_data.clear()
    yield
    for run in run_manager().runs():
        run.stop()
        assert run.wait(60)


def visit(page: str, **query: str) -> AppTest:
    at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=60)
    for name, value in query.items():
        at.query_params[name] = value
    at.run()
    if page != "design":
        at.switch_page(f"pages/{page}.py").run()
    assert not at.exception
    return at


def words(at: AppTest) -> str:
    """All text of the page."""
    shown: list[Any] = [
        *at.title,
        *at.header,
        *at.subheader,
        *at.markdown,
        *at.caption,
        *at.error,
        *at.info,
        *at.warning,
        *at.success,
    ]
    return "\n".join(str(element.value) for element in shown)


def edit(at: AppTest, layer: int, action: str) -> None:
    menu: Any = at.menu_button(key=f"edit_{layer}")
    menu.click(action).run()


def rows(at: AppTest) -> dict[str, list[object]]:
    frame = at.table[0].value
    frame["Output"] = frame["Output"].str.replace("\u00a0", " ")
    return {str(row.iloc[0]): list(row.iloc[1:]) for _, row in frame.iterrows()}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_page_opens_and_says_what_to_do(page: Page) -> None:
    at = visit(page.name)
    assert [title.value for title in at.title] == [page.heading]
    hints = {
        "design": "Choose the number of channels",
        "train": "Press Start training",
        "draw": "Draw a digit, 0 to 9",
        "inspect": "A cross marks a dead channel",
        "errors": "Click a cell of the matrix",
        "photos": "Dark ink on light paper, or light on dark",
    }
    assert hints[page.name] in words(at)
    assert not at.error


def test_no_page_is_parsed_into_a_syntax_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    """That fails in Python 3.11 where two threads do it at once."""

    def parsed(*_: object) -> None:
        raise SystemError("AST constructor recursion depth mismatch")

    monkeypatch.setattr(magic, "add_magic", parsed)
    assert visit("design").title[0].value == DESIGN.heading


def test_the_design_page_shows_the_answers_table_with_its_sums() -> None:
    table = rows(visit("design"))
    assert len(table) == 12
    ninth = table["9 · 3×3 convolution, no padding :orange-badge[> 28]"]
    assert ninth == ["20 × 5 × 5", 2940, pytest.approx(2940 / 9274), 72_000, 4 * 64 * 3 * 500, 30, 4, 5.5]
    assert table["**Total**"][:5] == ["", 9274, pytest.approx(1), 1_217_160, 4 * 64 * 65_104]


def test_a_slider_changes_the_table_the_text_and_the_verdict() -> None:
    at = visit("design")
    at.select_slider(key="width_0").set_value(8).run()
    assert at.text_input(key="net").value == "8 4 8 M 12 12 16 M 20v 10v A"
    assert rows(at)["**Total**"][1] == 9274 + 4 * 12 + 4 * 4 * 9
    at.select_slider(key="width_6").set_value(128).run()
    assert "missed" in words(at)
    assert at.select_slider(key="width_9").disabled


def test_layers_are_added_moved_and_removed_and_undo_brings_them_back() -> None:
    at = visit("design", net="4 8 M 10 A")
    edit(at, 1, "Add a convolution above")
    assert at.text_input(key="net").value == "4 4 8 M 10 A"
    edit(at, 3, "Move up")
    assert at.text_input(key="net").value == "4 4 M 8 10 A"
    edit(at, 0, "Remove")
    assert at.text_input(key="net").value == "4 M 8 10 A"
    for expected in ("4 4 M 8 10 A", "4 4 8 M 10 A", "4 8 M 10 A"):
        next(button for button in at.button if button.label == "Undo").click().run()
        assert at.text_input(key="net").value == expected
    assert next(button for button in at.button if button.label == "Undo").disabled


def test_branches_are_named_in_the_editor_and_edited_as_a_whole() -> None:
    at = visit("design", net="8 add( 8b 8x N ) M cat( 4k1 / 4k5 / ) 10 A")
    shown = [element.value for element in at.markdown if element.value.startswith(":gray-background[")]
    assert [text.removeprefix(":gray-background[").removesuffix("]") for text in shown] == [
        "2 · Residual block",
        "5 · Batch norm",
        "6 · Sum with the input",
        "7 · 2×2 max-pool",
        "8 · Branches to concatenate",
        "10 · Branch 2",
        "12 · Branch 3: the input itself",
        "13 · Concatenation of the branches",
        "15 · Global average pool",
    ]
    edit(at, 1, "Keep only the first branch")
    assert at.text_input(key="net").value == "8 8b 8x N M cat( 4k1 / 4k5 / ) 10 A"
    network_menu: Any = at.menu_button(key="edit_network")
    network_menu.click("Without bias").run()
    assert at.text_input(key="net").value == "bias=off | 8 8b 8x N M cat( 4k1 / 4k5 / ) 10 A"


def test_a_field_of_different_height_and_width_is_shown_as_both() -> None:
    at = visit("design", net="8k3x1 M 10 A", compare="8 M 10 A")
    assert not at.exception
    field = at.table[0].proto.arrow_data.styler.display_values
    assert "3\u00a0×\u00a01".encode() in field
    assert "34\u00a0×\u00a032".encode() in field
    metrics = {metric.label: (metric.value, metric.delta) for metric in at.metric}
    assert metrics["Receptive field of B"] == ("34", "34 × 32 in A")
    both = at.table[1].proto.arrow_data.styler.display_values
    assert "34\u00a0×\u00a032".encode() in both


def test_all_of_the_notation_is_on_the_design_page() -> None:
    shown = words(visit("design"))
    for title in TABLES:
        assert markdown_table(title) in shown
    assert "All of the notation" not in words(visit("design", hide="network"))
    assert markdown_table("Layers") not in words(visit("design", hide="network"))


@pytest.mark.parametrize("preset", PRESETS, ids=lambda preset: preset.title)
def test_every_preset_loads_with_its_story(preset: object) -> None:
    at = visit("design", net="4 M 10 A")
    at.pills(key="preset").set_value(preset.title).run()  # type: ignore[attr-defined]
    assert not at.exception
    assert at.text_input(key="net").value == preset.text  # type: ignore[attr-defined]
    assert preset.description in words(at)  # type: ignore[attr-defined]


def test_wide_fields_are_marked_and_the_assignments_comments_corrected() -> None:
    at = visit("design")
    marked = [name for name in rows(at) if "> 28" in name]
    assert [name.split(" ·")[0] for name in marked] == ["9", "10", "11"]
    stated = at.table[1].value
    assert stated["Comment"].tolist()[3:8] == ["no comment", "14", "16", "18", "no comment"]
    assert stated["Correct"].tolist() == ["3", "5", "7", "8", "12", "16", "20", "22", "30", "38", "46"]
    at = visit("design", net="4v 8v M 10v")
    assert at.error
    at = visit("design", net="4 M 8 10s28")
    assert len(at.table) == 1
    assert not [name for name in rows(at) if "> 28" in name]


def test_positions_that_no_logit_reads_are_marked() -> None:
    at = visit("design", net=PRESETS[1].text)
    marked = [name for name in rows(at) if "positions used" in name]
    assert [name.split(":violet-badge")[1] for name in marked] == [
        "[25 of 36 positions used]",
        "[9 of 16 positions used]",
    ]
    assert "the last rows and columns are left over" in words(at)
    assert "positions used" not in words(visit("design"))


def test_two_designs_are_compared_by_layer_and_in_total() -> None:
    at = visit("design", compare="4 4 10 M 12 12 16 M 20v 10v A")
    frame = at.table[2].value
    assert frame["Δ parameters"].tolist() == [0, 0, 2 * 36 + 2 + 4, 0, 2 * 108, *[0] * 6, 294]
    metrics = {metric.label: (metric.value, metric.delta) for metric in at.metric}
    assert metrics["Parameters of B"] == ("9,568", "+294 from A")
    assert metrics["Receptive field of B"] == ("46", "same as A")
    next(button for button in at.button if button.label == "Clear").click().run()
    assert len(at.table) == 2
    next(button for button in at.button if button.label == "Compare the two").click().run()
    assert at.query_params["compare"] == PRESETS[1].text
    assert "Design B, layer 10 · 3×3 convolution, no padding: 9 of 16 positions used" in words(at)
    at.text_input(key="compare").set_value("4 x").run()
    assert "Design B: Token 2, “x”, is not a layer." in at.error[0].value
    next(button for button in at.button if button.label == "Use the current design as B").click().run()
    assert at.text_input(key="compare").value == PRESETS[0].text


@pytest.mark.parametrize("part", HIDEABLE_SECTIONS)
def test_a_teacher_hides_a_part_by_the_address(part: str) -> None:
    at = visit("design", hide=part)
    assert not at.exception
    whole = visit("design")
    checks: dict[str, Callable[[AppTest], bool]] = {
        "presets": lambda at: not any(pills.key == "preset" for pills in at.pills),
        "network": lambda at: not any(field.key == "net" for field in at.text_input),
        "verdicts": lambda at: "No fully connected layer" not in words(at),
        "estimate": lambda at: "training an epoch" not in words(at) and "Measuring how fast" not in words(at),
        "drawing": lambda at: len(at.get("bidi_component")) == 2,
        "layers": lambda at: not at.select_slider,
        "table": lambda at: not at.table,
        "costs": lambda at: "Parameters and MACs per layer" not in words(at),
        "public": lambda at: "Public results" not in words(at),
        "compare": lambda at: not any(field.key == "compare" for field in at.text_input),
        "take": lambda at: all(expander.label != "Export" for expander in at.expander),
        "guess": lambda at: not any(toggle.key == "guess" for toggle in at.toggle),
        "recipe": lambda at: not at.switch_page("pages/train.py").run().number_input,
        "teacher": lambda at: not at.multiselect,
    }
    assert not checks[part](whole)
    assert checks[part](at)


def test_what_is_hidden_is_chosen_in_the_page_and_kept_by_the_address() -> None:
    at = visit("design")
    at.multiselect(key="hide").set_value(["presets", "verdicts"]).run()
    assert at.query_params["hide"] == "presets,verdicts"
    at.switch_page("pages/train.py").run()
    assert at.query_params["hide"] == "presets,verdicts"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"hide": "tabel"}, "“hide=tabel” in the address could not be read and is left out. It is a list"),
        ({"guess": "maybe"}, "“guess=maybe” in the address"),
        ({"layer": "999"}, "“layer=999”"),
        ({"epochs": "many"}, "“epochs=many”"),
    ],
)
def test_an_address_that_cannot_be_read_is_named(query: dict[str, str], says: str) -> None:
    at = visit("design", **query)
    assert says in words(at)
    assert len(at.table) == 2


def test_the_cost_is_estimated_before_training() -> None:
    at = visit("design")
    for _ in range(600):
        if warm_up.machine_profile():
            break
        time.sleep(0.1)
    assert "of training an epoch" in words(at.run())
    assert "for the 19 that the budget allows" in words(visit("train"))


@pytest.mark.slow
def test_a_hundred_texts_of_junk_give_a_hundred_sentences() -> None:
    rng = random.Random(0)
    letters = "0123456789 kKsSdDpPvVbBnNmMaAfF,.-+*/;:<>{}[]()'\"\\\n\t\0é漢🙂"
    at = visit("design")
    sentences = 0
    while sentences < 100:
        text = "".join(rng.choices(letters, k=rng.randint(1, 60)))
        try:
            parse(text)
        except ArchitectureError:
            at.text_input(key="net").set_value(text).run()
            assert not at.exception
            assert [error.value.endswith(".") for error in at.error] == [True]
            sentences += 1


def test_nothing_is_told_while_the_class_guesses() -> None:
    at = visit("design", guess="true")
    frame = at.table[0].value
    assert list(frame.columns) == ["[Layer](#layers)", "Output", "MACs", "Memory"]
    assert "9,274" not in words(at)
    assert "> 28" not in words(at)
    assert "Public results" not in words(at)
    assert len(at.table) == 1
    assert not at.code
    at.toggle(key="guess").set_value(False).run()
    assert rows(at)["**Total**"][1] == 9274


def test_the_network_is_taken_away_as_source_and_tables() -> None:
    at = visit("design", net="4 M 10 A")
    assert not at.code
    at.session_state["take"] = True
    at.run()
    buttons: list[Any] = list(at.get("download_button"))
    assert [button.label for button in buttons] == [
        "PyTorch source",
        "Table as CSV",
        "Table as Markdown",
    ]
    assert "nn.Conv2d(1, 4, 3, padding=1)" in at.code[0].value


def test_a_click_on_a_public_result_loads_its_network_and_undo_brings_the_old_one_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    results = (
        PublicResult(9_922, 14, 99.4, 99.36, 0, "4 M 10 A"),
        PublicResult(9_922, 20, 99.5, 99.36, 0, "8 M 10 A"),
        PublicResult(13_820, 19, 99.5, 99.1, 0, ""),
    )
    picks = [("9922", "99.36"), ("13820", "99.1"), ("5", "99.36"), ("nan", "<b>"), ("9" * 5000, "1e999")]

    def buttons(figure: str, *, key: str, on_pick: Callable[[str, str], None], **options: object) -> None:
        for number, place in enumerate(picks):
            st.button(f"Pick {number}", key=f"pick_{number}", on_click=on_pick, args=place)

    monkeypatch.setattr(public_results, "load", lambda: results)
    monkeypatch.setattr(public_results_panel, "live_figure", buttons)
    at = visit("design", net="10k7v A")
    for number in (1, 2, 3, 4):
        at.button(key=f"pick_{number}").click().run()
        assert not at.exception
        assert at.text_input(key="net").value == "10k7v A"
    # Two networks are at one point.
    for expected in ("4 M 10 A", "8 M 10 A", "4 M 10 A"):
        at.button(key="pick_0").click().run()
        assert at.text_input(key="net").value == expected
    for expected in ("8 M 10 A", "4 M 10 A", "10k7v A"):
        press(at, "Undo")
        assert at.text_input(key="net").value == expected
    assert next(button for button in at.button if button.label == "Undo").disabled


def test_a_public_network_is_chosen_from_a_list() -> None:
    at = visit("design", net="4 M 10 A")
    result = public_results.load()[0]
    menu = at.selectbox(key="public_network")
    assert len(menu.options) > 200
    menu.set_value(menu.options[0]).run()
    assert at.text_input(key="net").value == result.notation
    assert rows(at)["**Total**"][1] == result.params
    assert at.selectbox(key="public_network").value is None
    press(at, "Undo")
    assert at.text_input(key="net").value == "4 M 10 A"


def test_without_the_public_results_the_page_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(public_results, "load", partial(public_results.load, tmp_path / "public-results.csv"))
    at = visit("design")
    assert [info.value for info in at.info] == [
        "data/public-results.csv cannot be read (No such file or directory). Restore it from the project."
    ]
    assert any(expander.label == "Export" for expander in at.expander)


def test_every_module_has_a_row_on_request() -> None:
    at = visit("design")
    at.toggle(key="modules").set_value(True).run()
    assert len(rows(at)) == 26
    assert rows(at)["7 · BatchNorm2d-19"][1] == 32


@pytest.mark.parametrize("text", ["", "4 x", "<script>", "16 10", "4 " * 90, "9" * 300])
@pytest.mark.parametrize("page", ["design", "train"])
def test_a_bad_network_gets_a_sentence_and_no_traceback(page: str, text: str) -> None:
    at = visit(page)
    at.text_input(key="net").set_value(text).run()
    assert not at.exception
    assert len(at.error) == 1
    assert at.error[0].value.endswith(".")
    if page == "design":
        assert rows(at)["**Total**"][1] == 9274
    else:
        assert next(button for button in at.button if button.label == "Start training").disabled


def test_a_bad_recipe_in_the_address_is_not_trained() -> None:
    at = visit("train", learning_rate="1e9", optimiser="Lion")
    assert at.error[0].value == (
        "The learning rate must be from 0.000001 to 10; 1,000,000,000 is outside. "
        "Open Recipe to change it, or choose a preset above."
    )
    assert next(button for button in at.button if button.label == "Start training").disabled
    for query in ({"epochs": "abc"}, {"batch_size": "1e3"}, {"seed": "9" * 30}, {"zoom": "nan"}, {"optimiser": "Lion"}):
        at = visit("train", **query)
        assert not at.error
        assert at.pills(key="recipe").value == RECIPES[0].title
    assert "batch size must be" in visit("train", batch_size="0").error[0].value


def test_the_address_holds_a_recipe_to_the_last_digit_and_the_longest_network() -> None:
    at = visit("train", learning_rate="0.012345678901", net=LONGEST)
    assert at.number_input(key="learning_rate").value == 0.012345678901
    at.number_input(key="weight_decay").set_value(0.0123456789).run()
    assert at.query_params["weight_decay"] == "0.0123456789"
    assert at.query_params["learning_rate"] == "0.012345678901"
    assert at.text_input(key="net").value == LONGEST
    assert not at.error


def test_a_network_that_does_not_fit_into_memory_is_not_trained() -> None:
    at = visit("train", net="2048 2048 2048 2048 10 A", batch_size="4096")
    assert "GB are available" in at.error[0].value
    assert next(button for button in at.button if button.label == "Start training").disabled


def test_a_recipe_preset_fills_every_field() -> None:
    at = visit("train")
    at.pills(key="recipe").set_value("Thorough").run()
    assert at.selectbox(key="optimiser").value == "AdamW"
    assert at.number_input(key="epochs").value == 19
    assert at.number_input(key="rotation").value == 10
    assert at.pills(key="recipe").value == "Thorough"
    at.number_input(key="epochs").set_value(25).run()
    assert at.pills(key="recipe").value is None


def test_a_run_is_started_watched_from_a_second_tab_and_stopped() -> None:
    at = visit("train", net="4 M 8 M 10 A")
    next(button for button in at.button if button.label == "Start training").click().run()
    assert not at.exception
    (run,) = run_manager().runs()
    assert at.selectbox(key="run").value == run.identity
    until(lambda: run.snapshot().step >= 3)
    second = visit("train", run=run.identity)
    assert run.identity in words(second)
    # It has no cookie: another browser.
    press(second, "Stop")
    assert "was started in another browser (browser " in words(second)
    press(second, "Cancel")
    assert run.status == "running"
    press(second, "Stop")
    press(second, "Stop anyway")
    assert run.wait(60)
    for tab in (at, second):
        tab.run()
        assert "Stopped at step" in words(tab)


def test_what_another_browser_may_do_to_a_run_is_asked_first() -> None:
    at = visit("train", net="4 M 8 M 10 A")
    press(at, "Start training")
    (run,) = run_manager().runs()
    press(at, "Pause")
    assert run.wait(60)
    name = run.name
    other = visit("train", run=run.identity)

    def asked(action: Callable[[], object]) -> None:
        """The page asks, and leaves the run as it is; then it does what was asked for."""
        action()
        assert "was started in another browser" in words(other)
        assert (run.name, run.status, run.snapshot().lr_scale) == (name, "paused", 1.0)
        press(other, "Cancel")
        assert "was started in another browser" not in words(other)
        assert (run.name, run.status, run.snapshot().lr_scale) == (name, "paused", 1.0)

    asked(lambda: other.text_input(key="new_name").set_value("mine").run())
    assert other.text_input(key="new_name").value == name
    asked(lambda: other.select_slider(key="lr_multiplier").set_value(3.0).run())
    for label in ("Resume", "One step", "One epoch", "Stop", "Delete"):
        asked(partial(press, other, label))

    other.text_input(key="new_name").set_value("yours").run()
    press(other, "Rename anyway")
    assert run.name == "yours"
    other.select_slider(key="lr_multiplier").set_value(3.0).run()
    press(other, "Change learning rate anyway")
    assert run.snapshot().lr_scale == 3.0
    steps = run.snapshot().step
    press(other, "One step")
    press(other, "Train one step anyway")
    assert run.wait(60)
    assert run.snapshot().step == steps + 1
    press(other, "Delete")
    press(other, "Delete anyway")
    assert run_manager().runs() == []
    assert "yours was deleted." in words(other)


def test_a_run_of_the_command_line_is_asked_about_too() -> None:
    run = run_manager().start(parse("4 M 8 M 10 A"), Recipe())
    at = visit("train", run=run.identity)
    press(at, "Stop")
    assert "was started on the command line" in words(at)
    press(at, "Stop anyway")
    assert run.wait(60)
    assert run.status == "stopped"


@pytest.mark.parametrize("next_action", ["choose", "leave"])
def test_a_deleted_run_may_be_brought_back_until_something_else_is_done(next_action: str) -> None:
    at = visit("train", net="4 M 8 M 10 A")
    for _ in range(2):
        press(at, "Start training")
        press(at, "Stop")
    kept, gone = reversed(run_manager().runs())
    assert kept.wait(60)
    assert gone.wait(60)
    at.run()
    press(at, "Delete")
    assert "Undo" in labels(at)
    if next_action == "choose":
        at.selectbox(key="run").set_value(kept.identity).run()
    else:
        at.switch_page("pages/draw.py").run()
        at.switch_page("pages/train.py").run()
    assert "was deleted" not in words(at)
    assert "Undo" not in labels(at)


def test_a_tab_that_shows_a_deleted_run_is_told_so() -> None:
    at = visit("train", net="4 M 8 M 10 A")
    press(at, "Start training")
    (run,) = run_manager().runs()
    press(at, "Pause")
    assert run.wait(60)
    at.run()
    run_manager().delete(run)
    press(at, "Resume")
    assert f"{run.name} was deleted" in words(at)
    assert f"The run {run.identity} is not known here" in words(at)
    assert "Resume" not in labels(at)


def press(at: AppTest, label: str) -> AppTest:
    next(button for button in at.button if button.label == label).click().run()
    assert not at.exception
    return at


def labels(at: AppTest) -> set[str]:
    return {button.label for button in at.button}


@pytest.mark.slow
def test_a_run_is_paused_stepped_forked_and_goes_on() -> None:
    at = visit("train", net="4 M 8 M 10 A", epochs="2", batch_size="1000")
    press(at, "Start training")
    (run,) = run_manager().runs()
    until(lambda: run.snapshot().step >= 3)
    press(at, "Pause")
    assert run.wait(20)
    at.run()
    assert "Paused." in words(at)
    assert {"Resume", "One step", "One epoch", "Stop", "Fork"} <= labels(at)
    before = run.snapshot().step
    press(at, "One step")
    assert run.wait(20)
    assert run.snapshot().step == before + 1
    at.select_slider(key="lr_multiplier").set_value(0.1).run()
    assert run.snapshot().lr_scale == 0.1
    press(at, "Fork")
    assert "same initial weights, same order of the images" in words(at)
    at.number_input(key="learning_rate").set_value(0.05).run()
    assert "Changed: learning rate 0.015 → 0.05. Initial weights and the order of the images are the same." in words(at)
    press(at, "Start training")
    forked = run_manager().runs()[0]
    assert (forked.parent, forked.recipe.learning_rate) == (run.identity, 0.05)
    assert at.selectbox(key="ghost").value == run.identity
    at.selectbox(key="run").set_value(run.identity).run()
    press(at, "Resume")
    assert forked.wait(60)
    assert run.wait(60)
    at.run()
    assert run.status == forked.status == "finished"
    assert "Finished:" in words(at)
    # Each accuracy with its interval; the best one says by what it was chosen.
    assert [metric.label for metric in at.metric][:3] == [
        "Test accuracy, final epoch",
        "Training accuracy",
        "Best epoch: 2",
    ]
    assert all(re.fullmatch(r"95 % CI \d+\.\d\d–\d+\.\d\d %", metric.delta) for metric in at.metric[:3])
    assert "Chosen by the test images" in str(at.metric[2].help)


@pytest.mark.slow
def test_a_run_that_has_not_learned_says_why_and_starts_again_with_one_press() -> None:
    at = visit(
        "train", net="2 10 A", epochs="1", batch_size="1000", optimiser="SGD", learning_rate="0.00001",
        schedule="constant",
    )  # fmt: skip
    press(at, "Start training")
    (run,) = run_manager().runs()
    assert run.wait(60)
    at.run()
    (said,) = [warning.value for warning in at.warning]
    assert "the learning rate of 0.00001 is too low." in said
    assert not at.success
    assert "Finished:" in words(at)
    press(at, "Start again with a learning rate of 0.02")
    again, first = run_manager().runs()
    assert (first.identity, again.parent) == (run.identity, run.identity)
    assert again.recipe == replace(run.recipe, learning_rate=0.02)
    assert at.selectbox(key="run").value == again.identity
    assert at.number_input(key="learning_rate").value == 0.02
    assert again.wait(60)
    at.run()
    assert not at.warning
    assert at.success


def test_a_run_is_named_deleted_and_brought_back() -> None:
    at = visit("train", net="4 10 A", epochs="1", batch_size="4096")
    press(at, "Start training")
    (run,) = run_manager().runs()
    press(at, "Stop")
    until(lambda: not run.active)
    at.run()
    at.text_input(key="new_name").set_value("  Monday's   first ").run()
    assert run.name == "Monday's first"
    press(at, "Delete")
    assert run_manager().runs() == []
    assert "Monday's first was deleted." in words(at)
    press(at, "Undo")
    (again,) = run_manager().runs()
    assert (again.identity, again.name) == (run.identity, "Monday's first")
    at.session_state["all_runs"] = True
    at.run()
    assert "Monday's first" in str(at.table[-1].value)
    assert "this browser" in str(at.table[-1].value)


def test_a_tab_waits_with_three_runs_at_most() -> None:
    at = visit("train", net="4 10 A", epochs="50")
    for _ in range(4):
        press(at, "Start training")
    assert len(run_manager().runs()) == 4
    press(at, "Start training")
    assert "3 of your runs are waiting already" in words(at)
    assert len(run_manager().runs()) == 4


def test_held_out_images_leave_the_test_images_for_the_end() -> None:
    at = visit("train", validation="held-out", net="2 10 A", epochs="1", batch_size="4096")
    assert "5,000 of them are held out" in words(at)
    press(at, "Start training")
    (run,) = run_manager().runs()
    assert run.wait(60)
    until(lambda: not run.active)
    at.run()
    assert at.metric[0].label == "Test accuracy, final epoch"
    assert "held-out images" in str(at.metric[2].help)


def test_augmented_digits_are_shown() -> None:
    at = visit("train", rotation="0", shift="0", zoom="0")
    assert "All are 0" in words(at)
    at.number_input(key="rotation").set_value(20.0).run()
    assert not at.exception
    assert "All are 0" not in words(at)
    assert len(at.get("image")) == 1


def test_the_assignments_recipe_without_norm_brings_its_network() -> None:
    at = visit("train")
    at.pills(key="recipe").set_value("No batch norm").run()
    assert at.text_input(key="net").value == "4n 4n 8n M 12n 12n 16n M 20vn 10v A"
    assert at.pills(key="recipe").value == "No batch norm"
    at.pills(key="recipe").set_value("The assignment").run()
    assert at.text_input(key="net").value == PRESETS[0].text
    assert (at.selectbox(key="schedule").value, at.number_input(key="epochs").value) == ("plateau", 19)


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ({"batch_size": "0"}, "batch size must be from 1 to 4,096"),
        ({"learning_rate": "1000000000"}, "learning rate must be from"),
        ({"net": "4 M 4 M 4 M 4 M 4 M 10 A"}, "but only 1×1 reach it"),
        ({"net": "4 M 8 M 12v 12v 12v 10 A", "batch_size": "1"}, "cannot normalize a single value"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_it_begins(query: dict[str, str], says: str) -> None:
    at = visit("train", **query)
    assert says in words(at)
    assert next(button for button in at.button if button.label == "Start training").disabled


def test_the_verdict_on_accuracy_is_known_after_training_and_only_for_that_network() -> None:
    at = visit("train", net="4 M 10 A", epochs="1", batch_size="1000")
    next(button for button in at.button if button.label == "Start training").click().run()
    (run,) = run_manager().runs()
    until(lambda: not run.active)
    until(lambda: warm_up.machine_profile() is not None)
    at.run()
    assert "Finished:" in words(at)
    assert "Estimated at" in words(at)
    assert "of training an epoch, it took" in words(at)
    accuracy = run.snapshot().epochs[-1].test_accuracy
    assert accuracy is not None
    assert f"## {100 * accuracy:.2f} %" in words(visit("design", net="4 M 10 A"))

    # A later run has taken its place in memory, and its file has been lost.
    run.unload()
    path = run_store.path_of(run.identity, checkpoints.SAVED_FOLDER)
    path.rename(path.with_suffix(".lost"))
    assert f"## {100 * accuracy:.2f} %" not in words(visit("design", net="4 M 10 A"))
    path.with_suffix(".lost").rename(path)
    assert f"## {100 * accuracy:.2f} %" in words(visit("design", net="4 M 10 A"))
    assert "## Not trained yet" in words(visit("design", net="8 M 10 A"))


def test_an_unknown_run_in_the_address_is_said() -> None:
    assert "not known" in words(visit("train", run="run-7-abcdef"))


def test_a_damaged_data_file_is_a_sentence_on_the_train_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in dataset.MD5:
        shutil.copy(dataset.FOLDER / f"{name}.gz", tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").write_bytes(b"damaged")
    load = dataset.load
    monkeypatch.setattr(dataset, "load", lambda: load(tmp_path))
    at = visit("train")
    next(button for button in at.button if button.label == "Start training").click().run()
    (run,) = run_manager().runs()
    until(lambda: not run.active)
    at.run()
    assert not at.exception
    assert "t10k-labels-idx1-ubyte.gz is damaged" in at.error[0].value
    assert "download=True" in at.error[0].value


def learning(**query: str) -> tuple[AppTest, Run]:
    """The Train page with a run that has learnt from its first batch, unless it failed there."""
    at = visit("train", **query)
    press(at, "Start training")
    (run,) = run_manager().runs()
    until(lambda: run.weights or not run.active)
    return at, run


def test_a_drawn_seven_is_read_by_the_shipped_network() -> None:
    at = visit("draw")
    at.session_state["canvas"] = canvas_state(SEVEN)
    at.run()
    assert not at.exception
    assert "# Prediction: 7" in words(at)
    assert re.search(r"Probability (9\d|100)\.\d % · OOD percentile \d+\.\d", words(at))
    assert [part.label for part in at.expander] == ["What these numbers mean"]
    assert "Calibrated by temperature scaling" in words(at)


def test_a_letter_that_probabilities_take_for_a_digit_is_like_none() -> None:
    at = visit("draw")
    at.selectbox(key="reader").set_value("assignment-9274").run()
    at.session_state["canvas"] = canvas_state(LETTER_H)
    at.run()
    assert not at.exception
    assert "## Uncertain" in words(at)
    found = re.search(r"Not recognized as a digit; closest class: \d, with a probability of (\d+)", words(at))
    assert found, words(at)
    assert int(found.group(1)) >= 90


@pytest.mark.parametrize("data", ["data:image/png;base64,AAAA", "nonsense", "data:image/png;base64,", None, 7, {}, [1]])
def test_a_drawing_that_is_no_image_is_no_drawing(data: object) -> None:
    at = visit("draw")
    at.session_state["canvas"] = {"drawing": {"raw": {"objects": [{}]}, "data": data}, "backgroundFit": None}
    at.run()
    assert not at.exception
    assert "Nothing drawn yet" in words(at)


def test_a_network_in_training_may_be_chosen_and_becomes_the_saved_one() -> None:
    at, run = learning(net="4 M 10 A", epochs="1", batch_size="500")
    at.switch_page("pages/draw.py").run()
    at.session_state["canvas"] = canvas_state(SEVEN)
    at.selectbox(key="reader").set_value(run.identity).run()
    assert not at.exception
    until(lambda: not run.active)
    at.run()
    assert not at.exception
    assert at.selectbox(key="reader").value == run.identity
    # One epoch teaches it little: it may be certain or not, but it says what it reads, and when it came to that.
    assert "# Prediction: " in words(at) or re.search("(Perhaps a|closest class:) [0-9]", words(at))
    assert "since step" in words(at)


def test_a_network_in_training_is_calibrated_now_and_then() -> None:
    at, run = learning(net="4 M 10 A", epochs="90", batch_size="500")
    at.switch_page("pages/draw.py").run()
    at.session_state["canvas"] = canvas_state(SEVEN)
    at.selectbox(key="reader").set_value(run.identity).run()
    assert "Not calibrated yet." in words(at)
    live_calibrator().wait()
    at.run()
    assert not at.exception
    found = re.search(r"Calibrated after step ([\d,]+)\.", words(at))
    assert found, words(at)
    assert 0 < int(found.group(1).replace(",", "")) < run.snapshot().step
    assert "2,000 augmented training images" in words(at)
    assert "OOD percentile" not in words(at)
    run.stop()
    assert run.wait(30)


def test_the_reader_of_a_run_that_fails_is_the_shipped_network_again() -> None:
    at, run = learning(net="64n 64n M 64n 10 A", optimiser="SGD", learning_rate="10", schedule="constant")
    at.switch_page("pages/draw.py").run()
    at.selectbox(key="reader").set_value(run.identity).run()
    until(lambda: not run.active)
    assert run.status == "failed"
    at.run()
    assert not at.exception
    assert at.selectbox(key="reader").value == checkpoints.DEFAULT


def test_the_chart_says_where_its_script_has_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a-file").write_text("")
    monkeypatch.setattr(widgets, "STATIC_FOLDER", tmp_path / "a-file" / "static")
    at = visit("draw")
    assert "Make that folder writable" in at.error[0].value


def test_a_damaged_checkpoint_is_set_aside_with_a_sentence() -> None:
    checkpoints.SAVED_FOLDER.mkdir()
    (checkpoints.SAVED_FOLDER / "broken.safetensors").write_bytes(b"not a checkpoint")
    at = visit("draw")
    assert not at.exception
    assert "broken.safetensors is not a checkpoint" in words(at)
    assert (checkpoints.SAVED_FOLDER / "set-aside" / "broken.safetensors").read_bytes() == b"not a checkpoint"
    assert len(at.selectbox(key="reader").options) == len(list(checkpoints.FOLDER.glob("*.safetensors")))


def test_without_any_checkpoint_the_draw_page_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoints, "FOLDER", tmp_path / "none")
    at = visit("draw")
    assert not at.exception
    assert "Restore it" in at.error[0].value


def test_a_run_that_waits_says_how_long_and_does_not_read_digits_yet() -> None:
    at = visit("train", net="4 10 A", epochs="50")
    press(at, "Start training")
    running = run_manager().runs()[0]
    until(lambda: running.snapshot().step >= 10)
    press(at, "Start training")
    waiting = next(run for run in run_manager().runs() if run is not running)
    # The previous run gives the time; the machine's own speed is not needed.
    assert re.search(r"Waiting for 1 run to end, about [\d.]+ (s|min)\.", at.get("progress")[0].proto.text)
    options = visit("draw").selectbox(key="reader").options
    assert options[0].startswith(running.identity)
    assert not any(waiting.identity in option for option in options)


def test_a_runs_name_is_shown_as_it_was_typed() -> None:
    at = visit("train", net="4 10 A", epochs="1")
    press(at, "Start training")
    (run,) = run_manager().runs()
    at.text_input(key="new_name").set_value("*a* [b](c) $d$ :red[e] `f`").run()
    assert not at.exception
    # Markdown for that; what a browser makes of it is compared in tests/test_shown_as_typed.py.
    shown = r"\*a\* \[b\](c) \$d\$ &#58;red\[e\] &#96;f&#96;"
    assert shown in at.subheader[0].value
    press(at, "Fork")
    assert shown in words(at)
    assert run.name == "*a* [b](c) $d$ :red[e] `f`"


def test_each_step_from_the_drawing_is_shown_and_what_other_ways_would_give() -> None:
    at = visit("draw")
    at.session_state["canvas"] = canvas_state(SEVEN)
    at.run()
    assert "# Prediction: 7" in words(at)
    assert [f"**{n}." in words(at) for n in (1, 2, 3, 4)] == [True] * 4
    at.toggle(key="ways").set_value(True).run()
    assert not at.exception
    assert "**Whole canvas resized**" in words(at)
    assert len(re.findall(r"Predicted \d, probability", words(at))) == 3


def test_who_cannot_draw_picks_an_image() -> None:
    at = visit("draw")
    at.segmented_control(key="source").set_value("A test image").run()
    assert "# Prediction: 7" in words(at)
    assert "Its label is 7" in words(at)
    press(at, "Next")
    assert "Its label is 2" in words(at)
    # The same image inside.
    at.switch_page("pages/inspect.py").run()
    assert "test image 1, label 2" in words(at)


VIEWS = ("Feature maps", "Filters", "Attribution", "Receptive fields")


def test_every_layers_maps_are_shown_with_shape_range_and_dead_channels() -> None:
    at = visit("inspect", image="4")
    at.selectbox(key="reader").set_value("assignment-9274").run()
    assert "## Prediction: 4" in words(at)
    assert "test image 4, label 4" in words(at)
    # The image, and a picture of each of the eleven layers.
    assert len(at.get("image")) == 12
    assert "4\u00a0×\u00a028\u00a0×\u00a028" in words(at)
    assert len(re.findall(r"from −?[\d.]+ to −?[\d.]+", words(at))) == 11
    # Seven of the eight convolutions have a ReLU.
    assert words(at).count("none dead") == 7


@pytest.mark.parametrize("section", VIEWS[1:])
def test_the_other_looks_inside_have_their_pictures(section: str) -> None:
    at = visit("inspect", image="4")
    at.selectbox(key="reader").set_value("assignment-9274").run()
    at.segmented_control(key="section").set_value(section).run()
    assert not at.exception
    assert len(at.get("image")) == {"Filters": 9, "Attribution": 4, "Receptive fields": 12}[section]
    expected = {
        "Filters": "20\u00a0×\u00a016 filters of 3\u00a0×\u00a03",
        "Attribution": "black square of 5 × 5 pixels",
        "Receptive fields": "theoretical 46 px, effective ",
    }
    assert expected[section] in words(at)


def test_a_dead_channel_is_named() -> None:
    path = checkpoints.FOLDER / "assignment-9274.safetensors"
    shipped = checkpoints.load(path)
    weights = {name: tensor.clone() for name, tensor in shipped.weights.items()}
    weights["0.bias"][2] = -1e4
    weights["0.bias"][1] = -1e4
    checkpoints.save(checkpoints.Checkpoint(shipped.summary, weights), checkpoints.SAVED_FOLDER / "dying.safetensors")
    at = visit("inspect")
    at.selectbox(key="reader").set_value("dying").run()
    assert not at.exception
    assert "**dead: 2, 3** (2 of 4)" in words(at)


@pytest.mark.parametrize("number", [-1, 10_000, 2**40])
def test_a_test_image_that_is_not_there_is_a_sentence(number: int) -> None:
    at = visit("inspect")
    at.number_input(key="image").set_value(number).run()
    assert not at.exception
    assert f"There is no test image {number}" in at.error[0].value
    press(at, "Next")
    assert not at.error
    assert at.number_input(key="image").value == 0


@pytest.mark.parametrize("number", ["10000", "-1", "4.5"])
def test_a_bad_number_in_the_address_is_left_out_with_a_sentence(number: str) -> None:
    at = visit("design", image=number)
    assert "It is the number of a test image, 0 to 9999." in words(at)
    at.switch_page("pages/inspect.py").run()
    assert at.number_input(key="image").value == 0


def test_next_and_random_choose_images_and_the_last_is_followed_by_the_first() -> None:
    at = visit("inspect", image="9999")
    press(at, "Next")
    assert at.number_input(key="image").value == 0
    press(at, "Next")
    assert "test image 1, label 2" in words(at)
    press(at, "Random")
    assert at.number_input(key="image").value in range(10_000)
    assert not at.error


def test_the_drawing_is_looked_at_where_there_is_one(mnist: dataset.Dataset) -> None:
    at = visit("inspect")
    assert "your drawing from the Draw page here" in words(at)
    at.session_state["drawn"] = mnist.test_images[0]
    at.run()
    assert not at.exception
    assert "## Prediction: 7" in words(at)
    assert "your drawing" in words(at)
    for section in VIEWS:
        at.segmented_control(key="section").set_value(section).run()
        assert not at.exception
    at.segmented_control(key="source").set_value("A test image").run()
    assert "test image 0" in words(at)
    # An empty drawing is a black image: nothing to divide by.
    at.session_state["drawn"] = torch.zeros(28, 28, dtype=torch.uint8)
    at.segmented_control(key="source").set_value("Your drawing").run()
    at.segmented_control(key="section").set_value("Attribution").run()
    assert not at.exception
    assert "It drops nowhere." in words(at)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("network", "says"),
    [
        # Norm before, dropout, a fully connected head.
        ("4b 6s2 D10 A3s2 64v 16f D10 10f", "its ReLU gives 0"),
        # Branches, maps and filters that are no squares, logits with a norm.
        (
            "bias=off dropout=5 | 4s1x2 add( 4b 4x N ) hardswish cat( 4k3x1 / ) M 10 N A",
            "its ReLU or Hardswish gives 0",
        ),
        # Groups, a norm over positions, and no activation that can be dead.
        ("act=gelu norm=gn4 | 8 M 8g8 F N D25 16fx ln tanh 10fu", "every activation here (GELU, Tanh) has a gradient"),
    ],
)
def test_any_kind_of_layer_is_looked_into_in_training_and_when_saved(network: str, says: str) -> None:
    at, run = learning(net=network, epochs="20", batch_size="500")
    at.switch_page("pages/inspect.py").run()
    at.selectbox(key="reader").set_value(run.identity).run()
    assert "in training, weights after" in words(at)
    assert says in words(at)
    for section in VIEWS:
        at.segmented_control(key="section").set_value(section).run()
        assert not at.exception
    run.stop()
    assert run.wait(30)
    at.run()
    assert not at.exception
    assert at.selectbox(key="reader").value == run.identity
    assert "with a probability of" in words(at)
    assert "in training, weights" not in words(at)
    at.switch_page("pages/errors.py").run()
    assert not at.exception
    assert "test images are misclassified" in words(at)


@pytest.mark.slow
def test_a_run_in_training_is_measured_again_when_asked_and_after_an_epoch() -> None:
    at = visit("train", net="4 M 10 A", epochs="90", batch_size="500")
    press(at, "Start training")
    (run,) = run_manager().runs()

    def measured_at() -> int:
        found = re.search(r"measured after step ([\d,]+), now", words(at))
        assert found, words(at)
        return int(found.group(1).replace(",", ""))

    def learn_until(step: int) -> None:
        until(lambda: not run.active or (run.weights and run.weights.step >= step))

    learn_until(1)
    at.switch_page("pages/errors.py").run()
    at.selectbox(key="reader").set_value(run.identity).run()
    first = measured_at()
    learn_until(first + 1)
    at.run()
    assert measured_at() == first or measured_at() >= first + 120
    press(at, "Measure again")
    second = measured_at()
    assert second > first
    learn_until(second + 120)
    at.run()
    assert measured_at() >= second + 120
    run.pause()
    assert run.wait(30)
    at.run()
    assert not at.exception
    assert "In training" not in words(at)


@pytest.mark.slow
def test_errors_are_counted_and_a_chosen_cell_shows_its_images(mnist: dataset.Dataset) -> None:
    at = visit("errors")
    at.selectbox(key="reader").set_value("assignment-9274").run()
    network = checkpoints.network(checkpoints.load(checkpoints.FOLDER / "assignment-9274.safetensors"))
    with torch.no_grad():
        read = torch.cat([network(dataset.normalize(x)).argmax(1) for x in torch.split(mnist.test_images, 500)])
    wrong = (read != mnist.test_labels).nonzero()[:, 0].tolist()
    assert f"**{len(wrong)} of 10,000** test images are misclassified" in words(at)
    shown = {int(button.label.removeprefix("No. ")) for button in at.button if (button.key or "").startswith("errors_")}
    assert shown == set(wrong)
    number = wrong[0]
    label, taken = int(mnist.test_labels[number]), int(read[number])
    at.selectbox(key="true_digit").set_value(label).run()
    at.selectbox(key="predicted_digit").set_value(taken).run()
    assert not at.exception
    cell = {int(button.label.removeprefix("No. ")) for button in at.button if (button.key or "").startswith("cell_")}
    assert cell == {n for n in wrong if mnist.test_labels[n] == label and read[n] == taken}
    assert f"images of a {label} are classified as a {taken}" in words(at)
    at.button(key=f"cell_{number}").click().run()
    assert not at.exception
    assert at.title[0].value == INSPECT.heading
    # Errors are what a network is least sure of.
    assert f"## Prediction: {taken}" in words(at) or f" {taken}, with a probability" in words(at)
    assert f"test image {number}, label {label}" in words(at)


def test_a_full_cell_shows_sixty_images_and_more_on_request() -> None:
    at = visit("errors")
    at.selectbox(key="true_digit").set_value(1).run()
    at.selectbox(key="predicted_digit").set_value(1).run()

    def count() -> int:
        return sum(re.fullmatch(r"cell_\d+", button.key or "") is not None for button in at.button)

    assert count() == 60
    press(at, "Show 60 more")
    assert count() == 120
    assert not at.exception


def uploaded(mnist: Dataset, count: int) -> list[tuple[str, bytes, str]]:
    """Photos of the first digits of the test set: 7, 2, 1, 0, 4, ..."""
    return [(f"{n}.png", photo(image, "tile", n), "image/png") for n, image in enumerate(mnist.test_images[:count])]


def test_photos_are_read_and_what_is_none_is_a_sentence(mnist: Dataset) -> None:
    at = visit("photos")
    files = [
        *uploaded(mnist, 3),
        ("*no* photo.png", b"import os", "image/png"),
        ("cut.jpg", b"\xff\xd8\xff", "image/jpeg"),
    ]
    at.file_uploader(key="uploaded").set_value(files).run()
    assert not at.exception
    table = at.data_editor[0].value
    assert table["Prediction"].tolist() == table["Label"].tolist() == [7, 2, 1]
    assert table["File"].tolist() == ["0.png", "1.png", "2.png"]
    assert all(90 < probability <= 100 for probability in table["Probability"])
    assert all(photo.startswith("data:image/png;base64,") for photo in table["Photo"])
    assert [warning.value for warning in at.warning] == [
        r"\*no\* photo.png: It is not a PNG or JPEG image: save the photo as one of these.",
        "cut.jpg: It is not a PNG or JPEG image: save the photo as one of these.",
    ]
    assert "3 of 5 photos read, as 7, 2, 1." in words(at)
    (button,) = at.get("download_button")
    assert button.proto.label == "Table as CSV"


def test_files_that_are_too_many_or_all_unreadable_are_said(mnist: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(photos, "MAX_FILES", 2)
    at = visit("photos")
    at.file_uploader(key="uploaded").set_value(uploaded(mnist, 3)).run()
    assert "3 files are more than 2: the first 2 are read." in words(at)
    assert len(at.data_editor[0].value) == 2
    monkeypatch.setattr(photos, "MAX_FILES", 200)
    at.file_uploader(key="uploaded").set_value([(f"{n}.png", b"", "image/png") for n in range(8)]).run()
    assert not at.exception
    assert not at.data_editor
    assert "3 more files could not be read" in words(at)


def new_set(at: AppTest, name: str) -> None:
    at.text_input(key="set_name").set_value(name)
    press(at, "Create")


def test_a_set_is_filled_with_photos_and_a_drawing_and_a_network_is_tested_on_it(mnist: Dataset) -> None:
    at = visit("photos")
    at.selectbox(key="reader").set_value("assignment-9274").run()
    assert "Press New set to make one" in words(at)
    new_set(at, "My class")
    assert at.selectbox(key="own_set").value == "My class"
    for hint in ("The set is empty", "Draw a digit first", "Drop some above"):
        assert hint in words(at)
    assert [link.label for link in at.page_link] == ["Draw a digit"]
    at.file_uploader(key="uploaded").set_value(uploaded(mnist, 18)).run()
    press(at, "Add the 18 photos")
    labels = mnist.test_labels[:18].tolist()
    assert digit_sets.load("My class").labels.tolist() == labels
    at.session_state["drawn"] = mnist.test_images[0]
    at.run()
    assert next(button for button in at.button if button.label == "Add the drawing").disabled
    # The label given by the user counts, not the prediction.
    at.pills(key="drawn_label").set_value(3).run()
    press(at, "Add the drawing")
    digits = digit_sets.load("My class")
    assert digits.labels.tolist()[18:] == [3]
    assert torch.equal(digits.images[18], mnist.test_images[0])
    assert "19 digits" in words(at)
    press(at, "Test the network on this set")
    assert (at.metric[0].label, at.metric[0].value) == ("Accuracy on My class", "94.7 %")
    # Wilson's interval of 18 of 19.
    assert at.metric[0].delta == "95 % CI 75.4–99.1 %"
    assert "18 of 19 are classified correctly." in words(at)
    assert "**Errors**" in words(at)
    # Another network, another answer.
    at.selectbox(key="reader").set_value("small-4468").run()
    assert not at.metric
    press(at, "Remove the last")
    assert len(digit_sets.load("My class")) == 18


def test_a_deleted_set_is_brought_back(mnist: Dataset) -> None:
    digit_sets.create("A")
    digit_sets.create("B")
    digit_sets.add("B", mnist.test_images[:3], mnist.test_labels[:3])
    at = visit("photos")
    assert at.selectbox(key="own_set").value == "A"
    at.selectbox(key="own_set").set_value("B").run()
    press(at, "Delete set")
    assert "The set B was deleted." in words(at)
    assert at.selectbox(key="own_set").value == "A"
    press(at, "Undo")
    assert at.selectbox(key="own_set").value == "B"
    assert "3 digits" in words(at)
    assert "was deleted" not in words(at)
    at.switch_page("pages/draw.py").run()
    at.switch_page("pages/photos.py").run()
    assert at.selectbox(key="own_set").value == "B"


@pytest.mark.parametrize("next_action", ["choose", "create", "leave"])
def test_a_deleted_set_may_be_brought_back_until_something_else_is_done(next_action: str) -> None:
    for name in ("A", "B", "C"):
        digit_sets.create(name)
    at = visit("photos")
    press(at, "Delete set")
    assert "The set A was deleted." in words(at)
    assert "Undo" in labels(at)
    match next_action:
        case "choose":
            at.selectbox(key="own_set").set_value("C").run()
        case "create":
            new_set(at, "D")
        case "leave":
            at.switch_page("pages/draw.py").run()
            at.switch_page("pages/photos.py").run()
    assert "was deleted" not in words(at)
    assert "Undo" not in labels(at)
    press(at, "Delete set")
    assert "was deleted." in words(at)


def test_a_name_that_cannot_be_and_a_set_that_is_damaged_are_sentences(tmp_path: Path) -> None:
    at = visit("photos")
    new_set(at, "../x")
    assert "A set's name has 1 to 40 letters" in at.error[0].value
    new_set(at, "A")
    (tmp_path / "own" / "A.safetensors").write_bytes(b"damaged")
    at.run()
    assert not at.exception
    assert "“A” is damaged" in at.error[0].value
    assert (tmp_path / "own" / "set-aside" / "A.safetensors").read_bytes() == b"damaged"
    assert "Press New set to make one" in words(at.run())


def test_a_network_in_training_reads_photos_and_is_tested_as_it_is_now(mnist: Dataset) -> None:
    digit_sets.create("A")
    digit_sets.add("A", mnist.test_images[:3], mnist.test_labels[:3])
    at = visit("train", net="4 10 A", epochs="50", batch_size="100")
    press(at, "Start training")
    (run,) = run_manager().runs()
    until(lambda: run.weights)
    at.switch_page("pages/photos.py").run()
    at.selectbox(key="reader").set_value(run.identity)
    at.file_uploader(key="uploaded").set_value(uploaded(mnist, 2)).run()
    assert "In training: weights after" in words(at)
    assert len(at.data_editor[0].value) == 2
    press(at, "Predict again")
    press(at, "Test the network on this set")
    assert at.metric


def test_marks_are_in_the_preview_of_what_the_network_sees() -> None:
    at = visit("train", marks="0.25", written="0.5")
    (caption,) = (image.proto.imgs[0].caption for image in at.get("image"))
    assert caption.endswith("Then synthetic digits. Last row: non-digit outliers.")
    at = visit("train")
    assert "Last row" not in at.get("image")[0].proto.imgs[0].caption


def test_without_the_pen_digits_the_preview_says_so_and_the_page_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = dataset.pen_digits
    monkeypatch.setattr(handwriting, "pen_digits", lambda: load(tmp_path))
    handwriting._load_pen_digits.cache_clear()
    at = visit("train", written="0.5")
    assert not at.exception
    assert "pen-digits.csv.gz is missing" in at.error[0].value
    assert any(button.label == "Start training" for button in at.button)
