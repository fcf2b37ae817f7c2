"""A table of ready-made features: its slides are known without them, and every fault is one sentence."""

import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
import yaml

from myostage.errors import UserError
from myostage.features import cut
from myostage.features.tokens import TokenStore
from myostage.study import cell_table
from myostage.study.expand import encoders, expand
from myostage.study.inputs import read_slides
from myostage.study.load import load_study
from myostage.study.plan import Plan
from support import cell_features, tiny

STAGES = tuple(cell_features.STAGES)


def frame() -> pd.DataFrame:
    return cell_features.cells(per_animal=4)


def written(folder: Path, table: pd.DataFrame, ending: str = "parquet") -> str:
    path = folder / f"cells.{ending}"
    if ending == "parquet":
        table.to_parquet(path, index=False)
    else:
        cell_features.wide(table).to_csv(path, index=False, sep="," if ending == "csv" else "\t")
    return str(path)


def columns_of(ending: str) -> str:
    return "features" if ending == "parquet" else "f_"


@pytest.mark.parametrize("ending", ["parquet", "csv", "tsv"])
def test_slides_cells_stages_and_places_are_those_of_the_table(tmp_path: Path, ending: str) -> None:
    table = frame()
    cells = cell_table.read_cells(written(tmp_path, table, ending), columns_of(ending), STAGES)
    first = table.drop_duplicates("animal")
    assert cells.slides == {
        animal: (group, animal) for animal, group in first[["animal", "group"]].to_numpy()
    }
    names = list(cells.slides)
    assert [names[number] for number in cells.slide] == table["animal"].tolist()
    assert cells.cell.tolist() == table.groupby("animal").cumcount().tolist()
    known = [STAGES.index(stage) if isinstance(stage, str) else -1 for stage in table["stage"]]
    assert cells.stage.tolist() == known and -1 in known
    np.testing.assert_allclose(cells.places, table[["x_um", "y_um"]])


def test_slides_and_numbers_of_cells_may_be_given(tmp_path: Path) -> None:
    table = frame().drop(columns=["stage", "x_um", "y_um"])
    table["slide"] = pd.Categorical("s" + (np.arange(len(table)) % 2).astype(str) + table["animal"])
    table["cell"] = np.arange(len(table))[::-1] * 3
    table.loc[table["animal"] == "d3_m0", ["group", "animal"]] = None
    cells = cell_table.read_cells(written(tmp_path, table), "features", STAGES)
    assert cells.slides["s0d5_m1"] == ("d5", "d5_m1") and cells.slides["s0d3_m0"] == ("", "s0d3_m0")
    assert cells.cell.tolist() == table["cell"].tolist()
    assert cells.places is None and (cells.stage == -1).all()


@pytest.mark.parametrize("ending", ["parquet", "csv"])
@pytest.mark.parametrize("held", [1, cut.HELD_BYTES])
def test_every_slide_gets_its_features_labels_and_positions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ending: str, held: int
) -> None:
    monkeypatch.setattr(cut, "HELD_BYTES", held)
    monkeypatch.setattr(cut, "ROWS_READ", 5)
    table = frame()
    table["features"] = [values * np.float32(1e20) for values in table["features"]]
    if ending == "parquet":
        pq.write_table(pa.Table.from_pandas(table), tmp_path / "cells.parquet", row_group_size=7)
        given = cut.Cut(str(tmp_path / "cells.parquet"), "features", STAGES)
    else:
        given = cut.Cut(written(tmp_path, table, ending), "f_", STAGES)
    given.check()
    for animal, own in table.groupby("animal", sort=False):
        out = {
            name: str(tmp_path / f"{animal}-{name}") for name in ("tokens_out", "positions_out", "labels_out")
        }
        given.write(str(animal), **out, encoder_json="{}")
        store = TokenStore(out["tokens_out"])
        assert store.read().dtype == torch.float32
        np.testing.assert_allclose(store.read()[:, 0].numpy(), np.stack(own["features"]), rtol=1e-6)
        assert store.cells.tolist() == list(range(len(own)))
        labels = pd.read_parquet(out["labels_out"])
        known = own.reset_index(drop=True)["stage"].dropna()
        assert labels["cell"].tolist() == known.index.tolist()
        assert [STAGES[stage] for stage in labels["stage"]] == known.tolist()
        np.testing.assert_allclose(
            pd.read_parquet(out["positions_out"])[["x_um", "y_um"]], own[["x_um", "y_um"]], rtol=1e-6
        )


# --- what is refused


def first(column: str, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    """The table with another value in its third row."""

    def change(table: pd.DataFrame) -> pd.DataFrame:
        values = table[column].tolist()
        values[2] = value
        return table.assign(**{column: values})

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda t: t.drop(columns="group"), "column group is missing"),
        (lambda t: t.rename(columns={"animal": "anmial"}), "column animal is missing (did you mean anmial?)"),
        (lambda t: t.rename(columns={"features": "uni"}), "no column is named features or begins with it"),
        (lambda t: t.drop(columns="y_um"), "has one of x_um and y_um; give both, or none"),
        (lambda t: t.iloc[:0], "has no rows"),
        (
            first("stage", "erly"),
            "row 3, column stage: 'erly' is no stage (early, middle, late) (did you mean early?)",
        ),
        (first("animal", "m 1"), "row 3, column animal: is 'm 1'; use letters"),
        (first("animal", "\x1b[2J"), "row 3, column animal: is '\\x1b[2J'; use letters"),
        (first("animal", None), "row 3, column animal: is empty; fill it"),
        (first("x_um", 1e38), "row 3, column x_um: is 1e+38, beyond 1e+30"),
        (lambda t: t.assign(x_um="left"), "row 1, column x_um: is 'left', not a number"),
        (lambda t: t.assign(cell=0), "stands twice; keep one"),
        (lambda t: t.assign(cell=-1), "row 1, column cell: is -1, where a cell has a whole number"),
        (lambda t: t.assign(cell=0.5), "row 1, column cell: is 0.5, where a cell has a whole number"),
        (lambda t: t.assign(cell="AACG-1"), "row 1, column cell: is 'AACG-1', not a number"),
        (lambda t: t.assign(features="a"), "column features holds"),
        (lambda t: t.assign(features=[["a"]] * len(t)), "column features holds"),
        (lambda t: t.assign(animal="m1"), "slide m1: its cells are of group 'd"),
        (lambda t: t.assign(slide="s" + t["group"]), "its cells are of animal"),
    ],
)
def test_what_is_wrong_with_the_cells_is_one_sentence(
    tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], said: str
) -> None:
    path = written(tmp_path, change(frame()))
    with pytest.raises(UserError) as error:
        cell_table.read_cells(path, "features", STAGES)
    assert said in str(error.value) and str(error.value).startswith(path) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ([np.nan] * 12, "row 3: feature 0 is nan"),
        ([1.0] * 5 + [np.inf] + [1.0] * 6, "row 3: feature 5 is inf"),
        ([1.0] * 11 + [-1e31], "row 3: feature 11 is -1e+31"),
        ([1.0] * 11 + [None], "row 3: feature 11 is nan"),
        ([1.0] * 11, "row 3 has 11 features, where every cell has as many"),
        ([], "row 3 has 0 features"),
        (None, "row 3 has 0 features"),
    ],
)
def test_what_is_wrong_with_the_features_is_one_sentence(tmp_path: Path, value: Any, said: str) -> None:
    table = frame()
    values = [list(map(float, row)) for row in table["features"]]
    values[2] = value
    path = written(tmp_path, table.assign(features=values))
    with pytest.raises(UserError) as error:
        cut.Cut(path, "features", STAGES).check()
    assert said in str(error.value) and str(error.value).startswith(path)


def test_text_among_the_numbers_of_a_csv_is_named(tmp_path: Path) -> None:
    table = cell_features.wide(frame()).astype({"f_3": object})
    table.loc[2, "f_3"] = "n/a"
    table.to_csv(tmp_path / "cells.csv", index=False)
    with pytest.raises(UserError, match=r"Row #4: .*invalid value 'n/a'"):
        cut.Cut(str(tmp_path / "cells.csv"), "f_", STAGES).check()
    table.loc[2, "f_3"] = ""
    table.to_csv(tmp_path / "cells.csv", index=False)
    with pytest.raises(UserError, match="row 4: feature 3 is nan"):
        cut.Cut(str(tmp_path / "cells.csv"), "f_", STAGES).check()


def test_files_that_are_no_table_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(UserError) as error:
            cell_table.read_cells(str(path), "features", STAGES)
        return str(error.value)

    whole = Path(written(tmp_path, frame())).read_bytes()
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    assert "not a readable table" in refused(tmp_path / "half.parquet")
    (tmp_path / "cells.h5ad").write_bytes(b"\x89HDF")
    assert "no Parquet file and no .csv or .tsv" in refused(tmp_path / "cells.h5ad")
    assert "docs/features.md" in refused(tmp_path / "cells.h5ad")
    assert "does not exist" in refused(tmp_path / "none.parquet")
    assert "is a folder" in refused(tmp_path)
    (tmp_path / "latin.csv").write_bytes("group,animal,f_0\nd3,mä,1\n".encode("latin-1"))
    with pytest.raises(UserError, match="not a readable table"):
        cell_table.read_cells(str(tmp_path / "latin.csv"), "f_", STAGES)
    (tmp_path / "semicolons.csv").write_text("group;animal;f_0\nd3;m1;1\n")
    assert "its columns are not separated by commas" in refused(tmp_path / "semicolons.csv")
    for limit, said in (("MOST_CELLS", "more than 5 cells"), ("MOST_UNPACKED", "GiB unpacked")):
        cell_table._layout.cache_clear()
        with monkeypatch.context() as patched:
            patched.setattr(cell_table, limit, 5)
            assert said in refused(tmp_path / "cells.parquet")
    monkeypatch.setattr(cell_table, "MOST_TEXT", 5)
    assert "bytes of text, more than 5" in refused(tmp_path / "semicolons.csv")


# --- the study


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    return cell_features.lay_out(tmp_path, frame())


def refusal(study: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        load_study(study)
    return str(error.value)


def test_a_study_of_a_table_knows_its_slides_and_trains_a_projection(study: dict[str, Any]) -> None:
    loaded = load_study(study)
    rows = read_slides(loaded)
    assert (
        len(rows) == 9
        and all(row.labelled for row in rows)
        and {row.path for row in rows} == {"cells.parquet"}
    )
    (encoder,) = encoders(loaded).values()
    assert (encoder.model, encoder.projection) == ("table/features", 16)
    plan = Plan(loaded)
    assert list(plan.slide_batches) == ["slides1"] and plan.images(plan.slides) == ["cells.parquet"]
    assert sorted(map(len, plan.run_batches.values())) == [6, 9]
    study["experiments"][0]["encoder"] = {"projection": 8}
    assert expand(load_study(study))["combined"][0].encoder.projection == 8
    del study["encoder"]
    assert expand(load_study(study))["prop"][0].encoder.projection == 64


def test_what_does_not_fit_ready_made_features_is_refused(study: dict[str, Any]) -> None:
    study["training"]["unfreeze"] = "attention"
    assert "unfreeze is attention, and ready-made features have none" in refusal(study)
    del study["training"]["unfreeze"]
    study["encoder"]["pool"] = "cls+mean"
    assert "encoder.pool changes no ready-made features; remove it" in refusal(study)
    del study["encoder"]["pool"]
    study["features"]["root"] = "."
    assert "features: root is not of a table; remove it" in refusal(study)
    study["features"] = {}
    assert "features: has neither of table and dataset; give one of them" in refusal(study)
    study["features"] = {"dataset": "rsna"}
    assert "features: root is missing, the folder of the data set; add it" in refusal(study)
    study["features"] = {"table": "cells.parquet"}
    study["slides"] = "slides.tsv"
    assert "input is features and `slides` is named too" in refusal(study)
    del study["slides"]
    table = frame()
    table.loc[table["group"] == "d5", "group"] = "d7"
    table.to_parquet("cells.parquet", index=False)
    assert "group d7 of" in refusal(study)


def test_spatial_runs_need_every_place(study: dict[str, Any]) -> None:
    study["experiments"].append({"name": "smooth", "losses": {"prop": 1}, "training": {"smooth": "logits"}})
    assert expand(load_study(study))["smooth"][0].spatial
    frame().assign(x_um=[np.nan, *frame()["x_um"][1:]]).to_parquet("cells.parquet", index=False)
    assert "smooth needs to know where cells lie, and cells.parquet lacks x_um or y_um of 1 cells" in refusal(
        study
    )
    frame().drop(columns=["x_um", "y_um"]).to_parquet("cells.parquet", index=False)
    assert "cells.parquet has no x_um and y_um" in refusal(study)


def test_a_projection_is_refused_where_no_features_are_ready_made(study: dict[str, Any]) -> None:
    study |= {"input": "slides", "slides": "slides.tsv", "features": None}
    assert "encoder.projection is of ready-made features, and there are none; remove it" in refusal(study)


# --- the page


def blocks(language: str) -> str:
    page = (tiny.ROOT / "docs/features.md").read_text(encoding="utf-8")
    (block,) = re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)
    return str(block)


def test_the_page_leads_from_an_anndata_to_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    table = frame()
    cell_features.lay_out(tmp_path, table)
    obs = table[["group", "animal", "stage"]].rename(columns={"group": "day", "animal": "mouse"})
    obsm = {"X_uni": np.stack(table["features"]), "spatial": table[["x_um", "y_um"]].to_numpy()}
    # what the lines use of an AnnData object
    exec(blocks("python"), {"adata": SimpleNamespace(obs=obs.astype("category"), obsm=obsm)})
    pd.testing.assert_frame_equal(
        pd.read_parquet("cells.parquet")[table.columns].astype(object), table.astype(object)
    )
    study = load_study(yaml.safe_load(blocks("yaml")))
    assert len(read_slides(study)) == 9
    assert {"combined", "prop", "supervised", "probe"} <= expand(study).keys()
