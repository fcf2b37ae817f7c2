"""Folds.

in:   crops of every slide
out:  splits.parquet: folds grouped by animal, stratified by group
"""


rule split:
    input:
        crops=of_slides("crops.parquet", SLIDES),
    output:
        PATHS.study("splits.parquet"),
    log:
        PATHS.log("split", "all"),
    benchmark:
        PATHS.benchmark("split", "all")
    conda:
        "../envs/myostage.yaml"
    threads: 1
    resources:
        mem_mb=1500,
        runtime=15,
    params:
        slides=[(name, slide.group, slide.animal) for name, slide in SLIDES.items()],
        folds=STUDY.folds,
        code=code("split.py"),
    message:
        f"Cutting {len(SLIDES)} slides into {STUDY.folds} folds"
    script:
        "../scripts/split.py"
