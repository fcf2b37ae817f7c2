"""Figures.

in:   tables of the chain
out:  figures/{figure}.png, .svg and .csv, drawn by the notebooks; the executed notebook is kept beside the log
"""

STAGED_FILES = {slide: PATHS.slide(slide, "stages.parquet") for slide in SLIDES}
CROP_FILES = {slide: PATHS.slide(slide, "crops.parquet") for slide in SLIDES}
CELL_FILES = {slide: PATHS.slide(slide, "cells.parquet") for slide in IMAGED}
LABEL_FILES = {slide: PATHS.slide(slide, "labels.parquet") for slide in LABELLED}
BY = {"stages": list(STUDY.stages), "experiment": STUDY.apply.experiment if STUDY.apply else SHOWN}

# figure -> notebook, category in the report, files that it reads by the notebook's parameter, further parameters
DRAWN = {
    "gallery": (
        "gallery",
        "Stages",
        {"predictions": STAGED_FILES, "crops": CROP_FILES, "labels": LABEL_FILES},
        {"per_stage": STUDY.look.gallery, **BY},
    ),
}
if IMAGED:
    DRAWN["counts"] = (
        "counts",
        "Cells",
        {"slides": PATHS.study("slides.parquet"), "cells": CELL_FILES, "crops": CROP_FILES},
        {},
    )
    DRAWN["sizes"] = (
        "sizes",
        "Cells",
        {"cells": CELL_FILES, "predictions": STAGED_FILES},
        {"groups": {slide: SLIDES[slide].group for slide in IMAGED}, "stages": list(STUDY.stages)},
    )
    for slide in STUDY.look.slides or [IMAGED[len(IMAGED) // 2]]:
        DRAWN[f"map_{slide}"] = (
            "stage_map",
            "Stages",
            {
                "slides": PATHS.study("slides.parquet"),
                "cells": CELL_FILES[slide],
                "predictions": STAGED_FILES[slide],
                "labels": LABEL_FILES.get(slide, ""),
            },
            {"slide": slide, "mpp": STUDY.tiling.mpp, **BY},
        )
if EXPERIMENTS:
    DRAWN["metrics"] = (
        "metrics",
        "Metrics",
        {"metrics": PATHS.study("metrics.parquet")},
        {
            "experiments": list(EXPERIMENTS),
            "baselines": [name for name, specs in EXPERIMENTS.items() if not specs[0].trained],
            "ceilings": [name for name, specs in EXPERIMENTS.items() if specs[0].method == "supervised"],
            "study": STUDY.study,
        },
    )
    DRAWN["composition"] = (
        "composition",
        "Stages",
        {"scores": PATHS.study("scores.parquet")},
        {"given": PROPORTIONS, **BY},
    )
    DRAWN["curves"] = (
        "curves",
        "Training",
        {
            "histories": {
                name: of_runs("history.parquet", [spec.id for spec in specs])
                for name, specs in EXPERIMENTS.items()
                if specs[0].trained
            }
        },
        {},
    )
if EXPERIMENTS and LABELLED:
    DRAWN["confusion"] = ("confusion", "Metrics", {"confusion": PATHS.study("confusion.parquet")}, BY)

FIGURES = [PATHS.study(f"figures/{figure}.png") for figure in DRAWN]


for figure, (notebook, category, files, more) in DRAWN.items():

    rule:
        name:
            f"look_{figure}"
        input:
            plan.flat(files),
            notebook=f"{workflow.basedir}/notebooks/{notebook}.ipynb",
        output:
            png=report(
                PATHS.study(f"figures/{figure}.png"),
                caption=f"../notebooks/captions/{notebook}.rst",
                category=category,
            ),
            svg=PATHS.study(f"figures/{figure}.svg"),
            csv=PATHS.study(f"figures/{figure}.csv"),
            tables=(
                [
                    report(PATHS.study(f"figures/{figure}.html"), category=category),
                    PATHS.study(f"figures/{figure}.tex"),
                ]
                if notebook == "metrics"
                else []
            ),
        log:
            PATHS.log("look", figure),
            notebook=PATHS.study(f"logs/look/{figure}.ipynb"),
        benchmark:
            PATHS.benchmark("look", figure)
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            mem_mb=2000,
            runtime=30,
        params:
            name=figure,
            files=files,
            more=more,
            code=[code("look.py"), code(f"../notebooks/{notebook}.ipynb")],
        message:
            f"Drawing {figure}"
        script:
            "../scripts/look.py"
