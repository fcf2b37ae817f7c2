"""The page that answers the study's questions.

in:   metrics, comparisons, runs; correlations where cells are labelled; every figure; what became of the slides;
      tables of the neighbours and histories of ordinal regression, where a study has them
out:  summary.html: sentences made from the numbers, tables and figures in one file
"""

SUMMARY = []

if EXPERIMENTS or SLIDE_EXPERIMENTS:

    # what is about cells; of a study that learns nothing but labels of slides, what is about slides
    SUMMED = "" if EXPERIMENTS else "slides_"
    NAMED_METRIC = {} if EXPERIMENTS else {"metric": STUDY.compare.slide_metric}
    CONFLICTS = {
        name: of_runs("history.parquet", [spec.id for spec in EXPERIMENTS[name]]) for name in CONFLICTING
    }
    SUMMARY = [PATHS.study("summary.html")]

    rule summary:
        input:
            splits=PATHS.study("splits.parquet"),
            metrics=PATHS.study(f"{SUMMED}metrics.parquet"),
            comparisons=PATHS.study(f"{SUMMED}comparisons.parquet"),
            runs=PATHS.study(f"{SUMMED}runs.parquet"),
            correlations=[PATHS.study("correlations.parquet")] if EXPERIMENTS and LABELLED else [],
            slide_metrics=SLIDE_TABLES[:1],
            slide_comparisons=SLIDE_TABLES[1:2],
            slide_runs=SLIDE_TABLES[2:],
            spectrum=ATTENTION_TABLES[:1],
            borders=ATTENTION_TABLES[1:],
            algebra=ALGEBRA_TABLES,
            histories=lambda wildcards: behind(CONFLICTS),
            figures=FIGURES,
            slides=[PATHS.study("slides.parquet")] if IMAGED else [],
            crops=lambda wildcards: behind(of_slides("crops.parquet", IMAGED)),
        output:
            page=report(
                PATHS.study("summary.html"), caption="../notebooks/captions/summary.rst", category="Summary"
            ),
        log:
            PATHS.log("summary", "all"),
        benchmark:
            PATHS.benchmark("summary", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("summary"),
        params:
            structure={**STRUCTURE, "compare": {**STRUCTURE["compare"], **NAMED_METRIC}},
            slide_structure=SLIDE_STRUCTURE,
            models={name: specs[0].mil.model for name, specs in SLIDE_EXPERIMENTS.items()},
            histories=CONFLICTS,
            slides=IMAGED,
            code=code("summary.py"),
        message:
            "Answering the study's questions"
        script:
            "../scripts/summary.py"
