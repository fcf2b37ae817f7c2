"""What a study will cost, said before it starts: jobs, hours of training, disk.

Seconds follow from constants measured on one core; they say whether to wait or to go home, not more.
"""

from dataclasses import dataclass

from myostage.study.run import RunSpec
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.study import Study

# CPU seconds of forward and backward pass per cell and (token x width), per cell and width squared: one core
# took 42 us a cell at width 96 and 0.9 ms at width 768 (65 tokens, last block for the class token alone).
CPU_TOKENS, CPU_WIDTH = 5.1e-9, 1.1e-9
# The same of a whole block (all tokens): 20 GFLOP/s on 72 operations per cell, token and width squared.
CPU_BLOCK = 72 / 20e9
# CPU seconds per pair of cells and bin.
CPU_PAIR = 8e-9
# CPU seconds of a step on one slide of about 400 cells, by the model of its label.
SLIDE_SECONDS = {"smap": 4e-3, "smtap": 15e-3, "transformer_abmil": 10e-3, "transmil": 10e-3, "srmil": 40e-3}
# CPU seconds that a job starts with (imports of torch, timm and pandas from bytecode) and a run ends with
# (predictions, tables).
JOB_SECONDS, RUN_SECONDS = 6.0, 1.5
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
    """Jobs and seconds of all training runs of a study, and its disk, done or not.

    ``cores`` is None where a cluster decides how many jobs run at a time. ``cell_bytes`` grow with the cells,
    ``model_bytes`` with the runs.
    """

    study: str
    slides: int
    experiments: int
    runs: int
    jobs: int
    cpu_seconds: float
    gpu_seconds: float
    cores: int | None
    cell_bytes: float
    model_bytes: float

    @property
    def sentence(self) -> str:
        """The estimate as one line for the terminal."""
        cpu = (
            f"train for about {duration(self.cpu_seconds / self.cores)} on {self.cores} cores"
            if self.cores
            else f"train for about {duration(self.cpu_seconds)} on one core"
        )
        return (
            f"{self.study}: {self.slides} slides, {self.experiments} experiments, {self.runs} runs in "
            f"{self.jobs} training jobs. All of them would {cpu}, or ask for about "
            f"{self.gpu_seconds / 3600:.2g} GPU hours; slides, cells and tokens come on top. On the disk "
            f"every {CELLS_STATED:,} cells take about {self.cell_bytes * CELLS_STATED / GB:.2g} GB, and the "
            f"models {self.model_bytes / GB:.2g} GB."
        )


def estimate(
    study: Study,
    slides: int,
    experiments: dict[str, list[RunSpec]],
    batches: dict[str, list[RunSpec]],
    cores: int | None,
) -> Estimate:
    """Count the runs and jobs of a study and say how long they train.

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
    trainings = [training for spec in specs for training in spec.trainings]
    steps = [
        spec.training.steps * (2 if spec.head_afterwards else 1) if spec.network else 0 for spec in trainings
    ]
    cpu = [step_seconds(spec) for spec in trainings]
    gpu = [max(seconds / GPU_SPEED, GPU_STEP_SECONDS) for seconds in cpu]
    fixed = JOB_SECONDS * len(trained) + RUN_SECONDS * len(trainings)
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
        cpu_seconds=fixed + sum(n * seconds for n, seconds in zip(steps, cpu, strict=True)),
        gpu_seconds=fixed + sum(n * seconds for n, seconds in zip(steps, gpu, strict=True)),
        cores=cores,
        cell_bytes=(0 if study.features else CELL_BYTES) + sum(tokens.values()) + held_out,
        model_bytes=models,
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
    if "vat" in spec.losses:
        cell *= 3  # two more passes, one of them backward
    pairs = 0.0
    if "simprop" in spec.losses:
        pairs = training.bag_size ** (2 if training.pairs == "all" else 1) * training.bins * CPU_PAIR
    return 2 * training.bag_size * cell + pairs


def trained_blocks(encoder: Encoder) -> int:
    """Blocks of a ViT that are kept trainable."""
    if isinstance(encoder.trained_blocks, int):
        return encoder.trained_blocks
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
