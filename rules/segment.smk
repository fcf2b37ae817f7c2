"""Cells by Cellpose.

in:   slide, tiles; images with masks where the study trains its own model
out:  cells.parquet (outlines and measurements); a thumbnail with outlines; cellpose/model.pt if trained here
"""

if STUDY.segmentation.train:

    rule segment_train:
        input:
            table=given(STUDY.segmentation.train.images),
            images=given(PLAN.segmentation_images),
        output:
            model=PLAN.segmentation_model,
        log:
            PATHS.log("segment_train", "model"),
        benchmark:
            PATHS.benchmark("segment_train", "model")
        conda:
            "../envs/myostage.yaml"
        threads: CORES or STUDY.jobs.threads
        resources:
            **needs("segment_train", gpu=True),
        params:
            training=STUDY.segmentation.train.model_dump(),
            diameter_um=STUDY.segmentation.diameter_um,
            mpp=STUDY.tiling.mpp,
            content=lambda wildcards: PLAN.content_of_all(
                [STUDY.segmentation.train.images, PLAN.segmentation_images]
            ),
            code=code("segment_train.py"),
        message:
            "Training Cellpose"
        script:
            "../scripts/segment_train.py"


rule segment:
    input:
        slides=lambda wildcards: PLAN.each("slide.parquet", PLAN.slide_batches[wildcards.batch]),
        images=lambda wildcards: given(PLAN.images(PLAN.slide_batches[wildcards.batch])),
        tiles=PATHS.receipt("tile", "{batch}"),
        model=PLAN.segmentation_model if STUDY.segmentation.train else given(PLAN.segmentation_model),
    output:
        PATHS.receipt("segment", "{batch}"),
    log:
        PATHS.log("segment", "{batch}"),
    benchmark:
        PATHS.benchmark("segment", "{batch}")
    conda:
        "../envs/myostage.yaml"
    threads: STUDY.jobs.threads
    resources:
        **needs("segment", gpu=True),
    params:
        slides=lambda wildcards: PLAN.slide_batches[wildcards.batch],
        # as functions of the output: they re-run nothing, and `segmentation` says what shapes the cells
        on_bad_slide=lambda wildcards, output: STUDY.on_bad_slide,
        settings=lambda wildcards, output: STUDY.segmentation.model_dump(),
        tiling=STUDY.tiling.model_dump(),
        segmentation=STUDY.segmentation.model_dump(exclude={"train", "batch_size"}),
        content=lambda wildcards: PLAN.content(
            [
                PLAN.images(PLAN.slide_batches[wildcards.batch]),
                [] if STUDY.segmentation.train else PLAN.segmentation_model,
            ]
        ),
        code=code("segment.py"),
    message:
        "Segmenting slides ({wildcards.batch})"
    script:
        "../scripts/segment.py"
