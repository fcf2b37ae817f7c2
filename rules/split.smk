"""Folds.

in:   crops of every slide, or ready-made features
out:  splits.parquet: folds grouped by animal, stratified by group
      precheck/{source}_{size}.json: every fold teaches every stage and fills such bags, known before a run trains
"""

COUNTED = "positions.parquet" if STUDY.input == "features" else "crops.parquet"


rule split:
    input:
        cells=lambda wildcards: behind(of_slides(COUNTED, SLIDES)),
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
        **needs("split"),
    params:
        slides=[(name, slide.group, slide.animal) for name, slide in SLIDES.items()],
        counted=COUNTED,
        folds=STUDY.folds,
        code=code("split.py"),
    message:
        f"Cutting {len(SLIDES)} slides into {STUDY.folds} folds"
    script:
        "../scripts/split.py"


for source, size in plan.bags(EXPERIMENTS):

    rule:
        name:
            f"precheck_{source}_{size}"
        input:
            splits=PATHS.study("splits.parquet"),
        output:
            PATHS.precheck(source, size),
        log:
            PATHS.log("precheck", f"{source}_{size}"),
        benchmark:
            PATHS.benchmark("precheck", f"{source}_{size}")
        # what no run can learn from is told before the first one trains
        priority: 1
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("precheck"),
        params:
            proportions=PROPORTIONS,
            stages=STUDY.stages,
            source=source,
            size=size,
            code=code("precheck.py"),
        message:
            f"Checking that every fold teaches every stage and fills bags of {size} cells of a {source}"
        script:
            "../scripts/precheck.py"
