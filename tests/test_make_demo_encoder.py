"""How the demo's encoder was made: its loss, its measurements, and that the file is the recipe's."""

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

import make_demo_encoder
from make_demo_encoder import Job, Recipe, contrast, draw_cells, draw_textures, measure, views
from myostage.features.encoder import build

FILE = Path(__file__).parents[1] / "config" / "demo" / "encoder.safetensors"


def test_the_file_is_made_by_the_recipe_and_tells_stages_better_than_random_weights() -> None:
    with safe_open(FILE, "pt") as file:
        metadata = file.metadata()
    assert json.loads(metadata["recipe"]) == asdict(Recipe())
    judged = json.loads(metadata["probe"])
    assert judged["pretrained"]["few_labels"] > judged["random"]["few_labels"] + 0.05
    gap = {name: probe["same_stage"] - probe["ends_of_scale"] for name, probe in judged.items()}
    assert gap["pretrained"] > 5 * gap["random"]
    assert FILE.stat().st_size < 2e6
    build(Recipe().encoder.model_copy(update={"weights": str(FILE)}))  # strict: refuses any other geometry


def test_contrast_is_the_mean_over_both_views_of_every_crop() -> None:
    first, second = torch.randn(2, 4, 6, dtype=torch.float64)
    z = F.normalize(torch.cat([first, second]), dim=1)
    expected = 0.0
    for i in range(8):
        others = sum(math.exp(float(z[i] @ z[k]) / 0.3) for k in range(8) if k != i)
        expected -= math.log(math.exp(float(z[i] @ z[(i + 4) % 8]) / 0.3) / others) / 8
    assert abs(float(contrast(first, second, 0.3)) - expected) < 1e-12


def test_measurements_of_a_disc() -> None:
    angle = np.linspace(0, 2 * np.pi, 200, endpoint=False)
    outline = 32 + 20 * np.stack([np.cos(angle), np.sin(angle)], 1)
    crop = np.full((64, 64, 3), 127, np.uint8)
    crop[28:37, 28:37, 0] = 63  # a nucleus in the centre absorbs red
    log_area, circularity, *_, rim, middle, core = measure(crop, outline)
    assert abs(log_area - math.log(math.pi * 400)) < 0.01 and abs(circularity - 1) < 0.01
    assert max(abs(rim - math.log(2)), abs(middle - math.log(2))) < 1e-6 and core > middle + 0.2


def test_views_keep_range_and_differ() -> None:
    crops = torch.randint(0, 256, (3, 64, 64, 3), dtype=torch.uint8)
    generator = torch.Generator().manual_seed(0)
    one, two = (views(crops, Recipe(), generator) for _ in range(2))
    assert one.shape == (3, 3, 64, 64) and float(one.min()) >= 0 and float(one.max()) <= 1
    assert not torch.allclose(one, two, atol=0.05)


def test_textures_are_drawn_again_alike_and_have_no_stage(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(make_demo_encoder, "TEXTURES", 4)
    one, two = draw_textures(Recipe()), draw_textures(Recipe())
    assert one.crops.shape == (4, 64, 64, 3) and set(one.stage) == {-1}
    np.testing.assert_array_equal(one.crops, two.crops)
    assert np.isfinite(one.measured).all() and (one.crops.std(axis=(1, 2)).max(axis=1) > 10).all()
    assert len({crop.tobytes() for crop in one.crops}) == 4


def test_round_cells_fill_their_crops_as_fibres_do() -> None:
    stages = ("first", "last")
    cells = draw_cells(Job(Recipe(), "round_cells", "a", "a", stages, (0.5, 0.5)))
    areas = np.exp(cells.measured[:, 0]) / 64**2
    assert len(cells.crops) > 50 and set(cells.stage) == {0, 1}
    assert 0.1 < np.median(areas) < 0.6
