"""How the embedding is ordered, and whether L_SimProp reaches what it is to order.

in:   held-out predictions and cell labels; tokens and folds
out:  similarities.parquet, correlations.parquet: cosine of annotated stages against sim(k, k')
      gradients.parquet: gradients of L_SimProp and L_prop at the start of a run, with finite differences
"""

if PLAN.labelled and PLAN.experiments:

    rule geometry:
        input:
            runs=PLAN.behind(PLAN.of_runs("predictions.parquet", PLAN.embedded)),
            splits=PATHS.study("splits.parquet"),
            labels=PLAN.behind(PLAN.each("labels.parquet", PLAN.labelled)),
        output:
            similarities=PATHS.study("similarities.parquet"),
            correlations=PATHS.study("correlations.parquet"),
        log:
            PATHS.log("geometry", "all"),
        benchmark:
            PATHS.benchmark("geometry", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("geometry"),
        params:
            experiments=PLAN.runs(PLAN.embedded),
            # as a function of the output: the ids say it
            specs=lambda wildcards, output: PLAN.specs(PLAN.embedded),
            labelled=PLAN.labelled,
            stages=STUDY.stages,
            code=code("geometry.py"),
        message:
            f"Comparing the stages' embeddings in {len(PLAN.embedded)} experiments"
        script:
            "../scripts/geometry.py"


if PLAN.ordered:

    rule gradients:
        input:
            tokens=PLAN.read_by(PLAN.experiments[PLAN.ordered][:1])["tokens"],
            encoder=PLAN.read_by(PLAN.experiments[PLAN.ordered][:1])["encoder"],
            splits=PATHS.study("splits.parquet"),
        output:
            gradients=PATHS.study("gradients.parquet"),
        log:
            PATHS.log("gradients", "all"),
        benchmark:
            PATHS.benchmark("gradients", "all")
        conda:
            "../envs/myostage.yaml"
        threads: STUDY.jobs.threads
        resources:
            **needs("gradients"),
        params:
            run=PLAN.experiments[PLAN.ordered][0].id,
            # as a function of the output: the id says it
            spec=lambda wildcards, output: PLAN.experiments[PLAN.ordered][0].model_dump(),
            slides=list(PLAN.slides),
            stages=STUDY.stages,
            proportions=PLAN.proportions,
            code=code("gradients.py"),
        message:
            f"Following the gradients of {PLAN.ordered}"
        script:
            "../scripts/gradients.py"
