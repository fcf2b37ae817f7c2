"""One image per cell, and what annotations say of the cells.

in:   slide, cells (or a table of ready-made crops); annotations where there are any
out:  crops.parquet; labels.parquet and segmentation_quality.parquet, for evaluation only
"""

for batch, slides in SLIDE_BATCHES.items():

    rule:
        name:
            f"crop_{batch}"
        input:
            slides=of_slides("slide.parquet", slides),
            images=[SLIDES[slide].path for slide in slides],
            cells=of_slides("cells.parquet", slides),
        output:
            crops=of_slides("crops.parquet", slides),
        log:
            PATHS.log("crop", batch),
        benchmark:
            PATHS.benchmark("crop", batch)
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=60,
        params:
            tiling=STUDY.tiling.model_dump(),
            crop=STUDY.crop.model_dump(),
            code=code("crop.py"),
        message:
            f"Cropping the cells of {len(slides)} slides ({batch})"
        script:
            "../scripts/crop.py"


if IMAGED and LABELLED:

    rule label:
        input:
            slides=of_slides("slide.parquet", LABELLED),
            cells=of_slides("cells.parquet", LABELLED),
            annotations=[SLIDES[slide].annotations for slide in LABELLED],
        output:
            labels=of_slides("labels.parquet", LABELLED),
            quality=of_slides("segmentation_quality.parquet", LABELLED),
            table=PATHS.study("segmentation_quality.parquet"),
        log:
            PATHS.log("label", "all"),
        benchmark:
            PATHS.benchmark("label", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=60,
        params:
            slides=LABELLED,
            stages=STUDY.stages,
            mpp=STUDY.tiling.mpp,
            code=code("label.py"),
        message:
            f"Matching the cells of {len(LABELLED)} slides with their annotations"
        script:
            "../scripts/label.py"


if STUDY.input == "crops":

    rule collect:
        input:
            [row.path for slide in SLIDES.values() for row in slide.crops],
        output:
            crops=of_slides("crops.parquet", SLIDES),
            labels=of_slides("labels.parquet", LABELLED),
        log:
            PATHS.log("collect", "all"),
        benchmark:
            PATHS.benchmark("collect", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=60,
        params:
            slides={name: [row.model_dump() for row in slide.crops] for name, slide in SLIDES.items()},
            labelled=LABELLED,
            code=code("collect.py"),
        message:
            f"Reading the crops of {len(SLIDES)} slides"
        script:
            "../scripts/collect.py"
