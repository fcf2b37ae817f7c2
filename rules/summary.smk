"""The page that answers the study's questions.

in:   metrics, comparisons, runs; correlations where cells are labelled; every figure; what became of the slides;
      tables of the neighbours and histories of ordinal regression, where a study has them
out:  summary.html: sentences made from the numbers, tables and figures in one file
"""

if PLAN.runnable:

    rule summary:
        input:
            **PLAN.answers,
            splits=PATHS.study("splits.parquet"),
            correlations=[PATHS.study("correlations.parquet")] if PLAN.experiments and PLAN.labelled else [],
            slide_metrics=PLAN.slide_tables[:1],
            slide_comparisons=PLAN.slide_tables[1:2],
            slide_runs=PLAN.slide_tables[2:],
            spectrum=PLAN.attention_tables[:1],
            borders=PLAN.attention_tables[1:],
            algebra=PLAN.algebra_tables,
            choices=[PATHS.study("choices.parquet")] if PLAN.choosing else [],
            wrong_tables=[PATHS.study("wrong_tables.parquet")] if PLAN.wrong_tables else [],
            histories=PLAN.behind(PLAN.of_runs("history.parquet", PLAN.conflicting)),
            figures=figures(),
            slides=[PATHS.study("slides.parquet")] if PLAN.imaged else [],
            crops=PLAN.behind(PLAN.each("crops.parquet", PLAN.imaged)),
        output:
            page=report(
                PATHS.study("summary.html"),
                caption="../scripts/myostage/report/templates/summary.rst",
                category="Summary",
            ),
        log:
            PATHS.log("summary", "all"),
        benchmark:
            PATHS.benchmark("summary", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("summary"),
        params:
            structure=PLAN.answered_structure,
            slide_structure=PLAN.slide_structure,
            models={name: specs[0].mil.model for name, specs in PLAN.slide_experiments.items()},
            histories=PLAN.by_experiment("history.parquet", PLAN.conflicting),
            slides=PLAN.imaged,
            code=code("summary.py"),
        message:
            "Answering the study's questions"
        script:
            "../scripts/summary.py"
