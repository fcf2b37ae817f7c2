"""A study composed from labelled crops: groups whose proportions are drawn, and known exactly.

Any ordinal data set becomes a study this way: its labels choose the crops of a group and evaluate the runs,
and what is learnt from is the proportions alone.
"""

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from myostage.errors import UserError, raise_all
from myostage.schema import NAME_PATTERN, nearest
from myostage.study.inputs import read_tsv

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]

DRIFT_STAGES = 0.8
"""Spread of a drifting group around its centre, in stages: adjacent groups overlap as days do."""
MOST_FOLDS = 5
BAG_CELLS = 60
MOST_CELLS = 200
LEAST_SPREAD = 0.75
"""Least share of the standard deviation of the groups' expected stages that fitting to a pool may leave."""
MOST_SCALINGS = 10_000
# crops of a stage that fitted proportions may ask for in excess (rounding settles it); rounding of a count
EXCESS, ROUNDING = 0.25, 1e-9
ATTEMPTS = 8
"""Orders in which subjects are dealt before a composition is given up."""

DINO = (
    "{ steps: 300, batch_size: 32, learning_rate: 5.0e-4, momentum: 0.98, prototypes: 512, local_crops: 2, "
    "checkpoint_every: 100 }"
)
"""DINO for some hundred to some thousand crops and the small encoder, as in the demo's ablation."""

STUDY = """\
# Composed by scripts/compose_bags.py; every key is documented in config/README.md.
study: {name}

stages: [{stages}]
input: crops
crops: {folder}/crops.tsv
proportions: {folder}/proportions.tsv
slide_proportions: {folder}/slide_proportions.tsv # used where `training.proportions` is `slide`

# the small encoder of the demo, which runs offline on a CPU; leave the section out for the paper's ViT-B/8
encoder:
  architecture: {{ patch_px: 8, width: 96, depth: 4, heads: 3 }}
  weights: config/demo/encoder.safetensors
  pos_embed: timm

training: {{ steps: 300, bag_size: {bag_size}, checkpoint_every: 100 }}

folds: {folds}
seeds: [0, 1, 2]

experiments:
  - name: combined
    losses: {{ simprop: 1, prop: 1 }}
  - name: prop
    losses: {{ prop: 1 }}
  - name: detached # L_SimProp alone trains the encoder
    losses: {{ simprop: 1, prop: 1 }}
    training: {{ head_gradient: detached }}
  - name: frozen # what the head alone learns from the encoder's weights
    losses: {{ prop: 1 }}
    training: {{ unfreeze: none }}
    baseline: true
  - name: dino # the encoder fine-tuned on the crops, without any label
    losses: {{ prop: 1 }}
    training: {{ unfreeze: none }}
    encoder: {{ dino: {dino} }}
    baseline: true
  - name: dino_from_nothing # the same, from random weights
    losses: {{ prop: 1 }}
    training: {{ unfreeze: none }}
    encoder: {{ weights: none, dino: {dino} }}
    baseline: true
  - name: supervised # learns from cell labels
    method: supervised
  - name: probe # learns from cell labels: a logistic regression on the frozen tokens
    method: probe
  - name: majority
    method: majority
  - name: group_majority # what the group alone tells
    method: group_majority

# every method is measured with its group's proportions at prediction too: rows name[prior=transport]
prediction: {{ compare: [group, transport] }}

compare: {{ reference: prop }}
jobs: {{ slides_per_job: 8, runs_per_job: 3, threads: 1 }}
"""


@dataclass(frozen=True)
class Pool:
    """Labelled crops, n of them."""

    names: list[str]
    paths: list[str]
    stage: Counts  # [n] 0..K-1
    subject: Counts | None  # [n] number of the subject, where the table names subjects


@dataclass(frozen=True)
class Animal:
    """One animal of the composed study: its crops, as indices into the pool."""

    group: str
    name: str
    crops: Counts

    @property
    def slide(self) -> str:
        """The virtual slide that a crop study makes of it."""
        return f"{self.group}_{self.name}"


def read_pool(path: str | Path, stages: Sequence[str], leave_out: Collection[str] = ()) -> Pool:
    """Read a table of labelled crops.

    Images that do not lie where their path leads from here are looked for from the table's folder.

    Parameters
    ----------
    path : path
        TSV with ``path`` (image), ``label`` (stage) and, optionally, ``crop`` (name; the image where there is
        no ``path``; numbered where absent) and ``animal`` or ``subject``.
    stages : sequence of str
        Stages in order.
    leave_out : collection of str
        Labels whose crops are not read.

    Raises
    ------
    UserError
        Missing or unknown columns, a label that is no stage, a crop without image or subject, a repeated one.
    """
    lines = read_tsv(str(path), ["label"], ["crop", "path", "animal", "subject"])
    header = lines[0].values
    if "crop" not in header and "path" not in header:
        raise UserError(f"{path}: no column path; name the image of every crop in it")
    if "animal" in header and "subject" in header:
        raise UserError(f"{path}: columns animal and subject mean the same; keep one")
    image = "path" if "path" in header else "crop"
    problems, seen = list[str](), set()
    labels = Counter(line["label"] for line in lines)
    problems += [
        f"--leave-out {label}: {'is a stage' if label in stages else 'is no label here'}; correct it"
        for label in leave_out
        if label in stages or label not in labels
    ]
    lines = [line for line in lines if line["label"] not in leave_out]
    first = {line["label"]: line.number for line in reversed(lines)}
    problems += [
        f"column label: {label!r} ({labels[label]} rows, the first is row {number}) is no stage "
        f"({', '.join(stages)}){nearest(label, stages) or '; correct it, or name it by --leave-out'}"
        for label, number in reversed(first.items())
        if label not in stages
    ]
    subjects = [line["animal"] or line["subject"] for line in lines]
    named = "animal" in header or "subject" in header
    for line, subject in zip(lines, subjects, strict=True):
        if not line[image]:
            problems.append(f"row {line.number}, column {image}: is empty; name an image")
        if line[image] in seen:
            problems.append(f"row {line.number}, column {image}: {line[image]} stands twice; keep one")
        if named and not subject:
            problems.append(f"row {line.number}: names no animal; fill it, or remove the column")
        seen.add(line[image])
    raise_all(str(path), problems)
    return Pool(
        names=[
            line["crop"] if image == "path" and line["crop"] else f"c{number:06d}"
            for number, line in enumerate(lines, start=1)
        ],
        paths=[_locate(line[image], Path(path).parent) for line in lines],
        stage=np.array([stages.index(line["label"]) for line in lines], dtype=np.int64),
        subject=np.unique(subjects, return_inverse=True)[1] if named else None,
    )


def _locate(image: str, folder: Path) -> str:
    """The path of an image, from here or else from its table's folder."""
    beside = folder / image
    return beside.as_posix() if not Path(image).exists() and beside.exists() else image


def drift(groups: int, stages: int) -> Shares:
    """Proportions [groups, stages] centred on a point that moves evenly from the first stage to the last."""
    centre = np.linspace(0, stages - 1, groups) if groups > 1 else np.array([(stages - 1) / 2])
    weight = np.exp(-((np.arange(stages) - centre[:, None]) ** 2) / (2 * DRIFT_STAGES**2))
    return weight / weight.sum(1, keepdims=True)


def fit_shares(shares: Shares, have: Counts, cells: int) -> Shares:
    """The proportions nearest to ``shares`` of which every group can have ``cells`` cells.

    Scarce stages weigh less in every group alike: the projection by Kullback-Leibler divergence on
    proportions that ask for ``have`` [K] cells of a stage at most (iterative scaling, Csiszar 1975, Annals of
    Probability 3:146).

    Parameters
    ----------
    shares : float64[G, K]
        Proportions of every group.

    Raises
    ------
    UserError
        Too few cells in the stages that the groups have at all.
    """
    weight = np.ones(len(have))
    for _ in range(MOST_SCALINGS):
        fitted = shares * weight
        fitted /= fitted.sum(1, keepdims=True)
        asked = cells * fitted.sum(0)
        if (asked <= have + EXCESS).all():
            return fitted
        weight = np.minimum(1.0, weight * have / asked)
        weight /= weight.max()
    raise UserError(f"the pool holds too few crops for {len(shares)} groups of {cells} cells")


def apportion(shares: Shares, cells: int) -> Counts:
    """Counts [G, K] of each group's ``cells`` cells, within one of its proportions (largest remainder)."""
    exact = shares * cells
    counts = np.floor(exact + ROUNDING).astype(np.int64)
    order = np.argsort(counts - exact, axis=1, kind="stable")
    for group, lack in enumerate(cells - counts.sum(1)):
        counts[group, order[group, :lack]] += 1
    return counts


def compose(
    pool: Pool,
    shares: Mapping[str, Shares],
    *,
    stages: Sequence[str],
    animals: int,
    cells: int | None,
    fit: bool,
    seed: int,
) -> list[Animal]:
    """Deal crops of the pool to the animals of every group, none twice.

    The counts of a group are its proportions, apportioned; chance, or what subjects hold, makes its animals
    differ. Animals are numbered through all groups, since each belongs to one. Where the pool names
    subjects, all crops of a subject are dealt to one animal or to none.

    Parameters
    ----------
    shares : mapping
        Group -> proportions [K].
    animals : int
        Animals per group.
    cells : int, optional
        Cells per animal. None: as many as the pool holds, ``MOST_CELLS`` at most.
    fit : bool
        Fit the proportions to the pool where a stage is scarce (:func:`fit_shares`) and to what subjects
        hold; of ``cells`` that are not given only so many are taken that the groups keep ``LEAST_SPREAD`` of
        their spread.

    Raises
    ------
    UserError
        The pool is too small; what it lacks is named, and the cells that it holds enough for.
    """
    groups, asked = list(shares), np.array(list(shares.values()))
    have = np.bincount(pool.stage, minlength=len(stages))
    none = [stages[k] for k in np.flatnonzero((have == 0) & (asked > 0).any(0)).tolist()]
    if none:
        raise UserError(f"the table has no crop of stage {', '.join(none)}; add some, or leave the stage out")
    slots = animals * len(groups)
    if pool.subject is not None and pool.subject.max() + 1 < slots:
        raise UserError(
            f"the pool has {pool.subject.max() + 1} subjects for {slots} animals, and crops of one subject "
            "go to one animal; lower --animals or --groups"
        )
    most = len(pool.stage) // slots

    def deal(cells: int) -> list[Animal]:
        of_group = animals * cells
        counts = apportion(fit_shares(asked, have, of_group) if fit else asked, of_group)
        if fit:
            _settle(counts, have)
        return _deal(pool, counts, groups, animals, stages, seed, fit)

    if cells is not None:
        try:
            return deal(cells)
        except UserError as error:
            found, _ = _find_most(deal, min(cells - 1, most))
            advice = f"--cells {found} would do" if found else "lower --animals or --groups"
            raise UserError(f"{error}; {advice}") from None

    def deal_spread(cells: int) -> list[Animal]:
        dealt = deal(cells)
        if fit and _spread(_count(dealt, pool, len(stages)).values()) < LEAST_SPREAD * _spread(asked):
            raise UserError("the groups would hardly differ")
        return dealt

    found, dealt = _find_most(deal_spread, min(MOST_CELLS, most))
    if not dealt:
        raise UserError(
            f"{len(pool.stage)} crops are too few for {len(groups)} groups of {animals} animals; lower "
            "--animals or --groups"
        )
    return dealt


def _spread(shares: Iterable[Shares | Counts]) -> float:
    """Standard deviation of the groups' expected stages, of proportions or counts [G, K]."""
    return float(np.std([share @ np.arange(len(share)) / share.sum() for share in shares]))


def _count(dealt: Sequence[Animal], pool: Pool, stages: int) -> dict[str, Counts]:
    """Counts [K] of every group."""
    counts: dict[str, Counts] = {}
    for animal in dealt:
        own = np.bincount(pool.stage[animal.crops], minlength=stages)
        counts[animal.group] = counts.get(animal.group, np.zeros_like(own)) + own
    return counts


def _find_most(deal: Callable[[int], list[Animal]], most: int) -> tuple[int, list[Animal]]:
    """The most cells per animal, up to ``most``, that ``deal`` finds, and what it dealt; else 0, []."""
    low, high, best = 0, most, list[Animal]()
    middle = most
    while low < high:
        try:
            low, best = middle, deal(middle)
        except UserError:
            high = middle - 1
        middle = (low + high + 1) // 2
    return low, best


def _settle(counts: Counts, have: Counts) -> None:
    """Move single cells, in place, out of stages of which rounding asks for more than the pool has."""
    while (over := np.flatnonzero(counts.sum(0) > have)).size:
        group = int(counts[:, over[0]].argmax())
        spare = np.where(counts.sum(0) < have, counts[group], -1)
        counts[group, over[0]] -= 1
        counts[group, int(spare.argmax())] += 1


def _deal(
    pool: Pool,
    counts: Counts,
    groups: Sequence[str],
    animals: int,
    stages: Sequence[str],
    seed: int,
    fit: bool,
) -> list[Animal]:
    """Deal ``counts`` [G, K] of crops, with ``fit`` as nearly as the subjects allow."""
    have = np.bincount(pool.stage, minlength=len(stages))
    short = [
        f"stage {stages[k]} has {have[k]} crops in the pool and {counts[:, k].sum()} are asked for"
        for k in np.flatnonzero(counts.sum(0) > have).tolist()
    ]
    if short:
        raise UserError("; ".join(short))
    for attempt in range(ATTEMPTS):
        rng = np.random.default_rng([seed, attempt])
        if pool.subject is None:
            need = np.concatenate([_split(row, animals, rng) for row in counts])  # [slots, K]
            owner = np.full(len(pool.stage), -1)
            break
        subjects = _Subjects(pool.subject, pool.stage, counts, animals, rng)
        lacks = subjects.deal()
        if fit:
            lacks &= subjects.fill()
        if not lacks:
            need, owner = subjects.given, subjects.slot[pool.subject]
            break
    else:
        lack = subjects.lack
        group = int(lack.sum(1).argmax())
        short = [f"{lack[group, k]} of stage {stages[k]}" for k in np.flatnonzero(lack[group]).tolist()]
        raise UserError(
            f"group {groups[group]} lacks {', '.join(short)}, since crops of one subject go to one animal"
        )
    order = rng.permutation(len(pool.stage))
    taken = np.zeros(len(order), bool)
    dealt = []
    for slot, of_stage in enumerate(need):
        crops = []
        for k, count in enumerate(of_stage):
            free = order[(pool.stage[order] == k) & ~taken[order] & np.isin(owner[order], (slot, -1))]
            crops.append(free[:count])
            taken[free[:count]] = True
        dealt.append(Animal(groups[slot // animals], f"a{slot + 1}", np.concatenate(crops)))
    return dealt


def _split(counts: Counts, animals: int, rng: np.random.Generator) -> Counts:
    """Chance deals a group's counts [K] to animals of equally many cells, [animals, K]."""
    left, cells, rows = counts.copy(), int(counts.sum()) // animals, []
    for _ in range(animals):
        rows.append(rng.multivariate_hypergeometric(left, cells))
        left -= rows[-1]
    return np.array(rows)


class _Subjects:
    """Subjects on their way to animals (slots), each to one or to none."""

    def __init__(
        self, subject: Counts, stage: Counts, counts: Counts, animals: int, rng: np.random.Generator
    ) -> None:
        self.holds = np.zeros((subject.max() + 1, counts.shape[1]), np.int64)
        np.add.at(self.holds, (subject, stage), 1)
        self.animals = animals
        self.lack = counts.copy()  # [G, K]
        self.space = np.repeat(counts.sum(1) // animals, animals)  # [slots]
        self.given = np.zeros((len(self.space), counts.shape[1]), np.int64)
        self.slot = np.full(len(self.holds), -2)  # of a subject that is left over
        self.rarity = counts.sum(0) / np.maximum(self.holds.sum(0), 1)
        self.tie = rng.permutation(len(self.holds))

    def deal(self) -> bool:
        """Whether anything lacks after a greedy dealing.

        The emptiest slot gets the free subject that fills most of what its group lacks and wastes least,
        where a rare stage weighs more.
        """
        open_ = self.space > 0
        while open_.any():
            slot = int(np.where(open_, self.space, -1).argmax())
            filled = np.minimum(self.holds, self.lack[slot // self.animals])
            filled = np.diff(np.minimum(filled.cumsum(1), self.space[slot]), prepend=0, axis=1)
            gain = (2 * filled - self.holds) @ self.rarity
            gain = np.where((self.slot == -2) & filled.any(1), gain, -np.inf)
            best = int(np.lexsort((self.tie, -gain))[0])
            if gain[best] > -np.inf:
                self.slot[best] = slot
                self._give(slot, filled[best], filled[best])
            open_[slot] = gain[best] > -np.inf and self.space[slot] > 0
        return bool(self.lack.any())

    def fill(self) -> bool:
        """Whether anything lacks after the crops of stages nearest to those that lack have been taken too."""
        stage = np.arange(self.holds.shape[1])
        cells = self.holds.sum(1)
        for slot in np.flatnonzero(self.space).tolist():
            lack = self.lack[slot // self.animals]
            while self.space[slot]:
                missing = int(lack.argmax())
                spare = self.holds[self.slot == slot].sum(0) - self.given[slot]
                if spare.any():
                    near = int(np.where(spare > 0, abs(stage - missing), len(stage)).argmin())
                    self._give(
                        slot, np.eye(len(stage), dtype=int)[near], np.eye(len(stage), dtype=int)[missing]
                    )
                    continue
                far = np.where(self.slot == -2, (self.holds * abs(stage - missing)).sum(1) / cells, np.inf)
                if far.min() == np.inf:
                    return True
                self.slot[int(np.lexsort((self.tie, far))[0])] = slot
        return False

    def _give(self, slot: int, crops: Counts, instead: Counts) -> None:
        """Give crops [K] to a slot, for what its group lacks [K]."""
        self.given[slot] += crops
        self.space[slot] -= crops.sum()
        self.lack[slot // self.animals] -= instead


def write_study(out: str | Path, pool: Pool, dealt: Sequence[Animal], stages: Sequence[str]) -> Path:
    """Write crops.tsv, proportions.tsv, slide_proportions.tsv and study.yaml into ``out``.

    Returns
    -------
    Path
        The study file, whose study bears the folder's name.

    Raises
    ------
    UserError
        The folder's name cannot name a study.
    """
    folder = Path(out)
    check_names("--out ends in", [folder.name])
    counts = _count(dealt, pool, len(stages))
    slides, rows = {}, ["crop\tpath\tgroup\tanimal\tlabel"]
    for animal in dealt:
        slides[animal.slide] = np.bincount(pool.stage[animal.crops], minlength=len(stages))
        rows += [
            f"{pool.names[crop]}\t{pool.paths[crop]}\t{animal.group}\t{animal.name}\t{stages[pool.stage[crop]]}"
            for crop in animal.crops
        ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "crops.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    write_shares(folder / "proportions.tsv", "group", counts, stages)
    write_shares(folder / "slide_proportions.tsv", "slide", slides, stages)
    per_group = len(dealt) // len(counts)
    study = folder / "study.yaml"
    study.write_text(
        STUDY.format(
            name=folder.name,
            folder=folder.as_posix(),
            stages=", ".join(stages),
            dino=DINO,
            bag_size=min(BAG_CELLS, *(len(animal.crops) for animal in dealt)),
            folds=min(MOST_FOLDS, per_group if per_group > 1 else len(dealt)),
        ),
        encoding="utf-8",
    )
    return study


def write_shares(path: str | Path, column: str, counts: Mapping[str, Counts], stages: Sequence[str]) -> None:
    """Write a table of proportions: a row per name, counts [K] divided by their sum."""
    rows = ["\t".join([column, *stages])]
    rows += [
        "\t".join([name, *(f"{share:.10g}" for share in row / row.sum())]) for name, row in counts.items()
    ]
    Path(path).write_text("\n".join(rows) + "\n", encoding="utf-8")


def check_names(what: str, names: Sequence[str]) -> None:
    """Raise UserError unless every name may stand in a study."""
    bad = [name for name in names if not re.match(NAME_PATTERN, name)]
    if bad:
        raise UserError(
            f"{what} {', '.join(map(repr, bad))}; use letters, digits, . _ - and begin with a letter or digit"
        )
