"""Networks to start from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Preset:
    """A network to start from; `text` is its notation."""

    title: str
    text: str
    description: str


PRESETS = (
    Preset(
        "The answer, as its code reads",
        "4 4 8 M 12 12 16 M 20v 10v A",
        "9,274 parameters and 99.54 %: eight narrow convolutions beat the six wide ones the course started from.",
    ),
    Preset(
        "The answer, as its table reads",
        "4 4 8 M 12 12 16v M 20 10v A3s2",
        "The same 9,274 parameters, but convolution 6 is unpadded instead of convolution 7, and the last pool uses "
        "only 9 of the 16 positions below it.",
    ),
    Preset(
        "The starting network",
        "32n 64n M 128n 256n M 512vn 1024vn 10v",
        "6,379,786 parameters: the network that the course starts from. Most of them are in one layer.",
    ),
    Preset(
        "A quarter of the budget",
        "4 4 8 M 8 8 8 M 8v 10v A",
        "3,646 parameters: the same depth with fewer channels.",
    ),
    Preset(
        "A fully connected head",
        "8 16 M 16 16 M 32f 10f",
        "What the assignment forbids: one dense layer holds most of the parameters.",
    ),
    Preset(
        "Shallow and wide",
        "128n M 256n M 10 A",
        "319,498 parameters in three convolutions: the group found that more parameters do not replace layers.",
    ),
    Preset(
        "1 → 8 → 16 → 32",
        "8n 8n M 16n 16n M 32n 10v A",
        "11,682 parameters: more layers, channels growing in small steps. Networks like it reached 99.4 %.",
    ),
    Preset(
        "6k without norm",
        "4n 4n 8n M 12n 12n 12n M 12vn 10v A",
        "6,374 parameters, no batch norm: at this size the group saw 99.3 % and no more. Norm and a schedule helped.",
    ),
)
