"""Measure the speed of training and of the pages on this machine, and write it to benchmarks/report.json.

    make bench

All response times are measured in Chromium. Keys of the report:

- `networks`: a row for each network that users build, see `benchmarks.networks`, with `network_means`, `network_least`,
  `peak_gflops` and `slowest_steps`. `throughput_ratio` is that of the exercise's network to the loop of its notebook.
- `train_slowdown`, `inside_slowdown`, `draw_slowdown`: the fraction of its images per second that a run loses while the
  page is open and follows it. Medians, in turns in one run with no page open.
- `design_p95_ms`, `design_median_ms`: from a slider to the new table, while nothing trains.
- `draw_p95_ms`: from the end of a stroke to its prediction, while nothing trains; the first prediction calibrates the
  network.
- `feature_maps_p95_ms`: from Next on the Inspect page to the maps of all layers of another test image.
- `ui_slider_p95_ms`, `ui_draw_p95_ms`: as `design_p95_ms` and `draw_p95_ms`, while a run trains at full speed;
  `ui_p95_ms` is the larger of the two.
- `stop_median_ms`, `stop_max_ms`: from a click on Stop to "Stopped" on the screen, with the run saved.
- `other_tab_delay_ms`: by what another tab opens meanwhile ("none" or a large network), how much later than the median
  the slowest answer of the Design page comes.
- `parse_and_analyse_30_layers_ms`, `menus_30_layers_ms`: the median time to parse and analyze a network of 30 layers,
  and to find the available actions of all its layers, which the Design page also needs.
- `cold_pages_seconds`: by page, the seconds until its main part is there, when it is the first page after a start.
- `resident_mb`: the memory of the server after a tour of all pages and a run.
- `evaluation_seconds`: the time to measure each shipped network on the 10,000 test images.
- `estimate_off_percent`: by network, how much more time a batch took than `lib.training.time_estimate` had estimated.
- `seconds_to_99_4`, `epochs_to_99_4`, `tables`: the content of accuracy.json.
- `environment`: the machine and the versions.
"""

from __future__ import annotations

import itertools
import json
import re
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import torch
from playwright.sync_api import Page, expect, sync_playwright

from benchmarks import accuracy
from benchmarks.environment import environment
from benchmarks.networks import BATCH_SIZE, SEED, measured
from benchmarks.pages import cold_pages, resident_megabytes
from lib.data import public_results
from lib.data.dataset import load
from lib.design.analysis import NetworkAnalysis, analyze
from lib.design.edits import available_actions
from lib.design.layers import MAX_LAYERS
from lib.design.notation import parse
from lib.design.operations import operations
from lib.design.presets import PRESETS
from lib.design.recipe import Recipe
from lib.evaluation.metrics import evaluate
from lib.export.pytorch_source import pytorch_source
from lib.importing.notebook import networks_in_notebook
from lib.runs import run_store
from lib.storage import checkpoints
from lib.training import time_estimate
from lib.training.trainer import Trainer
from tools.browser import draw, settled, visit
from tools.chromium import LAUNCH_ARGUMENTS, install
from tools.server import copy_project, serving

REPORT = Path(__file__).parent / "report.json"
STEPS = 60
SLIDES = 60
STOPS = 9
STROKES = LOOKS = 30
SPANS, SPAN_EPOCHS = 3, 2
SPAN_SECONDS = 300
ANALYSES = 200
NOTEBOOKS = 20
# He et al., "Deep Residual Learning for Image Recognition", 2016: the largest of the public networks.
RESNET_50 = (
    "bias=off norm=before | 64k7s2p3 M3s2p1 "
    + " ".join(
        f"add( {width}k1 {width}{'s2' * (block == 0 and width > 64)} {4 * width}k1x N"
        + (f" / {4 * width}k1{'s2' * (width > 64)}x N" if block == 0 else "")
        + " ) R"
        for width, blocks in ((64, 3), (128, 4), (256, 6), (512, 3))
        for block in range(blocks)
    )
    + " 10fw"
)
ESTIMATED = (
    PRESETS[1].text,
    PRESETS[3].text,
    PRESETS[4].text,
    PRESETS[6].text,
    "8 8 8 M 16 16 M 32 10 A",
    "8k5 16k5 M 10 A",
)
# The most layers, with maps up to 8,600 pixels a side; the most layers and channels; maps up to 1,148 pixels a side.
LARGE = ("16p28 " * (MAX_LAYERS - 2) + "10 A", "2048 " * (MAX_LAYERS - 2) + "10 A", "16k1p28 " * 20 + "10 A")


def main() -> None:
    networks = measured()
    assignment = next(row for row in networks["networks"] if row["id"] == "assignment")
    report = {
        "environment": environment(),
        "seed": SEED,
        "batch_size": BATCH_SIZE,
        "images_per_second": assignment["ours"],
        "notebook_images_per_second": assignment["notebook"],
        "throughput_ratio": assignment["ours_over_notebook"],
        **networks,
        **_analysis_milliseconds(),
        "estimate_off_percent": _estimates(),
        "evaluation_seconds": _evaluations(),
        "cold_pages_seconds": cold_pages(),
        "resident_mb": resident_megabytes(),
        **_latencies(),
        **json.loads(accuracy.RESULT.read_text(encoding="utf-8")),
    }
    REPORT.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=2))


def _analysis_milliseconds() -> dict[str, float]:
    text = " ".join(["8", "8", "M", *["8"] * 12, "M", *["8", "D10", "8k5"] * 4, "10", "A"])
    assert len(text.split()) == 30
    architecture = parse(text)
    notebook = _notebook()
    return {
        "parse_and_analyse_30_layers_ms": _median_milliseconds(lambda: _analyzed(text)),
        "parse_and_analyse_resnet_50_ms": _median_milliseconds(lambda: _analyzed(RESNET_50)),
        "menus_30_layers_ms": _median_milliseconds(lambda: available_actions(architecture)),
        "import_notebook_of_1000_lines_ms": _median_milliseconds(lambda: networks_in_notebook(notebook), NOTEBOOKS),
    }


def _analyzed(text: str) -> NetworkAnalysis:
    # Otherwise the second time would be faster than a reader's first.
    operations.cache_clear()
    return analyze(parse(text))


def _notebook() -> bytes:
    """A notebook of 1,000 lines of source: public networks, one in each cell."""
    cells: list[str] = []
    for result in public_results.load():
        if result.notation:
            cells.append(pytorch_source(parse(result.notation)))
        if sum(cell.count("\n") for cell in cells) >= 1000:
            break
    return json.dumps({"cells": [{"cell_type": "code", "source": cell} for cell in cells]}).encode()


def _median_milliseconds(call: Callable[[], object], rounds: int = ANALYSES) -> float:
    call()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        call()
        times.append(1000 * (time.perf_counter() - started))
    return round(statistics.median(times), 2)


def _estimates() -> dict[str, int]:
    """Error of the estimated time in percent, by network; batches run with the number of threads that a run uses."""
    rate = time_estimate.measure()
    recipe = Recipe(epochs=1, batch_size=BATCH_SIZE, seed=SEED)
    off = {}
    for text in ESTIMATED:
        architecture = parse(text)
        ends = []
        trainer = Trainer(architecture, recipe, load())
        torch.set_num_threads(trainer.threads)
        for _ in trainer:
            ends.append(time.perf_counter())
            if len(ends) == STEPS:
                break
        measured = statistics.median(after - before for before, after in itertools.pairwise(ends[2:]))
        off[text] = round(100 * (measured / time_estimate.epoch_seconds(rate, architecture, recipe, BATCH_SIZE) - 1))
    return off


def _evaluations() -> dict[str, float]:
    """Median seconds of five to measure each shipped network on the 10,000 test images, as the Errors page does."""
    data, found = load(), {}
    for path in checkpoints.shipped():
        checkpoint = checkpoints.load(path)
        network, times = checkpoints.network(checkpoint), []
        for _ in range(5):
            started = time.perf_counter()
            evaluate(network, checkpoint.summary.architecture, data.test_images, data.test_labels)
            times.append(time.perf_counter() - started)
        found[path.stem] = round(statistics.median(times), 2)
    return found


def _latencies() -> dict[str, object]:
    """Response times of the pages, in a browser on the same machine."""
    with (
        tempfile.TemporaryDirectory() as folder,
        serving(copy_project(Path(folder))) as url,
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=install(), args=LAUNCH_ARGUMENTS)
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        report = {
            **_design_latency(page, url),
            "other_tab_delay_ms": _other_tab_delays(page, url),
            "draw_p95_ms": _p95(_strokes(page, url)),
            "feature_maps_p95_ms": _p95(_looks(page, url)),
            **_stop_latency(page, url),
            **_latencies_while_training(page, url),
            **_slowdown(page, url, Path(folder) / "checkpoints" / "saved"),
        }
        browser.close()
    return report


def _stop_latency(page: Page, url: str) -> dict[str, float]:
    """Time from a click on Stop to "Stopped" on the screen, with the run saved."""
    latencies = []
    for _ in range(STOPS):
        visit(page, f"{url}/train")
        page.get_by_role("button", name="Start training").click()
        expect(page.get_by_text(re.compile(r"step \d\d+ of"))).to_be_visible(timeout=60_000)
        started = time.perf_counter()
        page.get_by_role("button", name="Stop").click()
        expect(page.get_by_text("Stopped at step")).to_be_visible()
        latencies.append(1000 * (time.perf_counter() - started))
    return {"stops": STOPS, "stop_median_ms": round(statistics.median(latencies)), "stop_max_ms": round(max(latencies))}


def _design_latency(page: Page, url: str) -> dict[str, float]:
    visit(page, url)
    # Wait until the background work of a start, importing torch and measuring the machine, has ended.
    page.wait_for_timeout(30_000)
    latencies = _slides(page)
    return {
        "design_slides": SLIDES,
        "design_median_ms": round(statistics.median(latencies)),
        "design_p95_ms": _p95(latencies),
    }


def _other_tab_delays(page: Page, url: str) -> dict[str, int]:
    visit(page, url)
    usual = _slides(page)
    median = statistics.median(usual)
    delays = {"none": max(usual) - median}
    browser = page.context.browser
    assert browser is not None
    for text in LARGE:
        other = browser.new_page()
        other.goto(f"{url}/?net={quote(text)}", wait_until="commit")
        delays[text] = max(_slides(page)) - median
        settled(other)
        expect(other.get_by_test_id("stTable").first).to_be_visible()
        other.close()
    return {text: round(delay) for text, delay in delays.items()}


def _slides(page: Page) -> list[float]:
    """Move one width up and down, and measure in the page itself when the total of the table has changed."""
    page.get_by_role("slider", name=re.compile("^3 · 3×3 convolution")).focus()
    latencies = []
    for slide in range(SLIDES + 1):
        page.evaluate(_WATCH_TABLE)
        page.keyboard.press("ArrowRight" if slide % 2 else "ArrowLeft")
        page.wait_for_function("() => window.latency !== null")
        latencies.append(page.evaluate("() => window.latency"))
    return latencies[1:]


def _p95(latencies: list[float]) -> int:
    return round(sorted(latencies)[int(0.95 * len(latencies))])


def _latencies_while_training(page: Page, url: str) -> dict[str, float]:
    """Response times beside a run of 100 epochs; the Draw page follows that run."""
    _start(page, url)
    page.get_by_role("link", name="Design").click()
    expect(page.get_by_role("slider", name=re.compile("^3 · 3×3 convolution"))).to_be_visible(timeout=60_000)
    page.wait_for_timeout(3000)
    slides = _slides(page)
    strokes = _strokes(page, url)
    _stop(page, url)
    report = {"ui_slider_p95_ms": _p95(slides), "ui_draw_p95_ms": _p95(strokes)}
    return {"ui_strokes": STROKES, **report, "ui_p95_ms": max(report.values())}


def _strokes(page: Page, url: str) -> list[float]:
    """Times from the end of each stroke to its ten probabilities."""
    strokes = []
    visit(page, f"{url}/draw")
    for stroke in range(STROKES):
        page.evaluate(_WATCH_PREDICTION)
        x = 40 + 200 * stroke / STROKES
        draw(page, [(x, 60), (x + 10 * (stroke % 3), 220)])
        page.wait_for_function("() => window.latency !== null")
        strokes.append(page.evaluate("() => window.latency"))
    return strokes[1:]


def _looks(page: Page, url: str) -> list[float]:
    """Times from each click on Next to the feature maps of all layers."""
    visit(page, f"{url}/inspect")
    expect(page.get_by_alt_text(re.compile("feature maps of layer")).last).to_be_visible()
    looks = []
    for _ in range(LOOKS):
        page.evaluate(_WATCH_MAPS)
        page.get_by_role("button", name="Next").click()
        page.wait_for_function("() => window.latency !== null")
        looks.append(page.evaluate("() => window.latency"))
    return looks[1:]


def _start(page: Page, url: str) -> None:
    visit(page, f"{url}/train?epochs=100")
    page.get_by_role("button", name="Start training").click()
    expect(page.get_by_text(re.compile(r"step \d\d+ of"))).to_be_visible(timeout=60_000)


def _stop(page: Page, url: str) -> None:
    page.goto(f"{url}/train")
    run = page.get_by_role("combobox", name=re.compile("Run"))
    run.click()
    page.get_by_role("option").first.click()
    page.get_by_role("button", name="Stop").click()
    expect(page.get_by_text("Stopped at step")).to_be_visible()


def _slowdown(page: Page, url: str, saved: Path) -> dict[str, float]:
    """Images per second of whole epochs, from the run's file, with each page that follows the run and with none."""
    _start(page, url)
    followed = {"train": page.url, "inside": f"{url}/inspect", "draw": f"{url}/draw"}
    path = max(saved.glob("*.safetensors"), key=lambda file: file.stat().st_mtime)
    rates: dict[str, list[float]] = {name: [] for name in (*followed, "closed")}
    for _ in range(SPANS):
        # Rates vary by a tenth: the Train page and the closed page are measured twice as often.
        for name in ("train", "closed", "inside", "train", "closed", "draw"):
            if name == "closed":
                page.goto("about:blank")
            else:
                visit(page, followed[name])
            if name == "draw":
                draw(page, [(80, 60), (200, 60), (120, 220)])
            seen = len(run_store.load(path).history.epochs)
            end = time.monotonic() + SPAN_SECONDS
            while len(epochs := run_store.load(path).history.epochs) < seen + 1 + SPAN_EPOCHS:
                assert time.monotonic() < end, f"fewer than {SPAN_EPOCHS} epochs in {SPAN_SECONDS} s"
                page.wait_for_timeout(250)
            # The first epoch began while another page was shown.
            rates[name] += [epoch.images_per_second for epoch in epochs[seen + 1 : seen + 1 + SPAN_EPOCHS]]
    _stop(page, url)
    median = {name: statistics.median(measured) for name, measured in rates.items()}
    return {
        **{f"{name}_images_per_second": round(rate) for name, rate in median.items()},
        **{f"{name}_slowdown": round(1 - median[name] / median["closed"], 3) for name in followed},
    }


# The clock starts at the key that moves the slider and stops when the text of the table's last row has changed.
_WATCH_TABLE = """() => {
  const table = () => document.querySelector("[data-testid=stTable]")
  const total = () => [...(table()?.querySelectorAll("tr") ?? [])].at(-1)?.innerText
  const before = total()
  window.latency = null
  addEventListener("keydown", () => {
    const start = performance.now()
    const look = () => {
      const now = total()
      if (now && now !== before) window.latency = performance.now() - start
      else requestAnimationFrame(look)
    }
    look()
  }, { once: true, capture: true })
}"""

# The clock starts when the pen is lifted and stops when the 28x28 pixels have changed and the page's script has ended:
# the prediction is then on the screen, even if it is the same as before.
_WATCH_PREDICTION = """() => {
  const pixels = () => document.querySelector("img[alt$='28 by 28 pixels']")?.src
  const ended = () => document.querySelector("[data-testid=stApp]").dataset.testScriptState === "notRunning"
  const before = pixels()
  window.latency = null
  addEventListener("mouseup", () => {
    const start = performance.now()
    const look = () => {
      const now = pixels()
      if (now && now !== before && ended()) window.latency = performance.now() - start
      else requestAnimationFrame(look)
    }
    look()
  }, { once: true, capture: true })
}"""

# The clock starts at the click and stops when the last layer's maps have changed and all pictures are loaded.
_WATCH_MAPS = """() => {
  const maps = () => [...document.querySelectorAll("img[alt*='feature maps of layer']")]
  const ended = () => document.querySelector("[data-testid=stApp]").dataset.testScriptState === "notRunning"
  const before = maps().at(-1).src
  window.latency = null
  addEventListener("click", () => {
    const start = performance.now()
    const look = () => {
      const now = maps()
      const others = now.length && now.at(-1).src !== before
      if (others && ended() && now.every((map) => map.complete)) window.latency = performance.now() - start
      else requestAnimationFrame(look)
    }
    look()
  }, { once: true, capture: true })
}"""


if __name__ == "__main__":
    main()
