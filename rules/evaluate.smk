"""Metrics with intervals, and the differences between experiments.

in:   held-out predictions and outcome of every run; cell labels where a study has them
out:  metrics.parquet, comparisons.parquet, confusion.parquet, scores.parquet (composition and recovery score
      of every slide), runs.parquet (how every run ended and what it cost)
"""

TABLES = []

if EXPERIMENTS:

    TABLES = [
        PATHS.study(f"{name}.parquet") for name in ("metrics", "comparisons", "confusion", "scores", "runs")
    ]

    rule evaluate:
        input:
            runs=lambda wildcards: behind(of_runs("predictions.parquet", RUNS)),
            splits=PATHS.study("splits.parquet"),
            labels=lambda wildcards: of_slides("labels.parquet", LABELLED),
            cells=lambda wildcards: behind(of_slides("cells.parquet", IMAGED)),
        output:
            metrics=TABLES[0],
            comparisons=TABLES[1],
            confusion=TABLES[2],
            scores=TABLES[3],
            runs=TABLES[4],
        log:
            PATHS.log("evaluate", "all"),
        benchmark:
            PATHS.benchmark("evaluate", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("evaluate"),
        params:
            experiments={name: [spec.id for spec in specs] for name, specs in EXPERIMENTS.items()},
            compare=STUDY.compare.model_dump(),
            against=AGAINST,
            parts=STRUCTURE["parts"],
            baselines=BASELINES,
            ceilings=CEILINGS,
            labelled=LABELLED,
            imaged=IMAGED,
            proportions=PROPORTIONS,
            stages=STUDY.stages,
            slide_level=bool(STRUCTURE["regression"]),
            code=code("evaluate.py"),
        message:
            f"Evaluating {len(RUNS)} runs of {len(EXPERIMENTS)} experiments"
        script:
            "../scripts/evaluate.py"
