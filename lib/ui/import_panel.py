"""Import a network on the Design page: pasted PyTorch source, a notebook or an ONNX file."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256

import streamlit as st

from lib.design.layers import Architecture
from lib.design.notation import notation
from lib.importing.networks import ImportedNetwork, import_networks
from lib.importing.stated_fields import StatedField, checked, stated_by_nodes
from lib.text.untrusted_text import escaped, visible
from lib.ui.bounded_cache import BoundedCache
from lib.ui.layer_editor import set_network

FILE_TYPES = ["py", "ipynb", "onnx", "txt", "md"]
# Of a file with many networks, the problems of the first ones are shown.
MAX_PROBLEMS = 5
PLACEHOLDER = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 8, 3, padding=1)  # RF: 3
        …"""
_CACHE: BoundedCache[str, tuple[ImportedNetwork, ...]] = BoundedCache(max_size=32 * 2**20)
_STATED = "stated_fields"
_OPEN = "import_open"


def import_button() -> None:
    """Show the button that opens the dialog, and the dialog while it is open."""
    st.button(
        "Import",
        icon=":material/upload_file:",
        help="Bring a network: PyTorch source, a notebook, or an ONNX file. It is read, never run.",
        on_click=_open,
    )
    # A dialog is closed when the page runs again, as it does when the machine has been measured.
    if st.session_state.get(_OPEN):
        _import_dialog()


def stated_fields(architecture: Architecture) -> tuple[StatedField, ...]:
    """The receptive fields that the comments of the imported source state; () for a network that was not imported."""
    text, stated = st.session_state.get(_STATED, ("", ()))
    return checked(architecture, stated) if text == notation(architecture) else ()


def stated_fields_table(fields: Sequence[StatedField]) -> None:
    """Show the receptive fields that comments state beside the correct ones, and below why a stated one is wrong."""
    st.table(
        [
            {
                "Layer": field.label,
                "Comment": "no comment" if field.stated is None else f"{field.stated}",
                "Correct": f"{field.correct}",
                "": _verdict(field),
            }
            for field in fields
        ],
        border="horizontal",
        hide_index=True,
        alt="Stated and correct receptive fields",
    )
    wrong = sum(field.is_right is False for field in fields)
    stated = sum(field.stated is not None for field in fields)
    st.caption(f"{stated - wrong} of {stated} stated receptive fields are right.")
    # Below the table: on a phone a column of sentences would have one word a line.
    for reason in dict.fromkeys(field.reason for field in fields if field.reason):
        layers = [f"{field.layer + 1}" for field in fields if field.reason == reason]
        st.caption(f"**{'Layers' if len(layers) > 1 else 'Layer'} {', '.join(layers)}.** {reason}")


def _verdict(field: StatedField) -> str:
    if field.is_right is None:
        return ""
    if field.is_right:
        return ":green-badge[:material/check: right]"
    return ":red-badge[:material/close: wrong]"


def _open() -> None:
    st.session_state[_OPEN] = True


def _close() -> None:
    st.session_state[_OPEN] = False


@st.dialog("Import a network", width="large", icon=":material/upload_file:", on_dismiss=_close)
def _import_dialog() -> None:
    text = st.text_area(
        "Paste PyTorch source",
        key="import_source",
        height=180,
        placeholder=PLACEHOLDER,
        help="A class, an nn.Sequential, or the bare list of its layers. The source is read, and never run.",
    )
    file = st.file_uploader("Or choose a file", FILE_TYPES, key="import_file")
    if file is None and not text.strip():
        st.caption(
            "Any network of the notation can be read: convolutions, pools, norms, dropout, fully connected layers and "
            "branches that are added or concatenated. Comments such as `# RF: 14x14` are checked."
        )
        return
    name, data = (file.name, file.getvalue()) if file else ("", text.encode())
    with st.spinner("Reading…", show_time=False):
        found = _networks(name, data)
    readable = [network for network in found if network.architecture]
    problems = [network for network in found if network.problem]
    for network in problems[:MAX_PROBLEMS]:
        shown = f"**{escaped(visible(network.name))}** · " if network.name else ""
        st.warning(f"{shown}{escaped(visible(network.problem or ''))}", icon=":material/error:")
    if len(problems) > MAX_PROBLEMS:
        st.caption(f"{len(problems) - MAX_PROBLEMS} more networks could not be read.")
    if readable:
        _choice(readable)


def _choice(networks: Sequence[ImportedNetwork]) -> None:
    """Show the networks that could be read, one of them in full, and the button that takes it."""
    number = 0
    if len(networks) > 1:
        number = st.selectbox(
            f"{len(networks)} networks were found",
            range(len(networks)),
            format_func=lambda index: f"{visible(networks[index].name)} · {networks[index].num_params:,} parameters",
        )
    network = networks[number]
    assert network.architecture is not None
    text = notation(network.architecture)
    title = f"**{escaped(visible(network.name))}** · " if network.name else ""
    st.markdown(f"{title}{network.num_params:,} parameters")
    st.code(text, language=None, wrap_lines=True)
    for note in network.notes:
        st.caption(f":material/info: {escaped(visible(note))}")
    stated = stated_by_nodes(network.architecture, network.nodes)
    if st.button(
        "Use this network",
        type="primary",
        icon=":material/check:",
        on_click=_use,
        args=(text, stated),
        help="It takes the place of the network on the page. Undo brings that back.",
    ):
        st.rerun()
    if any(field is not None for field in stated):
        st.markdown("**Receptive fields in the comments**")
        stated_fields_table(checked(network.architecture, stated))


def _use(text: str, stated: tuple[int | None, ...]) -> None:
    set_network(text)
    st.session_state[_STATED] = (text, stated)
    _close()


def _networks(name: str, data: bytes) -> tuple[ImportedNetwork, ...]:
    """Read once for all reruns of the dialog, in all tabs."""
    key = f"{name} {sha256(data).hexdigest()}"
    return _CACHE.get(key, lambda: (import_networks(name, data), len(data) + 1))
