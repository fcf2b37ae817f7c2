"""Slides drawn instead of scanned.

in:   proportions of the study
out:  a pyramidal TIFF and its truth (outline and stage of every cell, GeoJSON) where the slide table says
"""

if STUDY.phantom:

    for batch, slides in SLIDE_BATCHES.items():

        rule:
            name:
                f"phantom_{batch}"
            output:
                slides=[SLIDES[slide].path for slide in slides],
                annotations=[SLIDES[slide].annotations for slide in slides],
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
                animals=[SLIDES[slide].animal for slide in slides],
                proportions=[PROPORTIONS[SLIDES[slide].group] for slide in slides],
                regions=[(SLIDES[slide].border, SLIDES[slide].values["score"]) for slide in slides],
                healthy=STUDY.healthy.stages if STUDY.healthy else (),
                stages=STUDY.stages,
                phantom=STUDY.phantom.model_dump(),
                code=code("phantom.py"),
            message:
                f"Drawing {len(slides)} phantom slides ({batch})"
            script:
                "../scripts/phantom.py"
