"""Labels of slides, smooth attention, spatial regularisation and ordinal regression: what is measured of them.

in:   held-out predictions, attention and outcome of every run; where cells lie; annotations, to measure by
out:  slides_metrics.parquet, slides_comparisons.parquet, slides_runs.parquet: as the tables of cells, of models of
      slide labels; spectrum.parquet, borders.parquet: how smooth attention is and where it errs; algebra.parquet:
      whether z_W + z_P of a held-out slide is its z_I
"""

if PLAN.slide_experiments:

    rule evaluate_slides:
        input:
            runs=PLAN.behind(PLAN.of_runs("predictions.parquet", PLAN.slide_experiments)),
            splits=PATHS.study("splits.parquet"),
            labels=PLAN.behind(PLAN.each("labels.parquet", PLAN.labelled)),
        output:
            metrics=PATHS.study("slides_metrics.parquet"),
            comparisons=PATHS.study("slides_comparisons.parquet"),
            runs=PATHS.study("slides_runs.parquet"),
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
            experiments=PLAN.runs(PLAN.slide_experiments),
            # as a function of the output: the ids say it
            specs=lambda wildcards, output: PLAN.specs(PLAN.slide_experiments),
            structure=PLAN.slide_structure,
            compare=STUDY.compare.model_dump(),
            labelled=PLAN.labelled,
            healthy=PLAN.healthy,
            code=code("evaluate_slides.py"),
        message:
            f"Evaluating {len(PLAN.slide_experiments)} experiments on labels of slides"
        script:
            "../scripts/evaluate_slides.py"


if PLAN.attention_tables:

    rule localise:
        input:
            runs=PLAN.behind(PLAN.of_runs("attention.parquet", PLAN.attended)),
            cells=PLAN.behind(PLAN.each(PLAN.places, PLAN.slides)),
            labels=PLAN.behind(PLAN.each("labels.parquet", PLAN.labelled)),
        output:
            spectrum=PATHS.study("spectrum.parquet"),
            borders=PATHS.study("borders.parquet"),
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
            experiments=PLAN.runs(PLAN.attended),
            slides=list(PLAN.slides),
            labelled=PLAN.labelled,
            healthy=PLAN.healthy,
            animal_of={name: slide.animal for name, slide in PLAN.slides.items()},
            border_of={name: slide.border for name, slide in PLAN.slides.items()},
            graph=STUDY.graph.model_dump(),
            smooth=STUDY.mil.model_dump(include={"alpha", "smooth_steps"}),
            places=PLAN.places,
            code=code("localise.py"),
        message:
            "Measuring how smooth attention is, and where it errs"
        script:
            "../scripts/localise.py"


if PLAN.algebra_tables:

    rule algebra:
        input:
            runs=PLAN.behind(PLAN.of_runs("predictions.parquet", PLAN.added)),
            splits=PATHS.study("splits.parquet"),
        output:
            PATHS.study("algebra.parquet"),
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
            experiments=PLAN.runs(PLAN.added),
            # as a function of the output: the ids say it
            specs=lambda wildcards, output: PLAN.specs(PLAN.added),
            stages=STUDY.stages,
            healthy=STUDY.healthy.model_dump(),
            code=code("algebra.py"),
        message:
            f"Adding up the embeddings of {len(PLAN.added)} experiments"
        script:
            "../scripts/algebra.py"
