"""Every slide opened once, before anything long starts.

in:   the slide files
out:  slides.parquet (size, resolution, what is wrong); one row and one thumbnail per slide
"""

if IMAGED:

    rule check:
        input:
            lambda wildcards: images_of(IMAGED),
        output:
            table=PATHS.study("slides.parquet"),
            slides=of_slides("slide.parquet", IMAGED),
            thumbnails=of_slides("qc/thumbnail.png", IMAGED),
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
            rows=[SLIDES[slide].model_dump(exclude={"crops"}) for slide in IMAGED],
            on_bad_slide=STUDY.on_bad_slide,
            code=code("check.py"),
        message:
            f"Opening {len(IMAGED)} slides"
        script:
            "../scripts/check.py"
