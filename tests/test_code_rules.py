"""Rules for the code: imports, escaping, tests that can fail, loops that end."""

from __future__ import annotations

import ast
import builtins
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tools import ROOT

SHOWN = sorted(
    path.relative_to(ROOT).as_posix() for path in [ROOT / "app.py", *ROOT.glob("pages/*.py"), *ROOT.glob("lib/ui/*.py")]
)


def imports(path: Path) -> set[str]:
    """All top-level packages that a file imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module.split(".")[0])
    return found


@pytest.mark.parametrize("package", ["text", "design"])
def test_text_and_design_need_the_standard_library_alone(package: str) -> None:
    files = sorted((ROOT / "lib" / package).glob("*.py"))
    assert len(files) > 1
    for path in files:
        assert imports(path) <= {*sys.stdlib_module_names, "lib"}, path


def test_the_import_contracts_hold_and_are_broken_by_an_import_upwards(tmp_path: Path) -> None:
    """The contracts are in pyproject.toml."""
    shutil.copytree(ROOT / "lib", tmp_path / "lib", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    command = [sys.executable, "-c", "import sys; from importlinter.cli import lint_imports_command as lint; lint()"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    for package, module in (("design", "lib.nn.network"), ("runs", "streamlit"), ("design", "numpy")):
        path = tmp_path / "lib" / package / "__init__.py"
        before = path.read_text(encoding="utf-8")
        path.write_text(f"{before}\nimport {module}\n", encoding="utf-8")
        assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 1, module
        path.write_text(before, encoding="utf-8")


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_the_design_page_does_not_wait_for_torch() -> None:
    assert "torch" not in modules_after(
        "import lib.design.edits, lib.ui.page, lib.ui.widgets, lib.ui.cache, lib.ui.public_results_panel"
    )
    assert not {"torch", "numpy"} & modules_after("from lib.data import public_results; public_results.load()")


def test_a_figure_does_not_wait_for_plotly() -> None:
    """Streamlit imports parts of it anyway; a process without Streamlit shows what the figures need."""
    figures = ", ".join(f"lib.ui.charts.{name}" for name in ("design", "draw", "errors", "training"))
    assert "plotly" not in modules_after(f"import {figures}")


def test_the_training_thread_never_calls_streamlit() -> None:
    assert "streamlit" not in modules_after("import lib.runs.run_manager, lib.ui.charts.training")


# What makes text from outside safe for the place where it stands, and questions about it.
SAFE = {"escaped", "isolated", "visible", "html_escaped", "spreadsheet_cell", "predictions_csv", "quote", "len"}
FROM_OUTSIDE = {"name", "title", "message", "save_error", "problem"}
# What variables are called that hold such a text.
SENTENCES = {"refused", "told", "problem", "sentence", "missing"}
# The titles of a preset and of a page are the project's own.
OWN = {"preset.title", "page.title"}


def unescaped(tree: ast.AST) -> list[str]:
    """Texts of errors, and names, that are passed to Streamlit as Markdown without escaping."""
    errors = SENTENCES | {node.name for node in ast.walk(tree) if isinstance(node, ast.ExceptHandler)}
    found: list[str] = []

    def look(node: ast.AST) -> None:
        match node:
            case ast.Call(func=ast.Name(id=name)) if name in SAFE:
                return
            case ast.IfExp(body=body, orelse=otherwise):
                look(body)
                look(otherwise)
                return
            case ast.Call(func=ast.Attribute(), keywords=keywords, args=arguments):
                # The arguments of a widget's callback are not shown.
                for given in [*arguments, *(keyword.value for keyword in keywords if keyword.arg != "args")]:
                    look(given)
                return
            case ast.Attribute(attr="strerror") | ast.Compare():
                return
            case ast.Name(id=name) if name in errors:
                found.append(f"{node.lineno}: {name}")
            case ast.Attribute(attr=name) if name in FROM_OUTSIDE and ast.unparse(node) not in OWN:
                found.append(f"{node.lineno}: {ast.unparse(node)}")
        for child in ast.iter_child_nodes(node):
            look(child)

    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Name(id="st"), attr=shows)) if shows != "text_input":
                look(node)
    return found


@pytest.mark.parametrize("file", SHOWN)
def test_errors_and_names_are_escaped_before_they_are_shown(file: str) -> None:
    assert unescaped(ast.parse((ROOT / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize(
    "line",
    ["st.error(str(error))", "st.warning(f'It failed: {error}')", "st.button('x', help=str(error))",
     "st.metric(f'Accuracy on {digits.name}', 1)", "st.info(snapshot.message)", "st.error(in_words(error))"],
)  # fmt: skip
def test_an_unescaped_text_is_found(line: str) -> None:
    handled = "try:\n    pass\nexcept OSError as error:\n    "
    assert len(unescaped(ast.parse(handled + line))) == 1
    for held in ("str(error)", "in_words(error)", "digits.name", "snapshot.message", "{error}"):
        line = line.replace(held, f"{{escaped({held[1:-1]})}}" if held[0] == "{" else f"escaped({held})")
    assert unescaped(ast.parse(handled + line)) == []


def positional(tree: ast.AST) -> list[str]:
    """Class patterns that name a field by its position; a field added before it would change what they match."""
    return [
        f"{node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(tree)
        if isinstance(node, ast.MatchClass) and node.patterns and ast.unparse(node.cls) not in vars(builtins)
    ]


def test_class_patterns_name_their_fields() -> None:
    for path in [*ROOT.glob("lib/**/*.py"), *ROOT.glob("pages/*.py"), *ROOT.glob("tests/*.py")]:
        assert positional(ast.parse(path.read_text(encoding="utf-8"))) == [], path
    pattern = "match layer:\n    case Convolution(channels, 3):\n        pass"
    assert positional(ast.parse(pattern)) == ["2: Convolution(channels, 3)"]
    assert positional(ast.parse(pattern.replace("channels, 3", "channels=channels, kernel_size=3"))) == []


TESTS = sorted(
    path.relative_to(ROOT).as_posix() for folder in ("tests", "soak") for path in ROOT.glob(f"{folder}/*.py")
)
# Playwright's `expect`, assertions of libraries, and waits that fail after a limit.
CHECKS = re.compile(r"(^|\.)(expect|raises|assert_\w+|wait_for(?!_timeout)\w*|to_\w+|run_state_machine_as_test)$")
# Functions that return an answer: as a statement they check nothing.
ANSWERS = {
    "all",
    "any",
    "expect",
    "isinstance",
    "is_visible",
    "is_hidden",
    "is_enabled",
    "is_checked",
    "count",
    "equal",
    "allclose",
}


def name_of(call: ast.Call) -> str:
    return call.func.attr if isinstance(call.func, ast.Attribute) else ast.unparse(call.func)


def pointless(tree: ast.AST) -> list[str]:
    """Assertions that are always true, and answers that are not used."""
    built = (ast.List, ast.ListComp, ast.Tuple, ast.Set, ast.SetComp, ast.Dict, ast.DictComp, ast.GeneratorExp)
    found: list[ast.stmt] = []
    for node in ast.walk(tree):
        match node:
            case ast.Assert(test=ast.Constant() | ast.JoinedStr() | ast.Lambda()):
                found.append(node)
            case ast.Assert(test=test) if isinstance(test, built):
                found.append(node)
            case ast.Expr(value=ast.Call() as call) if name_of(call) in ANSWERS:
                found.append(node)
    return [f"{node.lineno}: {ast.unparse(node)}" for node in found]


def unchecked(tree: ast.Module) -> list[str]:
    """Tests that check nothing, neither directly nor in a function of the same file."""
    functions = {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    calls = {
        name: {name_of(node) for node in ast.walk(function) if isinstance(node, ast.Call)}
        for name, function in functions.items()
    }
    checking = {
        name
        for name, function in functions.items()
        if any(isinstance(node, ast.Assert) for node in ast.walk(function)) or any(map(CHECKS.search, calls[name]))
    }
    for _ in functions:
        checking |= {name for name, called in calls.items() if called & checking}
    return [name for name in functions if name.startswith("test_") and name not in checking]


@pytest.mark.parametrize("file", TESTS)
def test_every_test_can_fail(file: str) -> None:
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    assert pointless(tree) == []
    assert unchecked(tree) == []


@pytest.mark.parametrize(
    "line",
    ["assert [x == 1 for x in y]", "assert (x, y)", "assert (x for x in y)", "assert 'text'", "assert f'{x}'",
     "assert lambda: x", "assert {x: y}", "expect(page)", "page.is_visible()", "torch.equal(x, y)"],
)  # fmt: skip
def test_a_check_that_cannot_fail_is_found(line: str) -> None:
    assert pointless(ast.parse(line))
    assert unchecked(ast.parse("def test_x():\n    run()"))
    assert not unchecked(ast.parse("def look():\n    assert y\ndef test_x():\n    look()"))


PROGRAMS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in ("tests", "soak", "benchmarks", "docs", "tools")
    for path in ROOT.glob(f"{folder}/*.py")
)


def without_limit(tree: ast.AST) -> list[str]:
    """Loops that wait without a time limit."""
    found = []
    for loop in ast.walk(tree):
        if isinstance(loop, ast.While):
            calls = {name_of(node) for node in ast.walk(loop) if isinstance(node, ast.Call)}
            if calls & {"sleep", "time.sleep", "wait", "wait_for_timeout"} and "monotonic" not in calls:
                found.append(f"{loop.lineno}: while {ast.unparse(loop.test)}")
    return found


@pytest.mark.parametrize("file", PROGRAMS)
def test_every_loop_that_waits_has_a_limit(file: str) -> None:
    """`tools.waiting.until` has one."""
    assert without_limit(ast.parse((ROOT / file).read_text(encoding="utf-8"))) == []


@pytest.mark.parametrize("wait", ["time.sleep(1)", "sleep(0)", "page.wait_for_timeout(100)", "run.wait(1)"])
def test_a_loop_without_a_limit_is_found(wait: str) -> None:
    assert without_limit(ast.parse(f"while run.active:\n    {wait}"))
    assert without_limit(ast.parse(f"while time.monotonic() < end:\n    {wait}")) == []
    assert without_limit(ast.parse("while layers:\n    layers.pop()")) == []
