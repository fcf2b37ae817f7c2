"""Fine-tuning by DINO: what it reads and draws, its first steps by hand, resumption, and its file."""

import json
import runpy
import socket
import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import safe_open
from torch import Tensor

from myostage import tables
from myostage.cells.tables import CROPS
from myostage.errors import UserError
from myostage.features import dino
from myostage.features.encoder import build, crop_pixels, split
from myostage.features.tokens import TokenStore
from myostage.learning.tables import SPLITS
from myostage.paths import Paths
from myostage.runtime import jobs
from myostage.runtime.checkpoints import Checkpoints, Progress
from myostage.study import expand, plan
from myostage.study.plan import Plan
from myostage.study.sections.encoder import Dino, Encoder, FoldEncoder, read_encoder

ARCHITECTURE = {"patch_px": 8, "width": 32, "depth": 2, "heads": 2}
SETTINGS = {"steps": 6, "batch_size": 4, "prototypes": 64, "local_crops": 2, "checkpoint_every": 2}
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    connect = socket.socket.connect

    def refuse(*_: Any) -> None:
        raise AssertionError("fine-tuning needs no network")

    def only_local(self: socket.socket, address: Any) -> None:  # processes that draw views speak so
        (connect if self.family == socket.AF_UNIX else refuse)(self, address)

    monkeypatch.setattr(socket.socket, "connect", only_local)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Threads that wait for one another on a busy machine take far longer than one."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def encoder(**keys: Any) -> Encoder:
    return Encoder.model_validate(
        {"model": None, "architecture": ARCHITECTURE, "weights": "none", "dino": SETTINGS | keys}
    )


def settings(**keys: Any) -> Dino:
    return Dino.model_validate(SETTINGS | keys)


@pytest.fixture(scope="module")
def pixels() -> NDArray[np.uint8]:
    """Thirty discs of three colours and many sizes."""
    rng = np.random.default_rng(5)
    y, x = np.mgrid[:64, :64] - 31.5
    colours = [(150, 90, 170), (220, 140, 180), (190, 60, 90)]
    images = np.full((30, 64, 64, 3), 235, np.uint8)
    for number, image in enumerate(images):
        image[np.hypot(x, y) < rng.uniform(8, 28)] = colours[number % 3]
    return images


@pytest.fixture(scope="module")
def crops(pixels: NDArray[np.uint8], tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The crops of three slides, one of them without cells."""
    folder = tmp_path_factory.mktemp("crops")
    paths = []
    for number, (start, end) in enumerate(pairwise([0, 12, 12, 30])):
        cells = pa.array(np.arange(end - start, dtype=np.int32))
        part = pa.array([image.tobytes() for image in pixels[start:end]], pa.binary(64 * 64 * 3))
        table = pa.table([cells, part], schema=CROPS.schema)
        paths.append(folder / f"{number}.parquet")
        tables.write(paths[-1], table, CROPS)
    return paths


def tune(crops: Sequence[Path], made: Encoder, folder: Path, **keys: Any) -> dict[str, Tensor]:
    out = folder / "tuned.safetensors"
    dino.fine_tune(crops, made, out, folder / "checkpoint", CPU, **keys)
    return build(made, out).state_dict()


@pytest.fixture(scope="module")
def tuned(crops: list[Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Tensor]]:
    folder = tmp_path_factory.mktemp("tuned")
    return folder, tune(crops, encoder(), folder, made_by="a test")


def test_the_file_is_an_encoder_that_has_learnt(tuned: tuple[Path, dict[str, Tensor]]) -> None:
    folder, state = tuned
    start = build(encoder().model_copy(update={"dino": None})).state_dict()
    assert all(value.isfinite().all() for value in state.values())
    assert not any(torch.equal(state[name], start[name]) for name in start)
    with safe_open(folder / "tuned.safetensors", "pt") as file:
        said = file.metadata()
    assert Encoder.model_validate_json(said["encoder"]) == encoder() and said["made_by"] == "a test"
    assert json.loads(said["versions"])["lightly"]
    assert [path.name for path in folder.iterdir()] == ["tuned.safetensors"]


def test_a_killed_job_ends_with_the_same_weights(
    tuned: tuple[Path, dict[str, Tensor]], crops: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save = Checkpoints.save

    def save_and_die(self: Checkpoints, phase: int, step: int, state: dict[str, Any]) -> None:
        save(self, phase, step, state)
        if step == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "save", save_and_die)
        tune(crops, encoder(), tmp_path)
    assert not (tmp_path / "tuned.safetensors").exists()
    begun = []
    monkeypatch.setattr(Progress, "__post_init__", lambda self: begun.append(self.done) or None)
    monkeypatch.setattr(Progress, "advance", lambda *_: None)
    # how often a checkpoint is written changes no result
    resumed = tune(crops, encoder(checkpoint_every=5), tmp_path)
    assert begun == [4]
    assert all(torch.equal(resumed[name], value) for name, value in tuned[1].items())


def test_a_checkpoint_of_other_crops_or_settings_is_not_resumed(crops: list[Path]) -> None:
    def fingerprint(made: Encoder, paths: list[Path]) -> str:
        assert made.dino is not None
        images, _ = dino.read_crops(paths, made.dino)
        return dino._fingerprint(made, build(made.model_copy(update={"dino": None})), images)

    known = fingerprint(encoder(), crops)
    assert fingerprint(encoder(checkpoint_every=1), crops) == known
    assert fingerprint(encoder(learning_rate=1e-5), crops) != known
    assert fingerprint(encoder(), crops[1:]) != known


def test_every_crop_is_drawn_before_one_is_drawn_again(pixels: NDArray[np.uint8], crops: list[Path]) -> None:
    images, order = dino.read_crops(crops, settings(steps=17))
    assert np.array_equal(images, pixels) and len(order) == 17 * 4
    assert sorted(order[:30]) == sorted(order[30:60]) == list(range(30))
    assert not np.array_equal(order[:30], order[30:60])
    few, chosen = dino.read_crops(crops, settings(steps=2))  # 8 crops of 30, and only these are kept
    assert len(few) == 8 and sorted(chosen) == list(range(8))
    assert np.array_equal(few[chosen], pixels[order[:8]])


def test_no_crops_are_told(crops: list[Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no crops to learn from"):
        tune([crops[1]], encoder(), tmp_path)


@pytest.mark.parametrize("patch", [8, 16, 32])
def test_views_keep_stain_and_have_the_sizes_of_the_vit(patch: int, pixels: NDArray[np.uint8]) -> None:
    model = build(
        Encoder.model_validate(
            {"model": None, "architecture": ARCHITECTURE | {"patch_px": patch}, "weights": "none"}
        )
    )
    views = dino.views_of(model, settings())
    mean, std = (torch.tensor(part)[:, None, None] for part in dino.normalisation(model))
    # purple: blue above red above green; pink: red above blue above green
    for image, darkest_first in ((pixels[0], [1, 0, 2]), (pixels[1], [1, 2, 0])):
        centre = Image.fromarray(np.broadcast_to(image[32, 32], (64, 64, 3)).copy())
        for number in range(20):
            with dino._seeded(0, number):
                seen = views(centre)
            assert [tuple(view.shape) for view in seen] == [(3, 64, 64)] * 2 + [(3, 32, 32)] * 2
            colours = torch.stack([(view * std + mean).mean(dim=(1, 2)) for view in seen])
            assert colours.argsort(dim=1).tolist() == [darkest_first] * 4
            assert colours.min() >= 0 and colours.max() <= 1


def test_views_depend_on_seed_and_draw_alone(crops: list[Path]) -> None:
    images, order = dino.read_crops(crops, settings())
    model = build(encoder().model_copy(update={"dino": None}))

    def batches(done: int, workers: int, seed: int = 0) -> Iterator[list[Tensor]]:
        return dino._batches(images, order, model, settings(seed=seed), done, CPU, workers)

    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(2).tolist(), np.random.random()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    whole = list(batches(0, 0))
    assert (torch.rand(2).tolist(), np.random.random()) == expected  # noqa: NPY002
    assert len(whole) == 6
    for late, view in zip(batches(4, workers=1), whole[4:], strict=True):
        assert all(torch.equal(one, other) for one, other in zip(late, view, strict=True))
    assert not torch.equal(next(batches(0, 0, seed=1))[0], whole[0][0])
    assert not torch.equal(whole[0][0], whole[0][1])  # the two large views of a crop differ


def test_the_first_loss_is_that_of_the_paper(
    crops: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cross-entropies of every view under each other large view, in float64, pair by pair."""
    made = encoder(steps=1, teacher_temperature=0.05)
    assert made.dino is not None
    told = []
    monkeypatch.setattr(Progress, "advance", lambda self, steps, loss: told.append(loss))
    tune(crops, made, tmp_path)
    network = dino._Network(made, made.dino).double()
    images, order = dino.read_crops(crops, made.dino)
    views = next(dino._batches(images, order, network.backbone, made.dino, 0, CPU, 0))
    with torch.no_grad():  # one view at a time, through timm's own forward
        scores = [network.head(network.backbone.forward_features(view.double())[:, 0]) for view in views]
    expected = [
        -((scores[large] / 0.05).softmax(dim=1) * (scores[other] / 0.1).log_softmax(dim=1)).sum(dim=1).mean()
        for large in range(2)
        for other in range(4)
        if other != large
    ]
    assert told == [pytest.approx(float(torch.stack(expected).mean()), rel=1e-5)]


def test_the_teacher_follows_the_student_by_its_momentum(crops: list[Path], tmp_path: Path) -> None:
    """Of two steps the first moves the teacher by 1 - momentum and the last, whose momentum is 1, not at all.

    Adam's first step moves every weight by the learning rate, whatever its gradient.
    """
    made = encoder(steps=2, learning_rate=1e-3, weight_decay=0.0, momentum=0.75)
    start = build(made.model_copy(update={"dino": None})).state_dict()
    for name, value in tune(crops, made, tmp_path).items():
        moved = (value - start[name]).abs()
        assert moved.max() <= 0.25e-3 * 1.001, name
        if not name.endswith("qkv.bias"):  # no gradient reaches the bias of keys
            assert moved.median() == pytest.approx(0.25e-3, rel=1e-2), name


def test_a_loss_that_is_not_finite_names_step_and_checkpoint(crops: list[Path], tmp_path: Path) -> None:
    sentence = r"not finite at step \d.*checkpoint is .*step0+\d\.pt.*lower encoder.dino.learning_rate"
    with pytest.raises(UserError, match=sentence):
        tune(crops, encoder(steps=30, learning_rate=1e30, checkpoint_every=1), tmp_path)
    assert not (tmp_path / "tuned.safetensors").exists()


def test_a_missing_lightly_says_what_to_install(
    crops: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "lightly", None)
    with pytest.raises(UserError, match=r"package lightly .*install it with `make install`"):
        tune(crops, encoder(), tmp_path)


def test_an_encoder_that_is_not_to_be_fine_tuned_is_a_mistake_of_ours(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not to be fine-tuned"):
        tune([], encoder().model_copy(update={"dino": None}), tmp_path)


def test_an_applied_studys_encoder_is_read_where_that_study_lies(monkeypatch: pytest.MonkeyPatch) -> None:
    def runs(*made: Encoder) -> list[Any]:
        return [SimpleNamespace(encoder=one, trained=True) for one in made]

    plain, ours, theirs = encoder().model_copy(update={"dino": None}), encoder(), encoder(seed=1)
    other = SimpleNamespace(results="results", study="theirs")
    study: Any = SimpleNamespace(results="results", study="ours", world=None)
    study.apply = SimpleNamespace(study="theirs.yaml")
    for module in (expand, plan):
        monkeypatch.setattr(module, "runnable", lambda _: {"a": runs(plain, ours)})
        monkeypatch.setattr(module, "applied", lambda _: (other, runs(theirs)))
    assert Plan(study).tuned == {
        ours.id: f"results/ours/encoders/{ours.id}/weights.safetensors",
        theirs.id: f"results/theirs/encoders/{theirs.id}/weights.safetensors",
    }
    for module in (expand, plan):
        monkeypatch.setattr(module, "applied", lambda _: (other, runs(ours)))
    with pytest.raises(UserError, match=r"fine-tuned here and in theirs\.yaml"):
        assert Plan(study).tuned


# --- one encoder per fold -----------------------------------------------------------------------------------

FOLDS = {"a0": 0, "a1": 1, "b0": 0, "b1": 1, "staged": -1}


class Study:
    """Crops of five slides in two folds, and the job that tunes an encoder on them."""

    def __init__(self, root: Path, pixels: NDArray[np.uint8]) -> None:
        self.root, self.paths, self.pixels = root, Paths(str(root)), pixels
        for number, slide in enumerate(FOLDS):
            self.write(slide, number)
        self.split(4)

    def crops(self, slide: str) -> Path:
        return Path(self.paths.slide(slide, "crops.parquet"))

    def write(self, slide: str, first: int, count: int = 4) -> None:
        """Other crops for a slide, stated as the rule `crop` does."""
        images = [image.tobytes() for image in self.pixels[first : first + count]]
        part = pa.array(images, pa.binary(64 * 64 * 3))
        table = pa.table([pa.array(np.arange(count, dtype=np.int32)), part], schema=CROPS.schema)
        tables.write(self.crops(slide), table, CROPS)

    def split(self, cells: int) -> None:
        """The table of folds, with so many cells of slide a0."""
        rows = [(s, s[0], s, cells if s == "a0" else 4, fold) for s, fold in FOLDS.items()]
        frame = pd.DataFrame(rows, columns=SPLITS.schema.names)
        tables.write(self.root / "splits.parquet", frame, SPLITS)

    def job(self, rule: str, made: Encoder, output: str, **inputs: Any) -> Any:
        """A job of a rule, as Snakemake hands it to its script."""
        return SimpleNamespace(
            rule=rule,
            input=type("Inputs", (list,), inputs)(file for file in inputs.values() if file),
            output=[output],
            log=[self.paths.log(rule, made.id)],
            resources={},
            threads=1,
            params=Params(slides=list(FOLDS), encoder=made.id, settings=made.model_dump(), code="x"),
        )

    def embed(self, made: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
        """Run the job that embeds the slides; what waits for several files has a list of them."""
        output = self.paths.receipt(f"embed/{made.id}", "all")
        snakemake = self.job("embed", made, output, weights=[], tuned=[self.paths.receipt("dino", made.id)])
        snakemake.input[:] = snakemake.input.tuned
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "_start_logging", lambda *_: None)
            runpy.run_path(str(SCRIPTS / "embed.py"), init_globals={"snakemake": snakemake})

    def tune(self, made: Encoder, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
        """Run the job; the slides of each fine-tuning that it does."""
        receipt = self.paths.receipt("dino", made.id)
        snakemake = self.job("dino", made, receipt, splits=str(self.root / "splits.parquet"), weights=[])
        done = []
        own = dino.fine_tune

        def watched(crops: Sequence[Path], *arguments: Any, **keys: Any) -> None:
            done.append([path.parent.name for path in crops])
            own(crops, *arguments, **keys)

        with monkeypatch.context() as patch:
            patch.setattr(dino, "fine_tune", watched)
            patch.setattr(jobs, "_start_logging", lambda *_: None)
            runpy.run_path(str(SCRIPTS / "dino.py"), init_globals={"snakemake": snakemake})
        assert json.loads(Path(receipt).read_text())["members"].keys() == {made.id}
        return done


def read_images(path: Path) -> NDArray[np.uint8]:
    with tables.open_table(path, CROPS) as file:
        return np.concatenate([crop_pixels(batch.column("image")) for batch in file.iter_batches()])


class Params(dict[str, Any]):
    def __getattr__(self, name: str) -> Any:
        return self[name]


SCRIPTS = Path(__file__).parents[2] / "scripts"


@pytest.fixture
def study(tmp_path: Path, pixels: NDArray[np.uint8]) -> Study:
    return Study(tmp_path, pixels)


def test_no_crop_of_a_held_out_animal_is_read(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder(steps=1).of_fold(0, 2)
    for slide in ("a0", "b0", "staged"):
        study.crops(slide).write_bytes(b"whoever reads this fails")
    assert study.tune(made, monkeypatch) == [["a1", "b1"]]
    statement = json.loads(Path(study.paths.statement(f"encoders/{made.id}", "dino")).read_text())
    assert statement["inputs"].keys() == {str(study.crops(slide)) for slide in ("a1", "b1")}
    assert Path(study.paths.tuned(made.id)).is_file()
    for number, slide in enumerate(("a0", "b0", "staged")):
        study.write(slide, number)
    study.embed(made, monkeypatch)  # all slides, those held out too
    for slide in FOLDS:
        store = TokenStore(Path(study.paths.tokens(slide, made.id)))
        images = torch.from_numpy(read_images(study.crops(slide)))
        expected = split(made, Path(study.paths.tuned(made.id)))[0](images).half()
        torch.testing.assert_close(store.read(), expected, rtol=1e-2, atol=1e-3)
    for slide in ("a0", "b0", "staged"):
        study.crops(slide).write_bytes(b"whoever reads this fails")
    with pytest.raises(SystemExit):  # the transductive arm reads them all
        study.tune(encoder(steps=1, crops="all").of_fold(0, 2), monkeypatch)


def test_crops_of_held_out_animals_tune_nothing_anew(study: Study, monkeypatch: pytest.MonkeyPatch) -> None:
    made, everyone = encoder(steps=2).of_fold(0, 2), encoder(steps=2, crops="all").of_fold(0, 2)
    assert len(study.tune(made, monkeypatch)) == 1
    weights = Path(study.paths.tuned(made.id))
    before = weights.read_bytes(), weights.stat().st_mtime_ns
    first = build(made, weights).state_dict()["norm.weight"]
    assert study.tune(everyone, monkeypatch) == [list(FOLDS)]
    study.write("a0", first=9, count=7)
    study.split(7)
    assert study.tune(made, monkeypatch) == []
    assert (weights.read_bytes(), weights.stat().st_mtime_ns) == before
    assert study.tune(everyone, monkeypatch) == [list(FOLDS)]
    study.write("a1", first=9)
    assert study.tune(made, monkeypatch) == [["a1", "b1"]]
    assert not torch.equal(first, build(made, weights).state_dict()["norm.weight"])


def test_every_fold_has_an_encoder_and_all_crops_have_one() -> None:
    made = [encoder().of_fold(fold, 3) for fold in range(3)]
    assert len({one.id for one in made}) == 3 and all("-dino-f" in one.id for one in made)
    assert made[0].id != encoder().of_fold(0, 2).id
    assert [encoder(crops="all").of_fold(fold, 3) for fold in range(3)] == [encoder(crops="all")] * 3
    plain = encoder().model_copy(update={"dino": None})
    assert plain.of_fold(1, 3) is plain
    (first, *_) = made
    assert isinstance(first, FoldEncoder) and read_encoder(first.model_dump()) == first
    assert read_encoder(plain.model_dump()) == plain
