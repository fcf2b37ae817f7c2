"""A study composed from labelled crops: groups whose proportions are drawn, and known exactly.

Any ordinal data set becomes a study this way: its labels choose the crops of a group and evaluate the runs,
and what is learnt from is the proportions alone.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from myostage.errors import UserError, raise_all
from myostage.schema import NAME_PATTERN, nearest
from myostage.study.inputs import read_tsv

Counts = NDArray[np.int64]

DRIFT_STAGES = 0.8
"""Spread of a drifting group around its centre, in stages: adjacent groups overlap as days do."""
MOST_FOLDS = 5
BAG_CELLS = 60

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
seeds: [0]

experiments:
  - name: combined
    losses: {{ simprop: 1, prop: 1 }}
  - name: prop
    losses: {{ prop: 1 }}
  - name: frozen # what the head alone learns from the pre-trained encoder
    losses: {{ prop: 1 }}
    training: {{ unfreeze: none }}
    baseline: true
  - name: supervised # the ceiling: learns from cell labels
    method: supervised
  - name: majority
    method: majority

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


def read_pool(path: str | Path, stages: Sequence[str]) -> Pool:
    """Read a table of labelled crops.

    Parameters
    ----------
    path : path
        TSV with ``path`` (image), ``label`` (stage) and, optionally, ``crop`` (name; the image where there is
        no ``path``; numbered where absent) and ``animal`` or ``subject``.
    stages : sequence of str
        Stages in order.

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
    subjects = [line["animal"] or line["subject"] for line in lines]
    named = "animal" in header or "subject" in header
    problems, seen = [], set()
    for line, subject in zip(lines, subjects, strict=True):
        if line["label"] not in stages:
            problems.append(
                f"row {line.number}, column label: {line['label']!r} is no stage ({', '.join(stages)})"
                + nearest(line["label"], stages)
            )
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
        paths=[line[image] for line in lines],
        stage=np.array([stages.index(line["label"]) for line in lines]),
        subject=np.unique(subjects, return_inverse=True)[1] if named else None,
    )


def drift(groups: int, stages: int) -> NDArray[np.float64]:
    """Proportions [groups, stages] centred on a point that moves evenly from the first stage to the last."""
    centre = np.linspace(0, stages - 1, groups) if groups > 1 else np.array([(stages - 1) / 2])
    weight = np.exp(-((np.arange(stages) - centre[:, None]) ** 2) / (2 * DRIFT_STAGES**2))
    return weight / weight.sum(1, keepdims=True)


def compose(
    pool: Pool,
    shares: Mapping[str, NDArray[np.float64]],
    *,
    stages: Sequence[str],
    animals: int,
    cells: int,
    rng: np.random.Generator,
) -> list[Animal]:
    """Deal crops of the pool to the animals of every group, none twice.

    The counts of an animal are one multinomial draw from its group's proportions. Animals are numbered
    through all groups, since each belongs to one. Where the pool names subjects, all crops of a subject are
    dealt to one animal or to none.

    Parameters
    ----------
    shares : mapping
        Group -> proportions [K].
    animals, cells : int
        Animals per group, cells per animal.

    Raises
    ------
    UserError
        The pool is too small; every stage that falls short is named.
    """
    groups = [group for group in shares for _ in range(animals)]
    need = np.array([rng.multinomial(cells, shares[group]) for group in groups])  # [slots, K]
    have = np.bincount(pool.stage, minlength=len(stages))
    asked = need.sum(0)
    if (asked > have).any():
        short = [
            f"stage {stages[k]} has {have[k]} crops in the pool and {asked[k]} are asked for"
            for k in np.flatnonzero(asked > have).tolist()
        ]
        fits = int(cells * np.min(have[asked > 0] / asked[asked > 0]))
        raise UserError(f"{'; '.join(short)}; lower --cells to about {fits}, or --animals or --groups")
    owner = _owners(pool, need, groups, stages, rng)
    order = rng.permutation(len(pool.stage))
    taken = np.zeros(len(order), bool)
    dealt = []
    for slot, group in enumerate(groups):
        crops = []
        for k, count in enumerate(need[slot]):
            free = order[(pool.stage[order] == k) & ~taken[order] & np.isin(owner[order], (slot, -1))]
            crops.append(free[:count])
            taken[free[:count]] = True
        dealt.append(Animal(group, f"a{slot + 1}", np.concatenate(crops)))
    return dealt


def _owners(
    pool: Pool, need: Counts, groups: Sequence[str], stages: Sequence[str], rng: np.random.Generator
) -> Counts:
    """The slot that each crop may go to, [n]: any (-1) without subjects, else the slot of its subject.

    Greedy: the slot that lacks the largest share of its cells gets the free subject that fills most of it,
    where a rare stage weighs more.
    """
    if pool.subject is None:
        return np.full(len(pool.stage), -1)
    holds = np.zeros((pool.subject.max() + 1, len(stages)), np.int64)
    np.add.at(holds, (pool.subject, pool.stage), 1)
    rarity = need.sum(0) / np.maximum(holds.sum(0), 1)
    slot_of = np.full(len(holds), -2)  # of a subject that is left over
    tie = rng.permutation(len(holds))
    lack = need.copy()
    while lack.any():
        slot = int((lack @ rarity / (need @ rarity)).argmax())
        gain = np.where(slot_of == -2, np.minimum(holds, lack[slot]) @ rarity, 0.0)
        best = int(np.lexsort((tie, -gain))[0])
        if gain[best] == 0:
            short = [f"{lack[slot, k]} of stage {stages[k]}" for k in np.flatnonzero(lack[slot]).tolist()]
            raise UserError(
                f"animal a{slot + 1} of group {groups[slot]} lacks {', '.join(short)}, since crops of one "
                "subject go to one animal; lower --cells, --animals or --groups"
            )
        slot_of[best] = slot
        lack[slot] = np.maximum(lack[slot] - holds[best], 0)
    return slot_of[pool.subject]


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
    counts: dict[str, Any] = {}
    slides, rows = {}, ["crop\tpath\tgroup\tanimal\tlabel"]
    for animal in dealt:
        slides[animal.slide] = np.bincount(pool.stage[animal.crops], minlength=len(stages))
        counts[animal.group] = counts.get(animal.group, 0) + slides[animal.slide]
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
