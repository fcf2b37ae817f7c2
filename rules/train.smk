"""Training runs and baselines.

in:   tokens, folds; where cells lie, for what is spatial; weights of an encoder fine-tuned here; cell labels for
      what learns from them only
out:  model, history, held-out predictions and outcome (how it ended, what it cost) of every run, and attention
      of models of slide labels; the majority baselines are runs that learn nothing, and need no GPU

A killed job goes on with the run it was at, from its checkpoint. A run that diverges is marked failed and stops no
other.
"""


rule train:
    input:
        unpack(lambda wildcards: PLAN.read_by(PLAN.run_batches[wildcards.batch])),
    output:
        PATHS.receipt("train", "{batch}"),
    log:
        PATHS.log("train", "{batch}"),
    benchmark:
        PATHS.benchmark("train", "{batch}")
    conda:
        "../envs/myostage.yaml"
    threads: STUDY.jobs.threads
    resources:
        **needs("train", gpu=True, times=PLAN.longest),
    params:
        runs=lambda wildcards: PLAN.members(wildcards.batch),
        # as functions of the output: what they say and the id of a run does not re-runs nothing
        specs=lambda wildcards, output: [spec.model_dump() for spec in PLAN.run_batches[wildcards.batch]],
        scratch=lambda wildcards, output: STUDY.jobs.scratch,
        all_slides=list(PLAN.slides),
        stages=STUDY.stages,
        proportions=PLAN.proportions,
        code=code("train.py"),
    message:
        "Training runs ({wildcards.batch})"
    script:
        "../scripts/train.py"


if "baselines" in PLAN.run_batches:

    rule baselines:
        input:
            **PLAN.read_by(PLAN.run_batches["baselines"]),
        output:
            PATHS.receipt("baselines", "all"),
        log:
            PATHS.log("baselines", "all"),
        benchmark:
            PATHS.benchmark("baselines", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("baselines"),
        params:
            runs=PLAN.members("baselines"),
            specs=lambda wildcards, output: [spec.model_dump() for spec in PLAN.run_batches["baselines"]],
            all_slides=list(PLAN.slides),
            counted=PLAN.counted,
            stages=STUDY.stages,
            proportions=PLAN.proportions,
            code=code("baselines.py"),
        message:
            f"Predicting {len(PLAN.run_batches['baselines'])} baselines"
        script:
            "../scripts/baselines.py"
