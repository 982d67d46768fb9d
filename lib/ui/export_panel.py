"""Export a network: PyTorch source, tables, and trained networks as ONNX."""

from __future__ import annotations

from functools import partial

import streamlit as st

from lib.design.analysis import NetworkAnalysis
from lib.design.layers import Architecture
from lib.export.pytorch_source import pytorch_source
from lib.export.tables import layers_csv, layers_markdown
from lib.text.untrusted_text import escaped, visible
from lib.ui.cache import onnx_file, trained_checkpoints


def export_panel(architecture: Architecture, analysis: NetworkAnalysis) -> None:
    """Show the download buttons and the source; the tables have the rows of `analysis`."""
    with st.expander("Export", icon=":material/download:", on_change="rerun", key="take") as section:
        # Source and tables are made, and checkpoints read, only for an open expander.
        if not section.open:
            return
        source = pytorch_source(architecture)
        checkpoints = trained_checkpoints(architecture)
        with st.container(horizontal=True):
            for label, content, name in (
                ("PyTorch source", source, "network.py"),
                ("Table as CSV", layers_csv(analysis), "network.csv"),
                ("Table as Markdown", layers_markdown(analysis), "network.md"),
            ):
                st.download_button(label, content, name, on_click="ignore", icon=":material/download:")
            for title, path in checkpoints.items():
                st.download_button(
                    f"ONNX: {escaped(title)}",
                    partial(onnx_file, path),
                    f"{visible(path.stem)}.onnx",
                    on_click="ignore",
                    icon=":material/download:",
                    help="The trained network for other programs. Its input is pixels from 0 to 1, white on black.",
                )
        if not checkpoints:
            st.caption("Train this network to export it as ONNX, too.")
        st.code(source, language="python")
