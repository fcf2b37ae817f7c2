"""The head on an embedding, and how its last layer becomes a distribution over ordered stages."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from myostage.learning.shares import full_precision
from myostage.study.sections.training import Classifier

# A stage between two others is never surer than its gap is wide, and Adam moves a gap by the learning rate
# alone, while a score is moved by many weights at once.
THRESHOLD_SPEED = 10.0
LOG_TINY = -30.0


class CumulativeLink(nn.Module):
    """Proportional odds: log P(stage k) from one score per cell (McCullagh, J R Stat Soc B 42:109, 1980).

    P(stage <= k) = sigmoid(t_k - score), with thresholds t_0 < ... < t_{K-2} that are learnt as the first and
    the logarithms of the gaps, so that they stay in order. They start where a score of 0 makes all stages
    alike likely; what is learnt is added to that, times THRESHOLD_SPEED.
    """

    start: Tensor

    def __init__(self, stages: int) -> None:
        super().__init__()
        thresholds = (torch.arange(1, stages) / stages).logit()
        start = torch.cat([thresholds[:1], thresholds.diff().log()])
        self.register_buffer("start", start, persistent=False)
        self.moved = nn.Parameter(torch.zeros(stages - 1))

    def forward(self, scores: Tensor) -> Tensor:
        """Log-probabilities [N, K] of scores [N, 1].

        The difference of two sigmoids as a product, s(a) - s(b) = s(a) s(-b) (1 - exp(b - a)), which is exact
        where both round to 0 or to 1.
        """
        with torch.autocast(scores.device.type, enabled=False):
            learnt = self.start + THRESHOLD_SPEED * self.moved
            first, gaps = learnt[:1], learnt[1:].exp()
            below = torch.cat([first, first + gaps.cumsum(0)]) - full_precision(scores)  # [N, K-1]
            # 1 - exp(-gap), which is the gap where it is tiny
            exact = (-torch.expm1(-learnt[1:].clamp_min(LOG_TINY).exp())).log()
            between = torch.where(learnt[1:] < LOG_TINY, learnt[1:], exact)
            inner = F.logsigmoid(below[:, 1:]) + F.logsigmoid(-below[:, :-1]) + between
            return torch.cat([F.logsigmoid(below[:, :1]), inner, F.logsigmoid(-below[:, -1:])], 1)


class Corn(nn.Module):
    """CORN: log P(stage k) from K - 1 conditional logits (Shi et al. 2023, arXiv 2111.08851).

    Logit k is that of P(stage > k | stage >= k), and the chain rule makes P(stage > k) their product, so that
    ranks stay in order without shared weights. The cross-entropy of N labelled cells is CORN's loss times
    (sum_k |S_k|) / N, where S_k are the cells with stage >= k.

    Deviation: the stage predicted is the most probable, not the number of k with P(stage > k) > 1/2.
    """

    def forward(self, logits: Tensor) -> Tensor:
        """Log-probabilities [N, K] of conditional logits [N, K - 1]."""
        with torch.autocast(logits.device.type, enabled=False):
            beyond = F.pad(F.logsigmoid(full_precision(logits)).cumsum(1), (1, 0))  # log P(stage >= k)
            return beyond + F.pad(F.logsigmoid(-full_precision(logits)), (0, 1))


LAST_LAYERS: dict[Classifier, Callable[[int, int], list[nn.Module]]] = {
    "softmax": lambda width, stages: [nn.Linear(width, stages)],
    # without an offset of its own, which the thresholds have
    "cumulative_link": lambda width, stages: [nn.Linear(width, 1, bias=False), CumulativeLink(stages)],
    "corn": lambda width, stages: [nn.Linear(width, stages - 1), Corn()],
}
"""Width of the embedding's last hidden layer and number of stages K, to the layers behind it."""


def build_head(
    embedding: int, hidden: tuple[int, int], stages: int, classifier: Classifier = "softmax"
) -> nn.Sequential:
    """The 3-layer head (OSLSP: E-128-64-K, ReLU) from embeddings [N, E] to [N, K].

    Of `softmax` these are logits; of ordinal classifiers log-probabilities, which a softmax leaves as they
    are.
    """
    return nn.Sequential(
        nn.Linear(embedding, hidden[0]),
        nn.ReLU(),
        nn.Linear(hidden[0], hidden[1]),
        nn.ReLU(),
        *LAST_LAYERS[classifier](hidden[1], stages),
    )
