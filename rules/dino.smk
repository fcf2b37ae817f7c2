"""Encoders fine-tuned on the study's crops by DINO, without labels and without proportions.

in:   crops of every slide; weights to start from
out:  encoders/{encoder}.safetensors of every encoder that is to be fine-tuned

A killed job resumes from its checkpoint. The encoder of an applied study is that study's.
"""

TUNED = plan.tuned(STUDY)

for encoder, weights in TUNED.items():
    if weights == PATHS.tuned(encoder):

        rule:
            name:
                f"dino_{encoder}"
            input:
                crops=behind(of_slides("crops.parquet", SLIDES)),
                weights=ENCODERS[encoder].weights_file or [],
            output:
                weights,
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
                slides=list(SLIDES),
                encoder=encoder,
                code=code("dino.py"),
            message:
                f"Fine-tuning {encoder} on the crops of {len(SLIDES)} slides"
            script:
                "../scripts/dino.py"
