"""Every slide opened once, before anything long starts.

in:   the slide files; of these, as of every file that a user gives, the content counts (a param), not the time
out:  checked.parquet (size, resolution, what is wrong), one row and one thumbnail per slide; slides.parquet (the same)
      and segmentation_quality.parquet (cells against annotated outlines) with the columns of the slide table that
      nothing uses
"""

if PLAN.imaged:

    rule check:
        input:
            given(PLAN.images(PLAN.imaged)),
        output:
            table=PATHS.study("checked.parquet"),
            slides=PLAN.each("slide.parquet", PLAN.imaged),
            thumbnails=PLAN.each("qc/thumbnail.png", PLAN.imaged),
        log:
            PATHS.log("check", "all"),
        benchmark:
            PATHS.benchmark("check", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("check"),
        params:
            # as functions: Snakemake would take {word} in a name for a wildcard
            rows=lambda wildcards: [
                PLAN.slides[slide].model_dump(exclude={"crops", "carried"}) for slide in PLAN.imaged
            ],
            on_bad_slide=STUDY.on_bad_slide,
            content=lambda wildcards: PLAN.content_of_all(PLAN.images(PLAN.imaged)),
            code=code("check.py"),
        message:
            f"Opening {len(PLAN.imaged)} slides"
        script:
            "../scripts/check.py"

    rule carry:
        input:
            table=PATHS.study("checked.parquet"),
            quality=PLAN.each("segmentation_quality.parquet", PLAN.labelled),
        output:
            **({"quality": PATHS.study("segmentation_quality.parquet")} if PLAN.labelled else {}),
            table=PATHS.study("slides.parquet"),
        log:
            PATHS.log("carry", "all"),
        benchmark:
            PATHS.benchmark("carry", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("carry"),
        params:
            carried=lambda wildcards: PLAN.carried,
            code=code("carry.py"),
        message:
            "Listing the slides with the columns of their table that nothing uses"
        script:
            "../scripts/carry.py"
