"""SRMIL in its released form against dense loops, and what of it trains."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from myostage.learning import mil
from myostage.learning.srmil import ReleasedSrmil
from myostage.spatial.graph import CellGraph
from myostage.study.sections.mil import Mil
from support.formulas import normal

E, CELLS, WIDTH, HEADS, RATIO = 6, 9, 4, 2, 0.5
TERMS = ("slide", "slide_masked", "spatial_reconstruction")
PAIRS = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 0), (0, 4), (2, 5)]
EDGES = sorted([*PAIRS, *((b, a) for a, b in PAIRS)])
GRAPH = CellGraph(torch.tensor(EDGES, dtype=torch.int64).T.contiguous(), CELLS)


def model_of(layers: int = 2, **keys: Any) -> ReleasedSrmil:
    torch.manual_seed(0)
    section = Mil(model="srmil", srmil_form="released", width=WIDTH, heads=HEADS, layers=layers, **keys)
    built = mil.build(section, E, "binary", 2, mask_ratio=RATIO).double().eval()
    assert isinstance(built, ReleasedSrmil)
    with torch.no_grad():  # what starts at 0 or 1 is to count too
        for number, parameter in enumerate(built.parameters()):
            parameter.add_(0.2 * normal(*parameter.shape, seed=number))
    return built


def dense(layer: Any, nodes: Tensor, joined: set[tuple[int, int]], heads: int, last: bool) -> Tensor:
    """One layer, node by node and head by head."""
    attention, rows = layer.attention, []
    values = (nodes @ attention.project.weight.T).view(len(nodes), heads, -1)
    for i in range(len(nodes)):
        sources = [a for a, b in sorted(joined) if b == i]
        parts = []
        for head in range(heads):
            scores = torch.stack(
                [
                    values[j, head] @ attention.source[head] + values[i, head] @ attention.target[head]
                    for j in sources
                ]
            )
            shares = torch.where(scores > 0, scores, 0.2 * scores).softmax(0)
            parts.append(sum(share * values[j, head] for share, j in zip(shares, sources, strict=True)))
        rows.append(torch.cat(parts) + attention.bias)
    new = torch.stack(rows)
    if last:
        return new
    if nodes.shape[1] != new.shape[1]:
        new = new + nodes @ layer.residual.weight.T
    norm, activation = layer.finish
    centred = new - new.mean(1, keepdim=True)
    new = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt() * norm.weight + norm.bias
    return torch.where(new > 0, new, activation.weight * new)


def loops(cells: int) -> set[tuple[int, int]]:
    return {(i, i) for i in range(cells)}


def dense_logits(built: ReleasedSrmil, x: Tensor) -> Tensor:
    nodes = torch.cat([x, built.super_node[None]]) @ built.enter.weight.T + built.enter.bias
    joined = {*EDGES, *loops(CELLS), *((i, CELLS) for i in range(CELLS)), *((CELLS, i) for i in range(CELLS))}
    for layer in built.encoder:
        nodes = dense(layer, nodes, joined, HEADS, last=False)
    first, _, _, second = built.classifier
    mean = nodes[-1].view(HEADS, WIDTH).mean(0)
    return second.weight @ (first.weight @ mean + first.bias).clamp_min(0) + second.bias


@pytest.mark.parametrize("layers", [1, 2])
def test_label_and_reconstruction_are_those_of_dense_loops(layers: int) -> None:
    built, x = model_of(layers), 3 * normal(CELLS, E) + 1
    assert torch.allclose(built(x, GRAPH)[0], dense_logits(built, x), atol=1e-9)
    torch.manual_seed(5)
    found = built.terms(x, GRAPH, 1, TERMS)
    torch.manual_seed(5)
    hidden = mil.hidden_cells(CELLS, RATIO)
    seen = x.clone()
    seen[hidden] = built.hidden_token
    assert torch.allclose(found["slide"], built.head.loss(dense_logits(built, x), 1))
    assert torch.allclose(found["slide_masked"], built.head.loss(dense_logits(built, seen), 1))
    joined = {*EDGES, *loops(CELLS)}
    nodes = seen @ built.enter.weight.T + built.enter.bias
    for layer in built.encoder:
        nodes = dense(layer, nodes, joined, HEADS, last=False)
    nodes = nodes @ built.between.weight.T
    nodes[hidden] = built.decoder_token
    for layer in built.decoder[:-1]:
        nodes = dense(layer, nodes, joined, HEADS, last=False)
    rebuilt = dense(built.decoder[-1], nodes, joined, 1, last=True)
    # of the features as they are
    error = 1 - F.cosine_similarity(rebuilt[hidden], x[hidden], dim=1).mean()
    assert torch.allclose(found["spatial_reconstruction"], error)


def test_a_residual_is_there_where_the_width_changes_alone() -> None:
    built = model_of(3)
    assert [layer.residual is not None for layer in built.encoder] == [True, False, False]
    assert [layer.residual is not None for layer in built.decoder] == [False, False, False]


def test_features_are_taken_as_they_are_and_hidden_ones_do_not_leak() -> None:
    built, x = model_of(), normal(CELLS, E)
    assert not torch.allclose(built(3 * x + 1, GRAPH)[0], built(x, GRAPH)[0])
    torch.manual_seed(1)
    hidden = built.hide(x, GRAPH).hidden
    other = x.clone()
    other[hidden] += 1
    assert torch.equal(built.hidden(x, hidden), built.hidden(other, hidden))
    nodes = normal(CELLS, HEADS * WIDTH)
    changed = nodes.clone()
    changed[hidden] += 1
    assert torch.equal(built.decode(nodes, GRAPH, hidden), built.decode(changed, GRAPH, hidden))


def test_dropout_is_of_training_alone_and_every_parameter_learns() -> None:
    built, x = model_of(), normal(CELLS, E)
    assert torch.equal(built(x, GRAPH)[0], built(x, GRAPH)[0])
    built.train()
    assert not torch.equal(built(x, GRAPH)[0], built(x, GRAPH)[0])
    torch.stack(list(built.terms(x, GRAPH, 1, TERMS).values())).sum().backward()
    assert not [n for n, p in built.named_parameters() if p.grad is None or not p.grad.any()]


def test_attention_is_the_super_nodes_and_odd_slides_are_finite() -> None:
    built = model_of()
    assert built(normal(CELLS, E), GRAPH)[1].shape == (CELLS,)
    for x, graph in (
        (normal(1, E), CellGraph(torch.empty(2, 0, dtype=torch.int64), 1)),
        (torch.zeros(CELLS, E, dtype=torch.float64), GRAPH),
        (1e4 * normal(CELLS, E), GRAPH),
    ):
        terms = torch.stack(list(built.terms(x, graph, 1, TERMS).values()))
        terms.sum().backward()
        assert terms.isfinite().all()
        assert all(p.grad is None or p.grad.isfinite().all() for p in built.parameters())
    with pytest.raises(ValueError, match="0 cells"):
        built(normal(0, E), CellGraph(torch.empty(2, 0, dtype=torch.int64), 0))
