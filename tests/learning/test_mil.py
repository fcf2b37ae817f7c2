"""Models of slide labels against slow references: heads, pooling, Sm's places, graph attention, masking."""

import itertools
import math
from typing import Any, cast, get_args

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.utils.parametrize import is_parametrized

from myostage.learning import mil
from myostage.spatial.graph import CellGraph
from myostage.study.sections.mil import ONE_LOGIT, Mil, MilModel, SmOperator
from myostage.study.sections.slide_label import LabelKind
from support.formulas import normal

E, CELLS = 6, 9
OURS = ("mean", "max", "smap", "smtap", "srmil")
KINDS: dict[LabelKind, int] = {"binary": 2, "multiclass": 4, "ordinal": 4}
PLACEMENTS = ("early", "mid", "late")
TERMS = ("slide", "slide_masked", "spatial_reconstruction")
RATIO = 0.5


def graph_of(pairs: list[tuple[int, int]], nodes: int) -> CellGraph:
    both = sorted([*pairs, *((b, a) for a, b in pairs)])
    return CellGraph(torch.tensor(both, dtype=torch.int64).view(-1, 2).T.contiguous(), nodes)


# a ring with two chords, and cell 8 alone
PAIRS = [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5), (5, 6), (6, 7), (7, 0), (0, 4), (2, 5)]
GRAPH = graph_of(PAIRS, CELLS)
NO_EDGES = graph_of([], CELLS)


def model_of(model: str, kind: LabelKind = "binary", seed: int = 0, **keys: Any) -> mil.SlideModel:
    torch.manual_seed(seed)
    section = Mil(
        **{"model": model, "attention_width": 5, "width": 4, "heads": 2, "layers": 2, "smooth_steps": 10}
        | keys
    )
    return mil.build(section, E, kind, KINDS[kind], mask_ratio=RATIO).double()


def assert_close(found: Any, expected: Any, atol: float = 1e-9, rtol: float = 1e-7) -> None:
    """Of two tensors or of two tuples; torch.testing takes seconds to import."""
    found, expected = (x if isinstance(x, tuple) else (x,) for x in (found, expected))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one.detach(), other.detach(), atol=atol, rtol=rtol)


def standardised(x: Tensor) -> Tensor:
    return (x - x.mean(1, keepdim=True)) / (x.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()


def dense_sm(values: Tensor, graph: CellGraph, alpha: float) -> Tensor:
    """(I + gamma L)^-1 U by a dense solve; cells without neighbours have no row in L."""
    n = graph.nodes
    adjacency = torch.zeros(n, n, dtype=torch.float64)
    adjacency[graph.edges[0], graph.edges[1]] = 1
    degree = adjacency.sum(1)
    laplacian = torch.zeros(n, n, dtype=torch.float64)
    for i, j in itertools.product(range(n), repeat=2):
        if i == j and degree[i]:
            laplacian[i, j] = 1
        elif adjacency[i, j]:
            laplacian[i, j] = -1 / (degree[i] * degree[j]).sqrt()
    system = torch.eye(n, dtype=torch.float64) + alpha / (1 - alpha) * laplacian
    return torch.linalg.solve(system, values)


# --- the head


def test_a_label_has_one_logit_or_one_per_class() -> None:
    assert [mil.outputs(kind, classes) for kind, classes in KINDS.items()] == [1, 4, 1]
    with pytest.raises(ValueError, match="binary cannot have 3"):
        mil.SlideHead("binary", 3)
    with pytest.raises(ValueError, match="ordinal cannot have 1"):
        mil.SlideHead("ordinal", 1)


@pytest.mark.parametrize("target", range(4))
def test_the_ordinal_head_is_coral(target: int) -> None:
    head = mil.SlideHead("ordinal", 4).double()
    first, falls = 0.3, [0.7, -1.2]
    with torch.no_grad():
        head.first.fill_(first)
        head.falls.copy_(torch.tensor(falls, dtype=torch.float64))
    biases = [first]
    for fall in falls:
        biases.append(biases[-1] - math.log1p(math.exp(fall)))
    above = [1 / (1 + math.exp(-(0.4 + bias))) for bias in biases]
    loss = sum(-math.log(p if target > k else 1 - p) for k, p in enumerate(above)) / 3
    logits = torch.tensor([0.4], dtype=torch.float64)
    assert head.loss(logits, target).item() == pytest.approx(loss, rel=1e-12)
    expected = [1 - above[0], above[0] - above[1], above[1] - above[2], above[2]]
    assert head.probabilities(logits).tolist() == pytest.approx(expected, rel=1e-12)


def test_the_ordinal_head_keeps_its_order_wherever_its_parameters_go() -> None:
    head = mil.SlideHead("ordinal", 5)
    for seed in range(50):
        with torch.no_grad():
            head.falls.copy_(normal(3, seed=seed, dtype=torch.float32) * 20)
            head.first.fill_(float(normal(1, seed=seed + 100)) * 20)
        found = head.probabilities(normal(1, seed=seed + 200, dtype=torch.float32) * 20)
        assert (head.thresholds().diff() <= 0).all()
        assert (found >= 0).all()
        assert found.sum().item() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_the_ordinal_head_starts_with_even_odds(classes: int) -> None:
    found = mil.SlideHead("ordinal", classes).probabilities(torch.zeros(1))
    np.testing.assert_allclose(found.detach(), np.full(classes, 1 / classes), atol=1e-6)


def test_the_other_heads_are_softmax_and_sigmoid() -> None:
    binary, several = mil.SlideHead("binary", 2), mil.SlideHead("multiclass", 3)
    p = 1 / (1 + math.exp(-0.8))
    logit, logits = torch.tensor([0.8]), torch.tensor([0.1, 2.0, -1.0])
    assert binary.probabilities(logit).tolist() == pytest.approx([1 - p, p])
    assert float(binary.loss(logit, 1)) == pytest.approx(-math.log(p))
    assert float(binary.loss(logit, 0)) == pytest.approx(-math.log(1 - p))
    shares = np.exp([0.1, 2, -1]) / np.exp([0.1, 2, -1]).sum()
    assert several.probabilities(logits).tolist() == pytest.approx(shares)
    assert float(several.loss(logits, 2)) == pytest.approx(-math.log(shares[2]))
    for target in (-1, 3):
        with pytest.raises(ValueError, match=f"class {target} is none of"):
            several.loss(logits, target)


# --- all models


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", OURS)
def test_logits_attention_and_losses_of_a_model(model: str, kind: LabelKind) -> None:
    # not in training mode, in which the spectral norm moves with every call
    built = model_of(model, kind, alpha="trainable").eval()
    features = normal(CELLS, E)
    logits, attention = built(features, GRAPH)
    assert logits.shape == (mil.outputs(kind, KINDS[kind]),)
    assert attention.shape == (CELLS,)
    probabilities = built.probabilities(logits)
    assert probabilities.shape == (KINDS[kind],)
    assert probabilities.sum().item() == pytest.approx(1)
    terms = built.terms(features, GRAPH, 1, TERMS)
    assert set(terms) == (set(TERMS) if model == "srmil" else {"slide"})
    assert all(term.shape == () and term.isfinite() for term in terms.values())
    if model != "srmil":
        assert_close(terms["slide"], built.head.loss(logits, 1))
    torch.stack(list(terms.values())).sum().backward()
    without = [n for n, p in built.named_parameters() if p.numel() and (p.grad is None or not p.grad.any())]
    assert not without


@pytest.mark.parametrize(
    ("model", "operator"),
    [*((name, "sm") for name in OURS), *itertools.product(("smap", "smtap"), get_args(SmOperator)[1:])],
)
@pytest.mark.parametrize(
    ("features", "graph"),
    [
        (normal(1, E), graph_of([], 1)),
        (normal(CELLS, E), NO_EDGES),
        (normal(1, E).expand(CELLS, E), GRAPH),
        (torch.zeros(CELLS, E, dtype=torch.float64), GRAPH),
        (1e4 * normal(CELLS, E), GRAPH),
    ],
    ids=["one cell", "no edges", "alike", "zeros", "large"],
)
def test_odd_slides_have_finite_losses_and_gradients(
    model: str, operator: str, features: Tensor, graph: CellGraph
) -> None:
    built = model_of(model, "ordinal", operator=operator)
    logits, attention = built(features, graph)
    terms = torch.stack(list(built.terms(features, graph, 2, TERMS).values()))
    terms.sum().backward()
    assert logits.isfinite().all()
    assert attention.isfinite().all()
    assert terms.isfinite().all()
    assert all(p.grad is None or p.grad.isfinite().all() for p in built.parameters())


@pytest.mark.parametrize("model", OURS)
def test_a_slide_without_cells_or_with_a_foreign_graph_is_refused(model: str) -> None:
    built = model_of(model)
    with pytest.raises(ValueError, match="0 cells"):
        built(normal(0, E), graph_of([], 0))
    with pytest.raises(ValueError, match="9 cells and a graph of 3"):
        built.terms(normal(CELLS, E), graph_of([(0, 1)], 3), 0, TERMS)


@pytest.mark.parametrize("model", OURS)
def test_the_scale_of_features_and_autocast_change_nothing(model: str) -> None:
    built = model_of(model).float().eval()
    features = normal(CELLS, E, dtype=torch.float32)
    logits, attention = built(features, GRAPH)
    with torch.autocast("cpu", torch.bfloat16):
        found = built(300 * features + 7, GRAPH)
        half = built(features.half(), GRAPH)
    assert found[0].dtype == half[0].dtype == torch.float32
    assert_close(found, (logits, attention), atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("model", OURS)
def test_the_order_of_cells_changes_nothing(model: str) -> None:
    built = model_of(model).eval()
    features = normal(CELLS, E)
    order = torch.randperm(CELLS, generator=torch.Generator().manual_seed(3))
    place = order.argsort()  # old cell -> new cell
    shuffled = CellGraph(place[GRAPH.edges].flip(1), CELLS)
    logits, attention = built(features, GRAPH)
    found_logits, found_attention = built(features[order], shuffled)
    assert_close(found_logits, logits)
    assert_close(found_attention, attention[order])
    assert attention.detach().std() > 1e-6


@pytest.mark.parametrize("model", ["smap", "smtap", "srmil"])
def test_other_neighbours_give_another_answer(model: str) -> None:
    built = model_of(model).eval()
    features = normal(CELLS, E)
    other = graph_of([(0, 8), (1, 5), (3, 7), (2, 6)], CELLS)
    assert not torch.allclose(built(features, GRAPH)[0], built(features, other)[0])


def test_mean_and_max_pool_a_linear_classifier() -> None:
    features = normal(CELLS, E)
    for name, kind in itertools.product(("mean", "max"), KINDS):
        built: Any = model_of(name, kind)
        logits, attention = built(features, GRAPH)
        cells = [built.classifier(cell) for cell in standardised(features)]
        columns = np.array([cell.tolist() for cell in cells])
        expected = columns.mean(0) if name == "mean" else columns.max(0)
        assert logits.tolist() == pytest.approx(expected.tolist())
        assert attention.tolist() == pytest.approx(columns[:, expected.argmax()].tolist())


# --- attention smoothed by Sm


def attention_loop(
    built: Any, features: Tensor, graph: CellGraph, alpha: float | None
) -> tuple[Tensor, Tensor]:
    """The pooling of Ilse et al. with Sm in its place, none with alpha None."""

    def sm(values: Tensor, place: str) -> Tensor:
        return values if alpha is None or place != built.placement else dense_sm(values, graph, alpha)

    x = sm(standardised(features), "early")
    hidden = sm(x @ built.hidden.weight.T, "mid")
    logits = sm(torch.tanh(hidden) @ built.attend.weight[0][:, None], "late")[:, 0]
    pooled = sum(share * cell for share, cell in zip(logits.exp() / logits.exp().sum(), x, strict=True))
    return built.classifier.weight @ pooled + built.classifier.bias, logits


@pytest.mark.parametrize("normed", [False, True])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_sm_acts_where_the_placement_says(placement: str, normed: bool) -> None:
    built = model_of(
        "smap", "multiclass", placement=placement, spectral_norm=normed, alpha=0.7, smooth_steps=200
    )
    features = normal(CELLS, E)
    found = built.eval()(features, GRAPH)
    assert_close(found, attention_loop(built, features, GRAPH, 0.7), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found[0], attention_loop(built, features, GRAPH, None)[0], atol=1e-3)


@pytest.mark.parametrize("placement", PLACEMENTS)
def test_without_neighbours_or_with_a_tiny_alpha_attention_is_plain(placement: str) -> None:
    features = normal(CELLS, E)
    for alpha, graph in ((0.9, NO_EDGES), (1e-8, GRAPH)):
        built = model_of("smap", placement=placement, alpha=alpha).eval()
        expected = attention_loop(built, features, graph, None)
        assert_close(built(features, graph), expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("model", ["smap", "smtap"])
@pytest.mark.parametrize("placement", PLACEMENTS)
def test_linear_layers_after_sm_have_spectral_norm_one(placement: str, model: str) -> None:
    after = {
        "early": {"hidden", "attend", "classifier"},
        "mid": {"attend", "classifier"},
        "late": {"classifier"},
    }
    built: Any = model_of(model, "multiclass", placement=placement)
    plain: Any = model_of(model, "multiclass", placement=placement, spectral_norm=False)
    for name in ("hidden", "attend", "classifier"):
        layer, other = getattr(built, name), getattr(plain, name)
        for part in (layer, other):
            weight = part.parametrizations.weight.original if is_parametrized(part) else part.weight
            with torch.no_grad():
                weight.mul_(5)
        for _ in range(50):  # one step of power iteration each
            built(normal(CELLS, E), GRAPH)
        largest = torch.linalg.matrix_norm(layer.weight, 2).item()
        if name in after[placement]:
            assert largest == pytest.approx(1, abs=1e-3)
        else:
            assert largest == pytest.approx(torch.linalg.matrix_norm(other.weight, 2).item())
            assert abs(largest - 1) > 0.1


def test_the_transformer_smooths_self_attention_before_it_is_added() -> None:
    alpha = 0.6
    built: Any = model_of("smtap", alpha=alpha, smooth_steps=200).eval()
    features = normal(CELLS, E)

    def encoder(graph: CellGraph, smooth: bool) -> Tensor:
        encoder = built.encoder
        x = encoder.enter(standardised(features))
        for block in encoder.blocks:
            weights = block.queries_keys_values.weight.chunk(3)
            inputs = block.norm_attention(x)
            heads = []
            for h in range(2):
                q, k, v = (inputs @ w[4 * h : 4 * h + 4].T for w in weights)
                heads.append(torch.softmax(q @ k.T / math.sqrt(4), 1) @ v)
            attended = block.join(torch.cat(heads, 1))
            x = x + (dense_sm(attended, graph, alpha) if smooth else attended)
            x = x + block.perceptron(block.norm_perceptron(x))
        normed: Tensor = encoder.norm(x)
        return normed

    found = built.encoder(standardised(features), GRAPH)
    assert_close(found, encoder(GRAPH, True), atol=1e-5, rtol=1e-5)
    assert not torch.allclose(found, encoder(GRAPH, False), atol=1e-3)
    assert_close(built.encoder(standardised(features), NO_EDGES), encoder(NO_EDGES, False))


# --- graph attention


def attention_dense(layer: mil.GraphAttention, nodes: Tensor, edges: Tensor) -> Tensor:
    heads, width = layer.source.shape
    new = torch.zeros(len(nodes), heads * width, dtype=torch.float64) + layer.bias
    for h in range(heads):
        part = slice(h * width, (h + 1) * width)
        values = nodes @ layer.project.weight[part].T
        for i in range(len(nodes)):
            given = [j for j, end in edges.T.tolist() if end == i]
            if not given:
                continue
            scores = [layer.source[h] @ values[j] + layer.target[h] @ values[i] for j in given]
            shares = torch.softmax(torch.stack([s if s > 0 else 0.2 * s for s in scores]), 0)
            new[i, part] = new[i, part] + sum(
                share * values[j] for share, j in zip(shares, given, strict=True)
            )
    return new


def layer_of(inputs: int = E) -> mil.GraphAttention:
    torch.manual_seed(0)
    layer = mil.GraphAttention(inputs, 4, 3).double()
    with torch.no_grad():
        layer.bias.copy_(normal(12, seed=5))
    return layer


def test_graph_attention_is_the_formula() -> None:
    layer, nodes = layer_of(), normal(CELLS, E)
    found, logits = layer(nodes, GRAPH.edges)
    assert_close(found, attention_dense(layer, nodes, GRAPH.edges))
    assert_close(found[8], layer.bias)  # no edge ends there
    assert logits.shape == (GRAPH.edges.shape[1], 3)
    # one-way edges go from the first row to the second
    one_way = torch.tensor([[0], [1]])
    moved = layer(nodes, one_way)[0] - layer.bias
    assert moved[1].any()
    assert not moved[0].any()


def test_graph_attention_stays_finite_with_huge_logits() -> None:
    layer = layer_of().float()
    assert layer(normal(CELLS, E, dtype=torch.float32) * 1e6, GRAPH.edges)[0].isfinite().all()


def test_gradient_of_graph_attention_by_finite_differences() -> None:
    layer = layer_of()
    inputs = (normal(CELLS, E).requires_grad_(), *layer.parameters())
    assert torch.autograd.gradcheck(lambda nodes, *_: layer(nodes, GRAPH.edges), inputs)


# --- spatial regularisation


@pytest.mark.parametrize(
    ("cells", "ratio", "hidden"), [(10, 0.7, 7), (1, 0.7, 1), (4, 0.01, 1), (3, 0.99, 3)]
)
def test_the_share_of_hidden_cells(cells: int, ratio: float, hidden: int) -> None:
    torch.manual_seed(1)
    found = mil.hidden_cells(cells, ratio)
    assert int(found.sum()) == hidden
    torch.manual_seed(1)
    assert torch.equal(found, mil.hidden_cells(cells, ratio))
    drawn = torch.stack([mil.hidden_cells(cells, ratio) for _ in range(200)])
    assert drawn.any(0).all()


def test_cosine_error_is_the_formula_and_zero_for_any_scale() -> None:
    found, wanted = normal(4, E), normal(4, E, seed=1)
    loop = [
        1 - sum(a * b for a, b in zip(u, v, strict=True)) / (math.hypot(*u) * math.hypot(*v))
        for u, v in zip(found.tolist(), wanted.tolist(), strict=True)
    ]
    assert float(mil.cosine_error(found, wanted)) == pytest.approx(sum(loop) / 4)
    assert float(mil.cosine_error(3 * wanted, wanted)) == pytest.approx(0, abs=1e-12)


def reconstruct(built: Any, x: Tensor, hidden: Tensor) -> Tensor:
    nodes, _ = built.autoencoder.encode(x, GRAPH, hidden)
    found: Tensor = built.autoencoder.decode(nodes, GRAPH, hidden)
    return found


def test_features_of_hidden_cells_do_not_leak_into_their_reconstruction() -> None:
    torch.manual_seed(0)
    hidden = torch.zeros(CELLS, dtype=torch.bool)
    hidden[[1, 4, 7]] = True  # of cell 8, which is alone, the decoder's loop must pass on what is seen
    x = normal(CELLS, E)
    for built in (model_of("srmil"), mil.Reconstruction(E, 4, 2, 2).double()):
        with torch.no_grad():
            for parameter in built.parameters():
                parameter.add_(0.1 * normal(*parameter.shape, seed=7))
        found = reconstruct(built, x, hidden)
        for cell in range(CELLS):
            other = x.clone()
            other[cell] += 1
            same = torch.allclose(found, reconstruct(built, other, hidden))
            assert same == bool(hidden[cell])


def test_every_layer_reaches_one_neighbour_further() -> None:
    path = graph_of([(i, i + 1) for i in range(7)], 8)
    autoencoder = mil.MaskedAutoencoder(E, 4, 2, 2).double()
    x, other = normal(8, E), normal(8, E)
    other[0] += 1
    moved = (autoencoder.encode(x, path)[0] - autoencoder.encode(other, path)[0]).abs().sum(1) > 1e-9
    assert moved.tolist() == [True] * 3 + [False] * 5


def test_the_super_node_sees_every_cell_and_attends_to_it() -> None:
    built: Any = model_of("srmil")
    x = standardised(normal(CELLS, E))
    for cell in range(CELLS):
        other = x.clone()
        other[cell] += 0.1 * normal(E, seed=1)
        assert not torch.allclose(built._score(x, NO_EDGES)[0], built._score(other, NO_EDGES)[0])
    # of one layer: LeakyReLU(s . W h_cell + t . W h_super), mean over heads
    one: Any = model_of("srmil", layers=1)
    with torch.no_grad():
        one.autoencoder.super_node.copy_(normal(8, seed=4))
    layer = one.autoencoder.encoder[0]
    values = layer.project(one.autoencoder.enter(x)).view(CELLS, 2, 4)
    own = layer.project(one.autoencoder.super_node).view(2, 4)
    logits = (values * layer.source).sum(2) + (own * layer.target).sum(1)
    expected = torch.where(logits > 0, logits, 0.2 * logits).mean(1)
    assert_close(one._score(x, GRAPH)[1], expected)


def test_srmil_computes_what_is_wanted_and_hides_only_then() -> None:
    built: Any = model_of("srmil")
    features = normal(CELLS, E)
    torch.manual_seed(5)
    all_three = built.terms(features, GRAPH, 1, TERMS)
    x = standardised(features)
    torch.manual_seed(5)
    hidden = mil.hidden_cells(CELLS, RATIO)
    error = mil.cosine_error(reconstruct(built, x, hidden)[hidden], x[hidden])
    assert_close(all_three["spatial_reconstruction"], error)
    nodes, _ = built.autoencoder.encode(x, GRAPH, hidden)
    assert_close(all_three["slide_masked"], built.head.loss(built.classifier(nodes[-1]), 1))
    assert_close(all_three["slide"], built.head.loss(built(features, GRAPH)[0], 1))
    for term in TERMS:
        torch.manual_seed(5)
        alone = built.terms(features, GRAPH, 1, {term})
        assert set(alone) == {term}
        assert_close(alone[term], all_three[term])
    torch.manual_seed(5)
    built.terms(features, GRAPH, 1, {"slide"})
    assert torch.equal(mil.hidden_cells(CELLS, RATIO), hidden)


def test_the_auxiliary_reconstruction_pulls_on_seen_cells_alone() -> None:
    term = mil.Reconstruction(E, 4, 2, 2).double()
    with torch.no_grad():
        term.autoencoder.hidden_token.copy_(normal(E, seed=2))
        term.autoencoder.decoder_token.copy_(normal(8, seed=3))
    features = normal(CELLS, E).requires_grad_()
    torch.manual_seed(2)
    loss = term(features, GRAPH, RATIO)
    torch.manual_seed(2)
    hidden = mil.hidden_cells(CELLS, RATIO)
    x = standardised(features.detach())
    error = mil.cosine_error(reconstruct(term, x, hidden)[hidden], x[hidden])
    assert loss.item() == pytest.approx(error.item(), rel=1e-6)
    loss.backward()
    assert features.grad is not None
    assert not features.grad[hidden].any()
    assert features.grad[~hidden].any()
    assert all(p.grad is not None and p.grad.any() for p in term.parameters())
    for features, graph in ((normal(1, E), graph_of([], 1)), (normal(CELLS, E), NO_EDGES)):
        assert term(features, graph, RATIO).isfinite()
    with pytest.raises(ValueError, match="0 cells"):
        term(normal(0, E), graph_of([], 0), RATIO)


def test_reconstruction_learns_a_field_from_neighbours() -> None:
    ring = graph_of([(i, (i + 1) % 30) for i in range(30)], 30)
    angle = torch.arange(30) * 2 * math.pi / 30
    field = torch.stack([angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()], 1)
    permuted = field[torch.randperm(30, generator=torch.Generator().manual_seed(1))]

    def learnt(features: Tensor) -> float:
        torch.manual_seed(0)
        term = mil.Reconstruction(4, 8, 2, 2)
        values = []
        for _ in range(60):
            loss = term(features, ring, 0.3)
            gradients = torch.autograd.grad(loss, list(term.parameters()))
            with torch.no_grad():
                for parameter, gradient in zip(term.parameters(), gradients, strict=True):
                    parameter.sub_(gradient, alpha=0.3)
            values.append(loss.item())
        return sum(values[-20:]) / 20

    assert learnt(field) < 0.5 * learnt(permuted)


# --- torchmil


def test_every_model_of_the_study_file_is_built_here() -> None:
    assert {*OURS, *ONE_LOGIT} == set(get_args(MilModel))


def test_models_of_torchmil_refuse_a_multiclass_label() -> None:
    for model in ONE_LOGIT:
        with pytest.raises(ValueError, match="one logit"):
            model_of(model, "multiclass")


def test_smooth_top1_svm_sums_over_classes() -> None:
    logits, targets = normal(5, 2), [0, 1, 1, 0, 1]
    loop = [
        math.log(sum(math.exp(x[c] + (c != y) - x[y]) for c in range(2)))
        for x, y in zip(logits.tolist(), targets, strict=True)
    ]
    found = mil._SmoothTop1SVM()(logits, torch.tensor(targets, dtype=torch.float64)[:, None])
    assert float(found) == pytest.approx(sum(loop) / 5)


def test_models_of_torchmil() -> None:
    # One test, since torchmil takes seconds to import.
    features = normal(CELLS, E, dtype=torch.float32)
    for model, kind in itertools.product(ONE_LOGIT, cast(tuple[LabelKind, ...], ("binary", "ordinal"))):
        built: Any = model_of(model, kind).float()
        logits, attention = built(features, GRAPH)
        assert logits.shape == (1,)
        assert attention.shape == (CELLS,)
        assert float(attention.detach().std()) > 0
        terms = built.terms(features, GRAPH, 1, TERMS)
        assert set(terms) == {"slide"}
        own = built.head.loss(logits, 1)
        if model == "dsmil":
            slide, cells = built.net(standardised(features)[None], return_inst_pred=True)
            own = built.head.loss(slide, 1) + built.head.loss(cells.max()[None], 1)
            assert_close(logits, (slide + cells.max()) / 2, rtol=1e-5)
            query = built.net.q_nn(standardised(features))
            expected = query @ query[cells[0].argmax()] / math.sqrt(5)
            assert_close(attention, expected.log_softmax(0), rtol=1e-5)
        if model == "clam" and kind == "binary":
            x, n = standardised(features), CELLS  # fewer cells than clusters take: all are in both
            inside, outside = built.net.inst_classifiers[1](x), built.net.inst_classifiers[0](x)
            own = own + mil._SmoothTop1SVM()(inside.repeat(2, 1), torch.tensor([1] * n + [0] * n)[:, None])
            own = own + mil._SmoothTop1SVM()(outside, torch.tensor([0] * n)[:, None])
        assert_close(terms["slide"], own, rtol=1e-5)
        terms["slide"].backward()
        without = [n for n, p in built.named_parameters() if p.grad is None or not p.grad.any()]
        # torchmil's norm before a perceptron that TransMIL does not have
        assert [n for n in without if not (model == "transmil" and ".norm2." in n)] == []
        for odd in (features[:1], features[:1].expand(CELLS, E), torch.zeros(CELLS, E)):
            graph = graph_of([], len(odd))
            assert all(part.isfinite().all() for part in built(odd, graph))
            assert built.terms(odd, graph, 0, TERMS)["slide"].isfinite()
        with pytest.raises(ValueError, match="0 cells"):
            built(normal(0, E), graph_of([], 0))
