"""Importing a network on the Design page, in a real browser."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from lib.design.notation import parse
from lib.export.onnx_file import onnx_bytes
from lib.nn.network import build
from tools.browser import TIMEOUT_MS, settled, visit

# As the assignment's text prints it: a bare list of layers with comments.
LISTING = """
## Given below is the network archietecture:

            nn.Conv2d(1, 4, 3, padding=1), #28x28x1 > 28x28x4 : RF: 3x3
            nn.ReLU(),
            nn.BatchNorm2d(4),
            nn.MaxPool2d(2,2),
            nn.Conv2d(4, 12, 3, padding=1), #14x14x4  > 14x14x12 : RF: 6x6
            nn.ReLU(),
            nn.BatchNorm2d(12),
            nn.Conv2d(12, 10, 3), #14x14x12 > 12x12x10 : RF: 12x12
            nn.AvgPool2d(12), # 12x12x10 > 1x1x10

There are 3 convolution layers.
"""
TWO = """
import torch.nn as nn
small = nn.Sequential(nn.Conv2d(1, 10, 28), nn.Flatten())
large = nn.Sequential(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.Conv2d(16, 10, 26, bias=False), nn.Flatten())
class Gated(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 10, 28)
    def forward(self, x):
        return self.conv(x).flatten(1) * self.conv(x).flatten(1)
"""


def opened(page: Page, url: str) -> Locator:
    visit(page, f"{url}/?net=8+10+A")
    page.get_by_role("button", name="Import").click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("textbox", name="Paste PyTorch source")).to_be_visible(timeout=TIMEOUT_MS)
    return dialog


def paste(dialog: Locator, source: str) -> None:
    box = dialog.get_by_role("textbox", name="Paste PyTorch source")
    box.fill(source)
    box.press("Control+Enter")


def use(page: Page, dialog: Locator) -> None:
    dialog.get_by_role("button", name="Use this network").click()
    expect(dialog).to_be_hidden(timeout=TIMEOUT_MS)
    settled(page)


def network(page: Page) -> Locator:
    return page.get_by_role("textbox", name="The network in one line")


def test_a_pasted_list_of_layers_becomes_the_network_and_its_comments_are_checked(page: Page, url: str) -> None:
    dialog = opened(page, url)
    paste(dialog, LISTING)
    table = dialog.get_by_role("table")
    expect(table.get_by_role("row", name=re.compile("^3 · 3×3 convolution 6 8 .*wrong"))).to_be_visible()
    expect(dialog.get_by_text("Layer 3. It doubles at a pool.")).to_be_visible()
    expect(table.get_by_role("row", name=re.compile("^1 · 3×3 convolution 3 3 .*right"))).to_be_visible()
    expect(dialog.get_by_text("2 of 3 stated receptive fields are right.")).to_be_visible()
    use(page, dialog)
    expect(network(page)).to_have_value("4 M 12 10v A12s12")
    # The comments stay beside the network's own fields, until it is changed.
    expect(page.get_by_text("The receptive fields in the comments")).to_be_visible()
    page.get_by_role("button", name="Undo").click()
    expect(network(page)).to_have_value("8 10 A")
    expect(page.get_by_text("The receptive fields in the comments")).to_be_hidden()


def test_one_of_several_networks_is_chosen(page: Page, url: str) -> None:
    dialog = opened(page, url)
    paste(dialog, TWO)
    expect(dialog.get_by_text("Gated · Line", exact=False)).to_be_visible()
    choice = dialog.get_by_role("combobox", name="2 networks were found")
    choice.click()
    page.get_by_role("option", name="large · 108,320 parameters").click()
    expect(dialog.get_by_text("16vn 10k26vu")).to_be_visible()
    use(page, dialog)
    expect(network(page)).to_have_value("16vn 10k26vu")


def test_a_file_becomes_the_network(page: Page, url: str, tmp_path: Path) -> None:
    text = "bias=off norm=before dropout=5c | 8 add( 8 8x N ) R M 16 10w A"
    path = tmp_path / "network.onnx"
    path.write_bytes(onnx_bytes(parse(text), build(parse(text)).state_dict()))
    dialog = opened(page, url)
    dialog.locator("input[type=file]").set_input_files(path)
    expect(dialog.get_by_text(text)).to_be_visible(timeout=TIMEOUT_MS)
    use(page, dialog)
    expect(network(page)).to_have_value(text)


@pytest.mark.parametrize(
    "source",
    ["import os\nos.system('touch /tmp/never')", "class Net(:\n", "[" * 10_000, "x = 1 # **bold** <b>tag</b>"],
    ids=["no network", "broken", "brackets", "markup"],
)
def test_what_cannot_be_read_is_a_sentence(page: Page, url: str, source: str) -> None:
    dialog = opened(page, url)
    paste(dialog, source)
    alert = dialog.get_by_test_id("stAlert")
    expect(alert).to_be_visible(timeout=TIMEOUT_MS)
    assert alert.inner_text().strip().endswith(".")
    expect(dialog.get_by_role("button", name="Use this network")).to_be_hidden()
