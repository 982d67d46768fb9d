"""The metadata in the header of a safetensors file, read and changed without the library."""

from __future__ import annotations

import json
import struct
from typing import Any


def split_header(content: bytes) -> tuple[dict[str, Any], bytes]:
    """The header of a file's content as JSON, and the data after it."""
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def metadata(content: bytes) -> dict[str, str]:
    found: dict[str, str] = split_header(content)[0]["__metadata__"]
    return found


def with_metadata(content: bytes, **changes: Any) -> bytes:
    """The content with other metadata; the digest in it stays as it was."""
    header, data = split_header(content)
    header["__metadata__"].update(changes)
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data
