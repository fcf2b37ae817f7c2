"""Tables of any text are read or refused in one sentence."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from myostage.errors import UserError
from myostage.study.inputs import read_crops, read_proportions, read_slides, read_training_images
from myostage.study.sections.study import Study

STAGES = ("young", "old")
FIELDS = st.one_of(
    st.text(max_size=6),
    st.sampled_from(
        ["", "0", "1", ".5", "-1", "nan", "inf", "1e400", "0,5", "1e3", "010", "a" * 200, "#", '"a"']
    ),
    st.sampled_from(
        ["d0", "a.svs", "~x/y", "$NOT_SET", "${", "a\0b", "\x1b[2J", "\u202e", "\ufeff", "young"]
    ),
)
READ = {
    "proportions": (["group", *STAGES], lambda study, path: read_proportions(study)),
    "slides": (
        ["slide", "path", "group", "animal", "mpp", "annotations"],
        lambda study, path: read_slides(study),
    ),
    "crops": (["crop", "path", "group", "animal", "label"], lambda study, path: read_crops(study)),
    "images": (["image", "masks", "mpp"], lambda study, path: read_training_images(str(path))),
}


def read(kind: str, path: Path) -> object:
    files = {name: str(path) for name in ("proportions", "slides", "crops")}
    study = Study.model_validate({"study": "s", "stages": STAGES, "experiments": [], **files})
    return READ[kind][1](study, path)


def check(kind: str, path: Path) -> None:
    try:
        found = read(kind, path)
    except UserError as error:
        assert str(error).startswith(str(path)) and str(error).isprintable()
    else:
        assert found
        if isinstance(found, dict):
            assert all(np.isfinite(row).all() and row.sum() == pytest.approx(1) for row in found.values())


@pytest.mark.parametrize("kind", READ)
@given(data=st.data())
def test_rows_of_any_fields(tmp_path_factory: pytest.TempPathFactory, kind: str, data: st.DataObject) -> None:
    columns = READ[kind][0]
    path = tmp_path_factory.mktemp("table") / "table.tsv"
    rows = data.draw(st.lists(st.lists(FIELDS, max_size=len(columns) + 1), max_size=4))
    text = "\n".join("\t".join(row) for row in [columns, *rows])
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    check(kind, path)


@pytest.mark.parametrize("kind", READ)
@given(content=st.binary(max_size=60))
def test_bytes_of_any_kind(tmp_path_factory: pytest.TempPathFactory, kind: str, content: bytes) -> None:
    path = tmp_path_factory.mktemp("table") / "table.tsv"
    for header in (b"", "\t".join(READ[kind][0]).encode() + b"\n"):
        path.write_bytes(header + content)
        check(kind, path)
