from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from myostage import tables
from myostage.errors import UserError
from myostage.slides.checking import check_slides, read_row
from myostage.slides.tables import SLIDES
from myostage.study.inputs import SlideRow
from support.slide_files import real, smooth_noise, write_pyramid

PIXELS = smooth_noise(300, 420)


@pytest.fixture(scope="module")
def pyramid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pyramid(tmp_path_factory.mktemp("slides") / "pyramid.tif", PIXELS, 0.5, levels=3)


def row(slide: str, path: Path, mpp: float | None = None) -> SlideRow:
    return SlideRow(slide=slide, path=str(path), group="d3", animal="a1", mpp=mpp, annotations=None)


def test_check_names_every_bad_slide_at_once(tmp_path: Path, pyramid: Path) -> None:
    rows = [row("good", pyramid), row("gone", tmp_path / "gone.svs"), row("absurd", pyramid, 40.0)]
    with pytest.raises(UserError) as error:
        check_slides(rows, on_bad_slide="fail", out=tmp_path / "slides.parquet", thumbnails={})
    message = str(error.value)
    assert message.startswith("2 of 3 slides cannot be used:") and "on_bad_slide: skip" in message
    assert "  gone: " in message and "  absurd: " in message and "gives 40 um/px" in message
    assert "good" not in message
    assert not (tmp_path / "slides.parquet").exists()


def test_check_skips_with_reasons_and_pictures(tmp_path: Path, pyramid: Path) -> None:
    rows = [row("good", pyramid), row("gone", tmp_path / "gone.svs")]
    thumbnails = {name: tmp_path / f"{name}.png" for name in ("good", "gone")}
    check_slides(rows, on_bad_slide="skip", out=tmp_path / "slides.parquet", thumbnails=thumbnails)
    table = tables.read(tmp_path / "slides.parquet", SLIDES).set_index("slide")
    assert table.status.to_dict() == {"good": "ok", "gone": "skipped"}
    assert "no such file" in table.reason["gone"] and table.reason["good"] == ""
    assert table.loc["good", ["width_px", "height_px", "levels"]].tolist() == [420, 300, 3]
    tables.write(tmp_path / "gone.parquet", table.reset_index().iloc[[1]], SLIDES)
    facts = read_row(tmp_path / "gone.parquet")
    assert (facts.slide, facts.status, facts.group) == ("gone", "skipped", "d3") and np.isnan(facts.mpp)
    assert Image.open(thumbnails["good"]).size == (420, 300)
    assert len(Image.open(thumbnails["gone"]).getcolors()) == 1
    with pytest.raises(UserError, match="1 of 1 slides"):
        check_slides(rows[1:], on_bad_slide="skip", out=tmp_path / "none.parquet", thumbnails={})


@pytest.mark.real
@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("broken.svs", "no PNG or JPEG or slide or TIFF that can be opened"),
        ("unopenable.tiff", r"cannot be opened \(Unsupported TIFF compression: 52479\)"),
        ("unreadable.svs", r"level 0 is unreadable .*Bogus marker length"),
        ("boxes.tiff", r"352\.8 um/px, outside"),
    ],
)
def test_real_bad_slides(tmp_path: Path, name: str, reason: str) -> None:
    rows = [row("bad", real(f"bad-slides/{name}"))]
    with pytest.raises(UserError, match=reason):
        check_slides(rows, on_bad_slide="fail", out=tmp_path / "slides.parquet", thumbnails={})
