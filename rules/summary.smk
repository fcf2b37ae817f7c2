"""The page that answers the study's questions.

in:   metrics, comparisons, runs; correlations where cells are labelled; every figure; what became of the slides
out:  summary.html: sentences made from the numbers, tables and figures in one file
"""

SUMMARY = []

if EXPERIMENTS:

    SUMMARY = [PATHS.study("summary.html")]

    rule summary:
        input:
            splits=PATHS.study("splits.parquet"),
            metrics=PATHS.study("metrics.parquet"),
            comparisons=PATHS.study("comparisons.parquet"),
            runs=PATHS.study("runs.parquet"),
            correlations=[PATHS.study("correlations.parquet")] if LABELLED else [],
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
            structure=STRUCTURE,
            slides=IMAGED,
            code=code("summary.py"),
        message:
            "Answering the study's questions"
        script:
            "../scripts/summary.py"
