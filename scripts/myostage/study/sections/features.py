"""The section `features` of a study file."""

from typing import Any, Literal, Self

from pydantic import PositiveInt, model_validator

from myostage.schema import FileName, Name, Section, Text, key


class Features(Section):
    """Ready-made features: a table of cells, or a public benchmark as torchmil's data sets have them."""

    table: FileName | None = key(
        None,
        "Parquet, CSV or TSV with a row per cell: group, animal, features and, if known, slide (else: the "
        "animal), cell (a number; else: the row), stage, x_um, y_um; leave out with `dataset`",
    )
    columns: Text = key(
        "features",
        "of a table: the column of lists of numbers, or what the columns of numbers begin with",
        min_length=1,
    )
    dataset: Literal["camelyon16", "panda", "rsna"] | None = key(
        None, "torchmil's data set; leave out with `table`"
    )
    root: FileName | None = key(None, "of a data set: folder it was extracted to; $VARIABLES are expanded")
    features: Name = key("UNI", "of a data set: which of its features: `UNI`, `resnet50_bt`, ...")
    patch_px: PositiveInt = key(512, "of a data set: side of a patch, px; not for rsna", le=65_536)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.table is None) == (self.dataset is None):
            both = "both" if self.table else "neither"
            raise ValueError(f"has {both} of table and dataset; give one of them")
        foreign = {"dataset", "root", "features", "patch_px"} if self.table else {"columns"}
        given = sorted(foreign & self.model_fields_set)
        if given:
            kind = "a table" if self.table else "a data set"
            raise ValueError(f"{', '.join(given)} is not of {kind}; remove it")
        if self.dataset and self.root is None:
            raise ValueError("root is missing, the folder of the data set; add it")
        return self

    @property
    def name(self) -> str:
        """What stands for the encoder that made them."""
        return f"table/{self.columns}" if self.table else f"{self.dataset}/{self.features}"

    @property
    def given(self) -> dict[str, Any]:
        """The keys that say what is read."""
        own = {"table", "columns"} if self.table else {"dataset", "root", "features", "patch_px"}
        return self.model_dump(include=own)
