"""Tissue mask and tile grid.

in:   the slide and what `check` knows of it
out:  tiles.parquet; a thumbnail with mask and grid
"""


rule tile:
    input:
        slides=lambda wildcards: of_slides("slide.parquet", SLIDE_BATCHES[wildcards.batch]),
        images=lambda wildcards: images_of(SLIDE_BATCHES[wildcards.batch]),
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
        slides=lambda wildcards: SLIDE_BATCHES[wildcards.batch],
        tiling=STUDY.tiling.model_dump(),
        code=code("tile.py"),
    message:
        "Finding tissue ({wildcards.batch})"
    script:
        "../scripts/tile.py"
