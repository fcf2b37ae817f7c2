"""Pre-train the demo's tiny ViT, without labels, on pictures that the demo never shows.

    python scripts/make_demo_encoder.py --out config/demo/encoder.safetensors
    python scripts/make_demo_encoder.py --pictures round_cells --out FILE
    python scripts/make_demo_encoder.py --pictures textures --out FILE

The pictures set how far the encoder's world lies from muscle: `muscle` of other animals, `round_cells` (the
other tissue that is drawn), or `textures` (no tissue at all: leaves of noise lying on each other, which have
the statistics of natural pictures: arXiv 2106.05963). Farthest is `encoder: {weights: none}` of a study.

Two label-free tasks on crops around outlines: views of one crop are to be recognised among all others
(SimCLR, arXiv 2002.05709), and measurements of the crop (area, shape, stain within the outline and from rim
to core) are to be predicted from altered views. No stage is read before the encoder is finished; then
probes on the true stages of muscle of yet other animals say what the features are worth against those of
random weights. The same command makes the same file on the same machine and versions.
"""

import argparse
import json
import logging
import math
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors.torch
import timm
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy import ndimage
from skimage.draw import polygon as polygon_pixels
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from myostage import tables
from myostage.cells.crops import crop_at
from myostage.cells.tables import CROP_PX
from myostage.features.encoder import Prefix, build
from myostage.phantom.draw import draw_slide
from myostage.phantom.paint import rng_of, smooth_noise
from myostage.slides.slide import open_slide
from myostage.study.sections.encoder import Architecture, Encoder
from myostage.study.sections.phantom import Phantom

log = logging.getLogger("make_demo_encoder")


@dataclass(frozen=True)
class Recipe:
    """Everything that shapes the file."""

    seed: int = 20
    phantom_seed: int = 77_000  # far from any study's, so that no animal or slide is shared
    mpp: float = 1.0  # the demo's tiling.mpp
    animals: int = 4  # per day, to learn from
    held_out: int = 2  # per day, to probe
    patch_px: int = 8
    width: int = 96
    depth: int = 4
    heads: int = 3
    steps: int = 300
    batch: int = 160
    keep: float = 0.5  # share of patches a view keeps: half the work, and an augmentation
    whole_at: float = 0.85  # share of the steps after which views keep all patches, as in use
    temperature: float = 0.2
    projection: int = 64
    measuring: float = 1.0  # weight of the measurements beside SimCLR
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    warmup: float = 0.08
    smallest_view: float = 0.7  # side of the smallest view, share of the crop
    colour: float = 0.10  # spread of the logarithm of each channel's optical density
    brightness: float = 0.06
    blur: float = 0.3  # share of views blurred

    @property
    def encoder(self) -> Encoder:
        """The encoder as the study file would describe it, before any training."""
        shape = Architecture(patch_px=self.patch_px, width=self.width, depth=self.depth, heads=self.heads)
        return Encoder(model=None, architecture=shape, weights="none", pos_embed="timm")


PICTURES = ("muscle", "round_cells", "textures")
"""What an encoder may learn from."""
# Smears are scanned finer, so that a crop holds a cell and what lies around it.
SMEAR_MPP, SMEAR_UM = 0.3, (220.0, 200.0)
TEXTURES, LEAVES = 3000, 24
"""Pictures, about as many as there are cells on the slides of a tissue, and the leaves on each."""


class Cells(NamedTuple):
    """Cells of some slides: crops uint8[n, 64, 64, 3], measurements float32[n, M], true stages int64[n]."""

    crops: NDArray[np.uint8]
    measured: NDArray[np.float32]
    stage: NDArray[np.int64]


class Probe(NamedTuple):
    """Judgement of an encoder: accuracies, and mean similarities (1 + cos) / 2 of pairs of cells."""

    linear: float  # linear classifier on all labels of the animals learnt from
    few_labels: float  # the same on 20 labels a stage
    same_stage: float  # similarity within a stage
    ends_of_scale: float  # similarity of the first stage to the last; the loss L_SimProp wants 0


def measure(crop: NDArray[np.uint8], outline: NDArray[np.float64]) -> list[float]:
    """Area, shape and stain of one cell; ``outline`` [n, 2] in px of the crop. No stage enters."""
    x, y = outline[:, 0], outline[:, 1]
    area = 0.5 * abs(float(np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))))
    perimeter = float(np.hypot(np.diff(x, append=x[0]), np.diff(y, append=y[0])).sum())
    inside = np.zeros(crop.shape[:2], bool)
    inside[polygon_pixels(y, x, inside.shape)] = True
    depth = ndimage.distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]
    depth /= max(float(depth.max()), 1.0)
    density = -np.log((crop.astype(np.float32) + 1) / 256)
    within = density[inside] if inside.any() else density.reshape(-1, 3)
    # Red is absorbed by haematoxylin and hardly by eosin: its profile from rim to core shows the nuclei.
    rings = [density[..., 0][inside & (depth > low) & (depth <= low + 1 / 3)] for low in (0, 1 / 3, 2 / 3)]
    profile = [float(ring.mean()) if ring.size else float(within[:, 0].mean()) for ring in rings]
    shape = [math.log(max(area, 1.0)), 4 * math.pi * area / max(perimeter, 1.0) ** 2]
    return [*shape, *within.mean(axis=0), *within.std(axis=0), *profile]


class Job(NamedTuple):
    """A slide to draw: of which tissue and animal, its name, stages and their shares."""

    recipe: Recipe
    tissue: str
    animal: str
    slide: str
    stages: tuple[str, ...]
    shares: tuple[float, ...]


def draw_cells(job: Job) -> Cells:
    """Draw one slide and cut its cells out, at outlines as a segmentation would find them."""
    recipe, tissue, animal, slide_name, stages, shares = job
    mpp = recipe.mpp
    with tempfile.TemporaryDirectory() as folder:
        tiff, truth = Path(folder) / "s.tif", Path(folder) / "s.geojson"
        phantom = Phantom(seed=recipe.phantom_seed)
        if tissue == "round_cells":
            width, height = SMEAR_UM
            mpp, seed = SMEAR_MPP, recipe.phantom_seed
            phantom = Phantom(tissue="round_cells", seed=seed, width_um=width, height_um=height, mpp=mpp)
        proportions = np.array(shares)
        draw_slide(
            tiff,
            truth,
            phantom=phantom,
            stages=stages,
            proportions=proportions,
            animal=animal,
            slide=slide_name,
        )
        features = json.loads(truth.read_text())["features"]
        crops, measured, stage = [], [], []
        with open_slide(tiff) as slide:
            for feature in features:
                outline = np.array(feature["geometry"]["coordinates"][0]) * phantom.mpp / mpp
                x, y = outline.mean(axis=0)
                crop = crop_at(slide, float(x), float(y), mpp)
                crops.append(crop)
                measured.append(measure(crop, outline - (x, y) + CROP_PX / 2))
                stage.append(stages.index(feature["properties"]["classification"]["name"]))
    return Cells(np.stack(crops), np.array(measured, np.float32), np.array(stage))


def draw_textures(recipe: Recipe) -> Cells:
    """Leaves of coloured noise that lie on each other; the last is the outline. They have no stage: -1."""
    rng = rng_of(recipe.phantom_seed, "slide", "textures")
    size = (CROP_PX, CROP_PX)
    angle = np.linspace(0, 2 * np.pi, 64, endpoint=False)
    y, x = np.indices(size) + 0.5
    crops, measured = [], []
    for _ in range(TEXTURES):
        picture = np.zeros((*size, 3))
        for leaf in range(LEAVES + 1):
            last = leaf == LEAVES
            centre = (CROP_PX / 2, CROP_PX / 2) if last else tuple(rng.uniform(0, CROP_PX, 2))
            # Sizes by a power law make pictures look alike at every scale.
            long = float(rng.uniform(10, 26)) if last else 5 / max(float(rng.random()), 0.1)
            short, turn = long * float(rng.uniform(0.5, 1)), float(rng.uniform(0, np.pi))
            dx, dy = x - centre[0], y - centre[1]
            along, across = dx * np.cos(turn) + dy * np.sin(turn), dy * np.cos(turn) - dx * np.sin(turn)
            cover = np.clip((1 - np.hypot(along / long, across / short)) * short + 0.5, 0, 1)[..., None]
            if leaf == 0:
                cover = np.ones_like(cover)  # the ground
            grain = smooth_noise(size, float(np.exp(rng.uniform(-0.7, 2.3))), rng)[..., None]
            colour = rng.uniform(0.1, 0.9, 3) + rng.normal(0, 0.12, 3) * grain
            picture += cover * (colour - picture)
        crop = (picture.clip(0, 1) * 255).astype(np.uint8)
        a, b = long * np.cos(angle), short * np.sin(angle)
        rim = np.stack([a * np.cos(turn) - b * np.sin(turn), a * np.sin(turn) + b * np.cos(turn)], 1)
        crops.append(crop)
        measured.append(measure(crop, rim + CROP_PX / 2))
    return Cells(np.stack(crops), np.array(measured, np.float32), np.full(TEXTURES, -1))


def draw(recipe: Recipe, pictures: str, proportions: Path, workers: int) -> tuple[Cells, Cells, Cells]:
    """Pictures to learn from, and muscle of animals to train probes on and of others to judge them by."""
    table = pd.read_csv(proportions, sep="\t", index_col=0)
    stages = tuple(str(name) for name in table.columns)

    def jobs(part: str, count: int, tissue: str = "muscle") -> list[Job]:
        return [
            Job(
                recipe,
                tissue,
                f"{day}_{part}{number}",
                f"{day}_{part}{number}",
                stages,
                tuple(row / row.sum()),
            )
            for number in range(count)
            for day, row in table.iterrows()
        ]

    with ProcessPoolExecutor(workers) as pool:

        def drawn(listed: list[Job]) -> Cells:
            return Cells(
                *(np.concatenate(column) for column in zip(*pool.map(draw_cells, listed), strict=True))
            )

        known, new = drawn(jobs("p", recipe.animals)), drawn(jobs("q", recipe.held_out))
        learnt = known
        if pictures == "round_cells":
            learnt = drawn(jobs("p", recipe.animals, pictures))
    if pictures == "textures":
        learnt = draw_textures(recipe)
    log.info(
        "drew %d pictures of %s and %d cells of other animals", len(learnt.stage), pictures, len(new.stage)
    )
    return learnt, known, new


def views(crops: Tensor, recipe: Recipe, generator: torch.Generator) -> Tensor:
    """Altered views: uint8 [B, 64, 64, 3] to float [B, 3, 64, 64] in 0..1."""
    count = len(crops)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=generator)

    def normal(*shape: int) -> Tensor:
        return torch.randn(count, *shape, generator=generator)

    images = crops.permute(0, 3, 1, 2).float().div(255)
    # One affine map turns, mirrors, cuts and moves; tissue has no up and no handedness.
    angle, side = uniform(0, 2 * math.pi), uniform(recipe.smallest_view, 1.0)
    mirror = torch.where(uniform(0, 1) < 0.5, -1.0, 1.0)
    cos, sin = torch.cos(angle) * side, torch.sin(angle) * side
    shift = uniform(-1, 1, 2) * (1 - side)[:, None] * 0.5
    rows = [
        torch.stack([cos * mirror, -sin, shift[:, 0]], 1),
        torch.stack([sin * mirror, cos, shift[:, 1]], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    images = F.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    blurred = F.avg_pool2d(F.pad(images, (1, 1, 1, 1), mode="reflect"), 3, stride=1)
    images = torch.where((uniform(0, 1) < recipe.blur)[:, None, None, None], blurred, images)
    # Stains differ in optical density, lamps in brightness.
    density = -torch.log(images.clamp(1 / 255, 1)) * torch.exp(recipe.colour * normal(3, 1, 1))
    return (torch.exp(-density) * torch.exp(recipe.brightness * normal(1, 1, 1))).clamp(0, 1)


def class_token(
    model: VisionTransformer, prefix: Prefix, images: Tensor, keep: float, generator: torch.Generator
) -> Tensor:
    """Embeddings [B, D] of views of which only a share of the patches is seen."""
    x = model._pos_embed(model.patch_embed((images - prefix.mean) / prefix.std))
    patches = x.shape[1] - 1
    seen = round(patches * keep)
    if seen < patches:
        chosen = (
            torch.rand(len(x), patches, generator=generator)
            .argsort(1)[:, :seen, None]
            .expand(-1, -1, x.shape[2])
        )
        x = torch.cat([x[:, :1], x[:, 1:].gather(1, chosen)], dim=1)
    return model.norm(model.blocks(x))[:, 0]


def contrast(first: Tensor, second: Tensor, temperature: float) -> Tensor:
    """NT-Xent (arXiv 2002.05709, eq. 1) of projections [B, P] of two views of the same B crops."""
    z = F.normalize(torch.cat([first, second]), dim=1)
    logits = (z @ z.T / temperature).fill_diagonal_(-math.inf)
    partner = torch.arange(len(z)).roll(len(first))
    return F.cross_entropy(logits, partner)


def pretrain(cells: Cells, recipe: Recipe) -> VisionTransformer:
    """Train from random weights; reads crops and measurements, never a stage."""
    torch.manual_seed(recipe.seed)
    generator = torch.Generator().manual_seed(recipe.seed)
    model = build(recipe.encoder).train()
    prefix = Prefix(build(recipe.encoder))  # for its normalisation alone
    crops = torch.from_numpy(cells.crops)
    measured = torch.from_numpy((cells.measured - cells.measured.mean(0)) / cells.measured.std(0)).clamp(
        -4, 4
    )
    projector = nn.Sequential(nn.Linear(recipe.width, 128), nn.ReLU(), nn.Linear(128, recipe.projection))
    gauge = nn.Linear(recipe.width, measured.shape[1])
    parameters = [*model.parameters(), *projector.parameters(), *gauge.parameters()]
    optimiser = torch.optim.AdamW(parameters, recipe.learning_rate, weight_decay=recipe.weight_decay)
    begun = time.monotonic()
    for step in range(recipe.steps):
        share = step / recipe.steps
        factor = min(1.0, share / recipe.warmup + 1e-3) * 0.5 * (1 + math.cos(math.pi * share))
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * factor
        keep = recipe.keep if share < recipe.whole_at else 1.0
        drawn = torch.randint(len(crops), (recipe.batch,), generator=generator)
        both = torch.cat([views(crops[drawn], recipe, generator) for _ in range(2)])
        embedded = class_token(model, prefix, both, keep, generator)
        first, second = projector(embedded).chunk(2)
        contrasted = contrast(first, second, recipe.temperature)
        told = F.smooth_l1_loss(gauge(embedded), measured[drawn].repeat(2, 1))
        loss = contrasted + recipe.measuring * told
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        if step % 50 == 0 or step == recipe.steps - 1:
            took = (time.monotonic() - begun) / (step + 1)
            log.info(
                "step %d of %d: contrast %.3f, measurements %.3f, %.2f s a step",
                *(step, recipe.steps, contrasted.item(), told.item(), took),
            )
    return model.eval()


@torch.inference_mode()
def embed(model: VisionTransformer, crops: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Class-token embeddings [n, D] of whole crops."""
    prefix = Prefix(model)
    parts = torch.from_numpy(crops).split(256)
    return np.concatenate([model.forward_features(prefix.normalise(part))[:, 0].numpy() for part in parts])


def probe(
    model: VisionTransformer, learnt: Cells, held_out: Cells, labels: int = 20, draws: int = 8
) -> Probe:
    """What the frozen embedding is worth on other animals. True stages enter here and only here."""
    known, new = embed(model, learnt.crops), embed(model, held_out.crops)
    rng = np.random.default_rng(0)
    stages = np.unique(learnt.stage)

    def accuracy(rows: NDArray[np.int64]) -> float:
        classifier = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500))
        return float(classifier.fit(known[rows], learnt.stage[rows]).score(new, held_out.stage))

    few = [
        np.concatenate([rng.choice(np.flatnonzero(learnt.stage == k), labels, replace=False) for k in stages])
        for _ in range(draws)
    ]
    directions = new / np.linalg.norm(new, axis=1, keepdims=True)
    means = np.stack([directions[held_out.stage == k].mean(axis=0) for k in stages])
    similarity = (1 + means @ means.T) / 2  # mean over all pairs of cells of two stages
    return Probe(
        linear=accuracy(np.arange(len(known))),
        few_labels=float(np.mean([accuracy(rows) for rows in few])),
        same_stage=float(similarity.diagonal().mean()),
        ends_of_scale=float(similarity[0, -1]),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--out", type=Path, default=Path("config/demo/encoder.safetensors"), help="file to write"
    )
    parser.add_argument("--pictures", choices=PICTURES, default="muscle", help="what it learns from")
    parser.add_argument(
        "--proportions", type=Path, default=Path("config/demo/proportions.tsv"), help="days drawn"
    )
    parser.add_argument("--steps", type=int, default=Recipe.steps, help="optimiser steps")
    parser.add_argument("--threads", type=int, default=2, help="threads and processes")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", stream=sys.stderr)
    torch.set_num_threads(arguments.threads)
    recipe = Recipe(steps=arguments.steps)
    learnt, known, new = draw(recipe, arguments.pictures, arguments.proportions, arguments.threads)
    model = pretrain(learnt, recipe)
    found = {
        "pretrained": probe(model, known, new),
        "random": probe(build(recipe.encoder), known, new),
    }
    for name, judged in found.items():
        values = ", ".join(f"{key} {value:.3f}" for key, value in judged._asdict().items())
        log.info("%s, %d cells of other animals: %s", name, len(new.stage), values)
    metadata = {
        "pictures": arguments.pictures,
        "recipe": json.dumps(asdict(recipe)),
        "probe": json.dumps({name: judged._asdict() for name, judged in found.items()}),
        "versions": json.dumps({"torch": torch.__version__, "timm": timm.__version__}),
    }
    with tables.atomic(arguments.out) as temporary:
        # in half precision, as tokens are: half the bytes
        half = {name: tensor.half() for name, tensor in model.state_dict().items()}
        safetensors.torch.save_file(half, temporary, metadata)


if __name__ == "__main__":
    main()
