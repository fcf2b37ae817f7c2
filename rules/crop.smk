"""One image per cell, and what annotations say of the cells.

in:   slide, cells (or a table of ready-made crops); annotations where there are any
out:  crops.parquet; labels.parquet and segmentation_quality.parquet, for evaluation only
"""


rule crop:
    input:
        slides=lambda wildcards: of_slides("slide.parquet", SLIDE_BATCHES[wildcards.batch]),
        images=lambda wildcards: images_of(SLIDE_BATCHES[wildcards.batch]),
        cells=PATHS.receipt("segment", "{batch}"),
    output:
        PATHS.receipt("crop", "{batch}"),
    log:
        PATHS.log("crop", "{batch}"),
    benchmark:
        PATHS.benchmark("crop", "{batch}")
    conda:
        "../envs/myostage.yaml"
    threads: 1
    resources:
        **needs("crop"),
    params:
        slides=lambda wildcards: SLIDE_BATCHES[wildcards.batch],
        tiling=STUDY.tiling.model_dump(),
        crop=STUDY.crop.model_dump(),
        code=code("crop.py"),
    message:
        "Cropping cells ({wildcards.batch})"
    script:
        "../scripts/crop.py"


if IMAGED and LABELLED:

    rule label:
        input:
            slides=lambda wildcards: of_slides("slide.parquet", LABELLED),
            cells=lambda wildcards: behind(of_slides("cells.parquet", LABELLED)),
            annotations=lambda wildcards: [SLIDES[slide].annotations for slide in LABELLED],
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
            **needs("label"),
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
            **needs("collect"),
        params:
            slides={name: [row.model_dump() for row in slide.crops] for name, slide in SLIDES.items()},
            labelled=LABELLED,
            code=code("collect.py"),
        message:
            f"Reading the crops of {len(SLIDES)} slides"
        script:
            "../scripts/collect.py"
