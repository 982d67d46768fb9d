"""Augmentation of images: a random affine map and a random change of the stroke width."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from lib.design.recipe import Augmentation


def augment(x: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Tensor:
    """Transform each image of x, (N, 1, H, W), at random: rotation, zoom, shear, shift and stroke width.

    Every amount is uniform within the range of `augmentation`. The affine map is bilinear and fills with the background
    of the image, its darkest pixel. The stroke width changes by a random fraction of a 3×3 dilation or erosion. The
    random numbers come from `generator`, which is on the CPU; x may be on any device.
    """
    if not augmentation.active:
        return x
    count = len(x)
    rotation, shift_x, shift_y, zoom, shear = (2 * torch.rand(5, count, generator=generator) - 1).to(x.device)
    angle = rotation * math.radians(augmentation.rotation)
    scale = 1 / (1 + zoom * augmentation.zoom)
    cos, sin = torch.cos(angle) * scale, torch.sin(angle) * scale
    tan = torch.tan(shear * math.radians(augmentation.shear))
    # affine_grid uses coordinates from -1 to 1: a shift by the whole width is 2.
    shift_x, shift_y = 2 * augmentation.shift * shift_x, 2 * augmentation.shift * shift_y
    matrices = torch.stack(
        [torch.stack([cos, cos * tan - sin, shift_x], 1), torch.stack([sin, sin * tan + cos, shift_y], 1)], 1
    )
    grid = F.affine_grid(matrices, list(x.shape), align_corners=False)
    # grid_sample fills with 0.
    background = x.amin((1, 2, 3), keepdim=True)
    x = F.grid_sample(x - background, grid, align_corners=False)
    if augmentation.stroke:
        amount = augmentation.stroke * (2 * torch.rand(count, 1, 1, 1, generator=generator) - 1).to(x.device)
        dilated, eroded = F.max_pool2d(x, 3, 1, 1), -F.max_pool2d(-x, 3, 1, 1)
        x = x + amount.abs() * (torch.where(amount > 0, dilated, eroded) - x)
    return x + background


def preview(images: Tensor, augmentation: Augmentation, rows: int, seed: int = 0) -> Tensor:
    """Show images, uint8 (N, 28, 28), above `rows` rows of augmented copies: uint8 (28 (1 + rows), 28 N)."""
    grid, generator = [images], torch.Generator().manual_seed(seed)
    for _ in range(rows):
        x = augment(images.unsqueeze(1).float(), augmentation, generator)
        grid.append(x.round().clamp(0, 255).to(torch.uint8).squeeze(1))
    return torch.cat([row.permute(1, 0, 2).reshape(28, -1) for row in grid])
