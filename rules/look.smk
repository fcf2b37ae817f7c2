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
ABLATIONS = []
METRIC = STUDY.compare.metric if LABELLED else "kl"
if EXPERIMENTS:
    MEASURED = {name: PATHS.study(f"{name}.parquet") for name in ("metrics", "comparisons", "runs")}
    NAMED = {"metric": METRIC, "study": STUDY.study}
    LEARNT = [name for name, specs in MAIN.items() if specs[0].trained]
    DRAWN["metrics"] = (
        "metrics",
        "Metrics",
        MEASURED,
        {
            "experiments": list(MAIN),
            **{
                key: STRUCTURE[key]
                for key in ("baselines", "ceilings", "fitted_afterwards", "left_out", "quoted")
            },
            **NAMED,
        },
    )
    DRAWN["composition"] = (
        "composition",
        "Stages",
        {"scores": PATHS.study("scores.parquet")},
        {"given": PROPORTIONS, **BY},
    )
    DRAWN["biology"] = (
        "biology",
        "First experiments",
        {"scores": PATHS.study("scores.parquet")},
        {"given": PROPORTIONS, **BY},
    )
    DRAWN["recovery"] = (
        "recovery",
        "Stages",
        {"scores": PATHS.study("scores.parquet")},
        {"experiments": [SHOWN], "groups": list(PROPORTIONS)},
    )
    DRAWN["curves"] = (
        "curves",
        "Training",
        {
            "histories": {
                name: of_runs("history.parquet", [spec.id for spec in EXPERIMENTS[name]]) for name in LEARNT
            }
        },
        {},
    )
    DRAWN["cost"] = (
        "cost",
        "Training",
        {"runs": MEASURED["runs"]},
        {"experiments": LEARNT, "study": STUDY.study},
    )
    ABLATIONS.append("forest")
    DRAWN["forest"] = (
        "forest",
        "Ablations",
        {key: MEASURED[key] for key in ("comparisons", "runs")},
        {
            "groups": [
                [title, labels]
                for title, labels in (
                    (
                        f"against {STRUCTURE['reference']}",
                        [name for name in MAIN if name != STRUCTURE["reference"]],
                    ),
                    ("design choices", STRUCTURE["design"]),
                )
                if labels
            ],
            "alpha": STUDY.compare.alpha,
            **NAMED,
        },
    )
if EXPERIMENTS and STRUCTURE["grid"]:
    ABLATIONS.append("grid")
    DRAWN["grid"] = (
        "grid",
        "Ablations",
        MEASURED,
        {
            "metric": METRIC,
            "points": {label: [point["sigma"], point["bins"]] for label, point in STRUCTURE["grid"].items()},
            "marked": [[0.1, 6, "OSLSP"]],
            "alpha": STUDY.compare.alpha,
        },
    )
if EXPERIMENTS and STRUCTURE["curves"]:
    ABLATIONS.append("robustness")
    DRAWN["robustness"] = (
        "robustness",
        "Ablations",
        {key: MEASURED[key] for key in ("metrics", "comparisons")},
        {"metric": METRIC, "curves": STRUCTURE["curves"]},
    )
if ORDINAL:
    DRAWN["gradients"] = (
        "gradients",
        "First experiments",
        {"gradients": PATHS.study("gradients.parquet")},
        {},
    )
if EXPERIMENTS and LABELLED:
    DRAWN["confusions"] = (
        "confusions",
        "Metrics",
        {"confusion": PATHS.study("confusion.parquet")},
        {"stages": list(STUDY.stages), "experiments": STUDY.look.compared or LEARNT[:4]},
    )
    DRAWN["similarity"] = (
        "similarity",
        "First experiments",
        {key: PATHS.study(f"{key}.parquet") for key in ("similarities", "correlations")},
        {
            "stages": list(STUDY.stages),
            "experiments": plan.before_and_after(
                STRUCTURE["untrained"], EXPERIMENTS, (ORDINAL or [SHOWN])[0]
            ),
        },
    )
    if EXPERIMENTS[SHOWN][0].trained:
        DRAWN["embedding"] = (
            "embedding",
            "First experiments",
            {
                "predictions": PATHS.run(EXPERIMENTS[SHOWN][0].id, "predictions.parquet"),
                "labels": LABEL_FILES,
                "splits": PATHS.study("splits.parquet"),
            },
            BY,
        )

FIGURES = [PATHS.study(f"figures/{figure}.png") for figure in DRAWN]
ABLATION_FIGURES = [PATHS.study(f"figures/{figure}.png") for figure in ABLATIONS]
# notebooks that write their numbers as a table for the web and for LaTeX too
TABULAR = ("metrics", "forest", "cost")


for figure, (notebook, category, files, more) in DRAWN.items():

    rule:
        name:
            f"look_{figure}"
        input:
            lambda wildcards, files=files: behind(files),
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
                if notebook in TABULAR
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
            **needs("look"),
        params:
            name=figure,
            files=files,
            more=more,
            code=code("look.py", f"../notebooks/{notebook}.ipynb"),
        message:
            f"Drawing {figure}"
        script:
            "../scripts/look.py"
