"""What the rules ask of a study: runs cut into jobs, what each job and run reads, which tables there are."""

import re
from pathlib import Path
from typing import Any

import pytest

from myostage.study.expand import expand
from myostage.study.inputs import SlideRow
from myostage.study.plan import Plan, batches, run_batches
from myostage.study.run import RunSpec
from myostage.study.sections.study import Study

ROOT = Path(__file__).parents[2]
STAGES = ("damaged", "recovered", "intact")
SLIDES = {"d0": 0.0, "d3": 4.0, "d7": 1.0}
LABELS = {
    "injured": {"kind": "binary", "classes": {"uninjured": ["d0"], "injured": ["d3", "d7"]}},
    "day": {"kind": "ordinal", "classes": {"d0": ["d0"], "d3": ["d3"], "d7": ["d7"]}},
}
BOTH = {"simprop": 1, "prop": 1}
EXPERIMENTS: list[dict[str, Any]] = [
    {"name": "combined", "losses": BOTH},
    {"name": "prop", "losses": {"prop": 1}},
    {"name": "rebuilt", "losses": {"prop": 1, "spatial_reconstruction": 1}},
    {"name": "scored", "losses": {"mse": 1}, "training": {"score": "area"}, "part": "regression"},
    {"name": "grid", "losses": BOTH, "vary": {"sigma": [0.1, 0.2], "bins": [6, 10]}},
    {"name": "ceiling", "method": "supervised"},
    {"name": "linear", "method": "probe"},
    {"name": "majority", "method": "majority"},
    {"name": "group_majority", "method": "group_majority"},
    {"name": "pooling", "method": "slide", "vary": {"mil.model": ["mean", "max"]}, "part": "attention"},
    {
        "name": "smap",
        "method": "slide",
        "vary": {"mil.placement": ["early", "late"], "mil.alpha": [0.1, "trainable"]},
        "part": "attention",
    },
    {"name": "again", "method": "slide", "mil": {"model": "max"}, "part": "spatial"},
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = ["slide\tpath\tgroup\tanimal\tarea\tannotations"]
    rows += [f"{name}\t{name}.svs\t{name}\t{name}\t{area}\t{name}.json" for name, area in SLIDES.items()]
    (tmp_path / "slides.tsv").write_text("\n".join([*rows, "other\tother.svs\t\t\t\t"]) + "\n")
    shares = ["group\tdamaged\trecovered\tintact", "d0\t0\t0\t1", "d3\t.5\t.5\t0", "d7\t0\t.5\t.5"]
    (tmp_path / "proportions.tsv").write_text("\n".join(shares) + "\n")
    return tmp_path


def plan_of(folder: Path, **changes: Any) -> Plan:
    settings: dict[str, Any] = {
        "study": "trial",
        "stages": STAGES,
        "slides": str(folder / "slides.tsv"),
        "proportions": str(folder / "proportions.tsv"),
        "healthy": {"groups": ["d0"], "stages": ["intact"]},
        "slide_labels": LABELS,
        "folds": 3,
        "seeds": (0, 1),
        "encoder": {"architecture": {"width": 96, "heads": 3}, "weights": "none"},
        "experiments": EXPERIMENTS,
        "jobs": {"runs_per_job": 8, "slides_per_job": 2},
    }
    return Plan(Study.model_validate(settings | changes))


def ids(specs: list[RunSpec]) -> list[str]:
    return [spec.id for spec in specs]


# --- runs in jobs -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 5, 8, 1000])
def test_every_run_has_one_job_of_at_most_that_size_with_a_plain_name(folder: Path, size: int) -> None:
    plan = plan_of(folder, jobs={"runs_per_job": size})
    jobs = plan.run_batches
    ran = [run for specs in jobs.values() for run in ids(specs)]
    assert sorted(ran) == sorted({run for specs in plan.runnable.values() for run in ids(specs)})
    assert all(re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name) for name in jobs)
    assert {spec.method for spec in jobs.pop("baselines")} == {"majority", "group_majority"}
    assert all(len(specs) <= size for specs in jobs.values())
    assert plan.longest == min(size, max(map(len, jobs.values())))


def test_runs_of_several_experiments_share_jobs_and_models_of_slide_labels_do_not_join_them(
    folder: Path,
) -> None:
    jobs = plan_of(folder).run_batches
    assert ids(jobs["runs1"]) == ids([*plan_of(folder).experiments["combined"], *jobs["runs1"][6:]])
    assert {frozenset(spec.losses) for spec in jobs["runs1"]} == {frozenset(BOTH), frozenset({"prop"})}
    for name, specs in jobs.items():
        assert len({spec.method == "slide" for spec in specs}) == 1, name
    # 6 points x 3 folds x 2 seeds; `again` asks for runs that `pooling` has
    assert [len(specs) for name, specs in jobs.items() if name.startswith("slides")] == [8, 8, 8, 8, 4]


def test_runs_of_an_encoder_that_is_fine_tuned_keep_no_others_waiting(folder: Path) -> None:
    tuned = {"encoder": {"dino": {"steps": 1}}}
    plan = plan_of(folder, experiments=[EXPERIMENTS[3], {"name": "t", "losses": BOTH, **tuned}])
    assert list(plan.run_batches) == ["runs1", *(f"runs-{encoder}-1" for encoder in plan.tuned)]
    assert plan.read_by(plan.run_batches["runs1"])["encoder"] == []
    for fold, encoder in enumerate(plan.tuned):
        specs = plan.run_batches[f"runs-{encoder}-1"]
        assert {spec.fold for spec in specs} == {fold} and len(
            specs
        ) == 2  # an encoder serves its fold's seeds
        assert plan.read_by(specs)["encoder"] == [plan.paths.receipt("dino", encoder)]
        assert [RunSpec(**spec.model_dump()) for spec in specs] == specs
        assert [RunSpec.model_validate_json(spec.model_dump_json()) for spec in specs] == specs


def test_an_experiment_that_is_added_last_changes_only_the_last_job(folder: Path) -> None:
    before = plan_of(folder, experiments=EXPERIMENTS[:5])
    after = plan_of(folder, experiments=[*EXPERIMENTS[:5], {"name": "late", "losses": {"prop": 2}}])
    first, last = before.run_batches, after.run_batches
    *kept, extended = first
    assert {name: last[name] for name in kept} == {name: first[name] for name in kept}
    assert ids(last[extended])[: len(first[extended])] == ids(first[extended])
    # the runs that are there read what they read, and learn from what they learnt from
    known = {member["run"]: member for name in last for member in after.members(name)}
    for name in first:
        assert all(member == known[member["run"]] for member in before.members(name))


def test_slides_are_cut_into_even_jobs() -> None:
    assert batches("abcdefg", 3, "s") == {"s1": ["a", "b"], "s2": ["c", "d"], "s3": ["e", "f", "g"]}
    assert batches("ab", 1, "s") == {"a": ["a"], "b": ["b"]} and batches("", 3, "s") == {}


# --- what is read -------------------------------------------------------------------------------------------


def test_a_run_reads_and_learns_from_what_it_uses_and_nothing_else(folder: Path) -> None:
    plan = plan_of(folder)
    about = {member["run"]: member for name in plan.run_batches for member in plan.members(name)}

    def of(label: str) -> dict[str, Any]:
        return about[plan.runnable[label][0].id]

    def reads(label: str, *rules: str) -> set[bool]:
        inputs = " ".join(of(label)["inputs"])
        return {bool(re.search(rf"/{rule}[/.]", inputs)) for rule in rules}

    assert reads("prop", "tokens", "splits", "precheck") == {True}
    assert reads("prop", "segment", "labels", "crop") == {False}
    assert reads("rebuilt", "tokens", "segment") == {True}
    assert reads("ceiling", "labels") == {True} and reads("ceiling", "precheck") == {False}
    assert reads("linear", "labels", "tokens", "splits") == {True} and of("linear")["labelled"] == list(
        SLIDES
    )
    assert "linear" not in plan.embedded and "linear" not in plan.structure["losses"]
    assert plan.structure["label_learners"] == ["ceiling", "linear"]
    assert reads("majority", "crop", "splits") == {True} and reads("majority", "tokens") == {False}
    assert of("ceiling")["labelled"] == list(SLIDES) and of("prop")["labelled"] == []
    assert of("scored")["scores"] == {"d0": 0.0, "d3": 2.0, "d7": 0.5} and of("prop")["scores"] == {}
    assert of("again")["classes"] == {"d0": 0, "d3": 1, "d7": 1} and of("prop")["classes"] == {}
    assert of("prop")["slide_proportions"] == {}


def test_a_specification_comes_back_from_plain_values_as_it_was(folder: Path) -> None:
    plan = plan_of(folder)
    for label, specs in plan.runnable.items():
        assert [RunSpec(**spec) for spec in plan.specs([label]).values()] == specs
        assert list(plan.specs([label])) == ids(specs) == plan.runs([label])[label]


def test_two_encoders_ask_for_as_many_jobs_as_one(folder: Path) -> None:
    other = {"name": "other", "losses": BOTH, "encoder": {"trained_blocks": 2}}
    one, two = plan_of(folder), plan_of(folder, experiments=[*EXPERIMENTS, other])
    assert [len(plan.encoders) * len(plan.token_batches) for plan in (one, two)] == [2, 2]


def test_receipts_stand_for_every_file_of_a_job_of_several(folder: Path) -> None:
    plan = plan_of(folder)
    paths, found = plan.paths, dict(plan.receipts)
    assert plan.slide_batches == {"slides1": ["d0", "d3"], "slides2": ["d7", "other"]}
    for batch, slides in plan.slide_batches.items():
        for rule, name in (("tile", "tiles"), ("segment", "cells"), ("crop", "crops")):
            assert {found.pop(paths.slide(slide, f"{name}.parquet")) for slide in slides} == {
                paths.receipt(rule, batch)
            }
    for encoder in plan.encoders:
        tokens = [paths.tokens(slide, encoder) for slide in plan.slides]
        assert plan.behind(tokens) == [paths.receipt("tokens", encoder)]
        assert {found.pop(file) for file in tokens} == {paths.receipt("tokens", encoder)}
    for batch, specs in plan.run_batches.items():
        receipt = paths.receipt(*(("baselines", "all") if batch == "baselines" else ("train", batch)))
        for spec in specs:
            assert ("attention.parquet" in spec.files) == (spec.method == "slide")
            assert {found.pop(paths.run(spec.id, name)) for name in spec.files} == {receipt}
    assert {found.pop(plan.paths.tuned(encoder)) for encoder in plan.tuned} == {
        plan.paths.receipt("dino", encoder) for encoder in plan.tuned
    }
    assert found == {}
    assert plan.behind({"a": ["x.tsv", ""], "b": {"c": "x.tsv"}}) == ["x.tsv"]


def test_rules_wait_for_the_receipts_of_what_jobs_of_several_make() -> None:
    """A file that no rule declares as its output must be asked for through its receipt."""
    made = "tiles|cells|crops|predictions|history|outcome|attention"
    found = 0
    for path in (ROOT / "rules").glob("*.smk"):
        inputs = re.findall(r"^ +input:\n(.*?)^ +output:", path.read_text(), re.DOTALL | re.MULTILINE)
        for line in "".join(inputs).splitlines():
            if re.search(rf'PLAN\.(each|of_runs)\(\s*"({made})\.', line):
                found += 1
                assert "behind(" in line, f"{path.name}: {line.strip()}"
    assert found > 8


# --- what is looked at, and the tables ----------------------------------------------------------------------


def test_experiments_stage_cells_or_learn_labels_of_slides(folder: Path) -> None:
    plan = plan_of(folder)
    assert {*plan.experiments, *plan.slide_experiments} == set(plan.runnable)
    assert not plan.experiments.keys() & plan.slide_experiments.keys()
    assert plan.shown == "combined" and plan.staging == plan.experiments["combined"]
    assert plan.baselines == ["majority", "group_majority"]
    names = [Path(file).stem for file in plan.tables]
    assert names == [
        *("metrics", "comparisons", "confusion", "reliability", "scores", "runs"),
        *("slides_metrics", "slides_comparisons", "slides_runs", "spectrum", "borders", "algebra"),
    ]
    assert plan.answers["metrics"] == plan.paths.study("metrics.parquet")
    assert len(plan.stage_files) == 3 * 4


def test_a_study_of_labels_of_slides_alone_answers_about_slides(folder: Path) -> None:
    plan = plan_of(folder, experiments=[one for one in EXPERIMENTS if one.get("method") == "slide"])
    assert plan.cell_tables == plan.stage_files == plan.algebra_tables == []
    assert [Path(file).stem for file in plan.answers.values()] == [
        "slides_metrics",
        "slides_comparisons",
        "slides_runs",
    ]
    assert plan.answered_structure["compare"]["metric"] == plan.study.compare.slide_metric


def test_a_study_without_experiments_answers_nothing(folder: Path) -> None:
    plan = plan_of(folder, experiments=[])
    assert plan.tables == plan.summary == plan.stage_files == [] and plan.answers == {}
    assert plan.shown is None and plan.ordered is None


def test_the_embedding_looked_at_is_that_of_the_shown_experiment_or_the_first_with_simprop(
    folder: Path,
) -> None:
    assert plan_of(folder).ordered == "combined"
    assert plan_of(folder, look={"experiment": "prop"}).ordered == "combined"
    assert plan_of(folder, look={"experiment": "grid[sigma=0.2,bins=6]"}).ordered == "grid[sigma=0.2,bins=6]"
    assert plan_of(folder, experiments=EXPERIMENTS[1:2]).ordered is None


def test_attention_is_that_of_the_reference_and_the_first_that_smooths_unless_named(folder: Path) -> None:
    def attended(**changes: Any) -> list[str]:
        return plan_of(folder, **changes).attended

    assert attended() == ["pooling[model=mean]", "smap[placement=early,alpha=0.1]"]
    assert attended(look={"attention": ["smap[placement=late,alpha=0.1]", "again"]}) == [
        "smap[placement=late,alpha=0.1]",
        "again",
    ]
    # The reference smooths itself, so that the next one that does stands beside it.
    assert attended(compare={"slides": "smap[placement=early,alpha=0.1]"}) == [
        "smap[placement=early,alpha=0.1]",
        "smap[placement=early,alpha=trainable]",
    ]
    assert attended(experiments=EXPERIMENTS[:1]) == []


def test_slides_that_are_drawn_are_injured_ones_of_each_kind_of_border(folder: Path) -> None:
    rows = [
        ("a", "d0", "sharp"),
        ("b", "d3", ""),
        ("c", "d3", "sharp"),
        ("d", "d7", "diffuse"),
        ("e", "d7", "sharp"),
    ]

    def drawn(labelled: str, most: int = 3, **changes: Any) -> list[str]:
        plan = plan_of(folder, **changes)
        slides = {
            name: SlideRow(
                slide=name, group=group, border=border, annotations="a" if name in labelled else None
            )
            for name, group, border in rows
        }
        vars(plan)["slides"] = slides
        return plan.drawn_slides(most)

    assert sorted(drawn("abcde")) == ["c", "d"]
    assert drawn("abe") == ["e"] and drawn("ab") == ["b"] and drawn("a") == []
    assert drawn("abcde", look={"slides": ["b", "a", "x"]}) == ["b", "a"]
    assert len(drawn("abcde", most=1, healthy=None)) == 1


def test_runs_that_two_experiments_ask_for_are_made_once(folder: Path) -> None:
    experiments = expand(plan_of(folder).study)
    assert experiments["grid[sigma=0.1,bins=6]"] == experiments["combined"]
    jobs = run_batches({label: experiments[label] for label in ("combined", "grid[sigma=0.1,bins=6]")}, 100)
    assert {name: ids(specs) for name, specs in jobs.items()} == {"runs1": ids(experiments["combined"])}
