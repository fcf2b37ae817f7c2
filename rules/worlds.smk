"""Worlds of known truth, drawn in memory: settings, runs, metrics, and the page that says where a term helps.

in:   the section `world` of the study file
out:  worlds/{run}: held-out predictions, history and outcome of every experiment in every world, and choices of
      settings in the pilots; worlds.parquet, worlds_comparisons.parquet, worlds_curves.parquet,
      worlds_choices.parquet; summary.html

A killed job goes on with the run it was at; an experiment or a point that is added runs alone.
"""

if PLAN.worlds:

    if PLAN.worlds.choices:

        rule pilots:
            output:
                PATHS.receipt("pilots", "{batch}"),
            log:
                PATHS.log("pilots", "{batch}"),
            benchmark:
                PATHS.benchmark("pilots", "{batch}")
            wildcard_constraints:
                batch="|".join(PLAN.worlds.choice_batches),
            conda:
                "../envs/myostage.yaml"
            threads: STUDY.jobs.threads
            resources:
                **needs("pilots"),
            params:
                runs=lambda wildcards: PLAN.worlds.pilot_members(wildcards.batch),
                pilots=PLAN.worlds.world.pilots,
                stages=STUDY.stages,
                own=PLAN.worlds.own,
                code=code("pilots.py"),
            message:
                "Choosing settings in pilot worlds ({wildcards.batch})"
            script:
                "../scripts/pilots.py"

    rule worlds:
        input:
            lambda wildcards: PLAN.worlds.waits_for(wildcards.batch),
        output:
            PATHS.receipt("worlds", "{batch}"),
        log:
            PATHS.log("worlds", "{batch}"),
        benchmark:
            PATHS.benchmark("worlds", "{batch}")
        conda:
            "../envs/myostage.yaml"
        threads: STUDY.jobs.threads
        resources:
            **needs("worlds"),
        params:
            runs=lambda wildcards: PLAN.worlds.members(wildcards.batch),
            stages=STUDY.stages,
            own=PLAN.worlds.own,
            code=code("worlds.py"),
        message:
            "Training in worlds ({wildcards.batch})"
        script:
            "../scripts/worlds.py"

    rule evaluate_worlds:
        input:
            runs=[PATHS.receipt("worlds", batch) for batch in PLAN.worlds.batches],
            choices=[PATHS.receipt("pilots", batch) for batch in PLAN.worlds.choice_batches],
        output:
            **({"choices": PATHS.study("worlds_choices.parquet")} if PLAN.worlds.choices else {}),
            worlds=PATHS.study("worlds.parquet"),
            comparisons=PATHS.study("worlds_comparisons.parquet"),
            curves=PATHS.study("worlds_curves.parquet"),
        log:
            PATHS.log("evaluate_worlds", "all"),
        benchmark:
            PATHS.benchmark("evaluate_worlds", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("evaluate_worlds"),
        params:
            **PLAN.worlds.layout,
            compare=STUDY.compare.model_dump(),
            code=code("evaluate_worlds.py"),
        message:
            f"Evaluating {len(PLAN.worlds.runs):,} runs in worlds"
        script:
            "../scripts/evaluate_worlds.py"

    rule world_summary:
        input:
            worlds=PATHS.study("worlds.parquet"),
            comparisons=PATHS.study("worlds_comparisons.parquet"),
            curves=PATHS.study("worlds_curves.parquet"),
            choices=PLAN.world_tables[3:],
            figures=figures(),
        output:
            page=report(
                PATHS.study("summary.html"),
                caption="../scripts/myostage/report/templates/summary.rst",
                category="Summary",
            ),
        log:
            PATHS.log("world_summary", "all"),
        benchmark:
            PATHS.benchmark("world_summary", "all")
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("summary"),
        params:
            facts=PLAN.worlds.facts,
            code=code("world_summary.py"),
        message:
            "Saying where the ordinal term helps"
        script:
            "../scripts/world_summary.py"
