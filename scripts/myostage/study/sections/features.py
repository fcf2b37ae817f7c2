"""The section `features` of a study file."""

from typing import Literal

from pydantic import PositiveInt

from myostage.schema import FileName, Name, Section, key


class Features(Section):
    """Ready-made features of a public benchmark, as torchmil's data sets have them."""

    dataset: Literal["camelyon16", "panda", "rsna"] = key(..., "torchmil's data set")
    root: FileName = key(..., "folder it was extracted to; $VARIABLES are expanded")
    features: Name = key("UNI", "which of its features: `UNI`, `resnet50_bt`, ...")
    patch_px: PositiveInt = key(512, "side of a patch, px; not for rsna", le=65_536)
