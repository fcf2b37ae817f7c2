"""Metrics with intervals.

in:   held-out predictions of every run; cell labels where a study has them
out:  metrics.parquet, confusion.parquet, scores.parquet (composition and recovery score of every slide)
"""

TABLES = []

if EXPERIMENTS:

    TABLES = [PATHS.study(f"{name}.parquet") for name in ("metrics", "confusion", "scores")]

    rule evaluate:
        input:
            predictions=of_runs("predictions.parquet", RUNS),
            splits=PATHS.study("splits.parquet"),
            labels=of_slides("labels.parquet", LABELLED),
            cells=of_slides("cells.parquet", IMAGED),
        output:
            metrics=TABLES[0],
            confusion=TABLES[1],
            scores=TABLES[2],
        log:
            PATHS.log("evaluate", "all"),
        benchmark:
            PATHS.benchmark("evaluate", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            mem_mb=3000,
            runtime=60,
        params:
            experiments={name: [spec.id for spec in specs] for name, specs in EXPERIMENTS.items()},
            labelled=LABELLED,
            imaged=IMAGED,
            proportions=PROPORTIONS,
            stages=STUDY.stages,
            code=code("evaluate.py"),
        message:
            f"Evaluating {len(RUNS)} runs of {len(EXPERIMENTS)} experiments"
        script:
            "../scripts/evaluate.py"
