"""Cells per second of a training step against the released trainer's way, with the paper's encoder.

    python benchmarks/bench_train.py [--threads 2]

Writes benchmarks/results/train.json. Ours: stored tokens of two bags through the last block and the head,
L_SimProp + L_prop, backward, AdamW. The released trainer's way (OSLSP): one image a pass through the whole
encoder, the attention of every block trainable, losses on the stacked outputs (aligned pairs, bag B and the
frozen head detached), backward; its optimiser's step is left out, in its favour, since it would weigh more on
the few cells measured here than on a step's 200.

Both are timed in turn and the best of each is compared, as in bench_embed.py. Random weights: the numbers in
a matrix do not change the time it takes.
"""

import argparse
import json
import platform
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

import torch
from torch import Tensor, nn

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "scripts"))

from myostage.features.encoder import Prefix, Suffix, build  # noqa: E402
from myostage.learning.terms import prop, simprop  # noqa: E402
from myostage.learning.train import StageModel  # noqa: E402
from myostage.study.sections.encoder import Encoder  # noqa: E402
from myostage.study.sections.training import Training  # noqa: E402

# day 3 and day 5 of the demo
P_A, P_B = [0.59, 0.41, 0.0, 0.0, 0.0], [0.17, 0.28, 0.55, 0.0, 0.0]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", default="vit_base_patch8_224.dino", help="the timm name of a ViT")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--bag-size", type=int, default=100, help="cells per bag of our step")
    parser.add_argument("--released-cells", type=int, default=10, help="cells of the other way's two bags")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "train.json")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    cuda = device.type == "cuda"
    training = Training()

    def clock() -> float:
        if cuda:
            torch.cuda.synchronize()
            return time.perf_counter()
        return time.process_time() / arguments.threads

    encoder = Encoder(model=arguments.model, weights="none")
    whole = build(encoder).to(device)
    normalise = Prefix(build(encoder)).to(device).normalise
    model = StageModel(Suffix(build(encoder), encoder.pool), training.hidden, len(P_A)).to(device)
    count, width = whole.patch_embed.num_patches + whole.num_prefix_tokens, int(whole.embed_dim)
    cells = 2 * arguments.bag_size
    tokens = torch.randn(cells, count, width).to(device, torch.float16)
    trained = [*model.head.parameters(), *model.suffix.trainable("block")]
    optimiser = torch.optim.AdamW(trained)
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=cuda)

    def ours() -> None:
        with autocast:
            embedding, logits = model(tokens)
        bags = embedding.split(arguments.bag_size), logits.split(arguments.bag_size)
        ordinal = simprop.simprop(*bags[0], P_A, P_B, sigma=training.sigma, bins=training.bins)
        bag_level = (prop.prop(bags[1][0], P_A) + prop.prop(bags[1][1], P_B)) / 2
        optimiser.zero_grad(set_to_none=True)
        (ordinal + bag_level).backward()
        nn.utils.clip_grad_norm_(trained, training.clip)
        optimiser.step()

    whole.requires_grad_(False)
    for name, parameter in whole.named_parameters():
        parameter.requires_grad_("attn" in name)
    half = arguments.released_cells // 2
    crops = torch.randint(0, 256, (2 * half, 64, 64, 3), dtype=torch.uint8, device=device)
    head = StageModel(model.suffix, training.hidden, len(P_A)).head.to(device).requires_grad_(False)

    def released() -> None:
        def embed(images: Tensor) -> Tensor:
            one_by_one = [whole.forward_features(image)[:, 0] for image in normalise(images).split(1)]
            return torch.cat(one_by_one)

        u, v = embed(crops[:half]), embed(crops[half:]).detach()
        ordinal = simprop.simprop(
            u,
            v,
            P_A,
            P_B,
            sigma=training.sigma,
            bins=training.bins,
            pairs="aligned",
            target="truncated",
            divide="released",
        )
        whole.zero_grad(set_to_none=True)
        (ordinal + prop.prop(head(u.detach()), P_A, divide="released")).backward()

    seconds: dict[str, list[float]] = {"ours": [], "released": []}
    for repeat in range(arguments.repeats + 1):
        for label, run in (("ours", ours), ("released", released)):
            start = clock()
            run()
            if repeat:  # the first round warms up thread pools and kernels
                seconds[label].append(clock() - start)
    our_rate, released_rate = cells / min(seconds["ours"]), 2 * half / min(seconds["released"])
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name()
        if cuda
        else f"{platform.machine()}, {arguments.threads} threads",
        "torch": torch.__version__,
        "model": arguments.model,
        "cells_per_step": cells,
        "released_cells": 2 * half,
        "released_cells_per_s": round(released_rate, 2),
        "our_cells_per_s": round(our_rate, 1),
        "ratio": round(our_rate / released_rate, 1),
    }
    arguments.out.parent.mkdir(parents=True, exist_ok=True)
    arguments.out.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
