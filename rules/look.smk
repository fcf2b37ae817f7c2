"""Figures.

in:   tables of the chain
out:  figures/{figure}.png, .svg and .csv, drawn by the notebooks; the executed notebook is kept beside the log
"""

EXPERIMENTS, SLIDE_EXPERIMENTS = PLAN.experiments, PLAN.slide_experiments
STRUCTURE, SLIDE_STRUCTURE = PLAN.structure, PLAN.slide_structure
SLIDES, IMAGED, LABELLED = PLAN.slides, PLAN.imaged, PLAN.labelled
SHOWN, STAGING, ATTENDED = PLAN.shown, PLAN.staging, PLAN.attended
ORDINAL = [PLAN.ordered] if PLAN.ordered else []
PROPORTIONS, PLACES, HEALTHY = PLAN.proportions, PLAN.places, PLAN.healthy
MAIN = {label: EXPERIMENTS[label] for label in STRUCTURE["main"]}


def of_runs(name, runs):
    """One file of each of the ``runs``."""
    return [PATHS.run(run, name) for run in runs]


def part_figure(part, metric, columns, table, experiments, against):
    """The table and figure of one part of the neighbours."""
    return (
        "slide_metrics",
        "Neighbours",
        {name: PATHS.study(f"{table}{name}.parquet") for name in ("metrics", "comparisons", "runs")},
        {
            "experiments": experiments,
            "columns": columns,
            "metric": metric,
            "against": {one: other for one, other in against.items() if one in experiments},
            "alpha": STUDY.compare.alpha,
            "study": f"{STUDY.study}, {part}",
        },
    )


STAGED_FILES = {slide: PATHS.slide(slide, "stages.parquet") for slide in SLIDES}
CROP_FILES = {slide: PATHS.slide(slide, "crops.parquet") for slide in SLIDES}
CELL_FILES = {slide: PATHS.slide(slide, "cells.parquet") for slide in IMAGED}
LABEL_FILES = {slide: PATHS.slide(slide, "labels.parquet") for slide in LABELLED}
BY = {"stages": list(STUDY.stages), "experiment": STUDY.apply.experiment if STUDY.apply else SHOWN}

# figure -> notebook, category in the report, files that it reads by the notebook's parameter, further parameters
DRAWN = {}
if STAGING:
    DRAWN["gallery"] = (
        "gallery",
        "Stages",
        {"predictions": STAGED_FILES, "crops": CROP_FILES, "labels": LABEL_FILES},
        {"per_stage": STUDY.look.gallery, **BY},
    )
if IMAGED:
    DRAWN["counts"] = (
        "counts",
        "Cells",
        {"slides": PATHS.study("slides.parquet"), "cells": CELL_FILES, "crops": CROP_FILES},
        {},
    )
if IMAGED and STAGING:
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
            "experiments": PLAN.before_and_after(PLAN.ordered or SHOWN),
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

COLUMNS = [
    "bag_auroc",
    "instance_auroc",
    "instance_f1",
    "bag_f1",
    "bag_accuracy",
    "bag_kappa",
    "bag_mae",
    "energy",
]
for part, labels in SLIDE_STRUCTURE["parts"].items():
    DRAWN[f"{part}_table"] = part_figure(
        part,
        STUDY.compare.slide_metric,
        COLUMNS,
        "slides_",
        labels,
        # each against what it changes something of, and else against the reference of its label
        {name: other for name, other in SLIDE_STRUCTURE["references"].items() if name != other}
        | SLIDE_STRUCTURE["against"],
    )
if STRUCTURE["regression"] and LABELLED:
    DRAWN["regression_table"] = part_figure(
        "ordinal regression",
        "stage_mae",
        ["stage_mae", "stage_spearman", "stage_w1", "stage_tail_mae", "accuracy", "mae"],
        "",
        [*MAIN, *STRUCTURE["regression"]],
        {name: STRUCTURE["reference"] for name in EXPERIMENTS if name != STRUCTURE["reference"]}
        | STRUCTURE["against"],
    )
SMOOTHED = {
    name: point
    for name, point in SLIDE_STRUCTURE["points"].items()
    if ATTENDED and SLIDE_STRUCTURE["references"][name] == ATTENDED[0]
}
if SMOOTHED and LABELLED:
    DRAWN["placement"] = (
        "placement",
        "Neighbours",
        {name: PATHS.study(f"slides_{name}.parquet") for name in ("metrics", "comparisons")},
        {
            "metric": "instance_auroc",
            "points": SMOOTHED,
            "reference": ATTENDED[0],
            "alpha": STUDY.compare.alpha,
        },
    )
if PLAN.attention_tables:
    DRAWN["spectrum"] = ("spectrum", "Neighbours", {"spectrum": PLAN.attention_tables[0]}, {})
    DRAWN["borders"] = (
        "borders",
        "Neighbours",
        {"borders": PLAN.attention_tables[1]},
        {"without": ATTENDED[0], "experiments": ATTENDED[1:]},
    )
    SEEN = PLAN.drawn_slides()
    DRAWN["attention_maps"] = (
        "attention_maps",
        "Neighbours",
        {
            "cells": {slide: PATHS.slide(slide, PLACES) for slide in SEEN},
            "labels": {slide: PATHS.slide(slide, "labels.parquet") for slide in SEEN},
            "attention": {
                name: of_runs("attention.parquet", [spec.id for spec in SLIDE_EXPERIMENTS[name]]) for name in ATTENDED
            },
        },
        {
            "healthy": HEALTHY,
            "outlined": bool(IMAGED),
            "mpp": STUDY.tiling.mpp,
            "unit": "µm" if IMAGED else "sides of a tile",
        },
    )
CONTROLLED = SLIDE_STRUCTURE["controls"]
if CONTROLLED:
    DRAWN["control"] = (
        "control",
        "Neighbours",
        {
            "histories": {
                name: of_runs("history.parquet", [spec.id for spec in SLIDE_EXPERIMENTS[name]])
                for name in [*CONTROLLED, *CONTROLLED.values()]
            },
            "comparisons": PATHS.study("slides_comparisons.parquet"),
        },
        {"pairs": CONTROLLED, "alpha": STUDY.compare.alpha},
    )
CONFLICTING = PLAN.conflicting
if CONFLICTING:
    DRAWN["conflict"] = (
        "conflict",
        "Neighbours",
        {
            "histories": {
                name: of_runs("history.parquet", [spec.id for spec in EXPERIMENTS[name]])
                for name in CONFLICTING
            }
        },
        {},
    )
if PLAN.algebra_tables:
    DRAWN["algebra"] = ("algebra", "Neighbours", {"algebra": PLAN.algebra_tables[0]}, {})

FIGURES = [PATHS.study(f"figures/{figure}.png") for figure in DRAWN]
NEIGHBOUR_FIGURES = [
    PATHS.study(f"figures/{figure}.png")
    for figure, (_, category, _, _) in DRAWN.items()
    if category == "Neighbours"
]
ABLATION_FIGURES = [PATHS.study(f"figures/{figure}.png") for figure in ABLATIONS]
# notebooks that write their numbers as a table for the web and for LaTeX too
TABULAR = ("metrics", "forest", "cost", "slide_metrics")


for figure, (notebook, category, files, more) in DRAWN.items():

    rule:
        name:
            f"look_{figure}"
        input:
            lambda wildcards, files=files: PLAN.behind(files),
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
