"""Models of slide labels: multiple instance learning on the frozen embeddings of a slide's cells.

All see the same inputs: each cell's features are first brought to mean 0 and variance 1 over their
dimensions (LayerNorm without weights), so that no model depends on the scale of an encoder; `srmil` in its
released form alone takes them as they are. Whatever autocast is on, they are computed in float32 (in float64
where the features are).
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from myostage.learning import term
from myostage.learning.shares import full_precision
from myostage.spatial.graph import CellGraph
from myostage.spatial.smoothing import Smoother
from myostage.study.sections.mil import ONE_LOGIT, Mil
from myostage.study.sections.slide_label import LabelKind

# Of the hidden layer of a transformer's perceptron, in widths of the transformer.
PERCEPTRON_RATIO = 4
# Slope of the graph attention's LeakyReLU below 0 (arXiv 1710.10903).
NEGATIVE_SLOPE = 0.2


def outputs(kind: LabelKind, classes: int) -> int:
    """Logits that a model gives: one per class, or a single one where the label is binary or ordinal."""
    return classes if kind == "multiclass" else 1


class SlideHead(nn.Module):
    """From the logits of a slide to the probabilities of its classes, and their loss.

    Binary: P(second class) = sigmoid(f), binary cross-entropy. Multiclass: softmax, cross-entropy. Ordinal:
    CORAL (Cao, Mirjalili & Raschka 2020, arXiv 1901.07884), P(y > k) = sigmoid(f + b_k) for k = 0..C-2, mean
    binary cross-entropy over the thresholds. There the biases are learnt freely; here b_k falls from one
    threshold to the next by a softplus, so that the P(y > k) never cross. At the start f = 0 gives all
    classes the same probability.

    Raises
    ------
    ValueError
        Fewer than two classes, or not two of a binary label.
    """

    def __init__(self, kind: LabelKind, classes: int) -> None:
        super().__init__()
        if classes < 2 or (kind == "binary" and classes > 2):
            raise ValueError(f"a label that is {kind} cannot have {classes} classes")
        self.kind, self.classes = kind, classes
        if kind == "ordinal":
            biases = [math.log((classes - k) / k) for k in range(1, classes)]
            self.first = nn.Parameter(torch.tensor(biases[0]))
            # softplus(log(e^x - 1)) = x
            falls = [math.log(math.expm1(before - after)) for before, after in pairwise(biases)]
            self.falls = nn.Parameter(torch.tensor(falls))

    def thresholds(self) -> Tensor:
        """Biases b_k of an ordinal label, [C-1], falling."""
        return torch.cat([self.first[None], self.first - F.softplus(self.falls).cumsum(0)])

    def loss(self, logits: Tensor, target: int) -> Tensor:
        """Scalar loss of logits [1] or, multiclass, [C]; ValueError where ``target`` is no class."""
        if not 0 <= target < self.classes:
            raise ValueError(f"class {target} is none of 0..{self.classes - 1}")
        if self.kind == "multiclass":
            return F.cross_entropy(logits, torch.tensor(target, device=logits.device))
        if self.kind == "ordinal":
            logits = logits + self.thresholds()
        above = target > torch.arange(len(logits), device=logits.device)  # binary: its one threshold
        return F.binary_cross_entropy_with_logits(logits, above.to(logits))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes [C] from logits [1] or, multiclass, [C]; they sum to 1."""
        if self.kind == "multiclass":
            return logits.softmax(0)
        above = (logits + self.thresholds() if self.kind == "ordinal" else logits).sigmoid()
        edges = torch.cat([torch.ones_like(above[:1]), above, torch.zeros_like(above[:1])])
        # The sigmoid of float32 is not quite monotonic.
        return (-edges.diff()).clamp_min(0)


class SlideModel(nn.Module, ABC):
    """A model of slide labels."""

    def __init__(self, kind: LabelKind, classes: int) -> None:
        super().__init__()
        self.head = SlideHead(kind, classes)

    def forward(self, features: Tensor, graph: CellGraph) -> tuple[Tensor, Tensor]:
        """Logits of the slide and attention to its cells.

        Parameters
        ----------
        features
            Embeddings of the slide's cells, [n, E].
        graph
            Neighbours among these cells, on the device of the features.

        Returns
        -------
        tuple of Tensor
            Logits [1] or, multiclass, [C]; attention to each cell [n], before the softmax over cells.

        Raises
        ------
        ValueError
            No cells, or a graph of other cells.
        """
        with torch.autocast(features.device.type, enabled=False):
            return self._score(self.inputs(features, graph), graph)

    def terms(
        self, features: Tensor, graph: CellGraph, target: int, wanted: Collection[str]
    ) -> dict[str, Tensor]:
        """Unweighted loss terms of a slide of class ``target``, of those ``wanted`` that the model has.

        ``slide``: loss of the label; only `srmil` also has ``slide_masked`` and ``spatial_reconstruction``.
        Other arguments and errors as in :meth:`forward`.
        """
        with torch.autocast(features.device.type, enabled=False):
            step = SlideStep(self, self.inputs(features, graph), graph, target)
            return term.values("slide", wanted, step, {})

    def probabilities(self, logits: Tensor) -> Tensor:
        """Probabilities of the classes, [C]."""
        return self.head.probabilities(logits)

    def inputs(self, features: Tensor, graph: CellGraph) -> Tensor:
        """What the model sees of cells, [n, E]; ValueError where there are none or the graph has others."""
        return _standardised(features, graph)

    @abstractmethod
    def _score(self, x: Tensor, graph: CellGraph) -> tuple[Tensor, Tensor]:
        """:meth:`forward` on :meth:`inputs`."""

    def hide(self, x: Tensor, graph: CellGraph) -> "HiddenSlide | None":
        """The slide with part of its cells hidden; None of a model that hides none."""
        return None

    def slide_loss(self, x: Tensor, graph: CellGraph, target: int) -> Tensor:
        """Loss of the label ``target`` of a slide with standardised features."""
        return self.head.loss(self._score(x, graph)[0], target)


class HiddenSlide(Protocol):
    """A slide with part of its cells hidden."""

    def slide_loss(self, target: int) -> Tensor:
        """Loss of the label."""
        ...

    def reconstruction(self) -> Tensor:
        """Error of the hidden cells' features."""
        ...


@dataclass(frozen=True)
class SlideStep:
    """A slide of class ``target`` as the loss terms see it; ``features`` [n, E] as its model sees them."""

    model: SlideModel
    features: Tensor
    graph: CellGraph
    target: int

    @cached_property
    def masked(self) -> HiddenSlide | None:
        """The slide with part of its cells hidden, the same for all terms of the step."""
        return self.model.hide(self.features, self.graph)


def build(mil: Mil, features: int, kind: LabelKind, classes: int, *, mask_ratio: float) -> SlideModel:
    """The model of slide labels that a study file names.

    Parameters
    ----------
    mil
        Model and its widths.
    features
        Width E of a cell's embedding.
    kind, classes
        The label and its number of classes C.
    mask_ratio
        Share of cells that `srmil` hides, 0 to 1.

    Raises
    ------
    ValueError
        A model of torchmil, which has one logit, for a multiclass label; classes that do not fit the kind.
    """
    if mil.model in ONE_LOGIT:
        return _Torchmil(mil, features, kind, classes)
    if mil.model == "srmil" and mil.srmil_form == "released":
        from myostage.learning.srmil import ReleasedSrmil  # here, since it is made of what is defined here

        return ReleasedSrmil(mil, features, kind, classes, mask_ratio)
    if mil.model == "srmil":
        return _SpatiallyRegularised(mil, features, kind, classes, mask_ratio)
    if mil.model in ("smap", "smtap"):
        return _SmoothAttention(mil, features, kind, classes)
    return _Pooled(mil, features, kind, classes)


class Reconstruction(nn.Module):
    """The label-independent term of `srmil` alone, without super-node, as an auxiliary loss.

    Parameters
    ----------
    features
        Width E of a cell's embedding.
    width, heads, layers
        Of the graph attention at both ends: width of a head, heads, layers.
    """

    def __init__(self, features: int, width: int, heads: int, layers: int) -> None:
        super().__init__()
        self.autoencoder = MaskedAutoencoder(features, width, heads, layers)

    def forward(self, features: Tensor, graph: CellGraph, mask_ratio: float) -> Tensor:
        """Mean over hidden cells of 1 - cos(x_hat, x), scalar.

        A gradient reaches ``features`` [n, E] through the cells that are seen alone: what is to be
        reconstructed is constant, so that an encoder cannot make it trivial.

        Raises
        ------
        ValueError
            No cells, or a graph of other cells.
        """
        with torch.autocast(features.device.type, enabled=False):
            x = _standardised(features, graph)
            hidden = hidden_cells(len(x), mask_ratio).to(x.device)
            found = self.autoencoder.decode(self.autoencoder.encode(x, graph, hidden)[0], graph, hidden)
            return cosine_error(found[hidden], x[hidden].detach())


def hidden_cells(cells: int, mask_ratio: float) -> Tensor:
    """Which cells are hidden, bool[n]: a random share ``mask_ratio``, at least one.

    Drawn from torch's global generator on the CPU, whatever the device of the features.
    """
    hidden = torch.zeros(cells, dtype=torch.bool)
    hidden[torch.randperm(cells)[: max(1, round(mask_ratio * cells))]] = True
    return hidden


def cosine_error(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean over rows of 1 - cos(found, wanted): scaled cosine error of exponent 1 (arXiv 2602.19487)."""
    return 1 - F.cosine_similarity(found, wanted, dim=1).mean()


class GraphAttention(nn.Module):
    """A layer of graph attention (GAT, Velickovic et al. 2018, arXiv 1710.10903), O(edges).

    Of each head: a_ij = softmax over the edges j -> i of LeakyReLU(s . W h_j + t . W h_i), and the new h_i is
    the sum over j of a_ij W h_j. Heads are joined end to end, a bias is added. Training
    leaves out a share ``dropout`` of the a_ij.
    """

    def __init__(self, inputs: int, width: int, heads: int, *, dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = dropout
        self.project = nn.Linear(inputs, heads * width, bias=False)
        self.source = nn.Parameter(torch.empty(heads, width))
        self.target = nn.Parameter(torch.empty(heads, width))
        self.bias = nn.Parameter(torch.zeros(heads * width))
        for weight in (self.project.weight, self.source, self.target):
            nn.init.xavier_uniform_(weight)

    def forward(self, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
        """New nodes and the attention of every edge.

        Parameters
        ----------
        nodes
            [n, inputs].
        edges
            int64[2, m], from the first row to the second; loops are edges like others.

        Returns
        -------
        tuple of Tensor
            Nodes [n, heads * width], the bias alone where no edge ends; attention before the softmax
            [m, heads].
        """
        source, target = edges
        values = self.project(nodes).view(len(nodes), *self.source.shape)  # [n, heads, width]
        given, taken = (values * self.source).sum(2), (values * self.target).sum(2)  # [n, heads]
        logits = F.leaky_relu(given[source] + taken[target], NEGATIVE_SLOPE)  # [m, heads]
        ends = target[:, None].expand_as(logits)
        largest = torch.full_like(given, -torch.inf).scatter_reduce(0, ends, logits.detach(), "amax")
        weights = (logits - largest[target]).exp()
        weights = weights / torch.zeros_like(given).index_add(0, target, weights)[target]
        if self.dropout:
            weights = F.dropout(weights, self.dropout, self.training)
        new = torch.zeros_like(values).index_add(0, target, weights[:, :, None] * values[source])
        return new.flatten(1) + self.bias, logits


class MaskedAutoencoder(nn.Module):
    """Features of hidden cells from those of their neighbours (SRMIL, arXiv 2602.19487).

    A linear layer and graph attention over the graph with loops; then hidden cells are hidden once more, by
    a token of the decoder, and graph attention and a linear layer give features back. A super-node, where
    there is one, is learnt and joined to every cell both ways in the encoder; the decoder does not see it.
    """

    def __init__(
        self, features: int, width: int, heads: int, layers: int, *, super_node: bool = False
    ) -> None:
        super().__init__()
        inside = heads * width
        self.hidden_token = nn.Parameter(torch.zeros(features))
        self.decoder_token = nn.Parameter(torch.zeros(inside))
        self.super_node = nn.Parameter(torch.zeros(inside)) if super_node else None
        self.enter = nn.Linear(features, inside)
        self.encoder = nn.ModuleList(GraphAttention(inside, width, heads) for _ in range(layers))
        self.decoder = nn.ModuleList(GraphAttention(inside, width, heads) for _ in range(layers))
        self.leave = nn.Linear(inside, features)

    def encode(self, x: Tensor, graph: CellGraph, hidden: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Encoded nodes, and what the last layer attends to.

        Parameters
        ----------
        x
            Standardised features, [n, E].
        graph
            Neighbours.
        hidden
            Cells whose features the hidden token replaces, bool[n]; none: no cell.

        Returns
        -------
        tuple of Tensor
            Nodes [n, heads * width] or, with super-node, [n + 1, heads * width], the super-node last;
            attention before the softmax of the last layer's edges, of which the last n are those from the
            cells to the super-node, [m, heads].
        """
        if hidden is not None:
            x = torch.where(hidden[:, None], self.hidden_token, x)
        nodes = self.enter(x)
        edges = _with_loops(graph.edges, len(x))
        if self.super_node is not None:
            nodes = torch.cat([nodes, self.super_node[None]])
            edges = _with_super_node(edges, len(x))
        return _attend(self.encoder, nodes, edges)

    def decode(self, nodes: Tensor, graph: CellGraph, hidden: Tensor) -> Tensor:
        """Features [n, E] from encoded nodes, those of the ``hidden`` cells bool[n] not looked at."""
        cells = torch.where(hidden[:, None], self.decoder_token, nodes[: len(hidden)])
        decoded: Tensor = self.leave(_attend(self.decoder, cells, _with_loops(graph.edges, len(hidden)))[0])
        return decoded


def _attend(layers: nn.ModuleList, nodes: Tensor, edges: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes after all layers, an ELU between two, and the attention logits [m, heads] of the last."""
    nodes, logits = layers[0](nodes, edges)
    for layer in layers[1:]:
        nodes, logits = layer(F.elu(nodes), edges)
    return nodes, logits


def _with_loops(edges: Tensor, nodes: int) -> Tensor:
    return torch.cat([edges, torch.arange(nodes, device=edges.device).expand(2, -1)], 1)


def _with_super_node(edges: Tensor, cells: int) -> Tensor:
    """Node ``cells`` with a loop, joined to all nodes before it both ways; the edges to it are the last."""
    all_cells = torch.arange(cells + 1, device=edges.device)
    every = torch.full_like(all_cells, cells)
    down, up = torch.stack([every, all_cells]), torch.stack([all_cells, every])[:, :-1]
    return torch.cat([edges, down, up], 1)


def _standardised(features: Tensor, graph: CellGraph) -> Tensor:
    """Features [n, E] of mean 0 and variance 1 over their dimensions; errors as of :func:`checked`."""
    features = checked(features, graph)
    return F.layer_norm(features, features.shape[1:])


def checked(features: Tensor, graph: CellGraph) -> Tensor:
    """Features [n, E] in full precision; ValueError where there are no cells or the graph has others."""
    if not len(features) or len(features) != graph.nodes:
        raise ValueError(f"features of {len(features)} cells and a graph of {graph.nodes} make no slide")
    return full_precision(features)


class _Pooled(SlideModel):
    """A linear classifier of cells, its logits averaged (as good as that of mean features) or their maximum.

    Attention: a cell's logit, of the slide's predicted class where the label is multiclass.
    """

    def __init__(self, mil: Mil, features: int, kind: LabelKind, classes: int) -> None:
        super().__init__(kind, classes)
        self.classifier = nn.Linear(features, outputs(kind, classes))
        self.largest = mil.model == "max"

    def _score(self, x: Tensor, graph: CellGraph) -> tuple[Tensor, Tensor]:
        cells = self.classifier(x)
        logits = cells.amax(0) if self.largest else cells.mean(0)
        return logits, cells[:, int(logits.argmax())]


class _SmoothAttention(SlideModel):
    """Attention pooling by logits w . tanh(V h) (Ilse et al. 2018), with Sm (arXiv 2410.03276).

    Sm acts on h (`early`; smoothed features are also those that are pooled), on V h (`mid`) or on the logits
    (`late`); ``spectral_norm`` on every linear layer that comes after it: V, w and the classifier; w and the
    classifier; the classifier. The transformer of `smtap` has none: a LayerNorm stands between Sm and the
    next linear layer there.
    """

    def __init__(self, mil: Mil, features: int, kind: LabelKind, classes: int) -> None:
        super().__init__(kind, classes)
        self.placement = mil.placement
        self.encoder = _Transformer(mil, features) if mil.model == "smtap" else None
        pooled = mil.heads * mil.width if self.encoder else features
        self.smooth = _smoother(mil)

        def after_sm(layer: nn.Module) -> nn.Module:
            return spectral_norm(layer) if mil.spectral_norm else layer

        # Without biases, as the formula: that of w would cancel in the softmax.
        hidden: nn.Module = nn.Linear(pooled, mil.attention_width, bias=False)
        attend: nn.Module = nn.Linear(mil.attention_width, 1, bias=False)
        self.hidden = after_sm(hidden) if mil.placement == "early" else hidden
        self.attend = attend if mil.placement == "late" else after_sm(attend)
        self.classifier = after_sm(nn.Linear(pooled, outputs(kind, classes)))

    def _score(self, x: Tensor, graph: CellGraph) -> tuple[Tensor, Tensor]:
        if self.encoder:
            x = self.encoder(x, graph)
        if self.placement == "early":
            x = self.smooth(x, graph)
        hidden = self.hidden(x)
        if self.placement == "mid":
            hidden = self.smooth(hidden, graph)
        attention = self.attend(hidden.tanh()).squeeze(1)
        if self.placement == "late":
            attention = self.smooth(attention, graph)
        return self.classifier(attention.softmax(0) @ x), attention


class _Transformer(nn.Module):
    """A linear layer and pre-norm transformer blocks whose self-attention is smoothed before it is added."""

    def __init__(self, mil: Mil, features: int) -> None:
        super().__init__()
        inside = mil.heads * mil.width
        self.enter = nn.Linear(features, inside)
        self.blocks = nn.ModuleList(_Block(mil, inside) for _ in range(mil.layers))
        self.norm = nn.LayerNorm(inside)

    def forward(self, x: Tensor, graph: CellGraph) -> Tensor:
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, graph)
        normed: Tensor = self.norm(x)
        return normed


class _Block(nn.Module):
    def __init__(self, mil: Mil, inside: int) -> None:
        super().__init__()
        self.heads = mil.heads
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(inside), nn.LayerNorm(inside)
        self.queries_keys_values = nn.Linear(inside, 3 * inside, bias=False)
        self.join = nn.Linear(inside, inside)
        self.smooth = _smoother(mil)
        self.perceptron = nn.Sequential(
            nn.Linear(inside, PERCEPTRON_RATIO * inside),
            nn.GELU(),
            nn.Linear(PERCEPTRON_RATIO * inside, inside),
        )

    def forward(self, x: Tensor, graph: CellGraph) -> Tensor:
        """[n, heads * width] to the same."""
        parts = self.queries_keys_values(self.norm_attention(x)).view(len(x), 3, self.heads, -1)
        queries, keys, values = parts.permute(1, 2, 0, 3)[:, None]  # [1, heads, n, width] each
        attended = F.scaled_dot_product_attention(queries, keys, values)[0].transpose(0, 1).flatten(1)
        x = x + self.smooth(self.join(attended), graph)
        added: Tensor = x + self.perceptron(self.norm_perceptron(x))
        return added


def _smoother(mil: Mil) -> Smoother:
    return Smoother(mil.operator, mil.alpha, mil.smooth_steps)


class _SpatiallyRegularised(SlideModel):
    """SRMIL (arXiv 2602.19487): the label from a super-node, beside the reconstruction of hidden cells.

    Attention: that of the super-node in the encoder's last layer, mean over heads of its logits. What is
    reconstructed are the standardised features.
    """

    def __init__(self, mil: Mil, features: int, kind: LabelKind, classes: int, mask_ratio: float) -> None:
        super().__init__(kind, classes)
        self.mask_ratio = mask_ratio
        self.autoencoder = MaskedAutoencoder(features, mil.width, mil.heads, mil.layers, super_node=True)
        self.classifier = nn.Linear(mil.heads * mil.width, outputs(kind, classes))

    def _score(self, x: Tensor, graph: CellGraph) -> tuple[Tensor, Tensor]:
        nodes, logits = self.autoencoder.encode(x, graph)
        return self.classifier(nodes[-1]), logits[-len(x) :].mean(1)

    def hide(self, x: Tensor, graph: CellGraph) -> "Hidden":
        hidden = hidden_cells(len(x), self.mask_ratio).to(x.device)
        return Hidden(self, x, graph, hidden, self.autoencoder.encode(x, graph, hidden)[0])


@dataclass(frozen=True)
class Hidden:
    """A slide encoded without its ``hidden`` cells bool[n]; of the ``nodes`` the super-node is the last."""

    model: _SpatiallyRegularised
    features: Tensor
    graph: CellGraph
    hidden: Tensor
    nodes: Tensor

    def slide_loss(self, target: int) -> Tensor:
        """Loss of the label."""
        return self.model.head.loss(self.model.classifier(self.nodes[-1]), target)

    def reconstruction(self) -> Tensor:
        """Error of the hidden cells' features."""
        found = self.model.autoencoder.decode(self.nodes, self.graph, self.hidden)
        return cosine_error(found[self.hidden], self.features[self.hidden])


class _Torchmil(SlideModel):
    """A model of torchmil 1.0.2; none of them looks at the graph.

    Attention is what torchmil gives: of `abmil`, `clam`, `transformer_abmil` that before the softmax; of
    `dsmil` the logarithm of that after it; of `transmil` that of the class token after the softmax as Nystrom
    approximates it, which can be negative and so is left as it is. For that, :meth:`forward` of `transmil`
    takes memory quadratic in cells. `transmil` also looks at the order of cells.

    Losses beside the slide's, with weight 1 as in torchmil: of `dsmil`, that of its largest cell logit (the
    prediction is the mean of both logits); of `clam` with a binary label, that of its clusters of cells. With
    an ordinal label `clam` has no clusters and is `abmil`.
    """

    def __init__(self, mil: Mil, features: int, kind: LabelKind, classes: int) -> None:
        super().__init__(kind, classes)
        if kind == "multiclass":
            raise ValueError(f"{mil.model} has one logit, and a multiclass label needs {classes}")
        self.model = mil.model
        self.clusters = mil.model == "clam" and kind == "binary"
        self.net: Any = _torchmil_net(mil, features)
        if mil.model == "clam":
            if self.clusters:
                self.net.inst_loss_fn = _SmoothTop1SVM()
            else:
                del self.net.inst_classifiers

    def _score(self, x: Tensor, graph: CellGraph) -> tuple[Tensor, Tensor]:
        if self.model == "dsmil":
            slide, weights, cells = self.net(x[None], return_att=True, return_inst_pred=True)
            smallest = torch.finfo(weights.dtype).tiny
            return (slide + cells.amax(1)) / 2, weights[0, :, 0].clamp_min(smallest).log()
        logits, attention = self.net(x[None], return_att=True)
        return logits, attention[0]

    def slide_loss(self, x: Tensor, graph: CellGraph, target: int) -> Tensor:
        if self.model == "dsmil":
            slide, cells = self.net(x[None], return_inst_pred=True)
            return self.head.loss(slide, target) + self.head.loss(cells.amax(1), target)
        if self.clusters:
            _, losses = self.net.compute_loss(torch.tensor([target], device=x.device), x[None])
            return torch.stack(list(losses.values())).sum()
        return self.head.loss(self.net(x[None]), target)


class _SmoothTop1SVM(nn.Module):
    """Smooth top-1 SVM loss with margin and temperature 1 (arXiv 1802.07595), mean over cells.

    Logits [k, 2], targets [k, 1] of 0 and 1: log sum_c exp(x_c + [c != y] - x_y). That of torchmil 1.0.2,
    given targets of this shape by its CLAM, sums over cells in the place of classes.
    """

    def forward(self, logits: Tensor, targets: Tensor) -> Tensor:
        classes = targets.long().squeeze(1)
        return F.cross_entropy(logits + 1 - F.one_hot(classes, logits.shape[1]), classes)


def _torchmil_net(mil: Mil, features: int) -> nn.Module:
    from torchmil import models  # here, since it takes seconds

    inside, shape = mil.heads * mil.width, (features,)
    if mil.model == "transmil":
        return models.TransMIL(shape, att_dim=inside, n_layers=mil.layers, n_heads=mil.heads)
    if mil.model == "transformer_abmil":
        # Its layers are only joined by a shortcut where features have their width.
        return models.TransformerABMIL(
            shape,
            pool_att_dim=mil.attention_width,
            feat_ext=nn.Linear(features, inside),
            transf_att_dim=inside,
            transf_n_layers=mil.layers,
            transf_n_heads=mil.heads,
        )
    pooling: dict[str, Callable[..., nn.Module]] = {
        "abmil": models.ABMIL,
        "dsmil": models.DSMIL,
        "clam": models.CLAM_SB,
    }
    return pooling[mil.model](shape, att_dim=mil.attention_width)
