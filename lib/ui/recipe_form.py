"""The form of a recipe: one widget for each field of `lib.design.recipe.FIELDS`, and a preview of the augmentation."""

from __future__ import annotations

import streamlit as st
import torch
from torch import Tensor

from lib.data.augmentation import preview
from lib.data.handwriting import sample_handwriting
from lib.data.outliers import sample_outliers
from lib.design.recipe import FIELDS, RECIPES, Augmentation, FieldSpec, Recipe, recipe_values
from lib.ui.cache import example_digits


def load_preset() -> None:
    """Callback of the presets: put the chosen recipe, and its network if it has one, into the session."""
    preset = next((preset for preset in RECIPES if preset.title == st.session_state.recipe), None)
    if preset:
        st.session_state.update(recipe_values(preset.recipe))
        if preset.network:
            st.session_state.net = preset.network


def recipe_form() -> None:
    """The widgets of all fields. Their values are in the session, under the keys of the fields."""
    with st.grid(4, min_column_width=150):
        for spec in FIELDS:
            if not spec.is_augmentation:
                _widget(spec)
    st.markdown(
        "**Augmentation**: every time an image is shown, it is rotated, shifted, zoomed and sheared at random, and its "
        "stroke is made thicker or thinner."
    )
    with st.grid(4, min_column_width=150):
        for spec in sorted(FIELDS, key=lambda spec: not spec.in_augmentation):
            if spec.is_augmentation:
                _widget(spec)


def _widget(spec: FieldSpec) -> None:
    if spec.choices:
        st.selectbox(spec.label, list(spec.choices), key=spec.key, format_func=spec.choices.__getitem__, help=spec.help)
        return
    st.number_input(
        spec.label,
        step=spec.kind(spec.step),
        format=None if spec.kind is int else "%.4g",
        key=spec.key,
        disabled=bool(spec.schedules) and st.session_state.schedule not in spec.schedules,
        help=spec.help,
    )


def augmentation_preview(recipe: Recipe) -> None:
    """Ten digits as the network may see them; a sentence if nothing changes them."""
    if not (recipe.augmentation.active or recipe.outlier_ratio or recipe.synthetic_ratio):
        st.caption("All are 0: the network sees every image as it is.")
        return
    digits = torch.frombuffer(bytearray(b"".join(example_digits())), dtype=torch.uint8).view(-1, 28, 28)
    picture = preview(digits, recipe.augmentation, rows=3)
    caption = "Ten digits as they are (first row), and as the network may see them."
    generator = torch.Generator().manual_seed(0)
    if recipe.synthetic_ratio:
        synthetic, _ = sample_handwriting(len(digits), generator)
        picture = torch.cat([picture, _row(synthetic)])
        caption += " Then synthetic digits."
    if recipe.outlier_ratio:
        outliers = sample_outliers(digits.unsqueeze(1) / 255, len(digits), generator)
        picture = torch.cat([picture, _row(outliers)])
        caption += " Last row: non-digit outliers."
    st.image(picture.repeat_interleave(2, 0).repeat_interleave(2, 1).numpy(), caption=caption)


def _row(images: Tensor) -> Tensor:
    """(N, 1, 28, 28), 0 to 1, side by side."""
    return preview((images[:, 0] * 255).to(torch.uint8), Augmentation(), rows=0)
