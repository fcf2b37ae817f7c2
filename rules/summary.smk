"""The page that answers the study's questions.

in:   metrics, comparisons, runs; correlations where cells are labelled; every figure
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
            mem_mb=2000,
            runtime=15,
        params:
            structure=STRUCTURE,
            code=code("summary.py"),
        message:
            "Answering the study's questions"
        script:
            "../scripts/summary.py"
