"""Ready-made features of a public benchmark.

in:   the files of the data set, as torchmil has them
out:  tokens/{encoder}.parquet (one token per instance: its feature), positions.parquet, labels.parquet of every
      bag; one receipt for all tokens, which training waits for
"""

if STUDY.input == "features":

    ENCODER = next(iter(ENCODERS.values()), None)

    rule features:
        input:
            lambda wildcards: images_of(EMBED_BATCHES[wildcards.batch]),
        output:
            PATHS.receipt("features", "{batch}"),
        log:
            PATHS.log("features", "{batch}"),
        benchmark:
            PATHS.benchmark("features", "{batch}")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("features"),
        params:
            slides=lambda wildcards: EMBED_BATCHES[wildcards.batch],
            features=STUDY.features.model_dump(),
            encoder=ENCODER.model_dump_json(exclude=studies.NOT_IN_TOKENS) if ENCODER else "",
            encoder_id=ENCODER.id if ENCODER else "",
            code=code("features.py"),
        message:
            "Reading ready-made features ({wildcards.batch})"
        script:
            "../scripts/features.py"
