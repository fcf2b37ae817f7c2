"""Cells by Cellpose.

in:   slide, tiles; images with masks where the study trains its own model
out:  cells.parquet (outlines and measurements); a thumbnail with outlines; cellpose/model.pt if trained here
"""

TRAINED = [PATHS.study("cellpose/model.pt")] if STUDY.segmentation.train else []
MODEL = TRAINED[0] if TRAINED else STUDY.segmentation.model_file or []

if TRAINED:

    rule segment_train:
        input:
            table=STUDY.segmentation.train.images,
            images=plan.training_images(STUDY),
        output:
            model=TRAINED,
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
            code=code("segment_train.py"),
        message:
            "Training Cellpose"
        script:
            "../scripts/segment_train.py"


rule segment:
    input:
        slides=lambda wildcards: of_slides("slide.parquet", SLIDE_BATCHES[wildcards.batch]),
        images=lambda wildcards: images_of(SLIDE_BATCHES[wildcards.batch]),
        tiles=PATHS.receipt("tile", "{batch}"),
        model=MODEL,
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
        slides=lambda wildcards: SLIDE_BATCHES[wildcards.batch],
        tiling=STUDY.tiling.model_dump(),
        segmentation=STUDY.segmentation.model_dump(exclude={"train", "batch_size"}),
        code=code("segment.py"),
    message:
        "Segmenting slides ({wildcards.batch})"
    script:
        "../scripts/segment.py"
