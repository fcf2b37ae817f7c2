"""Labels of slides, smooth attention, spatial regularisation and ordinal regression: what is measured of them.

in:   held-out predictions, attention and outcome of every run; where cells lie; annotations, to measure by
out:  slides_metrics.parquet, slides_comparisons.parquet, slides_runs.parquet: as the tables of cells, of models of
      slide labels; spectrum.parquet, borders.parquet: how smooth attention is and where it errs; algebra.parquet:
      whether z_W + z_P of a held-out slide is its z_I
"""

SLIDE_TABLES, ATTENTION_TABLES, ALGEBRA_TABLES = [], [], []
HEALTHY = [STUDY.stages.index(stage) for stage in STUDY.healthy.stages] if STUDY.healthy else []

if SLIDE_EXPERIMENTS:

    SLIDE_RUNS = list(dict.fromkeys(spec.id for specs in SLIDE_EXPERIMENTS.values() for spec in specs))
    SLIDE_TABLES = [PATHS.study(f"slides_{name}.parquet") for name in ("metrics", "comparisons", "runs")]

    rule evaluate_slides:
        input:
            runs=lambda wildcards: behind(of_runs("predictions.parquet", SLIDE_RUNS)),
            splits=PATHS.study("splits.parquet"),
            labels=lambda wildcards: behind(of_slides("labels.parquet", LABELLED)),
        output:
            metrics=SLIDE_TABLES[0],
            comparisons=SLIDE_TABLES[1],
            runs=SLIDE_TABLES[2],
        log:
            PATHS.log("evaluate_slides", "all"),
        benchmark:
            PATHS.benchmark("evaluate_slides", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("evaluate"),
        params:
            experiments={name: [spec.id for spec in specs] for name, specs in SLIDE_EXPERIMENTS.items()},
            structure=SLIDE_STRUCTURE,
            compare=STUDY.compare.model_dump(),
            labelled=LABELLED,
            healthy=HEALTHY,
            code=code("evaluate_slides.py"),
        message:
            f"Evaluating {len(SLIDE_RUNS)} runs of {len(SLIDE_EXPERIMENTS)} experiments on labels of slides"
        script:
            "../scripts/evaluate_slides.py"


ATTENDED = plan.attended(STUDY, SLIDE_STRUCTURE)

if ATTENDED and LABELLED:

    ATTENTION_TABLES = [PATHS.study("spectrum.parquet"), PATHS.study("borders.parquet")]

    rule localise:
        input:
            runs=lambda wildcards: behind(
                of_runs(plan.ATTENTION, [spec.id for name in ATTENDED for spec in SLIDE_EXPERIMENTS[name]])
            ),
            cells=lambda wildcards: behind(of_slides(PLACES, SLIDES)),
            labels=lambda wildcards: behind(of_slides("labels.parquet", LABELLED)),
        output:
            spectrum=ATTENTION_TABLES[0],
            borders=ATTENTION_TABLES[1],
        log:
            PATHS.log("localise", "all"),
        benchmark:
            PATHS.benchmark("localise", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("evaluate"),
        params:
            experiments={name: [spec.id for spec in SLIDE_EXPERIMENTS[name]] for name in ATTENDED},
            slides=list(SLIDES),
            labelled=LABELLED,
            healthy=HEALTHY,
            border_of={name: slide.border for name, slide in SLIDES.items()},
            graph=STUDY.graph.model_dump(),
            smooth=STUDY.mil.model_dump(include={"alpha", "smooth_steps"}),
            places=PLACES,
            code=code("localise.py"),
        message:
            "Measuring how smooth attention is, and where it errs"
        script:
            "../scripts/localise.py"


# What pulls z_I and z_W + z_P together, and what does not, to compare it with.
ADDED = [name for name in STRUCTURE["regression"] if EXPERIMENTS[name][0].trained] if HEALTHY else []

if ADDED:

    ALGEBRA_TABLES = [PATHS.study("algebra.parquet")]
    ADDED_RUNS = [spec.id for name in ADDED for spec in EXPERIMENTS[name]]

    rule algebra:
        input:
            runs=lambda wildcards: behind(of_runs("predictions.parquet", ADDED_RUNS)),
            splits=PATHS.study("splits.parquet"),
        output:
            ALGEBRA_TABLES,
        log:
            PATHS.log("algebra", "all"),
        benchmark:
            PATHS.benchmark("algebra", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("evaluate"),
        params:
            experiments={name: [spec.id for spec in EXPERIMENTS[name]] for name in ADDED},
            stages=STUDY.stages,
            healthy=STUDY.healthy.model_dump(),
            code=code("algebra.py"),
        message:
            f"Adding up the embeddings of {len(ADDED)} experiments"
        script:
            "../scripts/algebra.py"


TABLES += SLIDE_TABLES + ATTENTION_TABLES + ALGEBRA_TABLES
