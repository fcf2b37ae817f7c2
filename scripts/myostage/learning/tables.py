"""The tables of folds, and of what a run leaves."""

import pyarrow as pa

from myostage.tables import BOOL, FLOAT32, FLOAT64, INT32, STRING, Column, Table

SPLITS = Table(
    "splits",
    "fold of every slide",
    (
        Column("slide", STRING, "", "slide"),
        Column("group", STRING, "", "group"),
        Column("animal", STRING, "", "animal"),
        Column("cells", INT32, "cells", "cells with a crop"),
        Column("fold", INT32, "", "fold in which the slide is held out; -1: staged only, never learnt from"),
    ),
)

HISTORY = Table(
    "history",
    "one row per training step; after these, a column for each term of the run: unweighted, missing where it "
    "was not computed",
    (
        Column("phase", INT32, "", "0; 1 for the head fitted after a run whose terms teach none"),
        Column("step", INT32, "", "step within the phase, from 0"),
        Column("loss", FLOAT32, "", "weighted sum of the terms"),
        Column("conflict", FLOAT32, "", "cosine of the gradients of two terms; missing where not measured"),
        Column("learning_rate", FLOAT32, "", "learning rate of the head"),
        Column("gradient_norm", FLOAT32, "", "before clipping"),
    ),
    further=FLOAT32,
)

COST = (
    Column("status", STRING, "", "ok or failed"),
    Column("reason", STRING, "", "why it failed, at which step, and its last checkpoint"),
    Column("device", STRING, "", "what it was trained on"),
    Column("steps", INT32, "steps", "steps done by the job that finished it (all of them unless it resumed)"),
    Column("seconds", FLOAT64, "s", "wall time of training and prediction"),
    Column("cpu_seconds", FLOAT64, "s", "CPU time of the process over them"),
    Column(
        "peak_memory_mb", FLOAT64, "MB", "peak resident memory of the process; of the GPU where there is one"
    ),
    Column("joules", FLOAT64, "J", "energy of the GPU or CPU package; missing where the machine tells none"),
    Column(
        "temperature",
        FLOAT64,
        "",
        "temperature that calibrates its probabilities, fitted on training bags; missing where nothing was "
        "learnt of cells, or where bags do not determine it",
    ),
)

OUTCOME = Table("outcome", "how one run ended and what it cost", (Column("run", STRING, "", "run id"), *COST))

CANDIDATES = (
    Column("candidate", INT32, "", "number of the candidate, in the order of training.choose"),
    Column("settings", STRING, "", "what it sets"),
    Column(
        "divergence",
        FLOAT64,
        "nats",
        "KL divergence of given from mean predicted proportions, mean over the slides held in; missing where "
        "training diverged",
    ),
    Column("slides", INT32, "slides", "training slides held in, in turn"),
    Column("chosen", BOOL, "", "whether the run was trained with it on all its training slides"),
)

CHOICES = Table("choices", "settings that one run chose from, by proportions and no cell label", CANDIDATES)

WORLD_PREDICTIONS = Table(
    "world_predictions",
    "stage probabilities of every held-out cell of one world; its metadata hold the given proportions",
    (
        Column("animal", STRING, "", "held-out animal"),
        Column("group", STRING, "", "its group"),
        Column("true_stage", INT32, "", "stage that the cell was drawn by, 0..K-1"),
        Column("probabilities", pa.list_(FLOAT32), "", "probability of each stage"),
    ),
)

SLIDE_PREDICTIONS = Table(
    "slide_predictions",
    "class of every held-out slide, by a model of slide labels",
    (
        Column("slide", STRING, "", "slide"),
        Column("label", INT32, "", "class of the slide table, 0..C-1; -1: none"),
        Column("predicted", INT32, "", "most probable class"),
        Column("probabilities", pa.list_(FLOAT64), "", "probability of each class"),
        Column("cells", INT32, "cells", "cells of the slide"),
        Column(
            "energy",
            FLOAT64,
            "",
            "Dirichlet energy of the attention logits, standardised over the slide, per edge; 0: constant",
        ),
    ),
)

ATTENTION = Table(
    "attention",
    "attention of a model of slide labels to every cell of the slides it holds out",
    (
        Column("slide", STRING, "", "slide"),
        Column("cell", INT32, "", "cell number within the slide"),
        Column("logit", FLOAT32, "", "attention before the softmax over the slide's cells"),
        Column("weight", FLOAT32, "", "attention; sums to 1 over a slide"),
    ),
)


def predictions_table(stages: int) -> Table:
    """The table of held-out predictions for ``stages`` stages; its metadata holds the run's temperature."""
    return Table(
        "predictions",
        "stage probabilities and embedding of every held-out cell",
        (
            *_staged(stages),
            Column("embedding", pa.list_(pa.float16()), "", "L2-normalised embedding; empty for baselines"),
        ),
    )


def stages_table(stages: int) -> Table:
    """The table of a slide's staged cells, the runs of an experiment joined, for ``stages`` stages."""
    return Table(
        "stages",
        "stage of every cell of a slide, probabilities averaged over the runs of an experiment",
        (
            *_staged(stages),
            Column(
                "calibrated",
                pa.list_(FLOAT32, stages),
                "",
                "probability of each stage, each run's scaled by its temperature before they are averaged",
            ),
            Column("entropy", FLOAT32, "nats", "entropy of the calibrated probabilities, 0 to log K"),
            Column(
                "uncertain", BOOL, "", "calibrated probability of the stage is below staging.uncertain_below"
            ),
        ),
    )


def _staged(stages: int) -> tuple[Column, ...]:
    return (
        Column("slide", STRING, "", "slide"),
        Column("cell", INT32, "", "cell number within the slide"),
        Column("stage", INT32, "", "most probable stage"),
        Column("probabilities", pa.list_(FLOAT32, stages), "", "probability of each stage"),
    )
