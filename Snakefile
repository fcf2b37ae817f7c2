"""myostage: from slides of regenerating muscle to a recovery stage for every cell.

snakemake                                    the demo study
snakemake --configfile config/paper.yaml     another study
snakemake figures                            only what the figures need
"""

from snakemake.utils import min_version

min_version("9.0")

if not workflow.configfiles:

    configfile: "config/demo.yaml"


include: "rules/common.smk"
include: "rules/phantom.smk"
include: "rules/check.smk"
include: "rules/tile.smk"
include: "rules/segment.smk"
include: "rules/crop.smk"
include: "rules/embed.smk"
include: "rules/split.smk"
include: "rules/train.smk"
include: "rules/predict.smk"
include: "rules/evaluate.smk"
include: "rules/look.smk"


rule all:
    default_target: True
    input:
        STAGED,
        TABLES,
        FIGURES,


rule cells:
    """Segmented and measured cells of every slide."""
    input:
        of_slides("cells.parquet", IMAGED),


rule stages:
    """A stage for every cell, as a table, CSV and QuPath GeoJSON."""
    input:
        STAGED,


rule tables:
    """Metrics with their intervals."""
    input:
        TABLES,


rule figures:
    """Every figure, as PNG, SVG and CSV."""
    input:
        FIGURES,
