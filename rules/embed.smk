"""Tokens that enter the trained blocks.

in:   crops; weights of the encoder, its own or fine-tuned
out:  tokens/{encoder}.parquet of every slide, for every encoder that an experiment asks for; one receipt for all
      slides, which training waits for
"""


rule embed:
    input:
        crops=lambda wildcards: PLAN.behind(PLAN.each("crops.parquet", PLAN.token_batches[wildcards.batch])),
        weights=lambda wildcards: given(PLAN.weights(wildcards.encoder)),
        tuned=lambda wildcards: PLAN.behind(PLAN.tuned.get(wildcards.encoder, [])),
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
        slides=lambda wildcards: PLAN.token_batches[wildcards.batch],
        encoder=lambda wildcards: wildcards.encoder,
        # as a function of the output: what it says and the id does not, such as batch_size, re-runs nothing
        settings=lambda wildcards, output: PLAN.encoders[wildcards.encoder].model_dump(),
        content=lambda wildcards: PLAN.content(PLAN.weights(wildcards.encoder)),
        code=code("embed.py"),
    message:
        "Embedding cells with {wildcards.encoder} ({wildcards.batch})"
    script:
        "../scripts/embed.py"


rule tokens:
    input:
        lambda wildcards: (
            [PATHS.receipt("features", batch) for batch in PLAN.slide_batches]
            if STUDY.input == "features"
            else [PATHS.receipt(f"embed/{wildcards.encoder}", batch) for batch in PLAN.token_batches]
        ),
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
