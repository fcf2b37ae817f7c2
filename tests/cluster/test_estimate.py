"""What a study will cost, said before it runs."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from myostage.cluster import estimate
from myostage.study.expand import expand
from myostage.study.plan import run_batches
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.study import Study
from support import tiny

RESULTS = Path(__file__).parents[2] / "benchmarks/results"


def test_the_estimate_grows_with_runs_and_cells_and_says_so() -> None:
    def of(**training: Any) -> estimate.Estimate:
        combined = {"name": "combined", "losses": {"simprop": 1, "prop": 1}}
        study = Study(**tiny.of_cells(combined, training=training, folds=3, seeds=[0, 1]))
        experiments = expand(study)
        return estimate.estimate(study, 6, experiments, run_batches(experiments, 2), cores=2)

    small, large = of(steps=100), of(steps=100, bag_size=1000)
    assert (small.runs, small.jobs) == (6, 3)
    fixed = estimate.STUDY_SECONDS + 3 * estimate.JOB_SECONDS
    fixed += 6 * (estimate.RUN_SECONDS + 100 * estimate.STEP_SECONDS)
    assert large.cpu_seconds - fixed > 5 * (small.cpu_seconds - fixed)
    assert "6 slides, 1 experiments, 6 runs in 3 training jobs" in small.sentence
    choosing = of(steps=100, choose={"vary": {"steps": [100, 200]}, "parts": 2})
    assert choosing.runs == 6
    start = estimate.STUDY_SECONDS + 3 * estimate.JOB_SECONDS
    trained = (small.cpu_seconds - start - 6 * estimate.RUN_SECONDS) / 100
    steps = 2 * (100 + 200) + 200
    assert choosing.cpu_seconds == pytest.approx(start + 6 * 5 * estimate.RUN_SECONDS + steps * trained)
    assert "GPU hours" in small.sentence
    probe = Study(**tiny.of_cells({"name": "probe", "method": "probe"}, folds=3, seeds=[0, 1]))
    experiments = expand(probe)
    found = estimate.estimate(probe, 6, experiments, run_batches(experiments, 2), cores=2)
    fixed = estimate.STUDY_SECONDS + 2 * estimate.JOB_SECONDS
    assert found.cpu_seconds == fixed + 3 * estimate.RUN_SECONDS


def test_steps_are_estimated_within_a_factor_of_2_of_what_was_measured() -> None:
    """The measured seconds are those of benchmarks/results, on a machine that did nothing else."""
    measured = json.loads((RESULTS / "grid.json").read_text())
    demo = {"architecture": {"patch_px": 8, "width": 96, "depth": 4, "heads": 3}, "weights": "none"}
    combined = {"name": "combined", "losses": {"simprop": 1, "prop": 1}}
    study = Study(**tiny.of_cells(combined, training={"bag_size": measured["bag_size"]}, encoder=demo))
    seconds = estimate.step_seconds(expand(study)["combined"][0])
    assert 0.5 < seconds * 1000 / np.median(list(measured["measured_step_ms"]["cached"].values())) < 2

    measured = json.loads((RESULTS / "train.json").read_text())
    paper = {"model": measured["model"]}
    bag = measured["cells_per_step"] // 2
    study = Study(**tiny.of_cells(combined, training={"bag_size": bag}, encoder=paper))
    seconds = estimate.step_seconds(expand(study)["combined"][0])
    assert 0.5 < seconds * measured["our_cells_per_s"] / measured["cells_per_step"] < 2


def test_the_encoders_that_dino_tunes_are_counted() -> None:
    dino = {"name": "dino", "losses": {"prop": 1}, "encoder": {"dino": {"steps": 300, "batch_size": 32}}}
    plain = {"name": "plain", "losses": {"prop": 1}}
    found = []
    for experiment in (plain, dino):
        study = Study(**tiny.of_cells(experiment, folds=3, seeds=[0, 1]))
        experiments = expand(study)
        found.append(estimate.estimate(study, 6, experiments, run_batches(experiments, 2), cores=1))
    assert [one.tuned for one in found] == [0, 3]
    assert "and 3 encoders tuned by DINO" in found[1].sentence and "DINO" not in found[0].sentence
    encoder = expand(study)["dino"][0].encoder
    more = found[1].cpu_seconds - found[0].cpu_seconds - 3 * estimate.JOB_SECONDS
    assert more == pytest.approx(3 * 300 * estimate.dino_step_seconds(encoder), rel=0.05)


def test_losses_that_cost_more_are_estimated_to_cost_more() -> None:
    def seconds(losses: dict[str, float]) -> float:
        runs = tiny.runs(tiny.of_cells({"name": "one", "losses": losses}))
        return estimate.step_seconds(runs["one"][0])

    plain = seconds({"prop": 1})
    assert seconds({"emd": 1}) == plain
    passes = plain - estimate.STEP_SECONDS
    assert seconds({"prop": 1, "llp_dc": 0.5}) == pytest.approx(plain + passes)
    assert seconds({"prop": 1, "vat": 1}) == pytest.approx(plain + 2 * passes)
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
