"""The section `apply` of a study file."""

from myostage.schema import FileName, Section, Text, key


class Apply(Section):
    """Slides staged with the models of another study."""

    study: FileName = key(..., "study file whose runs are used")
    experiment: Text = key(
        ..., "its experiment; of a grid the full label, as in `combined[sigma=0.1]`", min_length=1
    )
