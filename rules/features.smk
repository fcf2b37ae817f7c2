"""Ready-made features of cells, or of a public benchmark.

in:   a table with a row per cell, cut into slides by one job; or the files of the data set, as torchmil has them
out:  tokens/{encoder}.parquet (one token per cell or instance: its features), positions.parquet, labels.parquet of
      every slide; one receipt for all tokens, which training waits for
"""

if STUDY.input == "features":

    rule features:
        input:
            lambda wildcards: given(PLAN.images(PLAN.slide_batches[wildcards.batch])),
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
            slides=lambda wildcards: PLAN.slide_batches[wildcards.batch],
            features=STUDY.features.given | ({"stages": STUDY.stages} if STUDY.features.table else {}),
            encoder=next(iter(PLAN.encoders), ""),
            encoder_json=next(map(PLAN.encoder_json, PLAN.encoders), ""),
            content=lambda wildcards: PLAN.content(PLAN.images(PLAN.slide_batches[wildcards.batch])),
            code=code("features.py"),
        message:
            "Reading ready-made features ({wildcards.batch})"
        script:
            "../scripts/features.py"
