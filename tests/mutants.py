"""Files that are changed somewhere: bits, values of the header, tensors; with the digest that fits, or without."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from lib.storage import checkpoints, digit_sets

# As JSON has them: 1e999 is read as infinity.
ODD = [
    *("NaN", "1e999", "-1e999", "-1", "0", "1", "2", "0.5", "-0.5", "1e308", "1e-320", "null", "true", "false", "[]"),
    *("{}", '""', '"x"', '"NaN"', '"-1"', '"\\u0000"', '"\\ud800"', '"../x"', "[null]", "[[1]]", '{"a": {}}', "101"),
    *("9" * 19, "9" * 400, "9" * 5000, "60001", "[" * 400 + "]" * 400, '"' + "long " * 2000 + '"', "1.0", '"![](//e)"'),
]
DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
Metadata = dict[str, Any]
Tensors = dict[str, Tensor]


def parts(content: bytes) -> tuple[Metadata, Tensors]:
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length])["__metadata__"], load(content)


NO_DIGEST = "0" * 64


def run_digest(metadata: Metadata, tensors: Tensors) -> str:
    try:
        return checkpoints._digest(metadata, tensors)
    except TypeError:
        # numpy does not know a tensor's type.
        return NO_DIGEST


def set_digest(metadata: Metadata, tensors: Tensors) -> str:
    found = digit_sets.DigitSet("", *(tensors.get(name, torch.zeros(0)) for name in ("images", "labels")))
    try:
        return digit_sets._digest(found)
    except TypeError:
        return NO_DIGEST


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The way to each value within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [path] * bool(path) + [place for key, each in inner for place in places(each, (*path, key))]


def replaced(chance: random.Random, text: str) -> str:
    """JSON with one or two values replaced, taken away, or written twice."""
    value = json.loads(text)
    for _ in range(chance.choice([1, 1, 2])):
        options = places(value)
        if not options:
            break
        # A few long lists of epochs would else be all that is ever changed.
        kinds = sorted({str(place[0]) for place in options})
        first = chance.choice([*kinds, *(kind for kind in kinds if kind in ("epochs", "state") for _ in range(6))])
        *way, last = chance.choice([place for place in options if str(place[0]) == first])
        holder = value
        for key in way:
            holder = holder[key]
        match chance.randrange(6):
            case 0:
                del holder[last]
            case 1 if isinstance(holder, list):
                holder.insert(last, holder[last])
            case 2 if isinstance(holder[last], int | float):
                holder[last] += chance.choice([-1, 1, 0.5])
            case _:
                # Written as it stands in ODD, which no Python value would give.
                holder[last] = f"<{chance.randrange(len(ODD))}>"
    written = json.dumps(value)
    for number, odd in enumerate(ODD):
        written = written.replace(f'"<{number}>"', odd)
    return written


def changed_tensor(chance: random.Random, tensors: Tensors) -> None:
    name = chance.choice(sorted(tensors))
    tensor = tensors[name].clone()
    match chance.randrange(8):
        case 0:
            del tensors[name]
            return
        case 1:
            tensors[chance.choice([f"{name}2", "extra/x", f"extra/{name}", "0.weight", "history.train_loss"])] = tensor
            return
        case 2:
            tensor = tensor.to(chance.choice(DTYPES))
        case 3:
            tensor = chance.choice([tensor[None], tensor.reshape(-1), tensor.reshape(-1)[:-1], torch.zeros(0)])
        case 4 | 5 if tensor.is_floating_point() and tensor.numel():
            value = chance.choice([torch.nan, torch.inf, -torch.inf, -1.0, 2.0, 1e38, 0.0])
            tensor.reshape(-1)[chance.randrange(tensor.numel())] = value
        case 4 | 5 | 6 if tensor.numel():
            tensor.reshape(-1)[chance.randrange(tensor.numel())] = chance.choice([0, 10, 255])
        case _:
            tensor = torch.cat([tensor.reshape(-1)] * 2)
    tensors[name] = tensor.contiguous()


def sealed(chance: random.Random, content: bytes, digest: Callable[[Metadata, Tensors], str]) -> bytes:
    """As whoever knows the format would write it, digest and all."""
    metadata, tensors = parts(content)
    nested = [name for name in metadata if metadata[name].startswith("{")]
    match chance.randrange(5):
        case 0 if tensors:
            changed_tensor(chance, tensors)
        case 1:
            metadata[chance.choice(sorted(metadata))] = json.dumps(json.loads(chance.choice(ODD[:-7])))
        case _ if nested:
            # The last is of a run: what it has there is worth most.
            name = chance.choice([*nested, nested[0]])
            metadata[name] = replaced(chance, metadata[name])
        case _ if tensors:
            changed_tensor(chance, tensors)
    metadata["sha256"] = digest(metadata, tensors)
    return save(tensors, {name: str(value) for name, value in metadata.items()})


def damaged(chance: random.Random, content: bytes) -> bytes:
    """Bits flipped, a piece cut out, moved or written twice, zeros."""
    changed = bytearray(content)
    end = chance.choice([8, 300, len(content)])
    at = chance.randrange(end)
    length = chance.choice([1, 8, 100, len(content)])
    match chance.randrange(5):
        case 0:
            for _ in range(chance.randint(1, 8)):
                changed[chance.randrange(end)] ^= 1 << chance.randrange(8)
        case 1:
            del changed[at:]
        case 2:
            del changed[at : at + length]
        case 3:
            changed[at:at] = changed[at : at + length]
        case _:
            changed[at : at + length] = bytes(length)
    return bytes(changed)


def rewritten_header(chance: random.Random, content: bytes) -> bytes:
    """A header of other JSON: kinds, places and shapes of the tensors too; the digest stays what it was."""
    (length,) = struct.unpack("<Q", content[:8])
    text = replaced(chance, content[8 : 8 + length].decode()).encode()
    return struct.pack("<Q", len(text) + chance.choice([0, 0, 0, -1, 1, 2**40])) + text + content[8 + length :]


def mutant(chance: random.Random, content: bytes, digest: Callable[[Metadata, Tensors], str]) -> bytes:
    """One of all kinds; most have the digest that fits, which no accident gives."""
    match chance.randrange(8):
        case 0:
            return damaged(chance, content)
        case 1:
            return rewritten_header(chance, content)
        case _:
            return sealed(chance, content, digest)


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}{checkpoints.SUFFIX}").write_bytes(content)
