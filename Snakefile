"""myostage: from slides of regenerating muscle to a recovery stage for every cell.

make study                                          the demo study
make study STUDY=config/paper.yaml                  another study: everything
make study STUDY=... TARGET=ablations               only its comparisons and their figures
make study STUDY=... TARGET=neighbours              only labels of slides and what cells' neighbours add
make study STUDY=... TARGET=figures                 only what the figures need
make study STUDY=... TARGET=report                  the page that answers in sentences
"""

from snakemake.utils import min_version

min_version("9.0")


# with --sdm apptainer every job runs in it: apptainer build myostage.sif envs/myostage.def
container: "myostage.sif"


if not workflow.configfiles:

    configfile: "config/demo.yaml"


include: "rules/common.smk"
include: "rules/phantom.smk"
include: "rules/check.smk"
include: "rules/tile.smk"
include: "rules/segment.smk"
include: "rules/crop.smk"
include: "rules/features.smk"
include: "rules/dino.smk"
include: "rules/embed.smk"
include: "rules/split.smk"
include: "rules/train.smk"
include: "rules/worlds.smk"
include: "rules/predict.smk"
include: "rules/evaluate.smk"
include: "rules/neighbours.smk"
include: "rules/geometry.smk"
include: "rules/look.smk"
include: "rules/summary.smk"


rule paper:
    """Everything of a study: stages, tables, figures and the page of answers."""
    default_target: True
    input:
        PLAN.stage_files,
        PLAN.tables,
        figures(),
        PLAN.summary,


rule cells:
    """Segmented and measured cells of every slide."""
    input:
        PLAN.behind(PLAN.each("cells.parquet", PLAN.imaged)),


rule stages:
    """A stage for every cell, as a table, CSV and QuPath GeoJSON."""
    input:
        PLAN.stage_files,


rule tables:
    """Metrics and comparisons with their intervals."""
    input:
        PLAN.tables,


rule ablations:
    """Comparisons, and the figures that show them."""
    input:
        PLAN.tables,
        figures("Ablations"),


rule neighbours:
    """Smooth attention, spatial regularisation and ordinal regression: tables, figures, the page of answers."""
    input:
        lambda wildcards: required(
            [*PLAN.neighbour_tables, *figures("Labels of slides", "Ordinal regression")],
            "no experiment with labels of slides or ordinal regression; config/demo_neighbours.yaml has some",
        ),
        PLAN.summary,


rule figures:
    """Every figure, as PNG, SVG and CSV."""
    input:
        figures(),


rule report:
    """The page that answers the study's questions in sentences."""
    input:
        PLAN.summary,
