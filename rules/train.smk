"""Training runs and baselines.

in:   tokens, folds; weights of an encoder fine-tuned here; cell labels for the supervised ceiling only
out:  model, history, held-out predictions and outcome (how it ended, what it cost) of every run; the majority
      baselines are runs that learn nothing

A killed job resumes from its checkpoint. A run that diverges is marked failed and stops no other.
"""


def tokens_of(spec):
    """Tokens of every slide under the encoder of ``spec``; a baseline only counts the crops."""
    if spec.trained:
        return [PATHS.tokens(slide, spec.encoder.id) for slide in SLIDES]
    return of_slides("crops.parquet", SLIDES)


for batch, specs in RUN_BATCHES.items():

    rule:
        name:
            f"train_{batch}"
        input:
            tokens=tokens_of(specs[0]),
            labels=of_slides("labels.parquet", LABELLED) if specs[0].method == "supervised" else [],
            encoder=PATHS.tuned(specs[0].encoder.id) if specs[0].encoder.dino else [],
            splits=PATHS.study("splits.parquet"),
            precheck=[PATHS.precheck(*bag) for bag in plan.bags({batch: specs})],
        output:
            models=of_runs("model.safetensors", [spec.id for spec in specs]),
            histories=of_runs("history.parquet", [spec.id for spec in specs]),
            predictions=of_runs("predictions.parquet", [spec.id for spec in specs]),
            outcomes=of_runs("outcome.parquet", [spec.id for spec in specs]),
        log:
            PATHS.log("train", batch),
        benchmark:
            PATHS.benchmark("train", batch)
        conda:
            "../envs/myostage.yaml"
        threads: STUDY.jobs.threads
        resources:
            mem_mb=4000,
            runtime=600,
            gpu=int(specs[0].trained),
        params:
            runs=[spec.id for spec in specs],
            slides=list(SLIDES),
            labelled=LABELLED,
            stages=STUDY.stages,
            proportions=PROPORTIONS,
            slide_proportions=SLIDE_PROPORTIONS if specs[0].training.proportions == "slide" else {},
            code=code("train.py"),
        message:
            f"Training {len(specs)} runs ({batch})"
        script:
            "../scripts/train.py"
