"""Augment images: a random affine map and a random change of the stroke width."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.design.recipe import Augmentation


def augment(x: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """A random affine map an image of x (N, 1, 28, 28), bilinear, filled with the background's value, and a stroke made
    thicker or thinner: each pixel goes a random part of the way to the lightest or darkest of its neighbours.
    """
    if not augmentation.active:
        return x
    count = len(x)
    turn, across, down, zoom, slant = (2 * torch.rand(5, count, generator=generator) - 1).to(x.device)
    angle = turn * math.radians(augmentation.rotation)
    scale = 1 / (1 + zoom * augmentation.zoom)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    lean = torch.tan(slant * math.radians(augmentation.shear))
    # affine_grid counts from -1 to 1 over the image: a shift by its whole width is 2.
    across, down = 2 * augmentation.shift * across, 2 * augmentation.shift * down
    maps = torch.stack(
        [torch.stack([cos, cos * lean - sin, across], 1), torch.stack([sin, sin * lean + cos, down], 1)], 1
    )
    grid = F.affine_grid(maps, list(x.shape), align_corners=False)
    # grid_sample fills with 0; the background is the darkest pixel of the image.
    background = x.amin((1, 2, 3), keepdim=True)
    x = F.grid_sample(x - background, grid, align_corners=False)
    if augmentation.stroke:
        part = augmentation.stroke * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1).to(x.device)
        thicker, thinner = F.max_pool2d(x, 3, 1, 1), -F.max_pool2d(-x, 3, 1, 1)
        x = x + part.abs() * (torch.where(part > 0, thicker, thinner) - x)
    return x + background


def preview(images: Tensor, augmentation: Augmentation, rows: int, seed: int = 0) -> Tensor:
    """uint8 (N, 28, 28) -> uint8 (28 (1 + rows), 28 N): the images, and below each `rows` of what training may make."""
    pictures, chance = [images], torch.Generator().manual_seed(seed)
    for _ in range(rows):
        x = augment(images.unsqueeze(1).float(), augmentation, chance)
        pictures.append(x.round().clamp(0, 255).to(torch.uint8).squeeze(1))
    return torch.cat([picture.permute(1, 0, 2).reshape(28, -1) for picture in pictures])
