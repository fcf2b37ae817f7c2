"""The section `study` of a study file."""

from typing import Literal

from myostage.schema import FileName, Name, Section, Seed, key
from myostage.study.sections.apply import Apply
from myostage.study.sections.compare import Compare
from myostage.study.sections.crop import Crop
from myostage.study.sections.encoder import Encoder
from myostage.study.sections.experiment import Experiment
from myostage.study.sections.features import Features
from myostage.study.sections.graph import Graph
from myostage.study.sections.healthy import Healthy
from myostage.study.sections.jobs import Jobs
from myostage.study.sections.look import Look
from myostage.study.sections.mil import Mil
from myostage.study.sections.phantom import Phantom
from myostage.study.sections.prediction import Prediction
from myostage.study.sections.segmentation import Segmentation
from myostage.study.sections.slide_label import SlideLabel
from myostage.study.sections.staging import Staging
from myostage.study.sections.tiling import Tiling
from myostage.study.sections.training import Training
from myostage.study.sections.world import World

RUNS_OF_FEATURES = 20


class Study(Section):
    """A study file."""

    study: Name = key(..., "name of the folder below `results`")
    results: FileName = key("results", "folder of all results")
    stages: tuple[Name, ...] = key(
        ..., "stages in order of recovery, at least two", min_length=2, max_length=1000
    )
    proportions: FileName | None = key(
        None, "TSV of the proportions of each group; columns below; needed for every experiment"
    )
    slide_proportions: FileName | None = key(
        None, "TSV of the proportions of each slide, for `training.proportions: slide`; columns below"
    )
    quoted: FileName | None = key(
        None, "TSV of published figures, shown beside ours in a block of their own; columns below"
    )
    normalise: bool = key(
        False, "divide each row of proportions by its sum, so that counts and percentages do too"
    )
    input: Literal["slides", "crops", "features"] = key(
        "slides", "what the study starts from: slides, ready-made crops, or ready-made features"
    )
    features: Features | None = key(None, "a table of cells, or a public benchmark; with `input: features`")
    slides: FileName | None = key(
        None, "TSV of slides; columns below; not with `input: crops` or a table of features"
    )
    crops: FileName | None = key(None, "TSV of crops; columns below; with `input: crops`")
    phantom: Phantom | None = key(None, "draw the slides of the table first")
    world: World | None = key(None, "draw features of cells instead: no slides, no `input`")
    on_bad_slide: Literal["fail", "skip"] = key(
        "fail", "an unusable slide stops the study, or is left out and named with its reason"
    )
    tiling: Tiling = key(Tiling(), "tissue mask and tiles")
    segmentation: Segmentation = key(Segmentation(), "Cellpose on the tiles")
    crop: Crop = key(Crop(), "the image of one cell")
    encoder: Encoder = key(Encoder(), "the vision transformer")
    training: Training = key(Training(), "one training run")
    graph: Graph = key(Graph(), "which cells are neighbours")
    healthy: Healthy | None = key(
        None, "uninjured groups and stages: needed by the loss `cell` and by `method: slide`, used by `supcr`"
    )
    slide_labels: dict[Name, SlideLabel] = key(
        {}, "labels of slides by name, for `method: slide`", max_length=1000
    )
    mil: Mil = key(Mil(), "a model of slide labels")
    folds: int = key(5, "folds, grouped by animal, stratified by group", ge=2, le=1000)
    seeds: tuple[Seed, ...] = key(
        (0, 1, 2), "seeds; each fold is trained with each", min_length=1, max_length=1000
    )
    experiments: tuple[Experiment, ...] = key((), "what is run; none only with `apply`", max_length=1000)
    apply: Apply | None = key(None, "stage the slides with the models of another study")
    compare: Compare = key(Compare(), "how experiments are compared")
    jobs: Jobs = key(Jobs(), "how work is cut into jobs")
    prediction: Prediction = key(Prediction(), "the proportions of a slide's group where cells are staged")
    staging: Staging = key(Staging(), "a stage for every cell, and how sure it is")
    look: Look = key(Look(), "what the figures show")

    @property
    def table(self) -> str:
        """The table that names the slides."""
        if self.features and self.features.table:
            return self.features.table
        return str(self.crops if self.input == "crops" else self.slides)

    @property
    def runs_per_job(self) -> int:
        """Training runs of one job; of ready-made or drawn features a run is as short as an import."""
        return self.jobs.runs_per_job or (RUNS_OF_FEATURES if self.features or self.world else 1)

    @property
    def crop_mpp(self) -> float:
        """Resolution of the crops, um/px."""
        return self.crop.mpp or self.tiling.mpp
