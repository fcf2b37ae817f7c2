"""Tokens that enter the trained blocks.

in:   crops; weights of the encoder, its own or fine-tuned
out:  tokens/{encoder}.parquet of every slide, for every encoder that an experiment asks for
"""

EMBED_BATCHES = plan.batches(SLIDES, STUDY.jobs.slides_per_job, "slides")

for encoder, settings in ENCODERS.items():
    for batch, slides in EMBED_BATCHES.items():

        rule:
            name:
                f"embed_{encoder}_{batch}"
            input:
                crops=of_slides("crops.parquet", slides),
                weights=[] if settings.dino else settings.weights_file or [],
                tuned=TUNED.get(encoder, []),
            output:
                tokens=[PATHS.tokens(slide, encoder) for slide in slides],
            log:
                PATHS.log("embed", f"{encoder}_{batch}"),
            benchmark:
                PATHS.benchmark("embed", f"{encoder}_{batch}")
            conda:
                "../envs/myostage.yaml"
            threads: STUDY.jobs.threads
            resources:
                mem_mb=4000,
                runtime=240,
                gpu=1,
            params:
                encoder=encoder,
                code=code("embed.py"),
            message:
                f"Embedding the cells of {len(slides)} slides with {encoder} ({batch})"
            script:
                "../scripts/embed.py"
