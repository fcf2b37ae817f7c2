"""Folds.

in:   crops of every slide, or ready-made features
out:  splits.parquet: folds grouped by animal, stratified by group
      precheck/{source}_{size}.json: every fold teaches every stage and fills such bags, known before a run trains
"""


rule split:
    input:
        cells=PLAN.behind(PLAN.each(PLAN.counted, PLAN.slides)),
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
        slides=[(name, slide.group, slide.animal) for name, slide in PLAN.slides.items()],
        counted=PLAN.counted,
        folds=STUDY.folds,
        code=code("split.py"),
    message:
        f"Cutting {len(PLAN.slides)} slides into {STUDY.folds} folds"
    script:
        "../scripts/split.py"


for source, size in PLAN.bags:

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
        # what no run can learn from is known before the first one trains
        priority: 1
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("precheck"),
        params:
            proportions=PLAN.proportions,
            stages=STUDY.stages,
            source=source,
            size=size,
            code=code("precheck.py"),
        message:
            f"Checking that every fold teaches every stage and fills bags of {size} cells of a {source}"
        script:
            "../scripts/precheck.py"
