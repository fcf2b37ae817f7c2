"""Training runs and baselines.

in:   tokens, folds; where cells lie, for what is spatial; weights of an encoder fine-tuned here; cell labels for
      the supervised ceiling only
out:  model, history, held-out predictions and outcome (how it ended, what it cost) of every run, and attention
      of models of slide labels; the majority baselines are runs that learn nothing, and need no GPU

A killed job goes on with the run it was at, from its checkpoint. A run that diverges is marked failed and stops no
other.
"""

# every job may take as long as the largest, so that they can be one job array
LONGEST = max((len(specs) for specs in RUN_BATCHES.values()), default=1)
BASELINE_RUNS = [spec.id for spec in RUN_BATCHES.get("baselines", [])]


rule train:
    input:
        tokens=lambda wildcards: behind(tokens_of(RUN_BATCHES[wildcards.batch][0])),
        labels=lambda wildcards: (
            of_slides("labels.parquet", LABELLED)
            if RUN_BATCHES[wildcards.batch][0].method == "supervised"
            else []
        ),
        cells=lambda wildcards: (
            behind(of_slides(PLACES, SLIDES))
            if any(spec.spatial for spec in RUN_BATCHES[wildcards.batch])
            else []
        ),
        encoder=lambda wildcards: TUNED.get(RUN_BATCHES[wildcards.batch][0].encoder.id, []),
        splits=PATHS.study("splits.parquet"),
        precheck=lambda wildcards: [
            PATHS.precheck(*bag)
            for bag in plan.bags({spec.id: [spec] for spec in RUN_BATCHES[wildcards.batch]})
        ],
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
        **needs("train", gpu=True, times=LONGEST),
    params:
        runs=lambda wildcards: [spec.id for spec in RUN_BATCHES[wildcards.batch]],
        all_slides=list(SLIDES),
        labelled=LABELLED,
        stages=STUDY.stages,
        proportions=PROPORTIONS,
        slide_proportions=lambda wildcards: (
            SLIDE_PROPORTIONS
            if any(spec.training.proportions == "slide" for spec in RUN_BATCHES[wildcards.batch])
            else {}
        ),
        scores=lambda wildcards: plan.scores(STUDY, RUN_BATCHES[wildcards.batch]),
        classes=lambda wildcards: plan.classes(STUDY, RUN_BATCHES[wildcards.batch]),
        places=PLACES,
        code=code("train.py"),
    message:
        "Training runs ({wildcards.batch})"
    script:
        "../scripts/train.py"


if BASELINE_RUNS:

    rule baselines:
        input:
            tokens=lambda wildcards: behind(of_slides("crops.parquet", SLIDES)),
            splits=PATHS.study("splits.parquet"),
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
            runs=BASELINE_RUNS,
            all_slides=list(SLIDES),
            labelled=LABELLED,
            stages=STUDY.stages,
            proportions=PROPORTIONS,
            code=code("train.py"),
        message:
            f"Predicting {len(BASELINE_RUNS)} baselines"
        script:
            "../scripts/train.py"
