"""myostage: from slides of regenerating muscle to a recovery stage for every cell.

snakemake                                           the demo study
snakemake paper --configfile config/paper.yaml      another study: everything
snakemake ablations --configfile ...                only its comparisons and their figures
snakemake neighbours                                labels of slides and what cells' neighbours add, on drawn slides
snakemake figures                                   only what the figures need
snakemake report                                    the page that answers in sentences
"""

import os
import sys

from snakemake.utils import min_version

min_version("9.0")


# with --sdm apptainer every job runs in it: apptainer build myostage.sif envs/myostage.def
container: "myostage.sif"


if not workflow.configfiles:
    # Neighbours have a demo of their own; jobs, which are not told the target, inherit the choice.
    DEMO = "config/demo_neighbours.yaml" if "neighbours" in sys.argv else "config/demo.yaml"

    configfile: os.environ.setdefault("MYOSTAGE_DEMO", DEMO)


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
        STAGED,
        TABLES,
        FIGURES,
        SUMMARY,


rule cells:
    """Segmented and measured cells of every slide."""
    input:
        behind(of_slides("cells.parquet", IMAGED)),


rule stages:
    """A stage for every cell, as a table, CSV and QuPath GeoJSON."""
    input:
        STAGED,


rule tables:
    """Metrics and comparisons with their intervals."""
    input:
        TABLES,


rule ablations:
    """Comparisons, and the figures that show them."""
    input:
        TABLES,
        ABLATION_FIGURES,


rule neighbours:
    """Smooth attention, spatial regularisation and ordinal regression: tables, figures, the page of answers."""
    input:
        neighbours,


rule figures:
    """Every figure, as PNG, SVG and CSV."""
    input:
        FIGURES,


rule report:
    """The page that answers the study's questions in sentences."""
    input:
        SUMMARY,
