"""Tokens that enter the trained blocks.

in:   crops; weights of the encoder, its own or fine-tuned
out:  tokens/{encoder}.parquet of every slide, for every encoder that an experiment asks for; one receipt for all
      slides, which training waits for
"""


rule embed:
    input:
        crops=lambda wildcards: behind(of_slides("crops.parquet", EMBED_BATCHES[wildcards.batch])),
        weights=lambda wildcards: (
            [] if ENCODERS[wildcards.encoder].dino else ENCODERS[wildcards.encoder].weights_file or []
        ),
        tuned=lambda wildcards: TUNED.get(wildcards.encoder, []),
    output:
        PATHS.receipt("embed/{encoder}", "{batch}"),
    log:
        PATHS.log("embed", "{encoder}_{batch}"),
    benchmark:
        PATHS.benchmark("embed", "{encoder}_{batch}")
    conda:
        "../envs/myostage.yaml"
    threads: STUDY.jobs.threads
    resources:
        **needs("embed", gpu=True),
    params:
        slides=lambda wildcards: EMBED_BATCHES[wildcards.batch],
        encoder=lambda wildcards: wildcards.encoder,
        code=code("embed.py"),
    message:
        "Embedding cells with {wildcards.encoder} ({wildcards.batch})"
    script:
        "../scripts/embed.py"


rule tokens:
    input:
        lambda wildcards: [
            PATHS.receipt(f"embed/{wildcards.encoder}" if STUDY.input != "features" else "features", batch)
            for batch in EMBED_BATCHES
        ],
    output:
        PATHS.receipt("tokens", "{encoder}"),
    log:
        PATHS.log("tokens", "{encoder}"),
    benchmark:
        PATHS.benchmark("tokens", "{encoder}")
    localrule: True
    conda:
        "../envs/myostage.yaml"
    threads: 1
    params:
        code=code("tokens.py"),
    message:
        "Listing the tokens of {wildcards.encoder}"
    script:
        "../scripts/tokens.py"
