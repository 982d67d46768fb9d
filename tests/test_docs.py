"""The documentation says what the code does: examples, options, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs import modules, notation_tables
from docs.examples import refreshed
from docs.pages import ROOT, pages
from lib.__main__ import main
from lib.design.notation import parse
from lib.design.notation_tables import TABLES, markdown_table
from lib.design.recipe import FIELDS, number_text
from lib.ui.url_state import HIDEABLE_SECTIONS

PAGES = [path.relative_to(ROOT).as_posix() for path in pages()]
STALE = "run `make docs`"
MEANINGS = [meaning for rows in TABLES.values() for _, meaning in rows]
# A row of a table with three columns, a name first.
ROW = r"^\| `(\w+)` \| (.*) \| (.*) \|$"


def text(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def anchors(page: Path) -> set[str]:
    """The ids that GitHub gives to the headings of a Markdown file."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_examples_show_what_the_command_line_prints(page: str) -> None:
    assert refreshed(text(page)) == text(page), STALE


@pytest.mark.parametrize("page", PAGES)
def test_modules_and_packages_are_described_as_in_the_code(page: str) -> None:
    assert modules.refreshed(text(page)) == text(page), STALE
    assert notation_tables.refreshed(text(page)) == text(page), STALE


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_project_lead_somewhere(page: str) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", text(page)):
        if link.startswith(("https://", "http://", "mailto:")):
            continue
        name, _, anchor = link.partition("#")
        target = ((ROOT / page).parent / name).resolve() if name else ROOT / page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES)
def test_files_that_a_page_names_exist(page: str) -> None:
    named = re.findall(r"`((?:lib|pages|tests|soak|benchmarks|docs)/[\w./-]+)`", text(page))
    assert [name for name in named if not (ROOT / name).exists()] == []


def cells(page: str, heading: str) -> list[str]:
    """The code in the first column of the tables under a heading."""
    section = re.split(r"^## ", text(page), flags=re.MULTILINE)
    (found,) = (part for part in section if part.startswith(f"{heading}\n"))
    return re.findall(r"^\| `([^`]+)` \|", found, re.MULTILINE)


@pytest.mark.parametrize("network", cells("docs/notation.md", "Examples"))
def test_a_network_of_the_notation_page_can_be_built(network: str) -> None:
    assert parse(network.replace("\\|", "|"))


@pytest.mark.parametrize(("title", "words"), [(title, words) for title, rows in TABLES.items() for words, _ in rows])
def test_a_row_of_the_tables_of_the_notation_is_read_and_means_something(title: str, words: str) -> None:
    before, after = ("16fx", "10f") if words.endswith(("f", "fx")) else ("16x", "10f")
    network = f"{words} | 8 16 10 A" if title == "Settings" else f"{before} {words} {after}"
    if words == "F":
        network = "16 F N 10f"
    without = "8 16 10 A" if title == "Settings" else f"{before} {after}"
    assert parse(network) != parse(without)


@pytest.mark.parametrize("words", re.findall("`([^`]+)`", " ".join(MEANINGS)))
def test_what_the_meanings_name_is_read_too(words: str) -> None:
    setting = "=" in words
    network = f"{words} | 8 16 10 A" if setting else f"16x {words} {'10f' if 'f' in words[2:3] else '10 A'}"
    assert parse(network)


@pytest.mark.parametrize("title", TABLES)
def test_the_notation_page_has_the_tables_that_the_app_shows(title: str) -> None:
    assert markdown_table(title) in text("docs/notation.md"), STALE


@pytest.mark.parametrize("command", ["describe", "import", "train", "predict"])
def test_the_command_line_page_has_all_options(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main([command, "--help"])
    options = set(re.findall(r"--[\w-]+", capsys.readouterr().out)) - {"--help"}
    section = text("docs/cli.md").partition(f"## {command}\n")[2].partition("\n## ")[0]
    documented = set(re.findall(r"^\| `(--[\w-]+)|, `(--[\w-]+)", section, re.MULTILINE))
    assert {option for pair in documented for option in pair if option} == options


def test_the_command_line_page_has_every_key_of_a_recipe_with_its_values() -> None:
    section = text("docs/cli.md").partition("### The recipe as JSON\n")[2].partition("\n#")[0]
    rows = {key: (values, default.strip("`")) for key, values, default in re.findall(ROW, section, re.MULTILINE)}
    assert rows.keys() == {"augmentation", *(spec.json_key for spec in FIELDS if not spec.in_augmentation)}
    for spec in FIELDS:
        if spec.in_augmentation:
            values, _ = rows["augmentation"]
            assert f"`{spec.json_key}`" in values
        else:
            values, default = rows[spec.json_key]
            assert default == number_text(spec.default)
        if spec.choices:
            assert re.findall(r"`([^`]+)`", values) == list(spec.choices)
        else:
            limits = (number_text(limit).replace(",", "") for limit in (spec.low, spec.high))
            assert " to ".join(limits) in values, spec.json_key


def test_the_teaching_page_has_every_part_that_can_be_hidden() -> None:
    assert cells("docs/teaching.md", "The two switches for teachers") == list(HIDEABLE_SECTIONS)


def test_the_readme_is_short_and_gives_each_dependency_a_reason() -> None:
    readme = text("README.md")
    assert len(readme.splitlines()) <= 120
    table = readme.partition("## Dependencies\n")[2].partition("\n## ")[0]
    named = [
        name
        for cell in re.findall(r"^\| (?!package)([a-z][^|]*) \| \w", table, re.MULTILINE)
        for name in cell.split(", ")
    ]
    required = re.findall(r"^([\w-]+)==", text("requirements.txt") + text("requirements-dev.txt"), re.MULTILINE)
    assert sorted(named) == sorted(required)
