"""Damaged files: changed bits, header values or tensors, with or without a valid digest."""

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
from tests.safetensors_metadata import metadata as metadata_of

# JSON values; 1e999 is read as infinity.
ODD = [
    *("NaN", "1e999", "-1e999", "-1", "0", "1", "2", "0.5", "-0.5", "1e308", "1e-320", "null", "true", "false", "[]"),
    *("{}", '""', '"x"', '"NaN"', '"-1"', '"\\u0000"', '"\\ud800"', '"../x"', "[null]", "[[1]]", '{"a": {}}', "101"),
    *("9" * 19, "9" * 400, "9" * 5000, "60001", "[" * 400 + "]" * 400, '"' + "long " * 2000 + '"', "1.0", '"![](//e)"'),
]
DTYPES = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
Metadata = dict[str, Any]
Tensors = dict[str, Tensor]


def parts(content: bytes) -> tuple[Metadata, Tensors]:
    return metadata_of(content), load(content)


NO_DIGEST = "0" * 64


def run_digest(metadata: Metadata, tensors: Tensors) -> str:
    try:
        return checkpoints._digest(metadata, tensors)
    except TypeError:
        # A type that numpy does not have.
        return NO_DIGEST


def set_digest(metadata: Metadata, tensors: Tensors) -> str:
    found = digit_sets.DigitSet("", *(tensors.get(name, torch.zeros(0)) for name in ("images", "labels")))
    try:
        return digit_sets._digest(found)
    except TypeError:
        return NO_DIGEST


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The keys and indices that lead to each value within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else []
    return [path] * bool(path) + [place for key, each in inner for place in places(each, (*path, key))]


def replaced(rng: random.Random, text: str) -> str:
    """JSON with one or two values replaced, removed or repeated."""
    value = json.loads(text)
    for _ in range(rng.choice([1, 1, 2])):
        options = places(value)
        if not options:
            break
        # Otherwise most changes would be in the few long lists of epochs.
        kinds = sorted({str(place[0]) for place in options})
        first = rng.choice([*kinds, *(kind for kind in kinds if kind in ("epochs", "state") for _ in range(6))])
        *way, last = rng.choice([place for place in options if str(place[0]) == first])
        holder = value
        for key in way:
            holder = holder[key]
        match rng.randrange(6):
            case 0:
                del holder[last]
            case 1 if isinstance(holder, list):
                holder.insert(last, holder[last])
            case 2 if isinstance(holder[last], int | float):
                holder[last] += rng.choice([-1, 1, 0.5])
            case _:
                # Written as it stands in ODD, which no Python value would give.
                holder[last] = f"<{rng.randrange(len(ODD))}>"
    written = json.dumps(value)
    for number, odd in enumerate(ODD):
        written = written.replace(f'"<{number}>"', odd)
    return written


def changed_tensor(rng: random.Random, tensors: Tensors) -> None:
    name = rng.choice(sorted(tensors))
    tensor = tensors[name].clone()
    match rng.randrange(8):
        case 0:
            del tensors[name]
            return
        case 1:
            tensors[rng.choice([f"{name}2", "extra/x", f"extra/{name}", "0.weight", "history.train_loss"])] = tensor
            return
        case 2:
            tensor = tensor.to(rng.choice(DTYPES))
        case 3:
            tensor = rng.choice([tensor[None], tensor.reshape(-1), tensor.reshape(-1)[:-1], torch.zeros(0)])
        case 4 | 5 if tensor.is_floating_point() and tensor.numel():
            value = rng.choice([torch.nan, torch.inf, -torch.inf, -1.0, 2.0, 1e38, 0.0])
            tensor.reshape(-1)[rng.randrange(tensor.numel())] = value
        case 4 | 5 | 6 if tensor.numel():
            tensor.reshape(-1)[rng.randrange(tensor.numel())] = rng.choice([0, 10, 255])
        case _:
            tensor = torch.cat([tensor.reshape(-1)] * 2)
    tensors[name] = tensor.contiguous()


def sealed(rng: random.Random, content: bytes, digest: Callable[[Metadata, Tensors], str]) -> bytes:
    """A changed file with a valid digest."""
    metadata, tensors = parts(content)
    # safetensors writes the metadata in any order.
    nested = sorted(name for name in metadata if metadata[name].startswith("{"))
    match rng.randrange(5):
        case 0 if tensors:
            changed_tensor(rng, tensors)
        case 1:
            metadata[rng.choice(sorted(metadata))] = json.dumps(json.loads(rng.choice(ODD[:-7])))
        case _ if nested:
            # The first, `details`, has most of a run.
            name = rng.choice([*nested, nested[0]])
            metadata[name] = replaced(rng, metadata[name])
        case _ if tensors:
            changed_tensor(rng, tensors)
    metadata["sha256"] = digest(metadata, tensors)
    return save(tensors, {name: str(value) for name, value in metadata.items()})


def damaged(rng: random.Random, content: bytes) -> bytes:
    """Bits flipped, or a piece removed, repeated or zeroed."""
    changed = bytearray(content)
    end = rng.choice([8, 300, len(content)])
    at = rng.randrange(end)
    length = rng.choice([1, 8, 100, len(content)])
    match rng.randrange(5):
        case 0:
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(end)] ^= 1 << rng.randrange(8)
        case 1:
            del changed[at:]
        case 2:
            del changed[at : at + length]
        case 3:
            changed[at:at] = changed[at : at + length]
        case _:
            changed[at : at + length] = bytes(length)
    return bytes(changed)


def rewritten_header(rng: random.Random, content: bytes) -> bytes:
    """Another JSON header, including types, offsets and shapes of the tensors; the digest is unchanged."""
    (length,) = struct.unpack("<Q", content[:8])
    text = replaced(rng, content[8 : 8 + length].decode()).encode()
    return struct.pack("<Q", len(text) + rng.choice([0, 0, 0, -1, 1, 2**40])) + text + content[8 + length :]


def mutant(rng: random.Random, content: bytes, digest: Callable[[Metadata, Tensors], str]) -> bytes:
    """A damaged file of a random kind. Most have a valid digest, which accidental damage never has."""
    match rng.randrange(8):
        case 0:
            return damaged(rng, content)
        case 1:
            return rewritten_header(rng, content)
        case _:
            return sealed(rng, content, digest)


def write_all(folder: Path, contents: Mapping[str, bytes]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in contents.items():
        (folder / f"{name}{checkpoints.SUFFIX}").write_bytes(content)
