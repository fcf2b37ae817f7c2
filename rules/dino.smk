"""Encoders fine-tuned on the study's crops by DINO, without labels and without proportions.

in:   crops of every slide, of which those of the fold's training animals are read (or all: `dino.crops`); folds;
      weights to start from
out:  encoders/{encoder}/weights.safetensors of every encoder that is to be fine-tuned, one per fold

A killed job resumes from its checkpoint. Where only crops that it does not read are others, a job leaves its encoder
as it is. The encoder of an applied study is that study's.
"""

for encoder, weights in PLAN.tuned.items():
    if weights == PATHS.tuned(encoder):

        rule:
            name:
                f"dino_{encoder}"
            input:
                crops=PLAN.behind(PLAN.each("crops.parquet", PLAN.slides)),
                splits=PATHS.study("splits.parquet"),
                weights=given(PLAN.encoders[encoder].weights_file or []),
            output:
                PATHS.receipt("dino", encoder),
            log:
                PATHS.log("dino", encoder),
            benchmark:
                PATHS.benchmark("dino", encoder)
            conda:
                "../envs/myostage.yaml"
            threads: STUDY.jobs.threads
            resources:
                **needs("dino", gpu=True),
            params:
                slides=list(PLAN.slides),
                encoder=encoder,
                # as a function of the output: what it says and the id does not, such as checkpoint_every,
                # re-runs nothing
                settings=lambda wildcards, output, encoder=encoder: PLAN.encoders[encoder].model_dump(),
                content=lambda wildcards, encoder=encoder: PLAN.content(
                    PLAN.encoders[encoder].weights_file or []
                ),
                code=code("dino.py"),
            message:
                f"Fine-tuning {encoder}"
            script:
                "../scripts/dino.py"
