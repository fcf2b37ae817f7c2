"""One image per cell, and what annotations say of the cells.

in:   slide, cells (or a table of ready-made crops); annotations where there are any
out:  crops.parquet; labels.parquet and segmentation_quality.parquet, for evaluation only
"""


rule crop:
    input:
        slides=lambda wildcards: PLAN.each("slide.parquet", PLAN.slide_batches[wildcards.batch]),
        images=lambda wildcards: given(PLAN.images(PLAN.slide_batches[wildcards.batch])),
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
        slides=lambda wildcards: PLAN.slide_batches[wildcards.batch],
        # as a function of the output: it re-runs nothing
        on_bad_slide=lambda wildcards, output: STUDY.on_bad_slide,
        tiling=STUDY.tiling.model_dump(),
        crop=STUDY.crop.model_dump(),
        content=lambda wildcards: PLAN.content(PLAN.images(PLAN.slide_batches[wildcards.batch])),
        code=code("crop.py"),
    message:
        "Cropping cells ({wildcards.batch})"
    script:
        "../scripts/crop.py"


if PLAN.imaged and PLAN.labelled:

    rule label:
        input:
            slides=PLAN.each("slide.parquet", PLAN.labelled),
            cells=PLAN.behind(PLAN.each("cells.parquet", PLAN.labelled)),
            annotations=given([PLAN.slides[slide].annotations for slide in PLAN.labelled]),
        output:
            labels=PLAN.each("labels.parquet", PLAN.labelled),
            quality=PLAN.each("segmentation_quality.parquet", PLAN.labelled),
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
            slides=PLAN.labelled,
            stages=STUDY.stages,
            mpp=STUDY.tiling.mpp,
            annotations=lambda wildcards: [PLAN.slides[slide].annotations for slide in PLAN.labelled],
            content=lambda wildcards: PLAN.content_of_all(
                [PLAN.slides[slide].annotations for slide in PLAN.labelled]
            ),
            code=code("label.py"),
        message:
            f"Matching the cells of {len(PLAN.labelled)} slides with their annotations"
        script:
            "../scripts/label.py"


if STUDY.input == "crops":

    rule collect:
        input:
            given([row.path for slide in PLAN.slides.values() for row in slide.crops]),
        output:
            crops=PLAN.each("crops.parquet", PLAN.slides),
            labels=PLAN.each("labels.parquet", PLAN.labelled),
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
            slides=lambda wildcards: {
                name: [row.model_dump() for row in slide.crops] for name, slide in PLAN.slides.items()
            },
            labelled=PLAN.labelled,
            content=lambda wildcards: PLAN.content_of_all(
                [row.path for slide in PLAN.slides.values() for row in slide.crops]
            ),
            code=code("collect.py"),
        message:
            f"Reading the crops of {len(PLAN.slides)} slides"
        script:
            "../scripts/collect.py"
