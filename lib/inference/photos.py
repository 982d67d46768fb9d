"""Turn a photo of one digit, PNG or JPEG, into ink for `lib.inference.preprocess`. Bytes are decoded, never executed.

1. Format and size are read from the header. Images that are too large are refused before any pixel is decoded.
2. The paper, under uneven light: a quadratic surface is fitted to the brightness and subtracted. The fit is iteratively
   reweighted least squares with Cauchy weights, so that strokes count little (P. Holland and R. Welsch, "Robust
   regression using iteratively reweighted least-squares", Communications in Statistics A6, 1977).
3. The strokes are the darker or the lighter deviations from the paper, whichever are stronger. The threshold between
   paper and ink is Otsu's (N. Otsu, "A threshold selection method from gray-level histograms", IEEE Trans. SMC 9,
   1979). It only locates the strokes; their edges stay soft.
4. Specks are removed, and so is ink that touches the edge of the photo, unless it is most of the ink. A photo of a
   whole sheet on a darker table is cropped to the sheet.
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

# NumPy instead of torch: such small work would wait for torch's threads, which a training keeps busy.
Plane: TypeAlias = NDArray[np.float32]
Mask: TypeAlias = NDArray[np.bool_]

MAX_BYTES = 10 * 2**20
MAX_PIXELS = 40_000_000
# Decoding and reducing a long narrow image takes many times its size in memory.
MAX_SIDE = 16_000
MAX_FILES = 200
# Brightness is 0 to 1. Ink with less contrast cannot be distinguished from the texture of the paper.
MIN_CONTRAST = 0.08
# Least difference of ink and paper, in standard deviations of the noise; noise alone reaches 2.
MIN_SEPARATION = 4.0
_FORMATS = ("PNG", "JPEG")
# Longest sides, in pixels, at which strokes, paper and specks are found.
_SIDE, _PAPER_SIDE, _SPECK_SIDE = 512, 32, 128
# A part smaller than this fraction of the largest one is a speck.
_SPECK = 0.03
_FIT_ROUNDS = 20
# Tuning constant of the Cauchy weights, in standard deviations: 95 % efficiency for normal noise (Holland and Welsch).
_CAUCHY = 2.385
# A sheet on a table fills this much of its bounding box and of both sides of the photo; one of MNIST's 10,000 test
# digits does too. The last number is the margin that is cropped, as a fraction of the sheet's side.
_SHEET_FILL, _SHEET_SIDE, _SHEET_EDGE = 0.75, 0.4, 0.06
# If the 2 % and 98 % quantiles of the opaque part's brightness differ by more, it has both paper and strokes.
_TWO_TONES = 0.3
# Ink that touches the edge is removed if more than this fraction of all ink does not.
_FREE = 0.1
_TOO_LARGE = f"It has more than {MAX_PIXELS // 10**6} million pixels: save it smaller."
_TOO_LONG = f"It has a side of more than {MAX_SIDE:,} pixels: cut the digit out of it, or save it smaller."
_BLANK = "No digit was found in it: photograph one digit, in ink that stands out from its paper."

# Such images are refused below, at a smaller size.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class PhotoError(ValueError):
    """A file without a readable digit. The message is a sentence for users with the remedy."""


def photo_to_image(content: bytes) -> Tensor:
    """Turn the bytes of a PNG or JPEG into an image like MNIST's, uint8 (28, 28). Raises PhotoError."""
    image = preprocess(photo_to_grayscale(content))
    if image is None:
        raise PhotoError(_BLANK)
    return image


def photo_to_grayscale(content: bytes) -> Tensor:
    """Turn the bytes of a PNG or JPEG into ink, float (H, W), 0 to 1, light on dark. Raises PhotoError.

    The longer side has at most 512 pixels.
    """
    gray = _decode(content)
    ink = _strokes(gray)
    with suppress(PhotoError):
        if sheet := _sheet(ink):
            ink = _strokes(gray[sheet])
    return torch.from_numpy(ink)


def predictions_csv(predictions: Sequence[tuple[str, Prediction | str]]) -> str:
    """Write a CSV table with one row for each file: name, digit, its probability, all ten probabilities, and a note.

    For a file that could not be read, the second element is the reason, which becomes the note.
    """
    rows: list[list[str | int | Decimal]] = [
        ["file", "digit", "probability", *(f"p{number}" for number in range(10)), "note"]
    ]
    for name, prediction in predictions:
        if isinstance(prediction, str):
            rows.append([name, *[""] * 12, prediction])
        else:
            numbers = [Decimal(f"{p:.6f}") for p in (prediction.confidence, *prediction.probabilities)]
            rows.append([name, prediction.digit, *numbers, "" if prediction.is_confident else "uncertain"])
    return csv_text(rows)


def _sheet(ink: Plane) -> tuple[slice, slice] | None:
    """The inside of a sheet of paper that was taken for ink (H, W), or None if there is no such sheet."""
    rows, columns = np.nonzero(ink > 0.5)
    if not len(rows):
        return None
    top, left = int(rows.min()), int(columns.min())
    height, width = int(rows.max()) + 1 - top, int(columns.max()) + 1 - left
    large = min(height / ink.shape[0], width / ink.shape[1]) > _SHEET_SIDE
    if not large or len(rows) < _SHEET_FILL * height * width:
        return None
    down, across = round(_SHEET_EDGE * height), round(_SHEET_EDGE * width)
    return slice(top + down, top + height - down), slice(left + across, left + width - across)


def _strokes(gray: Plane) -> Plane:
    """Ink, 0 to 1, of the brightness (H, W). Raises PhotoError if there is none."""
    difference = gray - _paper(gray)
    if np.square(difference.clip(max=0)).sum() > np.square(difference.clip(min=0)).sum():
        difference = -difference
    core = difference > _otsu(difference.clip(min=0))
    if not core.any() or core.all():
        raise PhotoError(_BLANK)
    paper, ink = float(np.median(difference[~core])), float(np.median(difference[core]))
    # The difference of two neighbors has twice the variance of the noise.
    noise = _deviation(np.diff(difference)) / 2**0.5 if difference.shape[1] > 1 else 0.0
    if ink - paper < max(MIN_CONTRAST, MIN_SEPARATION * noise):
        raise PhotoError(_BLANK)
    return ((difference - paper) / (ink - paper)).clip(0, 1) * _near_strokes(core)


def _decode(content: bytes) -> Plane:
    """Brightness (H, W), 0 to 1, upright, at most _SIDE a side, with transparent parts as paper. Raises PhotoError."""
    if len(content) > MAX_BYTES:
        raise PhotoError(f"It is larger than {MAX_BYTES // 2**20} MB: save it smaller.")
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return _to_gray(image)
    except PhotoError:
        raise
    except UnidentifiedImageError as error:
        raise PhotoError("It is not a PNG or JPEG image: save the photo as one of these.") from error
    except Image.DecompressionBombError as error:
        raise PhotoError(_TOO_LARGE) from error
    except Exception as error:  # Decoders raise errors of many kinds for damaged files.
        raise PhotoError("It is damaged or not complete: save the photo again.") from error


def _to_gray(image: Image.Image) -> Plane:
    if image.width * image.height > MAX_PIXELS:
        raise PhotoError(_TOO_LARGE)
    if max(image.width, image.height) > MAX_SIDE:
        raise PhotoError(_TOO_LONG)
    # Phones store a preview or a depth map as a second image of a JPEG; several images in a PNG are an animation.
    if image.format == "PNG" and getattr(image, "is_animated", False):
        raise PhotoError("It is an animation: save one picture of it.")
    # Lets a JPEG be decoded at a half or a quarter of its size.
    image.draft(None, (_SIDE, _SIDE))
    # Decoded before it is reduced: `thumbnail` would ask the decoder for another size.
    image.load()
    ImageOps.exif_transpose(image, in_place=True)
    picture: Image.Image = image
    if picture.mode.startswith("I"):
        picture = _upper_eight_bits(picture)
    # Gray images are not converted to colors, which take four bytes for each pixel.
    if picture.mode not in ("L", "LA") or (picture.mode == "L" and picture.has_transparency_data):
        colors = "RGBA" if picture.has_transparency_data else "RGB"
        if picture.mode != colors:
            picture = picture.convert(colors)
        picture = picture.convert("LA" if picture.mode == "RGBA" else "L")
    picture.thumbnail((_SIDE, _SIDE), Image.Resampling.BOX)
    values = np.asarray(picture, dtype=np.float32) / np.float32(255)
    return _on_paper(values[..., 0], values[..., 1]) if picture.mode == "LA" else values


def _upper_eight_bits(picture: Image.Image) -> Image.Image:
    """Convert a 16-bit gray image to 8 bits. The 16-bit value that means "transparent" is kept as an alpha channel."""
    deep = np.asarray(picture)
    upper = Image.fromarray((deep >> 8).astype(np.uint8))
    if "transparency" in picture.info:
        upper.putalpha(Image.fromarray(255 * (deep != picture.info["transparency"]).astype(np.uint8)))
    return upper


def _on_paper(gray: Plane, alpha: Plane) -> Plane:
    """Replace transparent parts by paper.

    If the opaque part has both paper and strokes, its median is the paper; otherwise all of it is ink, and the paper is
    black or white, whichever is further away.
    """
    solid = gray[alpha > 0.5]
    if not len(solid):
        raise PhotoError(_BLANK)
    low, median, high = np.quantile(solid, (0.02, 0.5, 0.98)).tolist()
    paper = median if high - low > _TWO_TONES else float(median < 0.5)
    return gray * alpha + np.float32(paper) * (1 - alpha)


def _paper(gray: Plane) -> Plane:
    """The brightness (H, W) of the paper without strokes."""
    height, width = gray.shape
    scale_down = min(1, _PAPER_SIDE / max(height, width))
    size = max(1, round(scale_down * width)), max(1, round(scale_down * height))
    small = np.asarray(Image.fromarray(gray).resize(size, Image.Resampling.BOX), dtype=float)
    basis = np.stack([np.broadcast_to(term, small.shape).ravel() for term in _terms(*small.shape)], -1)
    # Starts from the brightness at the edge of the photo, which is most likely paper.
    residual = small.ravel() - np.median(np.concatenate([small[0], small[-1], small[:, 0], small[:, -1]]))
    scale = np.inf
    for _ in range(_FIT_ROUNDS):
        # The scale only shrinks: a surface that bends towards a sheet as large as its table would continue to do so.
        scale = min(scale, _CAUCHY * _deviation(residual) + 1e-3)
        weighted = basis.T / (1 + (residual / scale) ** 2)
        coefficients = np.linalg.lstsq(weighted @ basis, weighted @ small.ravel())[0].astype(np.float32)
        residual = small.ravel() - basis @ coefficients
    return sum(
        (factor * term for factor, term in zip(coefficients, _terms(height, width), strict=True)), np.zeros_like(gray)
    )


def _terms(height: int, width: int) -> tuple[Plane, ...]:
    """1, y, x, y^2, xy and x^2, which broadcast to (H, W); y and x go from -1 to 1 between the edges of the image."""
    y, x = ((2 * np.arange(size, dtype=np.float32) + 1) / np.float32(size) - 1 for size in (height, width))
    y = y[:, None]
    return np.ones((1, 1), np.float32), y, x, y * y, y * x, x * x


def _deviation(values: NDArray[np.floating]) -> float:
    """Robust estimate of the standard deviation of values around 0, by their median absolute deviation."""
    # The factor makes it equal to the standard deviation for normally distributed values.
    return 1.4826 * float(np.median(np.abs(values)))


def _otsu(values: Plane) -> float:
    """Otsu's threshold of values >= 0, from a histogram of 256 bins."""
    from skimage.filters import threshold_otsu

    # scikit-image returns the center of the last bin of the lower class; all of this bin is paper.
    return float(threshold_otsu(values)) + float(values.max()) / 512


def _near_strokes(core: Mask) -> Mask:
    """The parts of `core` (H, W) that are strokes, with a margin for their soft edges."""
    from scipy.ndimage import binary_dilation
    from skimage.measure import label
    from skimage.segmentation import clear_border

    height, width = core.shape
    block = -(-max(core.shape) // _SPECK_SIDE)
    padded = np.pad(core, ((0, -height % block), (0, -width % block)))
    areas = padded.reshape(padded.shape[0] // block, block, padded.shape[1] // block, block).sum((1, 3))
    labels = label(areas > 0)
    # Shadows and the lines of a sheet touch the edge.
    free = clear_border(labels)
    if areas[free > 0].sum() > _FREE * areas.sum():
        labels = free
    sizes = np.bincount(labels.ravel(), areas.ravel())
    sizes[0] = 0
    kept = (sizes > 0) & (sizes >= _SPECK * sizes.max())
    near: Mask = binary_dilation(kept[labels], np.ones((3, 3)))
    return near.repeat(block, 0).repeat(block, 1)[:height, :width]
