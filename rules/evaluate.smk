"""Metrics with intervals, and the differences between experiments.

in:   held-out predictions and outcome of every run; cell labels where a study has them
out:  metrics.parquet, comparisons.parquet, confusion.parquet, reliability.parquet (confidence and accuracy),
      scores.parquet (composition and recovery score of every slide), runs.parquet (how every run ended and what it
      cost), choices.parquet (settings that runs chose), wrong_tables.parquet (priors with wrong proportions)
"""

if PLAN.experiments:

    rule evaluate:
        input:
            runs=PLAN.behind(PLAN.of_runs("predictions.parquet", PLAN.experiments)),
            splits=PATHS.study("splits.parquet"),
            labels=PLAN.behind(PLAN.each("labels.parquet", PLAN.labelled)),
            cells=PLAN.behind(PLAN.each("cells.parquet", PLAN.imaged)),
        output:
            **({"choices": PATHS.study("choices.parquet")} if PLAN.choosing else {}),
            **({"wrong_tables": PATHS.study("wrong_tables.parquet")} if PLAN.wrong_tables else {}),
            metrics=PATHS.study("metrics.parquet"),
            comparisons=PATHS.study("comparisons.parquet"),
            confusion=PATHS.study("confusion.parquet"),
            reliability=PATHS.study("reliability.parquet"),
            scores=PATHS.study("scores.parquet"),
            runs=PATHS.study("runs.parquet"),
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
            experiments=PLAN.runs(PLAN.experiments),
            # as a function of the output: the ids say it
            specs=lambda wildcards, output: PLAN.specs(PLAN.experiments),
            compare=STUDY.compare.model_dump(),
            prediction=STUDY.prediction.model_dump(),
            against=PLAN.structure["against"],
            parts=PLAN.structure["parts"],
            baselines=PLAN.baselines,
            label_learners=PLAN.structure["label_learners"],
            untested=PLAN.structure["untested"],
            question=list(PLAN.structure["ordinal"].values()),
            labelled=PLAN.labelled,
            imaged=PLAN.imaged,
            carried=lambda wildcards: PLAN.carried,
            proportions=PLAN.proportions,
            stages=STUDY.stages,
            choosing=PLAN.choosing,
            wrong_tables=PLAN.wrong_tables,
            slide_level=bool(PLAN.structure["regression"]),
            code=code("evaluate.py"),
        message:
            f"Evaluating {len(PLAN.specs(PLAN.experiments))} runs of {len(PLAN.experiments)} experiments"
        script:
            "../scripts/evaluate.py"
