"""Slides drawn instead of scanned.

in:   proportions of the study
out:  a pyramidal TIFF and its truth (outline and stage of every cell, GeoJSON) where the slide table says
"""

if STUDY.phantom:

    for batch, slides in PLAN.slide_batches.items():

        rule:
            name:
                f"phantom_{batch}"
            output:
                slides=PLAN.images(slides),
                annotations=[PLAN.slides[slide].annotations for slide in slides],
            log:
                PATHS.log("phantom", batch),
            benchmark:
                PATHS.benchmark("phantom", batch)
            conda:
                "../envs/myostage.yaml"
            threads: 1
            resources:
                **needs("phantom"),
            params:
                slides=slides,
                animals=[PLAN.slides[slide].animal for slide in slides],
                proportions=[PLAN.proportions[PLAN.slides[slide].group] for slide in slides],
                regions=[(PLAN.slides[slide].border, PLAN.slides[slide].values["score"]) for slide in slides],
                healthy=STUDY.healthy.stages if STUDY.healthy else (),
                stages=STUDY.stages,
                phantom=STUDY.phantom.model_dump(),
                code=code("phantom.py"),
            message:
                f"Drawing {len(slides)} phantom slides ({batch})"
            script:
                "../scripts/phantom.py"
