"""Tissue mask and tile grid.

in:   the slide and what `check` knows of it
out:  tiles.parquet; a thumbnail with mask and grid
"""

for batch, slides in SLIDE_BATCHES.items():

    rule:
        name:
            f"tile_{batch}"
        input:
            slides=of_slides("slide.parquet", slides),
            images=[SLIDES[slide].path for slide in slides],
        output:
            tiles=of_slides("tiles.parquet", slides),
            thumbnails=of_slides("qc/tiles.png", slides),
        log:
            PATHS.log("tile", batch),
        benchmark:
            PATHS.benchmark("tile", batch)
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=60,
        params:
            tiling=STUDY.tiling.model_dump(),
            code=code("tile.py"),
        message:
            f"Finding tissue on {len(slides)} slides ({batch})"
        script:
            "../scripts/tile.py"
