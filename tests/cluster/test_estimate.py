"""What a study will cost, said before it runs."""

from typing import Any

import pytest

from myostage.cluster import estimate
from myostage.study.expand import expand
from myostage.study.plan import run_batches
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.study import Study
from support import tiny


def test_the_estimate_grows_with_runs_and_cells_and_says_so() -> None:
    def of(**training: Any) -> estimate.Estimate:
        combined = {"name": "combined", "losses": {"simprop": 1, "prop": 1}}
        study = Study(**tiny.of_cells(combined, training=training, folds=3, seeds=[0, 1]))
        experiments = expand(study)
        return estimate.estimate(study, 6, experiments, run_batches(experiments, 2), cores=2)

    small, large = of(steps=100), of(steps=100, bag_size=1000)
    assert (small.runs, small.jobs) == (6, 3)
    assert large.cpu_seconds > 5 * small.cpu_seconds - 5 * (
        3 * estimate.JOB_SECONDS + 6 * estimate.RUN_SECONDS
    )
    assert "6 slides, 1 experiments, 6 runs in 3 training jobs" in small.sentence
    choosing = of(steps=100, choose={"vary": {"steps": [100, 200]}, "parts": 2})
    assert choosing.runs == 6
    trained = (small.cpu_seconds - 3 * estimate.JOB_SECONDS - 6 * estimate.RUN_SECONDS) / 100
    steps = 2 * (100 + 200) + 200
    assert choosing.cpu_seconds == pytest.approx(
        3 * estimate.JOB_SECONDS + 6 * 5 * estimate.RUN_SECONDS + steps * trained
    )
    assert "GPU hours" in small.sentence
    probe = Study(**tiny.of_cells({"name": "probe", "method": "probe"}, folds=3, seeds=[0, 1]))
    experiments = expand(probe)
    found = estimate.estimate(probe, 6, experiments, run_batches(experiments, 2), cores=2)
    assert found.cpu_seconds == 2 * estimate.JOB_SECONDS + 3 * estimate.RUN_SECONDS


def test_losses_that_cost_more_are_estimated_to_cost_more() -> None:
    def seconds(losses: dict[str, float]) -> float:
        runs = tiny.runs(tiny.of_cells({"name": "one", "losses": losses}))
        return estimate.step_seconds(runs["one"][0])

    plain = seconds({"prop": 1})
    assert seconds({"emd": 1}) == plain
    assert seconds({"prop": 1, "llp_dc": 0.5}) == pytest.approx(2 * plain)
    assert seconds({"prop": 1, "vat": 1}) == pytest.approx(3 * plain)
    assert seconds({"count": 1}) == pytest.approx(plain + 12 * estimate.COUNT_SECONDS)


@pytest.mark.parametrize(
    ("model", "tokens", "width"),
    [
        ("vit_base_patch8_224.dino", 65, 768),
        ("vit_small_patch16_224.dino", 17, 384),
        ("vit_large_patch14_dinov2", 26, 1024),
    ],
)
def test_the_geometry_of_an_encoder_is_read_from_its_name(model: str, tokens: int, width: int) -> None:
    assert estimate.geometry(Encoder(model=model)) == (tokens, width)
