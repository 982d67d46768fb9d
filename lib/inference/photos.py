"""Turn a photo of one digit, PNG or JPEG, into ink for `lib.inference.preprocess`. Bytes are decoded, never executed.

1. The header alone says format and size; what is too large is refused before a pixel of it is decoded.
2. Paper under uneven light: a surface of second degree is fitted to the brightness by least squares, reweighted so that
   strokes count little (Cauchy weights; P. Holland and R. Welsch, "Robust regression using iteratively reweighted
   least-squares", Communications in Statistics A6, 1977), and subtracted.
3. Strokes are what stands out of it, darker or lighter, whichever is more; the threshold between paper and ink is that
   of N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9, 1979. It finds the strokes;
   their edges stay soft.
4. Specks, and what comes in from the edge of the photo beside a digit that stands free, are no strokes. Nor is a whole
   sheet on a darker table: the photo is cut to it.
"""

from __future__ import annotations

import io
import warnings
from collections.abc import Sequence
from contextlib import suppress
from decimal import Decimal
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from lib.inference.predict import Prediction
from lib.inference.preprocess import preprocess
from lib.text.untrusted_text import csv_text

# Not torch: work as small as this would wait for its threads, which a training beside it keeps busy.
Plane: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 40_000_000
# A long narrow picture takes many times its size: each of its rows, and what it is reduced by, has a price of its own.
MAX_SIDE = 16_000
MAX_FILES = 200
# Brightness is 0 to 1: ink that differs less from its paper is not told from the paper's own texture.
MIN_CONTRAST = 0.08
# Between paper and ink there are so many standard deviations of the paper's noise; bare noise comes to 2.
MIN_SEPARATION = 4.0
_FORMATS = ("PNG", "JPEG")
# A photo is looked at with its longer side at most this long, its paper and its specks with less.
_SIDE, _PAPER_SIDE, _SPECK_SIDE = 512, 32, 128
_SPECK = 0.03
_ROUNDS = 20
# A sheet on a table fills its box, and that much of both sides of the photo; of 10,000 digits of MNIST one does.
_SHEET_FILL, _SHEET_SIDE, _SHEET_EDGE = 0.75, 0.4, 0.06
# Brightness of an opaque part between 2 % and 98 % of its pixels, where it holds paper and strokes.
_TWO_TONES = 0.3
# A digit stands free where so much of all ink does not touch the edge.
_FREE = 0.1
_TOO_LARGE = f"It has more than {MAX_PIXELS // 10**6} million pixels: save it smaller."
_TOO_LONG = f"It has a side of more than {MAX_SIDE:,} pixels: cut the digit out of it, or save it smaller."
_BLANK = "No digit was found in it: photograph one digit, in ink that stands out from its paper."

# Refused below at a smaller size, in a sentence.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PhotoError(ValueError):
    """A file in which no digit can be read, in one sentence with the remedy."""


def photo_to_image(content: bytes) -> Tensor:
    """The bytes of a PNG or JPEG -> uint8 (28, 28), as MNIST's. Raises PhotoError."""
    image = preprocess(photo_to_grayscale(content))
    if image is None:
        raise PhotoError(_BLANK)
    return image


def photo_to_grayscale(content: bytes) -> Tensor:
    """The bytes of a PNG or JPEG -> float (H, W), 0 to 1, strokes light, at most 512 a side. Raises PhotoError."""
    grey = _brightness(content)
    found = _strokes(grey)
    with suppress(PhotoError):
        if sheet := _sheet(found):
            found = _strokes(grey[sheet])
    return torch.from_numpy(found)


def table_csv(read: Sequence[tuple[str, Prediction | str]]) -> str:
    """One line a file: its name, the digit, its probability and those of all ten, or the sentence why there is none."""
    rows: list[list[str | int | Decimal]] = [
        ["file", "digit", "probability", *(f"p{number}" for number in range(10)), "note"]
    ]
    for name, found in read:
        if isinstance(found, str):
            rows.append([name, *[""] * 12, found])
        else:
            numbers = [Decimal(f"{p:.6f}") for p in (found.confidence, *found.probabilities)]
            rows.append([name, found.digit, *numbers, "" if found.is_confident else "uncertain"])
    return csv_text(rows)


def _sheet(found: Plane) -> tuple[slice, slice] | None:
    """The inside of what is a sheet of paper among the ink (H, W) and no stroke; None where there is none."""
    rows, columns = np.nonzero(found > 0.5)
    if not len(rows):
        return None
    top, left = int(rows.min()), int(columns.min())
    height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
    large = min(height / found.shape[0], width / found.shape[1]) > _SHEET_SIDE
    if not large or len(rows) < _SHEET_FILL * height * width:
        return None
    down, across = round(_SHEET_EDGE * height), round(_SHEET_EDGE * width)
    return slice(top + down, top + height - down), slice(left + across, left + width - across)


def _strokes(grey: Plane) -> Plane:
    """Ink, 0 to 1, of the brightness (H, W). Raises PhotoError where there is none."""
    difference = grey - _paper(grey)
    if np.square(difference.clip(max=0)).sum() > np.square(difference.clip(min=0)).sum():
        difference = -difference
    core = difference > _otsu(difference.clip(min=0))
    if not core.any() or core.all():
        raise PhotoError(_BLANK)
    paper, full = float(np.median(difference[~core])), float(np.median(difference[core]))
    noise = _deviation(np.diff(difference)) / 2**0.5 if difference.shape[1] > 1 else 0.0
    if full - paper < max(MIN_CONTRAST, MIN_SEPARATION * noise):
        raise PhotoError(_BLANK)
    return ((difference - paper) / (full - paper)).clip(0, 1) * _near_strokes(core)


def _brightness(content: bytes) -> Plane:
    """Grey, (H, W), 0 to 1, upright, at most _SIDE a side; what is transparent is paper. Raises PhotoError."""
    if len(content) > MAX_BYTES:
        raise PhotoError(f"It is larger than {MAX_BYTES // 2**20} MB: save it smaller.")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return _grey(image)
    except PhotoError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError("It is not a PNG or JPEG image: save the photo as one of these.") from error
    except Image.DecompressionBombError as error:
        raise PhotoError(_TOO_LARGE) from error
    except Exception as error:  # What a decoder meets in damaged bytes it says in any way.
        raise PhotoError("It is damaged or not complete: save the photo again.") from error


def _grey(image: Image.Image) -> Plane:
    if image.width * image.height > MAX_PIXELS:
        raise PhotoError(_TOO_LARGE)
    if max(image.width, image.height) > MAX_SIDE:
        raise PhotoError(_TOO_LONG)
    # A JPEG of several pictures is a phone's photo with its preview or its depth; a PNG of several moves.
    if image.format == "PNG" and getattr(image, "is_animated", False):
        raise PhotoError("It is an animation: save one picture of it.")
    # A JPEG is decoded at half or a quarter of its size where that is enough.
    image.draft(None, (_SIDE, _SIDE))
    # Decoded now: what is made smaller below must not ask the decoder for another size again.
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    picture: Image.Image = image
    if picture.mode.startswith("I"):
        picture = _eight_bits(picture)
    # What is grey already does not become colours first, which take four bytes a pixel.
    if picture.mode not in ("L", "LA") or (picture.mode == "L" and picture.has_transparency_data):
        colours = "RGBA" if picture.has_transparency_data else "RGB"
        if picture.mode != colours:
            picture = picture.convert(colours)
        picture = picture.convert("LA" if picture.mode == "RGBA" else "L")
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    values = np.asarray(picture, dtype=np.float32) / np.float32(255)
    return _opaque(values[..., 0], values[..., 1]) if picture.mode == "LA" else values


def _eight_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits with the upper eight; one value of all 16 may stand for "transparent"."""
    deep = np.asarray(picture)
    upper = Image.fromarray((deep >> 8).astype(np.uint8))
    if "transparency" in picture.info:
        upper.putalpha(Image.fromarray(255 * (deep != picture.info["transparency"]).astype(np.uint8)))
    return upper


def _opaque(grey: Plane, alpha: Plane) -> Plane:
    """Paper in place of what is transparent: that of the opaque part where it has strokes on it, else the contrary of
    what is drawn.
    """
    solid = grey[alpha > 0.5]
    if not len(solid):
        raise PhotoError(_BLANK)
    least, middle, most = np.quantile(solid, (0.02, 0.5, 0.98)).tolist()
    paper = middle if most - least > _TWO_TONES else float(middle < 0.5)
    return grey * alpha + np.float32(paper) * (1 - alpha)


def _paper(grey: Plane) -> Plane:
    """Brightness that (H, W) would have without strokes."""
    height, width = grey.shape
    shrunk = min(1, _PAPER_SIDE / max(height, width))
    size = max(1, round(shrunk * width)), max(1, round(shrunk * height))
    small = np.asarray(Image.fromarray(grey).resize(size, Image.Resampling.BOX), dtype=float)
    basis = np.stack([np.broadcast_to(term, small.shape).ravel() for term in _terms(*small.shape)], -1)
    # What is as bright as the edge of the photo is more likely paper.
    residual = small.ravel() - np.median(np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]]))
    scale = np.inf
    for _ in range(_ROUNDS):
        # Never wider again: a surface that bends to take in a sheet as large as its table would go on bending.
        scale = min(scale, 2.385 * _deviation(residual) + 1e-3)
        weighted = basis.T / (1 + (residual / scale) ** 2)
        coefficients = np.linalg.lstsq(weighted @ basis, weighted @ small.ravel())[0].astype(np.float32)
        residual = small.ravel() - basis @ coefficients
    return sum(
        (factor * term for factor, term in zip(coefficients, _terms(height, width), strict=True)), np.zeros_like(grey)
    )


def _terms(height: int, width: int) -> tuple[Plane, ...]:
    """1, y, x, y^2, xy, x^2, broadcast to (H, W); each axis goes from -1 to 1 between the edges of the image."""
    y, x = ((2 * np.arange(size, dtype=np.float32) + 1) / np.float32(size) - 1 for size in (height, width))
    y = y[:, None]
    return np.ones((1, 1), np.float32), y, x, y * y, y * x, x * x


def _deviation(values: NDArray[np.floating]) -> float:
    """Standard deviation as the median tells it, of values around 0 among which some are far off."""
    return 1.4826 * float(np.median(np.abs(values)))


def _otsu(values: Plane) -> float:
    """Otsu's threshold of values >= 0, from a histogram of 256 bins."""
    from skimage.filters import threshold_otsu

    # scikit-image returns the center of the last bin of the lower class, all of which is paper.
    return float(threshold_otsu(values)) + float(values.max()) / 512


def _near_strokes(core: Mask) -> Mask:
    """The strokes among the parts of `core` (H, W), and what is close to them, where their soft edges are."""
    from scipy.ndimage import binary_dilation
    from skimage.measure import label
    from skimage.segmentation import clear_border

    height, width = core.shape
    block = -(-max(core.shape) // _SPECK_SIDE)
    padded = np.pad(core, ((0, -height % block), (0, -width % block)))
    areas = padded.reshape(padded.shape[0] // block, block, padded.shape[1] // block, block).sum((1, 3))
    labels = label(areas > 0)
    # Ink that touches the edge is left out, unless it is most of the ink: a shadow, or a line of the sheet.
    free = clear_border(labels)
    if areas[free > 0].sum() > _FREE * areas.sum():
        labels = free
    sizes = np.bincount(labels.ravel(), areas.ravel())
    sizes[0] = 0
    kept = (sizes > 0) & (sizes >= _SPECK * sizes.max())
    near: Mask = binary_dilation(kept[labels], np.ones((3, 3)))
    return near.repeat(block, 0).repeat(block, 1)[:height, :width]
