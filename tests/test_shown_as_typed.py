"""Text is shown as typed in Chromium: the text on the screen is compared, and nothing else is requested."""

from __future__ import annotations

import json
import random
import re
import shutil
from pathlib import Path
from urllib.parse import quote

import pytest
from playwright.sync_api import FilePayload, Locator, Page, expect

from lib.design.layers import ArchitectureError
from lib.design.notation import parse
from lib.design.recipe import Recipe
from lib.nn.network import build
from lib.runs import run_store
from lib.runs.run_record import RunRecord
from lib.storage import checkpoints
from lib.storage.checkpoints import SUFFIX, Checkpoint, Summary
from lib.text.untrusted_text import isolated
from lib.training.history import History
from tools import ROOT
from tools.browser import settled, visit
from tools.server import copy_project, serving

# Text with a meaning in Markdown (GitHub's and Streamlit's too), LaTeX, HTML or the order of bidirectional text.
MARKS = [
    *"*_`~[]()<>&$\\#|+-=^:@!{}\"'.;/",
    *("a", "b c", "  ", "**", "``", "~~", "![](//evil.io/a)", "[Login](//evil.io)", "](//evil.io)", "[^1]:", "[x]: /y"),
    *("https://evil.io", "http://", "www.evil.io", "WWW.", "a@b.co", "mailto:a@b.co", "xmpp:a@b.co/c", "javascript:x"),
    *(":material/home:", ":smile:", ":red[", ":blue-background[x]", ":small[x]", ":streamlit:", ":shimmer[", ":badge["),
    *("$x^2$", "$$", "\\(x\\)", "<b>", "<script>", "<!--", "<img src=//evil.io/a>", "&lt;", "&#58;", "&amp", "&nbsp;"),
    *(
        "->",
        "<-",
        "<->",
        "--",
        ">=",
        "<=",
        "~=",
        "# ",
        "1. ",
        "2) ",
        "- ",
        "> ",
        "| a |",
        "---",
        "- [ ] ",
        "\n",
        "\n\n",
    ),
    *("\u05d0\u05d1", "\u0627\u0644", "\u202e", "\u2066", "\u200b", "\u200d", "\ufeff", "\u00a0", "\u3000", "\x1b[31m"),
    *("\0", "\t", "👩‍👩‍👧", "❤️", "e\u0301", "क्‍ष", "www", "home:", "material/"),
]
HARD = ["2) www.]:smile:", ":red[x] a@:material/home:", "![](//evil.io/a)", ":smile:", "-> www.", "<b>&lt;`$x$"]
PLACES = """
import json
import streamlit as st
from lib.text.untrusted_text import escaped, isolated

for number, text in enumerate(json.load(open("texts.json"))):
    with st.container(key=f"place_{number}"):
        match number % 6:
            case 0:
                st.warning(escaped(text), icon=":material/error:")
            case 1:
                st.subheader(f"{escaped(text)}: `4 M`", anchor=False)
            case 2:
                st.table([{"Run": f"[{escaped(text)}](/train?run=x)"}])
            case 3:
                st.button(escaped(text), key=f"button_{number}")
            case 4:
                st.metric(f"Accuracy on {escaped(text)}", "1")
            case 5:
                st.selectbox("Run", [text], format_func=isolated, key=f"choice_{number}")
st.caption("The end.")
"""
# The text of each place, and the number of elements that Markdown has made in it.
READ = r"""() => Object.fromEntries([...document.querySelectorAll("[class*=st-key-place_]")].map(place => {
    const cell = place.querySelector("td"), choice = place.querySelector("input")
    const shown = cell ?? place.querySelector("h3") ?? place.querySelector("[data-testid=stMarkdownContainer]")
    const made = place.querySelectorAll("a, img, em, strong, del, sup, ul, ol, blockquote, hr, .katex, h1, h2")
    const text = choice ? choice.value || place.querySelector("[data-baseweb=select]").textContent : shown?.textContent
    return [place.className.match(/st-key-place_(\d+)/)[1], [text, made.length]]
}))"""
AROUND = ["{}", "{}: 4 M", "{}", "{}", "Accuracy on {}", "{}"]


def test_random_texts_are_shown_as_typed(page: Page, tmp_path: Path) -> None:
    """Random combinations of markup, with a fixed seed, in each kind of place where the app shows text."""
    rng = random.Random(0)
    drawn = ["".join(rng.choices(MARKS, k=rng.randint(1, 6))) for _ in range(330)]
    # The hard ones are shown in each kind of place. Blank texts are left out.
    texts = [text for text in HARD for _ in AROUND] + [text for text in [*MARKS, *drawn] if text.strip()]
    shutil.copytree(ROOT / "lib" / "text", tmp_path / "lib" / "text")
    (tmp_path / "texts.json").write_text(json.dumps(texts), encoding="utf-8")
    (tmp_path / "app.py").write_text(PLACES, encoding="utf-8")
    shutil.copytree(ROOT / ".streamlit", tmp_path / ".streamlit")
    wanted = {
        str(number): [AROUND[number % 6].format(isolated(text)), int(number % 6 == 2)]
        for number, text in enumerate(texts)
    }
    with serving(tmp_path, kill=True) as url:
        page.goto(url)
        expect(page.get_by_text("The end.", exact=True)).to_be_visible(timeout=60_000)
        settled(page)
        # Some parts of the page appear later: emoji, options.
        for _ in range(20):
            wrong = {
                number: (seen, wanted[number]) for number, seen in page.evaluate(READ).items() if seen != wanted[number]
            }
            if not wrong:
                break
            page.wait_for_timeout(500)
    assert wrong == {}


HOSTILE = (
    "![](//evil.io/a) [Login](//evil.io) www.evil.io :material/home: :red[x] $x^2$ &lt;b&gt; -> <b>*a*_b_</b> אב `c`"
)
NAME = "![](//e.io/a) [L](//e.io) www.e.io :smile: $x$ &lt; ->"
FILE = "![](e.io) [L](e.io) :smile: www.e.io $x$ &lt; -> א \u202e\u200b\x1b.png"
SET = "![](e.io) :smile: www.e.io $x$ &lt; -> א"
IDENTITY = "run-1-aaaaaa"


def plain(place: Locator) -> str:
    """The text of a place without directional isolates."""
    return re.sub("[\u2068\u2069]", "", place.text_content() or "")


def sentences(page: Page) -> list[str]:
    """The texts of all messages on the page, once it has settled."""
    settled(page)
    return [plain(place) for place in page.locator("[data-testid=stAlert] [data-testid=stMarkdownContainer]").all()]


def test_texts_from_outside_are_shown_as_typed(page: Page, tmp_path: Path) -> None:
    """In addresses, errors of the notation, and the names of runs, networks, sets and photos."""
    folder = copy_project(tmp_path)
    record = RunRecord(
        identity=IDENTITY,
        name=NAME,
        owner="",
        parent=None,
        architecture=parse("2 10 A"),
        recipe=Recipe(),
        status="stopped",
        created="2026-11-22T00:00:00+00:00",
        message=None,
        steps_total=0,
        lr_scale=1.0,
        history=History(),
        state=None,
    )
    run_store.save(record, folder / "checkpoints" / "saved")
    # Calibrating larger networks takes seconds.
    for shipped in (folder / "checkpoints").glob(f"*{SUFFIX}"):
        shipped.unlink()
    # Invisible characters are removed when a file is read.
    summary = Summary(f"{NAME}\u202e\u200b", record.architecture, record.recipe, 0, None, record.created)
    weights = build(record.architecture).state_dict()
    checkpoints.save(Checkpoint(summary, weights), folder / "checkpoints" / f"named{SUFFIX}")
    (folder / "data" / "own").mkdir()
    (folder / "data" / "own" / f"{SET}{SUFFIX}").write_text("no set")
    with serving(folder, kill=True) as url:
        visit(page, f"{url}/?net={quote(HOSTILE)}&layer={quote(HOSTILE[:40])}&compare={quote(HOSTILE)}")
        with pytest.raises(ArchitectureError) as refused:
            parse(HOSTILE)
        told = sentences(page)
        assert f"“layer={HOSTILE[:40]}” in the address could not be read and is left out." in map(str.rstrip, told)
        assert str(refused.value) in told
        assert f"Design B: {refused.value}" in told
        # A bracket ends a token.
        assert "“![](”" in str(refused.value)
        visit(page, f"{url}/?net=2+10+A")
        page.get_by_text("Export", exact=True).click()
        expect(page.get_by_role("button", name=f"ONNX: {NAME}", exact=True)).to_be_visible()

        visit(page, f"{url}/train?run={quote(HOSTILE)}")
        assert f"The run {HOSTILE} is not known here: it was deleted, or belongs to another installation." in sentences(
            page
        )
        visit(page, f"{url}/train?run={IDENTITY}")
        expect(page.get_by_role("heading", level=3).first).to_have_text(f"{NAME}: 2 10 A")
        expect(page.get_by_role("combobox", name="Run", exact=True)).to_have_value(NAME)
        page.get_by_text("All runs (1)").click()
        link = page.get_by_test_id("stTable").get_by_role("link")
        expect(link).to_have_text(NAME)
        expect(link).to_have_attribute("href", f"/train?run={IDENTITY}")
        page.get_by_role("button", name="Fork").click()
        expect(page.get_by_test_id("stAlert").first).to_contain_text(f"Forked from {NAME}: same initial weights")
        page.get_by_role("button", name="Rename", exact=True).click()
        page.get_by_label("Name of the run").fill("tpircs\u202e")
        page.get_by_label("Name of the run").press("Enter")
        question = page.get_by_test_id("stDialog")
        expect(question).to_contain_text(f"{NAME} was started on the command line on 2026-11-22 00:00 UTC.")
        question.get_by_role("button", name="Rename anyway").click()
        expect(page.get_by_test_id("stAlert").filter(has_text="cannot be seen")).to_have_text(
            re.compile(r"The name has a character that cannot be seen, \[U\+202E\]: type it without that\.$")
        )
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Delete", exact=True).click()
        question.get_by_role("button", name="Delete anyway").click()
        expect(page.get_by_test_id("stAlert").filter(has_text="was deleted")).to_contain_text(f"{NAME} was deleted.")

        visit(page, f"{url}/photos")
        expect(page.get_by_role("combobox", name="Network")).to_have_value(f"{NAME} · 2 10 A · not measured")
        expect(page.get_by_role("combobox", name="Set", exact=True)).to_have_value("")
        assert f"own/{SET}{SUFFIX} was passed over: a set has another name. Rename it." in sentences(page)
        page.locator("input[type=file]").set_input_files(
            FilePayload(name=FILE, mimeType="image/png", buffer=b"no image")
        )
        shown = FILE.replace("\u202e\u200b\x1b", "[U+202E][U+200B][U+001B]")
        expect(page.get_by_test_id("stAlert").filter(has_text="U+202E")).to_be_visible()
        assert any(sentence.startswith(f"{shown}: ") for sentence in sentences(page))
        page.get_by_text("New set", exact=True).click()
        page.get_by_label("Name of the new set").fill("Class _7b_ -- c")
        page.get_by_label("Name of the new set").press("Enter")
        page.get_by_role("button", name="Create").click()
        settled(page)
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Delete set").click()
        expect(page.get_by_test_id("stAlert").filter(has_text="was deleted")).to_have_text(
            re.compile("The set Class _7b_ -- c was deleted.$")
        )
