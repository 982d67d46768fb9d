"""Networks read from notebooks."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from lib.importing.module_graph import ImportSourceError
from lib.importing.notebook import MAX_NOTEBOOK_BYTES, networks_in_notebook, notebook_source
from tests.source_styles import STYLES, networks

SOURCES = Path(__file__).parent / "fixtures" / "sources"


def code(source: Any) -> dict[str, Any]:
    return {"cell_type": "code", "execution_count": 1, "metadata": {}, "outputs": [], "source": source}


def text(source: str) -> dict[str, Any]:
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def notebook(*cells: Any) -> bytes:
    return json.dumps({"cells": list(cells), "metadata": {"colab": {}}, "nbformat": 4, "nbformat_minor": 0}).encode()


def net(width: str) -> str:
    return (
        f"class Net(nn.Module):\n    def __init__(self):\n        super(Net, self).__init__()\n"
        f"        self.conv = nn.Conv2d(1, {width}, 28) # RF 28\n\n    def forward(self, x):\n"
        f"        return F.log_softmax(self.conv(x).view(-1, {width}), dim=1)"
    )


IMPORTS = "import torch\nimport torch.nn as nn\nimport torch.nn.functional as F"
SUMMARY = (
    "!pip install torchsummary\nfrom torchsummary import summary\nuse_cuda = torch.cuda.is_available()\n"
    'device = torch.device("cuda" if use_cuda else "cpu")\nmodel = Net().to(device)\n'
    "summary(model, input_size=(1, 28, 28))"
)
TRAINING = (
    "from tqdm import tqdm\ndef train(model, device, train_loader, optimizer, epoch):\n    model.train()\n"
    "    pbar = tqdm(train_loader)\n    for batch_idx, (data, target) in enumerate(pbar):\n"
    "        data, target = data.to(device), target.to(device)\n        loss = F.nll_loss(model(data), target)\n"
    "        loss.backward()\n\nfor epoch in range(1, 20):\n    %time train(model, device, None, None, epoch)\n"
    "    print(f'{epoch}')"
)


def test_each_definition_in_a_notebook_is_a_network() -> None:
    cells = [
        text("# A notebook"), code("%matplotlib inline\n" + IMPORTS),
        code("from google.colab import drive\n!nvidia-smi"),
        code("WIDTH = 8"), code(net("WIDTH").splitlines(keepends=True)), code(SUMMARY), code(TRAINING),
        code("%%bash\nclass is no class (here\n"), code("WIDTH = 16"), code(net("WIDTH")), code(SUMMARY),
        code("%%time\nfor epoch in range(3):\n    pass"), code("model?\nfiles = !ls\n?model"), code("broken (\n"),
    ]  # fmt: skip
    found = networks_in_notebook(notebook(*cells))
    assert [graph.name for graph in found] == ["Net", "Net (2)"]
    assert [graph.problem for graph in found] == [None, None]
    assert [graph.nodes[0].arguments["out_channels"] for graph in found] == [8, 16]
    lines = notebook_source(notebook(*cells)).split("\n")
    for graph in found:
        assert graph.nodes[0].line is not None
        assert lines[graph.nodes[0].line - 1].strip().startswith("self.conv = ")
        assert graph.nodes[0].comment == "RF 28"


def test_lines_are_counted_over_the_cells() -> None:
    source = notebook_source(
        notebook(code(["a = 1\n", "!ls\n", "b = 2"]), text("x"), code("%%html\n<b>\n"), code("c = 3"))
    )
    assert source.split("\n") == ["a = 1", "", "b = 2", "", "", "", "c = 3"]
    assert notebook_source(notebook(code("if x:\n    !ls\ny = %timeit z"))) == "if x:\n    pass\n"


def test_an_old_notebook_has_sheets() -> None:
    cells = [{"cell_type": "code", "input": [f"{line}\n" for line in (IMPORTS + "\n" + net("10")).split("\n")]}]
    (graph,) = networks_in_notebook(json.dumps({"worksheets": [{"cells": cells}], "nbformat": 3}).encode())
    assert graph.nodes[0].arguments["out_channels"] == 10


def test_all_sources_are_read_from_one_notebook_as_from_files() -> None:
    cells = [code(path.read_text(encoding="utf-8")) for path in sorted(SOURCES.glob("*.py"))]
    found = networks_in_notebook(notebook(*cells))
    assert len(found) > len(cells)
    assert [graph.name for graph in found if graph.problem is not None] == []


def test_a_long_notebook_is_read() -> None:
    cells = [code(IMPORTS)]
    for network in networks()[:20]:
        cells += [code(STYLES["attributes and functions"](network)), code(SUMMARY), code(TRAINING)]
    assert len(networks_in_notebook(notebook(*cells))) == 20


BAD = {
    "no JSON": b"\x89PNG",
    "half": b'{"cells": [',
    "deep": b"[" * 100_000,
    "deep cells": b'{"cells": ' + b"[" * 900 + b"]" * 900 + b"}",
    "list": b"[]",
    "number": b"1",
    "no cells": b"{}",
    "cells no list": b'{"cells": 3}',
    "empty": notebook(),
    "only text": notebook(text("class Net(nn.Module): pass")),
    "odd cells": notebook(1, None, [], {}, {"cell_type": "code"}, code(3), code([1, 2]), code(None)),
    "odd sheets": b'{"worksheets": [1, {"cells": null}, {"cells": [1]}]}',
    "bytes": b"\xff\xfe\x00{",
    "surrogates": notebook(code("x = '\ud800'")),
    "no network": notebook(code("x = 1")),
    "large": b" " * (MAX_NOTEBOOK_BYTES + 1),
    "number of digits": b'{"cells": [' + b"9" * 5000 + b"]}",
}


@pytest.mark.parametrize("what", BAD)
def test_what_is_no_notebook_is_a_sentence(what: str) -> None:
    began = time.thread_time()
    with pytest.raises(ImportSourceError, match=r"\.$"):
        networks_in_notebook(BAD[what])
    assert time.thread_time() - began < 2


@pytest.mark.parametrize("magic", ["%%time", "%%capture out", "%%writefile model.py", "%%file -a net.py"])
def test_cells_of_python_with_a_magic_are_read(magic: str) -> None:
    [graph] = networks_in_notebook(notebook(code(f"{magic}\n{net('8')}")))
    assert graph.problem is None
    assert graph.nodes[0].arguments["out_channels"] == 8


def test_a_file_in_another_language_is_not_read() -> None:
    with pytest.raises(ImportSourceError):
        networks_in_notebook(notebook(code(f"%%writefile notes.txt\n{net('8')}")))
