"""The tables of a study: metrics, comparisons and what else is measured of its runs."""

import pyarrow as pa

from myostage.learning.tables import CANDIDATES, COST
from myostage.tables import BOOL, FLOAT64, INT32, STRING, Column, Table

RUNS = Table(
    "runs",
    "every run of every experiment: how it ended and what it cost",
    (
        Column("experiment", STRING, "", "experiment of the study file"),
        Column("run", STRING, "", "run id"),
        Column("fold", INT32, "", "fold"),
        Column("seed", INT32, "", "seed"),
        *COST,
        Column(
            "loss_change",
            FLOAT64,
            "",
            "relative change of the training loss from the last fifth but one of the steps to the last; "
            "missing where nothing, or too little to judge, was trained",
        ),
        Column("loss_noise", FLOAT64, "", "standard error of that change"),
    ),
)

CHOICES = Table(
    "choices",
    "settings that the runs of an experiment chose from, by proportions of training slides and no cell label",
    (
        Column("experiment", STRING, "", "experiment of the study file"),
        Column("run", STRING, "", "run id"),
        Column("fold", INT32, "", "fold"),
        Column("seed", INT32, "", "seed"),
        *CANDIDATES,
    ),
)

SPECTRUM = Table(
    "spectrum",
    "power of attention logits in bands of the graph Laplacian's eigenvalues",
    (
        Column("experiment", STRING, "", "experiment"),
        Column("signal", STRING, "", "raw: as the model gives them; smoothed: after Sm"),
        Column("slide", STRING, "", "held-out slide"),
        Column("animal", STRING, "", "its animal"),
        Column("low", FLOAT64, "", "lower edge of the band of eigenvalues, 0 to 2"),
        Column("high", FLOAT64, "", "upper edge"),
        Column("share", FLOAT64, "", "share of the power of the standardised logits, mean over seeds"),
        Column(
            "energy", FLOAT64, "", "mean squared difference of neighbours, standardised logits; 2 by chance"
        ),
        Column("instance_auroc", FLOAT64, "", "localisation on that slide; missing where undefined"),
    ),
)

BORDERS = Table(
    "borders",
    "localisation by the distance of cells to the border of the injured region",
    (
        Column("experiment", STRING, "", "experiment"),
        Column("border", STRING, "", "sharp or diffuse, as the slide table says; all: every slide"),
        Column(
            "low_um", FLOAT64, "um", "band of signed distance to the border, may be infinite; below 0: inside"
        ),
        Column("high_um", FLOAT64, "um", "its other end"),
        Column("correct", FLOAT64, "", "share of cells classified correctly, mean over slides and seeds"),
        Column("correct_low", FLOAT64, "", "lower end of the 95 % interval over animals; missing for one"),
        Column("correct_high", FLOAT64, "", "upper end"),
        Column("cells", INT32, "cells", "cells"),
        Column("slides", INT32, "slides", "slides"),
    ),
)

ALGEBRA = Table(
    "algebra",
    "how near z_W + z_P lies to the embedding z_I of its own slide and of others, held-out slides",
    (
        Column("experiment", STRING, "", "experiment"),
        Column("fold", INT32, "", "fold"),
        Column("seed", INT32, "", "seed"),
        Column("slide", STRING, "", "held-out slide of an injured group"),
        Column("animal", STRING, "", "its animal"),
        Column("own", FLOAT64, "", "cosine of z_W + z_P and z_I of the same slide"),
        Column("others", FLOAT64, "", "mean cosine with z_I of the fold's other injured slides"),
        Column(
            "rank", INT32, "", "place of the own slide among candidates, 1: nearest; ties count against it"
        ),
        Column("rank_p", INT32, "", "the same by z_P alone, without z_W"),
        Column("candidates", INT32, "slides", "own and others"),
    ),
)

# Of a value or a difference; see myostage.evaluation.intervals.
_INTERVAL = (
    Column("low", FLOAT64, "", "lower end of the 95 % confidence interval; missing for a single run"),
    Column("high", FLOAT64, "", "upper end"),
    Column(
        "method",
        STRING,
        "",
        "whose spread the interval is of: animals and runs, folds (one seed), animals (no seed)",
    ),
    Column("trusted", BOOL, "", "whether the interval of so many animals and folds covers in simulation"),
    Column("low_folds", FLOAT64, "", "lower end of the 95 % interval of the plain t over folds"),
    Column("high_folds", FLOAT64, "", "upper end"),
)

METRICS = Table(
    "metrics",
    "every metric of every run and of every experiment",
    (
        Column("experiment", STRING, "", "experiment of the study file"),
        Column("run", STRING, "", "run id; empty: all folds and seeds of the experiment together"),
        Column("fold", INT32, "", "fold; -1: all"),
        Column("seed", INT32, "", "seed; -1: all"),
        Column("metric", STRING, "", "name of the metric"),
        Column("value", FLOAT64, "", "value"),
        *_INTERVAL,
        Column("animals", INT32, "animals", "held-out animals it was computed on"),
        Column("slides", INT32, "slides", "held-out slides it was computed on"),
        Column("cells", INT32, "cells", "cells it was computed on"),
    ),
)

COMPARISONS = Table(
    "comparisons",
    "differences between experiments, paired by animal, fold and seed",
    (
        Column("experiment", STRING, "", "experiment"),
        Column("reference", STRING, "", "experiment it is compared with"),
        Column(
            "family",
            STRING,
            "",
            "reference, baseline (the best one), against, prior (without it) or group (knowing it alone); "
            "Holm corrects within one",
        ),
        Column("metric", STRING, "", "name of the metric"),
        Column("difference", FLOAT64, "", "experiment minus reference, all folds and seeds together"),
        *_INTERVAL,
        Column("pairs", INT32, "pairs", "fold x seed pairs"),
        Column("animals", INT32, "animals", "held-out animals"),
        Column("slides", INT32, "slides", "held-out slides"),
        Column(
            "effect_size",
            FLOAT64,
            "",
            "difference over the standard deviation of the animals' paired differences, means over seeds",
        ),
        Column("p", FLOAT64, "", "two-sided, of the estimate that the interval is of; missing: not tested"),
        Column(
            "p_holm",
            FLOAT64,
            "",
            "after Holm's correction: the study's question alone, baselines, each sweep and the rest of "
            "each part, by family and metric",
        ),
        Column("tests", INT32, "tests", "how many tests Holm's correction is for; 0: not tested"),
        Column(
            "minimum_detectable",
            FLOAT64,
            "",
            "smallest difference this test finds with the stated power at its corrected level, alpha / tests",
        ),
        Column(
            "animals_needed",
            FLOAT64,
            "animals",
            "how many a study of this design would need to find a difference of .05 (kappa: .1) so, by the "
            "spread that is seen",
        ),
        Column("p_folds", FLOAT64, "", "plain t-test over folds"),
        Column(
            "p_corrected",
            FLOAT64,
            "",
            "corrected resampled t-test over the pairs (Nadeau and Bengio 2003), for comparison with papers",
        ),
    ),
)

SIMILARITIES = Table(
    "similarities",
    "cosine similarity of cells of two annotated stages, held-out cells of one fold at a time",
    (
        Column("experiment", STRING, "", "experiment"),
        Column("stage_a", INT32, "", "annotated stage, 0..K-1"),
        Column("stage_b", INT32, "", "annotated stage, 0..K-1"),
        Column("cosine", FLOAT64, "", "mean over pairs of different cells, over folds and seeds"),
        Column("expected", FLOAT64, "", "sim(a, b) = 1 - |a - b| / (K - 1)"),
    ),
)

CORRELATIONS = Table(
    "correlations",
    "rank correlation of cosine similarity and sim(a, b) over pairs of stages",
    (
        Column("experiment", STRING, "", "experiment"),
        Column("rho", FLOAT64, "", "Spearman's rho"),
        Column("low", FLOAT64, "", "lower end of the 95 % interval over animals and runs"),
        Column("high", FLOAT64, "", "upper end"),
        Column("slides", INT32, "slides", "held-out slides"),
        Column("cells", INT32, "cells", "labelled cells"),
    ),
)

GRADIENTS = Table(
    "gradients",
    "gradients of the losses at the start of a run, per parameter",
    (
        Column("loss", STRING, "", "simprop or prop"),
        Column("parameter", STRING, "", "name in the model"),
        Column("part", STRING, "", "attention, mlp, norm, projection or head"),
        Column("norm", FLOAT64, "", "Euclidean norm of the gradient"),
        Column("slope", FLOAT64, "", "derivative along a random direction, by the gradient"),
        Column("finite_difference", FLOAT64, "", "the same by central differences in float64"),
    ),
)

CONFUSION = Table(
    "confusion",
    "held-out cells by annotated and predicted stage, all folds of an experiment together",
    (
        Column("experiment", STRING, "", "experiment"),
        Column("true_stage", INT32, "", "annotated stage, 0..K-1"),
        Column("predicted_stage", INT32, "", "most probable stage, 0..K-1"),
        Column("cells", FLOAT64, "cells", "number of cells, mean over seeds"),
    ),
)

RELIABILITY = Table(
    "reliability",
    "labelled held-out cells by predicted stage and confidence, all folds of an experiment together; no row "
    "without a cell",
    (
        Column("experiment", STRING, "", "experiment"),
        Column("stage", INT32, "", "predicted stage, 0..K-1"),
        Column(
            "calibrated",
            BOOL,
            "",
            "whether the probabilities of every run are scaled by its temperature first",
        ),
        Column(
            "low", FLOAT64, "", "lower end of the bin of confidence, the probability of the predicted stage"
        ),
        Column("high", FLOAT64, "", "upper end"),
        Column("cells", FLOAT64, "cells", "cells, mean over seeds"),
        Column("confidence", FLOAT64, "", "mean confidence"),
        Column("accuracy", FLOAT64, "", "share of cells staged rightly"),
    ),
)

SCORES = Table(
    "scores",
    "composition and recovery score of every slide, by experiment",
    (
        Column("experiment", STRING, "", "experiment"),
        Column("slide", STRING, "", "slide"),
        Column("group", STRING, "", "group"),
        Column("animal", STRING, "", "animal"),
        Column("cells", INT32, "cells", "staged cells"),
        Column("recovery_score", FLOAT64, "", "area-weighted mean stage, 0 (first) to 1 (last)"),
        Column(
            "true_recovery_score", FLOAT64, "", "the same of the annotated stages; missing without labels"
        ),
        Column("proportions", pa.list_(FLOAT64), "", "predicted share of each stage, mean over cells"),
        Column(
            "prior",
            STRING,
            "",
            "how its group's proportions were put into the stages: none, group or transport",
        ),
        Column(
            "table_weight",
            FLOAT64,
            "",
            "their weight against the cells, 0 to 1, mean over runs; missing for none",
        ),
    ),
    further=STRING,
)

WORLDS = Table(
    "worlds",
    "every metric of every experiment in every drawn world",
    (
        Column("point", STRING, "", "keys that differ from the section `world`, or centre"),
        Column("experiment", STRING, "", "experiment"),
        Column("world", INT32, "", "number of the world; each is drawn and trained by a seed of its own"),
        Column("metric", STRING, "", "name of the metric"),
        Column("value", FLOAT64, "", "value on the animals held out; missing where the run diverged"),
        Column("loss", FLOAT64, "", "mean loss over the last twentieth of the run; missing of baselines"),
        Column("steps", INT32, "steps", "steps trained"),
        Column("seconds", FLOAT64, "s", "wall time of training and prediction"),
        Column("status", STRING, "", "ok or failed"),
        Column("reason", STRING, "", "why it failed"),
    ),
)

WORLDS_COMPARISONS = Table(
    "worlds_comparisons",
    "every experiment at every point of every map, and its difference to the reference, paired by world",
    (
        Column("map", STRING, "", "map"),
        Column("point", STRING, "", "point, as in the table of worlds"),
        Column("experiment", STRING, "", "experiment"),
        Column("reference", STRING, "", "experiment it is compared with"),
        Column("metric", STRING, "", "name of the metric"),
        Column("value", FLOAT64, "", "mean over worlds"),
        Column("value_low", FLOAT64, "", "lower end of its 95 % t interval over worlds"),
        Column("value_high", FLOAT64, "", "upper end"),
        Column("difference", FLOAT64, "", "mean of experiment minus reference over worlds that have both"),
        Column("low", FLOAT64, "", "lower end of its 95 % t interval over worlds"),
        Column("high", FLOAT64, "", "upper end"),
        Column("worlds", INT32, "worlds", "independent worlds behind the difference"),
        Column(
            "effect_size", FLOAT64, "", "difference over the standard deviation of the worlds' differences"
        ),
        Column("p", FLOAT64, "", "two-sided, of the paired t test over worlds; missing: not tested"),
        Column("p_holm", FLOAT64, "", "after Holm's correction for all tests of the map in this metric"),
        Column("tests", INT32, "tests", "how many tests that is; 0: not tested"),
        Column(
            "minimum_detectable",
            FLOAT64,
            "",
            "smallest true difference that this test finds at its corrected level with `compare.power`",
        ),
    ),
)

WORLDS_CURVES = Table(
    "worlds_curves",
    "loss of every experiment at every point in parts of its training",
    (
        Column("point", STRING, "", "point, as in the table of worlds"),
        Column("experiment", STRING, "", "experiment"),
        Column("phase", INT32, "", "1: of a head that is fitted afterwards"),
        Column("step", INT32, "", "last step of the part"),
        Column("loss", FLOAT64, "", "weighted sum of its terms, mean over the part and over worlds"),
        Column("sd", FLOAT64, "", "standard deviation over worlds"),
        Column("worlds", INT32, "worlds", "worlds that came so far"),
    ),
)

WORLDS_CHOICES = Table(
    "worlds_choices",
    "settings that an experiment chose from in pilot worlds, by proportions of animals held in and no label",
    (Column("experiment", STRING, "", "experiment"), *CANDIDATES),
)

WRONG_TABLES = Table(
    "wrong_tables",
    "stages with a prior where the table of proportions is wrong at prediction; nothing is trained for it",
    (
        Column("experiment", STRING, "", "experiment that learns, of the main part"),
        Column("prior", STRING, "", "group or transport"),
        Column("t", FLOAT64, "", "share of each vector of proportions that is drawn at random, 0 to 1"),
        Column("metric", STRING, "", "name of the metric"),
        Column("value", FLOAT64, "", "value with the prior, mean over draws of wrong tables"),
        Column("without", FLOAT64, "", "value without any prior"),
        Column("difference", FLOAT64, "", "with minus without"),
        Column(
            "low",
            FLOAT64,
            "",
            "lower end of its 95 % interval over animals and runs; missing for a single run",
        ),
        Column("high", FLOAT64, "", "upper end"),
        Column("table_weight", FLOAT64, "", "weight of the table against the cells, mean over runs"),
        Column("draws", INT32, "draws", "wrong tables drawn; the interval is of these"),
        Column("animals", INT32, "animals", "held-out animals"),
        Column("cells", INT32, "cells", "labelled cells"),
    ),
)
