"""The section `segmentation` of a study file."""

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import PositiveInt, model_validator

from myostage.papers import CELLPOSE, MYOREGENTRACK
from myostage.schema import Count, FileName, Number, Positive, Section, Seed, exactly_one, key


def _as_file(model: str | None) -> str | None:
    is_file = model is not None and ("/" in model or Path(model).suffix != "")
    return model if is_file else None


class CellposeTraining(Section):
    """Cellpose trained from images with masks before anything is segmented."""

    images: FileName = key(..., "TSV of training images; columns below")
    start: FileName | None = key(
        None, "Cellpose model, name or file, whose weights are trained on; none: new ones"
    )
    epochs: Count = key(100, "passes over the images")
    learning_rate: Positive = key(0.1, "peak learning rate of SGD")
    batch_size: PositiveInt = key(
        8, "crops per step; fewer make more steps of an epoch, for few images", le=65_536
    )
    small_net: bool = key(
        False, "8, 16, 32, 64 feature maps instead of 32, 64, 128, 256: faster on a CPU; not with `start`"
    )
    seed: Seed = key(0, "seed of the initial weights and of the crops")

    @model_validator(mode="after")
    def _one_net(self) -> Self:
        if self.start is not None and self.small_net:
            raise ValueError("start names a net that has a size of its own; leave small_net out")
        return self

    @property
    def start_file(self) -> str | None:
        """The model to start from where it is a file, not a name that Cellpose knows."""
        return _as_file(self.start)


class Segmentation(Section):
    """Cellpose on the tiles."""

    model: FileName | None = key(
        "cyto3", "name of a Cellpose model, or a file; leave out with `train`", CELLPOSE, min_length=1
    )
    sha256: str | None = key(
        None, "checksum of the model file, refused when it differs", pattern="^[0-9a-f]{64}$", max_length=64
    )
    train: CellposeTraining | None = key(None, "train the model first; leave out with `model`")
    diameter_um: Positive = key(40.0, "typical cell diameter, um", f"{MYOREGENTRACK}: 40 px at about 1 um/px")
    flow_threshold: Number = key(0.4, "largest error of a cell's flow field; 0: off", CELLPOSE, ge=0)
    cellprob_threshold: Number = key(0.0, "least cell logit of a pixel", CELLPOSE)
    min_area_um2: Number = key(40.0, "smaller cells are dropped, um2", f"{MYOREGENTRACK}: 40 px", ge=0)
    normalise: Literal["tile", "slide"] = key(
        "tile", "intensities stretched to the 1-99 % percentiles of each tile, or of the slide", CELLPOSE
    )
    batch_size: PositiveInt = key(8, "tiles evaluated at once; changes no result", CELLPOSE, le=65_536)

    @model_validator(mode="before")
    @classmethod
    def _one_model(cls, data: Any) -> Any:
        return exactly_one(data, "model", "train")

    @property
    def model_file(self) -> str | None:
        """The model where it is a file, not a name that Cellpose knows."""
        return _as_file(self.model)
