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
        threads: workflow.cores
        resources:
            mem_mb=4000,
            runtime=240,
            gpu=1,
        params:
            training=STUDY.segmentation.train.model_dump(),
            diameter_um=STUDY.segmentation.diameter_um,
            mpp=STUDY.tiling.mpp,
            code=code("segment_train.py"),
        message:
            "Training Cellpose"
        script:
            "../scripts/segment_train.py"


for batch, slides in SLIDE_BATCHES.items():

    rule:
        name:
            f"segment_{batch}"
        input:
            slides=of_slides("slide.parquet", slides),
            images=[SLIDES[slide].path for slide in slides],
            tiles=of_slides("tiles.parquet", slides),
            model=MODEL,
        output:
            cells=of_slides("cells.parquet", slides),
            thumbnails=of_slides("qc/cells.png", slides),
        log:
            PATHS.log("segment", batch),
        benchmark:
            PATHS.benchmark("segment", batch)
        conda:
            "../envs/myostage.yaml"
        threads: STUDY.jobs.threads
        resources:
            mem_mb=4000,
            runtime=240,
            gpu=1,
        params:
            tiling=STUDY.tiling.model_dump(),
            segmentation=STUDY.segmentation.model_dump(exclude={"train", "batch_size"}),
            code=code("segment.py"),
        message:
            f"Segmenting {len(slides)} slides ({batch})"
        script:
            "../scripts/segment.py"
