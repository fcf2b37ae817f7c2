"""Studies of labelled crops and of ready-made features, from files to tables; slides that are none."""

import runpy
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

import features_table
from myostage import tables
from myostage.evaluation.tables import METRICS
from myostage.features import ready_made
from support import cell_features, feature_sets, tiny

pytestmark = pytest.mark.workflow


def test_labelled_crops_become_a_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def script(command: str) -> None:
        name, *arguments = command.split()
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        runpy.run_path(str(tiny.ROOT / f"scripts/{name}.py"), run_name="__main__")

    (tmp_path / "config").symlink_to(tiny.ROOT / "config")
    monkeypatch.chdir(tmp_path)
    script("draw_crops --out images --stages young,middle,old --cells 150")
    rows = [f"{image}\t{image.parent.name}" for image in sorted((tmp_path / "images").rglob("*.png"))]
    (tmp_path / "labelled.tsv").write_text("path\tlabel\n" + "\n".join(rows) + "\n")
    size = "--groups 2 --animals 2 --cells 20"
    script(f"compose_bags labelled.tsv --stages young,middle,old --out mine {size}")
    kept = ("combined", "prop", "majority")
    content = yaml.safe_load((tmp_path / "mine/study.yaml").read_text())
    content |= {"encoder": tiny.study()["encoder"], "training": {"steps": 3, "bag_size": 10}, "folds": 2}
    content["experiments"] = [made for made in content["experiments"] if made["name"] in kept]
    tiny.write(tmp_path / "study.yaml", content)
    result = tiny.run(tmp_path, "tables")
    assert result.returncode == 0, result.stderr[-4000:]
    metrics = tables.read(tmp_path / "results/mine/metrics.parquet", METRICS)
    accuracy = metrics[(metrics["run"] == "") & (metrics["metric"] == "accuracy")]
    priors = {f"{name}[prior={prior}]" for name in ("combined", "prop") for prior in ("group", "transport")}
    assert set(accuracy["experiment"]) == {*kept, *priors} and set(accuracy["cells"]) == {80}


def test_a_public_benchmark_runs_from_its_files_to_its_tables(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = feature_sets.generate(tmp_path / "data", "camelyon16", bags=8)
    features_table.main(feature_sets.arguments(given))
    (tmp_path / "slides.tsv").write_text(capsys.readouterr().out)
    content = yaml.safe_load((tiny.ROOT / "config/camelyon16.yaml").read_text())
    content |= {"slides": "slides.tsv", "folds": 2, "seeds": [0], "training": {"steps": 6}}
    content |= {"experiments": [{"name": "smap", "method": "slide"}], "compare": {}}
    content["jobs"] = {"slides_per_job": 8, "threads": 1}
    tiny.write(tmp_path / "study.yaml", content)
    monkeypatch.setenv(ready_made.SOURCES["camelyon16"].variable, str(tmp_path / "data"))
    result = tiny.run(tmp_path, "tables")
    assert result.returncode == 0, result.stderr[-6000:]
    metrics = tables.read(tmp_path / "results/camelyon16/slides_metrics.parquet", METRICS)
    pooled = metrics[metrics["run"] == ""].set_index("metric")
    assert {"bag_auroc", "instance_auroc", "energy"} <= set(pooled.index)
    assert np.isfinite(pooled["value"]).all() and pooled.loc["bag_auroc", "slides"] == 8


def test_every_bad_slide_is_named_where_the_check_fails(tmp_path: Path) -> None:
    content = tiny.of_cells({"name": "majority", "method": "majority"})
    content.pop("phantom")
    tiny.lay_out(tmp_path, content)
    (tmp_path / "phantom").mkdir()
    names = ("d0a", "d0b", "d5a", "d5b")
    for name in names:
        (tmp_path / f"phantom/{name}.tif").write_bytes(b"no slide at all")
        (tmp_path / f"phantom/{name}.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    result = tiny.run(tmp_path, "results/tiny/slides.parquet")
    said = result.stdout + result.stderr
    assert result.returncode != 0 and all(f"{name}.tif" in said for name in names)


def test_a_table_of_ready_made_features_becomes_a_study(tmp_path: Path) -> None:
    table = cell_features.cells()
    tiny.write(tmp_path / "study.yaml", cell_features.lay_out(tmp_path, table))
    result = tiny.run(tmp_path, "tables", "stages")
    assert result.returncode == 0, result.stderr[-6000:]
    results = tmp_path / "results/cells"
    metrics = tables.read(results / "metrics.parquet", METRICS)
    accuracy = metrics[(metrics["run"] == "") & (metrics["metric"] == "accuracy")].set_index("experiment")
    assert set(accuracy["cells"]) == {int(table["stage"].notna().sum())}
    value = accuracy["value"]
    # the stages of groups overlap, so that knowing the group alone is far from enough
    assert (
        value[["combined", "prop", "supervised"]].min() > 0.85 > value[["majority", "group_majority"]].max()
    )
    staged = pd.read_parquet(results / "slides/d5_m1/stages.parquet")
    own = table[table["animal"] == "d5_m1"].reset_index(drop=True)
    assert staged["cell"].tolist() == own.index.tolist()
    known = own["stage"].notna()
    found = [cell_features.STAGES[stage] for stage in staged.loc[known, "stage"]]
    assert np.mean(np.array(found) == own.loc[known, "stage"]) > 0.8
    (tmp_path / "cells.parquet").touch()
    again = tiny.run(tmp_path, "tables", "stages", "--dry-run")
    assert "Nothing to be done" in again.stdout + again.stderr
    table.iloc[1:].to_parquet(tmp_path / "cells.parquet", index=False)
    changed = tiny.run(tmp_path, "tables", "--dry-run")
    planned = ("Reading ready-made features", "Training runs", "Evaluating")
    assert all(message in changed.stdout for message in planned)
