"""Folds.

in:   crops of every slide
out:  splits.parquet: folds grouped by animal, stratified by group
      precheck.json: every fold teaches every stage and fills every bag, known before the first run trains
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


if EXPERIMENTS:

    rule precheck:
        input:
            splits=PATHS.study("splits.parquet"),
        output:
            PATHS.study("precheck.json"),
        log:
            PATHS.log("precheck", "all"),
        benchmark:
            PATHS.benchmark("precheck", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            mem_mb=1500,
            runtime=15,
        params:
            proportions=PROPORTIONS,
            stages=STUDY.stages,
            bags=plan.bags(EXPERIMENTS),
            code=code("precheck.py"),
        message:
            "Checking folds and bags"
        script:
            "../scripts/precheck.py"
