from __future__ import annotations

import pytest

from mlx_mistral.checkpoint.catalog import ALIASES
from mlx_mistral.checkpoint.catalog_shapes import SHAPES

PARAMETERS = {
    "mistral-7b-v0.1": 7_241_732_096,
    "mistral-7b-v0.2": 7_241_732_096,
    "mistral-7b-v0.3": 7_248_023_552,
    "mathstral": 7_248_023_552,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_630_071_296,
    "codestral": 22_247_282_688,
    "nemo": 12_247_782_400,
    "pixtral-12b": 12_247_782_400,
    "large-2": 122_610_069_504,
    "large": 122_610_069_504,
    "small-22b": 22_247_282_688,
    "ministral-8b": 8_019_808_256,
    "small-3": 23_572_403_200,
    "small-3.1": 23_572_403_200,
    "small-3.2": 23_572_403_200,
    "magistral": 23_572_403_200,
    "ministral-3-3b": 3_429_006_336,
    "ministral-3-8b": 8_489_553_920,
    "ministral-3-14b": 13_506_073_600,
    "devstral": 23_572_403_200,
    "devstral-2": 125_025_988_608,
    "medium-3.5": 125_025_988_608,
}
"""Counted by another program from the params.json or config.json of each model."""


def test_every_alias_has_a_shape_and_no_shape_is_without_one() -> None:
    assert set(SHAPES) == set(ALIASES.values())


@pytest.mark.parametrize("alias", PARAMETERS)
def test_dimensions_make_the_parameters_that_the_checkpoint_has(alias: str) -> None:
    assert SHAPES[ALIASES[alias]].parameters == PARAMETERS[alias]


def test_every_shape_is_counted() -> None:
    assert {ALIASES[alias] for alias in PARAMETERS} == set(SHAPES)


def test_stored_bytes_are_two_a_weight_or_one_where_it_is_fp8() -> None:
    assert SHAPES[ALIASES["mistral-7b-v0.3"]].stored_bytes == 14_496_047_104
    ministral = SHAPES[ALIASES["ministral-3-8b"]]
    matrices = 34 * (4096 * 128 * 2 * (32 + 8) + 3 * 4096 * 14336)
    rest = 2 * 131072 * 4096 + (2 * 34 + 1) * 4096
    assert ministral.stored_bytes == matrices + 2 * rest


def test_windows_repeat_over_all_layers() -> None:
    ministral = SHAPES[ALIASES["ministral-8b"]].config
    assert ministral.windows == (None, 32768, 32768, 32768) * 9
    assert SHAPES[ALIASES["mistral-7b-v0.1"]].config.windows == (4096,) * 32
