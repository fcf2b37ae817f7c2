"""What a study will cost, said before it starts: jobs, hours of training, disk.

Seconds follow from constants measured on one core; they say whether to wait or to go home, not more.
"""

from dataclasses import dataclass

from myostage.study.run import RunSpec
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.study import Study
from myostage.study.worlds import Worlds

# CPU seconds of forward and backward pass per cell and (token x width), per cell and width squared: one core
# took 42 us a cell at width 96 and 0.9 ms at width 768 (65 tokens, last block for the class token alone).
CPU_TOKENS, CPU_WIDTH = 5.1e-9, 1.1e-9
# The same of a block over all tokens: 60 GFLOP/s on 72 operations per cell, token and width squared.
CPU_BLOCK = 72 / 60e9
# CPU seconds of a step on bags of any size: draws, optimiser, history (benchmarks/results/grid.json: 11 ms in
# all at width 96 and 120 cells).
STEP_SECONDS = 5e-3
# CPU seconds of drawing one view of a crop for DINO. A teacher looks at large views too, a third of a pass
# forward and backward; a small view has a quarter of their tokens.
VIEW_SECONDS, LARGE_PASS, SMALL_PASS = 1.5e-3, 4 / 3, 1 / 4
# CPU seconds per pair of cells and bin.
CPU_PAIR = 8e-9
# CPU seconds of the count loss per cell of a bag.
COUNT_SECONDS = 1.4e-4
# CPU seconds of a step in a drawn world, whatever its losses, and of what a run does beside them.
WORLD_STEP_SECONDS, WORLD_RUN_SECONDS = 8e-3, 0.3
# CPU seconds of a step on one slide of about 400 cells, by the model of its label.
SLIDE_SECONDS = {"smap": 4e-3, "smtap": 15e-3, "transformer_abmil": 10e-3, "transmil": 10e-3, "srmil": 40e-3}
# CPU seconds that a job starts with (imports of torch, timm and pandas from bytecode) and a run ends with
# (predictions, tables); what a study takes beside its slides and runs: Snakemake, evaluation, figures, page.
JOB_SECONDS, RUN_SECONDS, STUDY_SECONDS = 6.0, 0.7, 200.0
# A GPU is assumed, not measured, to be so many times one core, but no step to take less than this.
GPU_SPEED, GPU_STEP_SECONDS = 100.0, 5e-3
# Widths and depths of the ViTs by the size in timm's name.
WIDTHS = {"tiny": 192, "small": 384, "base": 768, "large": 1024, "huge": 1280, "giant": 1408}
DEPTHS = {"large": 24, "huge": 32, "giant": 40}
CROP_PX = 64
# Bytes of a cell beside its tokens: crop, outline and measurements.
CELL_BYTES = 64 * 64 * 3 + 1500
CELLS_STATED = 10_000
GB = 1e9


@dataclass(frozen=True)
class Estimate:
    """Jobs and seconds of a study from its tokens on, and its disk, done or not.

    ``tuned`` is the number of encoders that DINO tunes.

    ``cores`` is None where a cluster decides how many jobs run at a time. ``cell_bytes`` grow with the cells,
    ``model_bytes`` with the runs.
    """

    study: str
    slides: int
    experiments: int
    runs: int
    jobs: int
    tuned: int
    cpu_seconds: float
    gpu_seconds: float
    cores: int | None
    cell_bytes: float
    model_bytes: float

    @property
    def sentence(self) -> str:
        """The estimate as one line for the terminal."""
        cpu = (
            f"take about {duration(self.cpu_seconds / self.cores)} on {self.cores} cores"
            if self.cores
            else f"take about {duration(self.cpu_seconds)} on one core"
        )
        tuned = f", and {self.tuned} encoders tuned by DINO" if self.tuned else ""
        return (
            f"{self.study}: {self.slides} slides, {self.experiments} experiments, {self.runs} runs in "
            f"{self.jobs} training jobs{tuned}. With evaluation and figures they would {cpu}, or ask for "
            f"about {self.gpu_seconds / 3600:.2g} GPU hours; slides, cells and tokens come on top. On the "
            f"disk every {CELLS_STATED:,} cells take about {self.cell_bytes * CELLS_STATED / GB:.2g} GB, and "
            f"the models {self.model_bytes / GB:.2g} GB."
        )


def estimate(
    study: Study,
    slides: int,
    experiments: dict[str, list[RunSpec]],
    batches: dict[str, list[RunSpec]],
    cores: int | None,
) -> Estimate:
    """Count the runs and jobs of a study and say how long they take.

    Parameters
    ----------
    study
        The study.
    slides
        Number of its slides.
    experiments
        Label -> runs.
    batches
        Job -> runs, each run once.
    cores
        Cores that may work at a time; None on a cluster.
    """
    trained = {name: [spec for spec in specs if spec.trained] for name, specs in batches.items()}
    trained = {name: specs for name, specs in trained.items() if specs}
    specs = [spec for specs in trained.values() for spec in specs]
    trainings = [training for spec in specs if spec.network for training in spec.trainings]
    tuned = {spec.encoder.id: spec.encoder for spec in specs if spec.encoder.dino}
    steps = [spec.training.steps * (2 if spec.head_afterwards else 1) for spec in trainings]
    steps += [encoder.dino.steps for encoder in tuned.values() if encoder.dino]
    cpu = [*map(step_seconds, trainings), *map(dino_step_seconds, tuned.values())]
    gpu = [max(seconds / GPU_SPEED, GPU_STEP_SECONDS) for seconds in cpu]
    probes = sum(not spec.network for spec in specs)
    fixed = JOB_SECONDS * (len(trained) + len(tuned)) + RUN_SECONDS * (len(trainings) + probes)
    shapes = [(*geometry(spec.encoder), spec.encoder) for spec in specs]
    tokens = {encoder.id: 2 * count * width for count, width, encoder in shapes}
    # each run keeps embedding (2 bytes) and probabilities (4 bytes) of the cells that it holds out
    held_out = sum((2 * width + 4 * len(study.stages)) / study.folds for _, width, _ in shapes)
    # a block has 12 width^2 numbers of 4 bytes
    models = sum(48 * width**2 * trained_blocks(encoder) for _, width, encoder in shapes)
    return Estimate(
        study=study.study,
        slides=slides,
        experiments=len(experiments),
        runs=len(specs),
        jobs=len(trained),
        tuned=len(tuned),
        cpu_seconds=STUDY_SECONDS + fixed + sum(n * seconds for n, seconds in zip(steps, cpu, strict=True)),
        gpu_seconds=fixed + sum(n * seconds for n, seconds in zip(steps, gpu, strict=True)),
        cores=cores,
        cell_bytes=(0 if study.features else CELL_BYTES) + sum(tokens.values()) + held_out,
        model_bytes=models,
    )


def estimate_worlds(study: str, worlds: Worlds, cores: int | None) -> str:
    """What a study of drawn worlds will cost, as one line for the terminal."""
    trained = worlds.trained
    steps = sum(spec.training.steps * (2 if spec.head_afterwards else 1) for spec in trained)
    jobs = len(worlds.batches) + len(worlds.choice_batches)
    seconds = JOB_SECONDS * jobs + WORLD_RUN_SECONDS * len(trained) + WORLD_STEP_SECONDS * steps
    shared = f"{duration(seconds / cores)} on {cores} cores" if cores else f"{duration(seconds)} on one core"
    return (
        f"{study}: {len(worlds.points)} points, {worlds.world.repeats} worlds each, "
        f"{len(worlds.experiments)} experiments, {len(worlds.runs):,} runs in {jobs} jobs. All of them would "
        f"train for about {shared}."
    )


def step_seconds(spec: RunSpec) -> float:
    """CPU seconds of one optimiser step on two bags, or on one slide of some hundred cells."""
    training = spec.training
    if spec.mil:
        return SLIDE_SECONDS.get(spec.mil.model, SLIDE_SECONDS["smap"])
    tokens, width = geometry(spec.encoder)
    cell = CPU_TOKENS * tokens * width + CPU_WIDTH * width**2
    cell += (trained_blocks(spec.encoder) - 1) * CPU_BLOCK * tokens * width**2
    if training.unfreeze == "none":
        cell = CPU_WIDTH * width**2  # the head alone, on embeddings
    # forward and backward again: twice, or once
    cell *= 1 + 2 * ("vat" in spec.losses) + ("llp_dc" in spec.losses)
    pairs = 0.0
    if "simprop" in spec.losses:
        pairs = training.bag_size ** (2 if training.pairs == "all" else 1) * training.bins * CPU_PAIR
    counts = COUNT_SECONDS * training.bag_size if "count" in spec.losses else 0.0
    return STEP_SECONDS + 2 * training.bag_size * cell + pairs + counts


def dino_step_seconds(encoder: Encoder) -> float:
    """CPU seconds of one step of DINO: every block, on every view of a batch of crops."""
    dino = encoder.dino
    assert dino is not None
    tokens, width = geometry(encoder)
    view = blocks(encoder) * CPU_BLOCK * tokens * width**2
    small = dino.local_crops
    views = 2 * LARGE_PASS + small * SMALL_PASS
    return dino.batch_size * (views * view + (2 + small) * VIEW_SECONDS)


def trained_blocks(encoder: Encoder) -> int:
    """Blocks of a ViT that are kept trainable."""
    return encoder.trained_blocks if isinstance(encoder.trained_blocks, int) else blocks(encoder)


def blocks(encoder: Encoder) -> int:
    """Blocks of a ViT."""
    if encoder.architecture is not None:
        return encoder.architecture.depth
    return next((depth for size, depth in DEPTHS.items() if size in str(encoder.model)), 12)


def geometry(encoder: Encoder) -> tuple[int, int]:
    """Tokens and width of a ViT, by its architecture or by what timm's name says; or of a projection."""
    if encoder.projection is not None:
        return 1, encoder.projection
    if encoder.architecture is not None:
        patch, width = encoder.architecture.patch_px, encoder.architecture.width
    else:
        name = str(encoder.model)
        width = next((width for size, width in WIDTHS.items() if size in name), WIDTHS["base"])
        patch = next((patch for patch in (8, 14, 16, 32) if f"patch{patch}" in name), 8)
    return (-(-CROP_PX // patch)) ** 2 + 1, width


def duration(seconds: float) -> str:
    """``40 s``, ``25 min``, ``3.5 h``."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
