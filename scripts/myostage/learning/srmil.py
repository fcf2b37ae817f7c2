"""SRMIL as its authors released it (arXiv 2602.19487), beside the plain form of :mod:`myostage.learning.mil`.

The plain form has none of these: features enter, and are reconstructed, as they are (not standardised); a
linear layer between features comes first; a layer of graph attention drops features and attention out, adds
a learnt projection of what it is given where the width changes, and ends with LayerNorm and PReLU; a linear
layer lies between encoder and decoder; the super-node is a cell like others, of learnt features, and takes
no part in the reconstruction; what is classified is the mean over heads of the super-node, by a layer of 128
units.

Deviations: a binary label has one logit, as in every model here; at least one cell is hidden; the losses of a
step hide the same cells, and each of the two passes over hidden cells draws its own dropout, as released.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from myostage.learning.mil import GraphAttention, SlideModel, checked, cosine_error, hidden_cells, outputs
from myostage.spatial.graph import CellGraph
from myostage.study.sections.mil import Mil
from myostage.study.sections.slide_label import LabelKind

FEATURE_DROPOUT, ATTENTION_DROPOUT, CLASSIFIER_DROPOUT = 0.11, 0.15, 0.059
CLASSIFIER_WIDTH = 128
TOKEN_SD = 0.01
GAIN = 2**0.5


class _Layer(nn.Module):
    """Graph attention with dropout; residual, LayerNorm and PReLU, which the decoder's ``last`` lacks."""

    def __init__(self, inputs: int, width: int, heads: int, *, last: bool = False) -> None:
        super().__init__()
        self.drop = nn.Dropout(FEATURE_DROPOUT)
        self.attention = GraphAttention(inputs, width, heads, dropout=ATTENTION_DROPOUT)
        wider = inputs != heads * width and not last
        self.residual = nn.Linear(inputs, heads * width, bias=False) if wider else None
        self.finish = nn.Identity() if last else nn.Sequential(nn.LayerNorm(heads * width), nn.PReLU())
        for weight in (self.attention.project.weight, *([self.residual.weight] if self.residual else ())):
            nn.init.xavier_normal_(weight, GAIN)
        for weight in (self.attention.source, self.attention.target):
            nn.init.xavier_normal_(weight.data[None], GAIN)

    def forward(self, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """New nodes [n, heads * width] and the attention before the softmax [m, heads]."""
        nodes = self.drop(nodes)
        new, logits = self.attention(nodes, edges)
        if self.residual is not None:
            new = new + self.residual(nodes)
        return self.finish(new), logits


class ReleasedSrmil(SlideModel):
    """The model; its attention is the super-node's in the encoder's last layer, mean over heads of logits."""

    def __init__(self, mil: Mil, features: int, kind: LabelKind, classes: int, mask_ratio: float) -> None:
        super().__init__(kind, classes)
        self.heads, self.mask_ratio = mil.heads, mask_ratio
        inside = mil.heads * mil.width
        self.hidden_token, self.super_node = (nn.Parameter(torch.empty(features)) for _ in range(2))
        self.decoder_token = nn.Parameter(torch.empty(inside))
        self.enter = nn.Linear(features, features)
        widths = [features] + [inside] * mil.layers
        self.encoder = nn.ModuleList(_Layer(one, mil.width, mil.heads) for one, _ in pairwise(widths))
        self.between = nn.Linear(inside, inside, bias=False)
        self.decoder = nn.ModuleList(_Layer(inside, mil.width, mil.heads) for _ in range(mil.layers - 1))
        self.decoder.append(_Layer(inside, features, 1, last=True))
        self.classifier = nn.Sequential(
            nn.Linear(mil.width, CLASSIFIER_WIDTH),
            nn.ReLU(),
            nn.Dropout(CLASSIFIER_DROPOUT),
            nn.Linear(CLASSIFIER_WIDTH, outputs(kind, classes)),
        )
        for token in (self.hidden_token, self.super_node, self.decoder_token):
            nn.init.normal_(token, std=TOKEN_SD)
        nn.init.xavier_uniform_(self.enter.weight, GAIN)
        nn.init.zeros_(self.enter.bias)
        nn.init.xavier_normal_(self.between.weight, GAIN)

    def inputs(self, features: Tensor, graph: CellGraph) -> Tensor:
        return checked(features, graph)

    def encode(self, x: Tensor, graph: CellGraph, *, super_node: bool) -> tuple[Tensor, Tensor]:
        """Encoded nodes, the super-node last; the last layer's attention logits, those to it at the end."""
        cells = torch.arange(len(x), device=x.device)
        edges = [graph.edges, cells.expand(2, -1)]
        if super_node:
            every = torch.full_like(cells, len(x))
            edges += [torch.stack([every, cells]), torch.stack([cells, every])]
            x = torch.cat([x, self.super_node[None]])
        return _pass(self.encoder, self.enter(x), torch.cat(edges, 1))

    def hidden(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Features [n, E], those of ``hidden`` cells replaced by a learnt token."""
        return torch.where(hidden[:, None], self.hidden_token, x)

    def decode(self, nodes: Tensor, graph: CellGraph, hidden: Tensor) -> Tensor:
        """Features [n, E] from encoded cells, those of ``hidden`` ones not looked at."""
        nodes = torch.where(hidden[:, None], self.decoder_token, self.between(nodes))
        loops = torch.arange(len(nodes), device=nodes.device).expand(2, -1)
        return _pass(self.decoder, nodes, torch.cat([graph.edges, loops], 1))[0]

    def _score(self, x: Tensor, graph: CellGraph) -> tuple[Tensor, Tensor]:
        nodes, logits = self.encode(x, graph, super_node=True)
        return self.classifier(nodes[-1].view(self.heads, -1).mean(0)), logits[-len(x) :].mean(1)

    def hide(self, x: Tensor, graph: CellGraph) -> "HiddenCells":
        return HiddenCells(self, x, graph, hidden_cells(len(x), self.mask_ratio).to(x.device))


@dataclass(frozen=True)
class HiddenCells:
    """A slide of which the ``hidden`` cells bool[n] are hidden."""

    model: ReleasedSrmil
    features: Tensor
    graph: CellGraph
    hidden: Tensor

    def slide_loss(self, target: int) -> Tensor:
        """Loss of the label."""
        return self.model.slide_loss(self.model.hidden(self.features, self.hidden), self.graph, target)

    def reconstruction(self) -> Tensor:
        """Error of the hidden cells' features."""
        model = self.model
        seen = model.hidden(self.features, self.hidden)
        nodes, _ = model.encode(seen, self.graph, super_node=False)
        found = model.decode(nodes, self.graph, self.hidden)
        return cosine_error(found[self.hidden], self.features[self.hidden])


def _pass(layers: nn.ModuleList, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes after all layers, and the attention logits [m, heads] of the last."""
    logits = nodes
    for layer in layers:
        nodes, logits = layer(nodes, edges)
    return nodes, logits
