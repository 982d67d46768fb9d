"""Photos of digits, compared with MNIST; files that are refused, and their sentences."""

from __future__ import annotations

import csv
import io
import struct
import subprocess
import sys
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lib.data.dataset import Dataset
from lib.inference import photos
from lib.inference.photos import PhotoError, photo_to_grayscale, photo_to_image, predictions_csv
from lib.inference.predict import Prediction
from tests.measure import accuracy_on, shipped_network
from tests.photographs import STYLES, Style, encoded, on_a_table, photo
from tools import ROOT

COUNT = 200


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Small images are faster with one thread, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _difference(content: bytes, original: torch.Tensor) -> float:
    """Mean difference, in gray levels, from MNIST's image; it may be shifted by a pixel."""
    read, other = photo_to_image(content).float(), original.float()
    moved = [other.roll((y, x), (0, 1)) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    return min(float((read - image).abs().mean()) for image in moved)


@pytest.fixture(scope="module")
def seven(mnist: Dataset) -> Image.Image:
    """A 7 of MNIST, 280 pixels a side with a margin, dark on light."""
    large = Image.fromarray(mnist.test_images[0].numpy()).resize((280, 280), Image.Resampling.BICUBIC)
    paper = Image.new("L", (400, 360), 255)
    paper.paste(large.point(lambda level: 255 - level), (60, 40))
    return paper


@pytest.mark.slow
@pytest.mark.parametrize("style", STYLES)
def test_photos_are_predicted_as_well_as_the_originals(mnist: Dataset, style: Style) -> None:
    """The shipped network predicts 198 of the 200 originals correctly."""
    network = shipped_network()
    images, labels = mnist.test_images[:COUNT], mnist.test_labels[:COUNT]
    read = torch.stack([photo_to_image(photo(image, style, seed)) for seed, image in enumerate(images)])
    assert accuracy_on(network, read, labels) >= accuracy_on(network, images, labels) - 0.01


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "LA", "RGBA"])
def test_every_kind_of_png_gives_the_same_image(mnist: Dataset, seven: Image.Image, mode: str) -> None:
    assert _difference(encoded(seven.convert(mode), "PNG"), mnist.test_images[0]) < 8


def test_16_bit_gray_and_cmyk_are_read(mnist: Dataset, seven: Image.Image) -> None:
    deep = Image.fromarray(np.asarray(seven).astype(np.uint16) * 257)
    assert deep.mode == "I;16"
    assert _difference(encoded(deep, "PNG"), mnist.test_images[0]) < 8
    # The value of the paper means "transparent".
    assert _difference(_with_transparency(encoded(deep, "PNG"), 65_535), mnist.test_images[0]) < 8
    assert _difference(encoded(seven.convert("RGB").convert("CMYK"), "JPEG"), mnist.test_images[0]) < 8


@pytest.mark.parametrize("stroke", [0, 120, 255])
@pytest.mark.parametrize("hidden", [0, 128, 255])
def test_transparent_parts_are_paper_whatever_their_color(
    mnist: Dataset, seven: Image.Image, stroke: int, hidden: int
) -> None:
    alpha = seven.point(lambda level: 255 - level)
    color = Image.fromarray(np.where(np.asarray(alpha) > 0, stroke, hidden).astype(np.uint8))
    image = Image.merge("LA", (color, alpha))
    assert _difference(encoded(image, "PNG"), mnist.test_images[0]) < 8
    indexed = image.convert("RGBA").quantize(64)
    assert _difference(encoded(indexed, "PNG"), mnist.test_images[0]) < 10


def test_a_photo_in_a_transparent_frame_keeps_its_paper(mnist: Dataset, seven: Image.Image) -> None:
    frame = Image.new("RGBA", (500, 460))
    frame.paste(seven.convert("RGBA"), (50, 50))
    assert _difference(encoded(frame, "PNG"), mnist.test_images[0]) < 8


@pytest.mark.parametrize(("orientation", "turn"), [(3, 180), (6, 90), (8, 270)])
def test_the_orientation_in_exif_is_applied(mnist: Dataset, seven: Image.Image, orientation: int, turn: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    turned = seven.rotate(turn, expand=True)
    assert _difference(encoded(turned, "JPEG", exif=exif), mnist.test_images[0]) < 8
    assert _difference(encoded(turned, "JPEG"), mnist.test_images[0]) > 20


def test_the_first_picture_of_a_phones_photo_is_read(mnist: Dataset, seven: Image.Image) -> None:
    content = encoded(seven, "MPO", save_all=True, append_images=[Image.new("L", (100, 90))])
    assert _difference(content, mnist.test_images[0]) < 8


def test_a_sheet_on_a_dark_table_is_not_a_stroke(mnist: Dataset) -> None:
    for seed, image in enumerate(mnist.test_images[:20]):
        assert _difference(on_a_table(image, seed), image) < 12, seed


def test_specks_and_ink_at_the_edge_are_removed(mnist: Dataset, seven: Image.Image) -> None:
    dirty = np.array(seven)
    dirty[:, :20] = 60
    for row, column in ((15, 385), (200, 380), (340, 30), (345, 200)):
        dirty[row : row + 6, column : column + 6] = 0
    assert _difference(encoded(Image.fromarray(dirty), "PNG"), mnist.test_images[0]) < 8


def test_faint_ink_beside_dark_stripes_at_the_edge_is_kept() -> None:
    """The stripes are removed, and the rest is less than half as dark as they are."""
    paper = np.full((7, 12), 255, np.uint8)
    paper[:6, 4] = 53
    paper[2:6, 2] = 155
    paper[3:, 3] = paper[3:, 5:8] = paper[6, 4] = 197
    found = photo_to_grayscale(encoded(Image.fromarray(paper), "PNG"))
    assert 0 < float(found.max()) < 0.5


def test_ink_is_between_0_and_1_and_at_most_512_pixels_a_side(seven: Image.Image) -> None:
    found = photo_to_grayscale(encoded(seven.resize((3000, 2700)), "JPEG"))
    assert found.shape == (461, 512)
    assert (float(found.min()), float(found.max())) == (0, 1)
    assert found[:40].max() == 0


def _with_transparency(content: bytes, value: int) -> bytes:
    """Insert a tRNS chunk into a gray PNG, after its header of 33 bytes."""
    chunk = b"tRNS" + struct.pack(">H", value)
    return content[:33] + struct.pack(">I", 2) + chunk + struct.pack(">I", zlib.crc32(chunk)) + content[33:]


def _bare(noise: float) -> bytes:
    rng = np.random.default_rng(0)
    x = np.linspace(0, 1, 600)
    light = 220 - 90 * x + rng.normal(0, noise, (500, 600))
    return encoded(Image.fromarray(light.clip(0, 255).astype(np.uint8)), "JPEG", quality=60)


def _of_size(width: int, height: int) -> bytes:
    """A PNG whose header states this size, almost without content."""
    content = bytearray(encoded(Image.new("L", (4, 4)), "PNG"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


ANIMATION: dict[str, Any] = {"save_all": True, "append_images": [Image.new("L", (28, 28), 9)]}
REFUSED = {
    "empty": (b"", "not a PNG or JPEG"),
    "text": (b"a text that is called photo.png", "not a PNG or JPEG"),
    "another format": (encoded(Image.new("L", (28, 28)), "GIF"), "not a PNG or JPEG"),
    "script": (b"<svg xmlns='http://www.w3.org/2000/svg'><script>alert(1)</script></svg>", "not a PNG or JPEG"),
    "too long": (b"\x89PNG\r\n\x1a\n" + bytes(photos.MAX_BYTES), "larger than 10 MB"),
    "too many pixels": (_of_size(8000, 5001), "more than 40 million pixels"),
    "a bomb": (_of_size(60_000, 60_000), "more than 40 million pixels"),
    "animation": (encoded(Image.new("L", (28, 28)), "PNG", **ANIMATION), "an animation"),
    "truncated PNG": (encoded(Image.effect_noise((200, 200), 50), "PNG")[:9000], "damaged or not complete"),
    "truncated JPEG": (encoded(Image.effect_noise((200, 200), 50), "JPEG")[:3000], "damaged or not complete"),
    "black": (encoded(Image.new("L", (300, 200)), "PNG"), "No digit was found"),
    "transparent": (encoded(Image.new("RGBA", (300, 200)), "PNG"), "No digit was found"),
    "one pixel": (encoded(Image.new("L", (1, 1), 99), "PNG"), "No digit was found"),
    "paper under a lamp": (_bare(3), "No digit was found"),
    "paper in the dusk": (_bare(25), "No digit was found"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_file_without_a_digit_is_refused_in_a_sentence(name: str) -> None:
    content, says = REFUSED[name]
    with pytest.raises(PhotoError, match=says) as caught:
        photo_to_image(content)
    assert str(caught.value).endswith(".")


def _assert_image_or_sentence(content: bytes) -> None:
    try:
        image = photo_to_image(content)
        assert (image.shape, image.dtype) == ((28, 28), torch.uint8)
        assert image.any()
    except PhotoError as error:
        assert str(error).endswith(".")


@given(st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR"]), st.binary())
def test_random_bytes_are_refused(start: bytes, rest: bytes) -> None:
    with pytest.raises(PhotoError):
        photo_to_image(start + rest)


@settings(max_examples=150)
@given(st.sampled_from(["PNG", "JPEG"]), st.data())
def test_a_truncated_or_changed_file_gives_an_image_or_a_sentence(kind: str, data: st.DataObject) -> None:
    whole = bytearray(_SAMPLES[kind])
    for _ in range(data.draw(st.integers(0, 5))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    _assert_image_or_sentence(bytes(whole[: data.draw(st.integers(0, len(whole)))]))


@settings(max_examples=60)
@given(st.integers(1, 40), st.integers(1, 40), st.data())
def test_any_picture_gives_an_image_or_a_sentence(width: int, height: int, data: st.DataObject) -> None:
    pixels = data.draw(st.binary(min_size=width * height, max_size=width * height))
    _assert_image_or_sentence(encoded(Image.frombytes("L", (width, height), pixels), "PNG"))


PEAK = """
import io, sys
from PIL import Image
from lib.inference import photos
Image.MAX_IMAGE_PIXELS = None
width, height = int(sys.argv[1]), int(sys.argv[2])
buffer = io.BytesIO()
Image.new("L", (width, height), 200).save(buffer, "PNG", compress_level=1)
memory = lambda field: next(
    int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(field)
)
open("/proc/self/clear_refs", "w").write("5")
before = memory("VmRSS")
try:
    photos.photo_to_image(buffer.getvalue())
except photos.PhotoError as error:
    print(memory("VmHWM") - before, error)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("width", "height", "says", "most"),
    [
        (1, 39_999_000, "a side of more than 16,000 pixels", 20),
        (9_999_000, 4, "a side of more than 16,000 pixels", 20),
        (6_000, 6_000, "No digit was found", 60),
    ],
)
def test_a_small_file_of_many_pixels_takes_little_memory(width: int, height: int, says: str, most: int) -> None:
    """`most` is in MB, above the memory of the process before. A file of 78 kB once took 1.1 GB."""
    command = [sys.executable, "-c", PEAK, str(width), str(height)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60)
    kilobytes, sentence = done.stdout.split(" ", 1)
    assert says in sentence
    assert int(kilobytes) < 1000 * most


def test_the_csv_table_can_be_read_and_has_no_formulas() -> None:
    likely, unlikely = Prediction((0.0,) * 7 + (0.9, 0.1, 0.0)), Prediction((0.3,) + (0.7 / 9,) * 9)
    names = ["a.png", "=1+1.png", '@x, "y".png', " +1.png", "\t-1.png", "élève –.png", "new\nline.png"]
    text = predictions_csv([*((name, likely) for name in names), ("b.png", unlikely), ("c.png", "It is damaged.")])
    head, *rows = csv.reader(io.StringIO(text))
    assert len(head) == 14
    assert [row[0].replace("'", "") for row in rows] == [*names, "b.png", "c.png"]
    assert not any(row[0].lstrip().startswith(("=", "+", "-", "@")) for row in rows)
    assert rows[0] == ["a.png", "7", "0.900000", *["0.000000"] * 7, "0.900000", "0.100000", "0.000000", ""]
    assert (rows[-2][1], rows[-2][-1]) == ("0", "uncertain")
    assert rows[-1] == ["c.png", *[""] * 12, "It is damaged."]


def _sample() -> Image.Image:
    image = Image.new("L", (60, 60), 230)
    image.paste(30, (25, 10, 34, 50))
    return image


_SAMPLES = {kind: encoded(_sample(), kind) for kind in ("PNG", "JPEG")}
