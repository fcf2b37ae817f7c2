"""How the embedding is ordered, and whether L_SimProp reaches what it is to order.

in:   held-out predictions and cell labels; tokens and folds
out:  similarities.parquet, correlations.parquet: cosine of annotated stages against sim(k, k')
      gradients.parquet: gradients of L_SimProp and L_prop at the start of a run, with finite differences
"""

# The shown experiment where it has L_SimProp, else the first that has; empty where none does.
ORDINAL = [name for name in [SHOWN, *EXPERIMENTS] if "simprop" in STRUCTURE["losses"].get(name, {})][:1]

if LABELLED and EXPERIMENTS:

    EMBEDDED = {
        name: [spec.id for spec in EXPERIMENTS[name]]
        for name in dict.fromkeys([*STRUCTURE["main"], *ORDINAL])
        if EXPERIMENTS[name][0].trained
    }

    rule geometry:
        input:
            runs=lambda wildcards: behind(of_runs("predictions.parquet", sum(EMBEDDED.values(), []))),
            splits=PATHS.study("splits.parquet"),
            labels=lambda wildcards: of_slides("labels.parquet", LABELLED),
        output:
            similarities=PATHS.study("similarities.parquet"),
            correlations=PATHS.study("correlations.parquet"),
        log:
            PATHS.log("geometry", "all"),
        benchmark:
            PATHS.benchmark("geometry", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("geometry"),
        params:
            experiments=EMBEDDED,
            labelled=LABELLED,
            stages=STUDY.stages,
            code=code("geometry.py"),
        message:
            f"Comparing the stages' embeddings in {len(EMBEDDED)} experiments"
        script:
            "../scripts/geometry.py"


for name in ORDINAL:

    rule gradients:
        input:
            tokens=behind(tokens_of(EXPERIMENTS[name][0])),
            encoder=(
                PATHS.tuned(EXPERIMENTS[name][0].encoder.id) if EXPERIMENTS[name][0].encoder.dino else []
            ),
            splits=PATHS.study("splits.parquet"),
        output:
            gradients=PATHS.study("gradients.parquet"),
        log:
            PATHS.log("gradients", "all"),
        benchmark:
            PATHS.benchmark("gradients", "all")
        conda:
            "../envs/myostage.yaml"
        threads: STUDY.jobs.threads
        resources:
            **needs("gradients"),
        params:
            run=EXPERIMENTS[name][0].id,
            slides=list(SLIDES),
            stages=STUDY.stages,
            proportions=PROPORTIONS,
            code=code("gradients.py"),
        message:
            f"Following the gradients of {name}"
        script:
            "../scripts/gradients.py"
