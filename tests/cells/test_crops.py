import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from numpy.typing import NDArray
from PIL import Image

from myostage import tables
from myostage.cells.crops import crop_images, crop_slide
from myostage.cells.tables import CELLS, CROPS, LABELS
from myostage.errors import UserError
from myostage.study.inputs import CropRow
from myostage.study.sections.crop import Crop
from myostage.study.sections.tiling import Tiling
from support.slide_files import smooth_noise, write_pyramid


def write_cells(path: Path, points: list[tuple[float, float]]) -> Path:
    """A cells table with centroids that matter and everything else that does not."""
    cells = pd.DataFrame({"x_px": [x for x, _ in points], "y_px": [y for _, y in points]})
    cells["cell"] = np.arange(len(points)) + 5  # not the row number
    cells["border"] = False
    cells["polygon"] = pd.Series([[0.0] * 6] * len(points), dtype=object)
    tables.write(path, cells.reindex(columns=CELLS.schema.names, fill_value=0), CELLS)
    return path


def images(path: Path) -> tuple[list[int], NDArray[np.uint8]]:
    table = tables.read_arrow(path, CROPS)
    pixels = b"".join(table["image"].to_pylist())
    return table["cell"].to_pylist(), np.frombuffer(pixels, np.uint8).reshape(-1, 64, 64, 3)


def slide_row(path: Path) -> SimpleNamespace:
    return SimpleNamespace(slide="s", path=str(path), mpp=1.0, status="ok", reason="")


def test_crops_are_centred_and_repeat_the_edge_of_the_slide(tmp_path: Path) -> None:
    pixels = smooth_noise(200, 300) // 2
    path = write_pyramid(tmp_path / "s.tif", pixels, 1.0)
    cells = write_cells(tmp_path / "cells.parquet", [(150, 100), (0, 0), (300, 200), (20.4, 150.2)])
    assert crop_slide(slide_row(path), cells, Tiling(mpp=1.0), Crop(), tmp_path / "crops.parquet") == (4, 0)
    numbers, crops = images(tmp_path / "crops.parquet")
    assert numbers == [5, 6, 7, 8]
    padded = np.pad(pixels, ((32, 32), (32, 32), (0, 0)), mode="edge")
    for crop, (x, y) in zip(crops, [(150, 100), (0, 0), (300, 200), (20, 150)], strict=True):
        np.testing.assert_array_equal(crop, padded[y : y + 64, x : x + 64])


def test_crops_at_their_own_resolution(tmp_path: Path) -> None:
    pixels = np.full((400, 400, 3), 60, np.uint8)
    pixels[200:240, 120:160] = 180  # centre 140, 220
    path = write_pyramid(tmp_path / "s.tif", pixels, 1.0)
    cells = write_cells(tmp_path / "cells.parquet", [(280, 440)])  # at 0.5 um/px
    crop_slide(slide_row(path), cells, Tiling(mpp=0.5), Crop(mpp=2.0), tmp_path / "crops.parquet")
    _, (crop,) = images(tmp_path / "crops.parquet")
    assert np.abs(crop[25:39, 25:39].astype(int) - 180).max() <= 1 and (crop[:19] == 60).all()
    assert (crop > 120).all(axis=2).sum() == 20 * 20


@pytest.mark.parametrize(("white", "kept"), [(205, [6, 7]), (256, [5, 6, 7])])
def test_white_crops_are_dropped_and_counted(tmp_path: Path, white: int, kept: list[int]) -> None:
    pixels = np.full((100, 300, 3), 230, np.uint8)
    pixels[:, 100:200] = (255, 204, 255)  # one channel below: tissue
    pixels[:, 200:] = 80
    path = write_pyramid(tmp_path / "s.tif", pixels, 1.0)
    cells = write_cells(tmp_path / "cells.parquet", [(40, 50), (150, 50), (260, 50)])
    out = tmp_path / "crops.parquet"
    counts = crop_slide(slide_row(path), cells, Tiling(mpp=1.0), Crop(white=white), out)
    assert counts == (len(kept), 3 - len(kept))
    assert images(out)[0] == kept
    assert int(pq.read_metadata(out).metadata[b"dropped"]) == 3 - len(kept)


def test_row_groups_of_256(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", np.full((100, 100, 3), 90, np.uint8), 1.0)
    cells = write_cells(tmp_path / "cells.parquet", [(50, 50)] * 600)
    crop_slide(slide_row(path), cells, Tiling(mpp=1.0), Crop(), tmp_path / "crops.parquet")
    file = pq.ParquetFile(tmp_path / "crops.parquet")
    assert [file.metadata.row_group(i).num_rows for i in range(file.num_row_groups)] == [256, 256, 88]


def test_a_slide_without_cells_is_not_even_opened(tmp_path: Path) -> None:
    cells = write_cells(tmp_path / "cells.parquet", [])
    gone = slide_row(tmp_path / "gone.svs")
    assert crop_slide(gone, cells, Tiling(), Crop(), tmp_path / "crops.parquet") == (0, 0)
    assert tables.read(tmp_path / "crops.parquet", CROPS).empty


def test_cells_of_another_resolution_are_named(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "s.tif", np.full((100, 100, 3), 90, np.uint8), 1.0)
    cells = write_cells(tmp_path / "cells.parquet", [(400, 50)])
    with pytest.raises(UserError, match=r"s\.tif: a cell at x 400, y 50 px lies outside"):
        crop_slide(slide_row(path), cells, Tiling(mpp=1.0), Crop(), tmp_path / "crops.parquet")
    assert not (tmp_path / "crops.parquet").exists()


def crop_row(name: str, path: Path, label: int | None = None) -> CropRow:
    return CropRow(crop=name, path=str(path), group="d3", animal="a1", label=label)


def test_crop_study_reads_any_image_and_its_labels(tmp_path: Path) -> None:
    pixels = smooth_noise(128, 128)
    Image.fromarray(pixels[:64, :64]).save(tmp_path / "a.png")
    Image.fromarray(pixels[..., 0]).save(tmp_path / "b.png")
    Image.fromarray(np.dstack([pixels[:64, :64], np.zeros((64, 64), np.uint8)])).save(tmp_path / "c.png")
    rows = [
        crop_row("a", tmp_path / "a.png", 2),
        crop_row("b", tmp_path / "b.png"),
        crop_row("c", tmp_path / "c.png", 0),
    ]
    assert crop_images(rows, tmp_path / "crops.parquet", tmp_path / "labels.parquet") == 3
    numbers, (a, b, c) = images(tmp_path / "crops.parquet")
    assert numbers == [0, 1, 2]
    np.testing.assert_array_equal(a, pixels[:64, :64])
    halved = pixels[..., 0].reshape(64, 2, 64, 2).mean(axis=(1, 3))
    assert np.abs(b[..., 1] - halved).mean() < 2 and (b[..., 0] == b[..., 2]).all()
    assert (c == 255).all()
    labels = tables.read(tmp_path / "labels.parquet", LABELS)
    assert labels[["cell", "stage", "iou"]].to_numpy().tolist() == [[0, 2, 1], [2, 0, 1]]
    assert json.loads(pq.read_schema(tmp_path / "crops.parquet").metadata[b"crops"]) == ["a", "b", "c"]


def test_crop_study_names_all_bad_images(tmp_path: Path) -> None:
    Image.fromarray(smooth_noise(64, 64)).save(tmp_path / "good.png")
    (tmp_path / "half.png").write_bytes((tmp_path / "good.png").read_bytes()[:900])
    (tmp_path / "text.png").write_text("no image")
    Image.fromarray(np.zeros((64, 64), np.uint16)).save(tmp_path / "deep.png")
    names = ["good", "half", "text", "deep", "gone"]
    rows = [crop_row(name, tmp_path / f"{name}.png") for name in names]
    with pytest.raises(UserError, match="4 of 5 crops cannot be read") as error:
        crop_images(rows, tmp_path / "crops.parquet")
    assert all(f"{name} (" in str(error.value) for name in names[1:]) and "good (" not in str(error.value)
    assert not (tmp_path / "crops.parquet").exists()
