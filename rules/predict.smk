"""A stage for every cell.

in:   held-out predictions of the shown experiment, or the models of another study (`apply`) and, where these
      smooth over neighbours, where cells lie
out:  stages.parquet of every slide; for slides also cells.csv and cells.geojson (QuPath)
"""

if STUDY.apply:

    PREDICTED = [PATHS.study(f"applied/{spec.id}.parquet") for spec in STAGING]

    rule predict:
        input:
            models=plan.applied_models(STUDY),
            tokens=lambda wildcards: behind(tokens_of(STAGING[0])),
            cells=lambda wildcards: behind(of_slides(PLACES, SLIDES)) if STAGING[0].spatial else [],
        output:
            predictions=PREDICTED,
        log:
            PATHS.log("predict", "all"),
        benchmark:
            PATHS.benchmark("predict", "all")
        conda:
            "../envs/myostage.yaml"
        threads: STUDY.jobs.threads
        resources:
            **needs("predict", gpu=True),
        params:
            slides=list(SLIDES),
            encoder=STAGING[0].encoder.id,
            places=PLACES if STAGING[0].spatial else "",
            code=code("predict.py"),
        message:
            f"Staging {len(SLIDES)} slides with {STUDY.apply.experiment} of {STUDY.apply.study}"
        script:
            "../scripts/predict.py"

else:
    PREDICTED = of_runs("predictions.parquet", [spec.id for spec in STAGING])


# a study of ready-made features or of labels of slides alone stages no cell
STAGED = []

if STAGING:

    STAGED += of_slides("stages.parquet", SLIDES)

    rule stage:
        input:
            predictions=lambda wildcards: behind(PREDICTED),
            splits=PATHS.study("splits.parquet"),
        output:
            stages=of_slides("stages.parquet", SLIDES),
        log:
            PATHS.log("stage", "all"),
        benchmark:
            PATHS.benchmark("stage", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("stage"),
        params:
            slides=list(SLIDES),
            predictions=PREDICTED,
            stages=STUDY.stages,
            code=code("stage.py"),
        message:
            "Staging every cell"
        script:
            "../scripts/stage.py"


if STAGING and IMAGED:

    STAGED += [file for name in ("cells.geojson", "cells.csv") for file in of_slides(name, IMAGED)]

    rule export:
        input:
            slides=lambda wildcards: of_slides("slide.parquet", IMAGED),
            cells=lambda wildcards: behind(of_slides("cells.parquet", IMAGED)),
            stages=lambda wildcards: of_slides("stages.parquet", IMAGED),
        output:
            geojson=of_slides("cells.geojson", IMAGED),
            csv=of_slides("cells.csv", IMAGED),
        log:
            PATHS.log("export", "all"),
        benchmark:
            PATHS.benchmark("export", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("export"),
        params:
            slides=IMAGED,
            stages=STUDY.stages,
            mpp=STUDY.tiling.mpp,
            code=code("export.py"),
        message:
            f"Writing the cells of {len(IMAGED)} slides for QuPath and as CSV"
        script:
            "../scripts/export.py"
