"""Tissue mask and tile grid.

in:   the slide and what `check` knows of it
out:  tiles.parquet; a thumbnail with mask and grid
"""


rule tile:
    input:
        slides=lambda wildcards: PLAN.each("slide.parquet", PLAN.slide_batches[wildcards.batch]),
        images=lambda wildcards: given(PLAN.images(PLAN.slide_batches[wildcards.batch])),
    output:
        PATHS.receipt("tile", "{batch}"),
    log:
        PATHS.log("tile", "{batch}"),
    benchmark:
        PATHS.benchmark("tile", "{batch}")
    conda:
        "../envs/myostage.yaml"
    threads: 1
    resources:
        **needs("tile"),
    params:
        slides=lambda wildcards: PLAN.slide_batches[wildcards.batch],
        # as a function of the output: it re-runs nothing
        on_bad_slide=lambda wildcards, output: STUDY.on_bad_slide,
        tiling=STUDY.tiling.model_dump(),
        content=lambda wildcards: PLAN.content(PLAN.images(PLAN.slide_batches[wildcards.batch])),
        code=code("tile.py"),
    message:
        "Finding tissue ({wildcards.batch})"
    script:
        "../scripts/tile.py"
