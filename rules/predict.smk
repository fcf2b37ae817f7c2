"""A stage for every cell.

in:   held-out predictions of the shown experiment, or the models of another study (`apply`) and, where these
      smooth over neighbours, where cells lie
out:  stages.parquet of every slide; for slides also cells.csv and cells.geojson (QuPath)
"""

if STUDY.apply:

    rule predict:
        input:
            models=given(PLAN.applied_models),
            tokens=PLAN.read_by(PLAN.staging)["tokens"],
            cells=PLAN.read_by(PLAN.staging[:1])["cells"],
        output:
            predictions=PLAN.staged_by,
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
            slides=list(PLAN.slides),
            encoders=[spec.encoder.id for spec in PLAN.staging],
            places=PLAN.places if PLAN.staging[0].spatial else "",
            content=lambda wildcards: PLAN.content_of_all(PLAN.applied_models),
            code=code("predict.py"),
        message:
            f"Staging {len(PLAN.slides)} slides with {STUDY.apply.experiment} of {STUDY.apply.study}"
        script:
            "../scripts/predict.py"


if PLAN.staging:

    rule stage:
        input:
            predictions=PLAN.behind(PLAN.staged_by),
            splits=PATHS.study("splits.parquet"),
        output:
            stages=PLAN.each("stages.parquet", PLAN.slides),
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
            slides=list(PLAN.slides),
            # as a function of the output: the ids in the predictions say it
            specs=lambda wildcards, output: [spec.model_dump() for spec in PLAN.staging],
            predictions=PLAN.staged_by,
            stages=STUDY.stages,
            prediction=STUDY.prediction.model_dump(),
            # what is not put in does not stage anew
            proportions=PLAN.proportions if STUDY.prediction.prior != "none" else {},
            uncertain_below=STUDY.staging.uncertain_below,
            code=code("stage.py"),
        message:
            "Staging every cell"
        script:
            "../scripts/stage.py"


if PLAN.staging and PLAN.imaged:

    rule export:
        input:
            slides=PLAN.each("slide.parquet", PLAN.imaged),
            cells=PLAN.behind(PLAN.each("cells.parquet", PLAN.imaged)),
            stages=PLAN.each("stages.parquet", PLAN.imaged),
        output:
            geojson=PLAN.each("cells.geojson", PLAN.imaged),
            csv=PLAN.each("cells.csv", PLAN.imaged),
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
            slides=PLAN.imaged,
            stages=STUDY.stages,
            mpp=STUDY.tiling.mpp,
            code=code("export.py"),
        message:
            f"Writing the cells of {len(PLAN.imaged)} slides for QuPath and as CSV"
        script:
            "../scripts/export.py"
