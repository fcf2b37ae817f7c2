"""`preset: released` against the released code of OSLSP, written out again from what is known of it.

The released code has no licence and cannot be shipped: what is compared here is a derivation of its own, by
loops and torch's AdamW, and numbers that this derivation gave on fixed weights and tokens.
"""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn

from myostage.features.encoder import Suffix
from myostage.learning import train
from myostage.learning.steps import BagPair
from myostage.study.sections.experiment import PRESETS
from support.token_runs import STAGES, spec_of

N, K, BINS, SIGMA = 100, len(STAGES), 6, 0.1
DEPTH, WIDTH, SEED = 3, 24, 3
P_A, P_B = np.array([0.705, 0.295, 0.0]), np.array([0.213, 0.594, 0.193])
STEPS = 3
# what the derivation below gave at the first step: L_SimProp, L_prop, and the norm of the gradient
RECORDED = (1.8684181, 1.9817520, 0.04556875)


def fixed(model: nn.Module) -> None:
    """Weights that are a formula, so that recorded numbers hold with every version of torch."""
    with torch.no_grad():
        for number, (name, value) in enumerate(model.named_parameters()):
            wave = torch.sin(torch.arange(value.numel(), dtype=torch.float64) * 1.7 + number)
            base = 1.0 if name.endswith("weight") and value.ndim == 1 else 0.0
            value.copy_((base + 0.3 * wave).view_as(value))


def vit(rate: float) -> VisionTransformer:
    model = VisionTransformer(
        img_size=64,
        patch_size=16,
        embed_dim=WIDTH,
        depth=DEPTH,
        num_heads=2,
        num_classes=0,
        drop_path_rate=rate,
    )
    fixed(model)
    return model


def bags(step: int) -> Tensor:
    """Tokens float16[2 N, 17, D] of the two bags of a step."""
    wave = np.sin(np.arange(2 * N * 17 * WIDTH) ** 1.1 * 0.9 + step)
    return torch.from_numpy(wave.reshape(2 * N, 17, WIDTH)).half()


class Fixed:
    """The source of the draws."""

    scores = np.zeros(1)

    def draw(self, step: int) -> BagPair:
        return BagPair(bags(step), N, P_A, P_B)


class Kept:
    """Checkpoints: the state that was saved last."""

    state: dict[str, Any]

    def load(self) -> None:
        return None

    def last(self) -> str:
        return ""

    def save(self, phase: int, step: int, state: dict[str, Any]) -> None:
        self.state = state


# --- the released code, written out -------------------------------------------------------------------------


def histogram(similarities: list[Tensor]) -> Tensor:
    centres = [(bin + 0.5) / BINS for bin in range(BINS)]
    sums = [
        torch.stack([torch.exp(-0.5 * ((s - c) / SIGMA) ** 2) for s in similarities]).sum() for c in centres
    ]
    return torch.stack(sums) / torch.stack(sums).sum()


def simprop(embedding: Tensor) -> Tensor:
    """Aligned pairs, bag B without gradient, a truncated target, KL over the number of bins."""
    pairs = [
        (1 + nn.functional.cosine_similarity(embedding[i], embedding[N + i].detach(), dim=0)) / 2
        for i in range(N)
    ]
    slots: list[float] = []
    for i in range(K):
        for j in range(K):
            slots += [1 - abs(i - j) / (K - 1)] * int(P_A[i] * P_B[j] * N + 1e-9)
    slots += [0.0] * (N - len(slots))
    target = histogram([torch.tensor(s, dtype=torch.float64) for s in slots])
    return (target * (target / histogram(pairs)).log()).sum() / BINS


def prop(head: nn.Module, embedding: Tensor) -> Tensor:
    """Bag A alone, KL over the number of stages; the head sees no gradient of the embedding."""
    mean = head(embedding.detach().float()).double()[:N].softmax(1).mean(0)
    return sum(p * math.log(p) - p * mean[k].log() for k, p in enumerate(P_A) if p > 0) / K


def released(steps: int, clip: float, rate: float) -> tuple[VisionTransformer, dict[str, Any]]:
    """A ViT after some steps: attention of every block by AdamW, clipped parameter by parameter."""
    model = vit(rate).train()
    head = nn.Sequential(
        nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, 64), nn.ReLU(), nn.Linear(64, K)
    ).requires_grad_(False)
    fixed(head)
    model.requires_grad_(False)
    trained = [p.requires_grad_() for name, p in model.named_parameters() if "attn" in name]
    optimiser = torch.optim.AdamW(
        [
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": 0.01},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ],
        lr=1e-3,
    )
    found: dict[str, Any] = {"losses": [], "norms": [], "moments": {}}
    for step in range(steps):
        torch.manual_seed(int(np.random.SeedSequence([SEED, 0, step]).generate_state(1, np.uint64)[0]))
        embedding = model.norm(model.blocks(bags(step).float()))[:, 0].double()
        terms = simprop(embedding), prop(head, embedding)
        optimiser.zero_grad()
        torch.stack(terms).sum().backward()
        found["losses"].append([float(term.detach()) for term in terms])
        found["norms"].append(
            math.sqrt(sum(float(p.grad.norm()) ** 2 for p in trained if p.grad is not None))
        )
        for p in trained:
            assert p.grad is not None
            norm = float(p.grad.norm())
            if norm > clip:
                p.grad.mul_(clip / (norm + 1e-6))
        optimiser.step()
    for name, p in model.named_parameters():
        if p.requires_grad:
            found["moments"][name] = optimiser.state[p]["exp_avg"]
    return model, found


# --- the preset ---------------------------------------------------------------------------------------------


def preset(steps: int, folder: Path, **changes: Any) -> tuple[train.StageModel, Kept, Any]:
    """The run of the preset on the same tokens: model, last checkpoint and history."""
    training = PRESETS["released"]["training"] | {"steps": steps} | changes
    spec = spec_of(PRESETS["released"]["losses"], seed=SEED, **training)
    suffix = Suffix(vit(0.0), "cls", DEPTH)
    kept = Kept()

    class Started(train.StageModel):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments)
            fixed(self.head)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "StageModel", Started)
        rows: list[Any] = []
        patch.setattr(train, "write_history", lambda out, history, *_: rows.extend(history))
        model, _ = train.train(
            spec,
            STAGES,
            Fixed(),  # type: ignore[arg-type]
            suffix,
            checkpoints=kept,  # type: ignore[arg-type]
            history_out=folder / "history.parquet",
            device=torch.device("cpu"),
            made_by="",
        )
    return model, kept, np.array(rows)


@pytest.mark.parametrize("clip", [3.0, 1e-4], ids=["as released", "clipping at work"])
def test_losses_gradients_and_steps_are_those_of_the_released_code(clip: float, tmp_path: Path) -> None:
    reference, found = released(STEPS, clip, rate=0.1)
    model, kept, rows = preset(STEPS, tmp_path, **({} if clip == 3 else {"clip": clip}))
    np.testing.assert_allclose(rows[:, 6:], found["losses"], rtol=2e-5)
    np.testing.assert_allclose(rows[:, 5], found["norms"], rtol=1e-4)
    ours = {name.removeprefix("suffix."): p for name, p in model.named_parameters()}
    start = dict(vit(0.0).named_parameters())
    moved, compared = 0, []
    for name, moment in found["moments"].items():
        expected = reference.get_parameter(name)
        # Adam magnifies the rounding of a gradient that is 0, as that of the bias of keys
        felt = moment.abs() > 1e-2 * moment.abs().max()
        compared.append(float(felt.float().mean()))
        torch.testing.assert_close(ours[name][felt], expected[felt], rtol=1e-4, atol=2e-5, msg=name)
        moved += not torch.equal(expected, start[name])
    assert min(compared) > 0.3 and moved == 4 * DEPTH  # weight and bias of qkv and of proj
    kept_as_they_were = [name for name in ours if name in start and name not in found["moments"]]
    assert all(torch.equal(ours[name], start[name]) for name in kept_as_they_were) and kept_as_they_were
    state = kept.state["optimiser"]
    moments = [state["state"][number]["exp_avg"] for number in sorted(state["state"])]
    named = [name for name in found["moments"] if reference.get_parameter(name).ndim > 1]
    named += [name for name in found["moments"] if reference.get_parameter(name).ndim <= 1]
    for name, moment in zip(named, moments, strict=True):
        scale = float(found["moments"][name].abs().max())
        torch.testing.assert_close(moment, found["moments"][name], rtol=1e-3, atol=1e-3 * scale, msg=name)
    groups = [(group["lr"], group["weight_decay"], len(group["params"])) for group in state["param_groups"]]
    assert groups == [(1e-3, 0.01, 2 * DEPTH), (1e-3, 0.0, 2 * DEPTH)]


def test_the_recorded_values_of_the_first_step(tmp_path: Path) -> None:
    """Without drop path, whose draws another version of torch may change."""
    _, found = released(1, 3.0, rate=0.0)
    np.testing.assert_allclose([*found["losses"][0], found["norms"][0]], RECORDED, rtol=1e-5)
    _, _, rows = preset(1, tmp_path, drop_path=0.0)
    np.testing.assert_allclose(rows[0, [6, 7, 5]], RECORDED, rtol=1e-4)


@pytest.mark.parametrize(
    "change",
    [{"decay": "all"}, {"drop_path": 0.0}, {"prop_bags": "both"}, {"pairs": "all"}, {"target": "exact"}],
    ids=lambda change: next(iter(change)),
)
def test_every_key_of_the_preset_tells(change: dict[str, Any], tmp_path: Path) -> None:
    """What the comparison would miss were the key without effect."""
    _, found = released(2, 3.0, rate=0.1)
    _, kept, rows = preset(2, tmp_path, **change)
    state = kept.state["optimiser"]["param_groups"]
    same = np.allclose(rows[:, 6:], found["losses"], rtol=2e-5)
    assert not (same and [group["weight_decay"] for group in state] == [0.01, 0.0])
