"""Which experiment plays which part in a study's tables, figures and summary.

Read whenever the Snakefile is, so it imports neither torch nor pandas.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from myostage.learning.term import option_keys
from myostage.study.expand import PERMUTED, control_of
from myostage.study.inputs import read_quoted
from myostage.study.run import RunSpec
from myostage.study.sections.experiment import Experiment
from myostage.study.sections.slide_label import LabelKind
from myostage.study.sections.study import Study

WEIGHT = "losses.simprop"
# keys of `mil` that say how a model smooths
SMOOTHED = {"placement", "operator", "alpha", "spectral_norm"}


@dataclass(frozen=True)
class Structure:
    """The labels of a study's experiments by their part, and what else its summary says of it.

    Parameters
    ----------
    study : str
        Name of the study.
    stages : list of str
        Stages in order.
    main, design, regression : list of str
        Labels of the main table, of the forest plot of design choices, and of ordinal regression.
    smoothed : list of str
        Experiments that smooth stages or embeddings over the graph of cells.
    grid : dict
        Label -> ``{"sigma": float, "bins": int}`` of the grid.
    weights : dict
        Weight of L_SimProp -> label, of experiments that vary it alone and of those they are against.
    curves : dict
        Experiment -> strength t of wrong proportions -> label; at t = 0 the experiment named by `against`.
    parts : dict
        Label -> part of the study (main, grid, design, proportions).
    against : dict
        Label -> label of the experiment that it changes something of.
    reference : str
        What all experiments are compared with.
    ordinal : dict
        ``{"with": label, "without": label}``: two main experiments that differ by L_SimProp alone; or empty.
    losses : dict
        Label -> term -> weight, of every experiment that learns.
    baselines, label_learners : list of str
        Baselines, and experiments that learn from cell labels.
    untested : list of str
        Experiments that no question is asked of: label learners, majorities, random features, controls.
    untrained : list of str
        Main experiments that leave the encoder as it was before training.
    fitted_afterwards : list of str
        Experiments whose head is fitted by L_prop after L_SimProp alone has trained the encoder.
    transductive : list of str
        Experiments whose encoder was tuned by DINO on crops of all animals, held-out ones too.
    released : list of str
        Experiments that start from ``preset: released``.
    compare : dict
        The study's ``compare``: reference, metric, alpha, power.
    prediction : dict
        The study's ``prediction``: prior, compare, strength, table_error.
    left_out : dict
        Label -> why the experiment was not run.
    quoted : list of dict
        Published figures: method, metric, value, source.
    """

    study: str
    stages: list[str]
    main: list[str]
    design: list[str]
    regression: list[str]
    smoothed: list[str]
    grid: dict[str, dict[str, float]]
    weights: dict[float, str]
    curves: dict[str, dict[float, str]]
    parts: dict[str, str]
    against: dict[str, str]
    reference: str
    ordinal: dict[str, str]
    losses: dict[str, dict[str, float]]
    baselines: list[str]
    label_learners: list[str]
    untested: list[str]
    untrained: list[str]
    fitted_afterwards: list[str]
    transductive: list[str]
    released: list[str]
    compare: dict[str, Any]
    prediction: dict[str, Any]
    left_out: dict[str, str]
    quoted: list[dict[str, str | float]]


def structure(
    study: Study, experiments: Mapping[str, Sequence[RunSpec]], left_out: Mapping[str, str]
) -> dict[str, Any]:
    """The fields of :class:`Structure` as plain dicts and lists, which a rule can hand on.

    Parameters
    ----------
    study : Study
        The study.
    experiments : mapping
        Label -> runs, as :func:`myostage.study.expand.expand` returns them.
    left_out : mapping
        Label -> why it is not run; such experiments have no other part.

    Raises
    ------
    UserError
        The table of published figures is faulty.
    """
    members = [
        (experiment, label, specs[0])
        for experiment, label, specs in _members(study, experiments)
        if label not in left_out
    ]
    labels = [label for _, label, _ in members]
    reference = study.compare.reference or next(iter(labels), "")
    main = {label: spec for experiment, label, spec in members if experiment.part == "main"}
    return asdict(
        Structure(
            study=study.study,
            stages=list(study.stages),
            main=list(main),
            design=[label for experiment, label, _ in members if experiment.part == "design"],
            regression=[label for experiment, label, _ in members if experiment.part == "regression"],
            smoothed=[label for _, label, spec in members if spec.training.smooth != "none"],
            grid={
                label: {"sigma": spec.training.sigma, "bins": spec.training.bins}
                for experiment, label, spec in members
                if experiment.part == "grid"
            },
            weights=_weights(members),
            curves=_curves(members),
            parts={label: experiment.part for experiment, label, _ in members},
            against=_against(members, experiments.keys() - left_out.keys()),
            reference=reference,
            ordinal=_ordinal(main, reference),
            losses={
                label: {str(term): weight for term, weight in spec.losses.items()}
                for _, label, spec in members
                if spec.network
            },
            baselines=[
                label for experiment, label, spec in members if experiment.baseline or not spec.trained
            ],
            label_learners=[label for _, label, spec in members if spec.learns_labels],
            untested=[label for _, label, spec in members if not _is_asked(label, spec)],
            untrained=[
                label for label, spec in main.items() if spec.network and spec.training.unfreeze == "none"
            ],
            fitted_afterwards=[label for _, label, spec in members if spec.head_afterwards],
            transductive=[
                label
                for _, label, spec in members
                if spec.trained and spec.encoder.dino and spec.encoder.dino.crops == "all"
            ],
            released=[label for experiment, label, _ in members if experiment.preset == "released"],
            compare=study.compare.model_dump(),
            prediction=study.prediction.model_dump(),
            left_out=dict(left_out),
            quoted=read_quoted(study),
        )
    )


def _members(
    study: Study, experiments: Mapping[str, Sequence[RunSpec]]
) -> Iterator[tuple[Experiment, str, Sequence[RunSpec]]]:
    """Every label with its experiment, whose name stands before the point of its grid."""
    by_name = {experiment.name: experiment for experiment in study.experiments}
    for label, specs in experiments.items():
        yield by_name[label.partition("[")[0]], label, specs


def _is_asked(label: str, spec: RunSpec) -> bool:
    """Whether a study asks how good it is: not of label learners, majorities, random features, controls."""
    random = spec.encoder.weights == "none" and spec.training.unfreeze == "none"
    return spec.trained and not spec.learns_labels and not random and not _is_control(label)


def _is_control(label: str) -> bool:
    """Whether it permutes coordinates: a control is what others are compared with."""
    return label.rstrip("]").endswith(PERMUTED)


@dataclass(frozen=True)
class SlideStructure:
    """The labels of experiments of ``method: slide`` by their part.

    Parameters
    ----------
    parts : dict
        Part of the study -> labels of its experiments.
    kinds, classes : dict
        Label -> kind of the label of slides (binary, multiclass, ordinal), its number of classes.
    against : dict
        Label -> what it is compared with: as its experiment says, or the control that permutes coordinates.
    references : dict
        Label -> the experiment of the same label of slides that all of them are compared with.
    controls : dict
        Label -> the control that permutes its coordinates.
    points : dict
        Label -> placement, operator, alpha, steps, spectral_norm of a model with Sm.
    """

    parts: dict[str, list[str]]
    kinds: dict[str, LabelKind]
    classes: dict[str, int]
    against: dict[str, str]
    references: dict[str, str]
    controls: dict[str, str]
    points: dict[str, dict[str, Any]]


def slide_structure(study: Study, experiments: Mapping[str, Sequence[RunSpec]]) -> dict[str, Any]:
    """The fields of :class:`SlideStructure` as plain dicts and lists, of experiments of ``method: slide``."""
    members = [(experiment, label, specs[0]) for experiment, label, specs in _members(study, experiments)]
    parts: dict[str, list[str]] = {}
    kinds, classes, references, points = {}, {}, {}, {}
    firsts: dict[str, str] = {}
    named = study.compare.slides
    for experiment, label, spec in members:
        assert spec.mil and spec.label
        parts.setdefault(experiment.part, []).append(label)
        kinds[label], classes[label] = spec.label.kind, len(spec.label.classes)
        about = spec.label.model_dump_json()
        firsts.setdefault(about, label)
        if label == named:
            firsts[about] = label
        if spec.mil.model == "smap":
            points[label] = spec.mil.model_dump(include=SMOOTHED) | {"steps": spec.mil.smooth_steps}
    for _, label, spec in members:
        assert spec.label
        references[label] = firsts[spec.label.model_dump_json()]
    controls = {label: control_of(label) for label in experiments if control_of(label) in experiments}
    against = _against(members, experiments.keys())
    return asdict(SlideStructure(parts, kinds, classes, against, references, controls, points))


def _against(members: Sequence[tuple[Experiment, str, RunSpec]], known: Collection[str]) -> dict[str, str]:
    """What each label is compared with: as its experiment says, or the control that permutes coordinates."""
    wanted = {
        label: experiment.against or control_of(label)
        for experiment, label, _ in members
        if not _is_control(label)
    }
    return {label: other for label, other in wanted.items() if other in known and other != label}


def _weights(members: Sequence[tuple[Experiment, str, RunSpec]]) -> dict[float, str]:
    """The sweep over the weight of L_SimProp."""
    terms = {label: spec.losses for _, label, spec in members}
    swept = [(experiment, label) for experiment, label, _ in members if list(experiment.vary) == [WEIGHT]]
    starts = [experiment.against for experiment, _ in swept if experiment.against]
    labels = [*starts, *(label for _, label in swept)]
    found = {terms[label]["simprop"]: label for label in labels if "simprop" in terms.get(label, {})}
    return dict(sorted(found.items()))


def _curves(members: Sequence[tuple[Experiment, str, RunSpec]]) -> dict[str, dict[float, str]]:
    """Curves of wrong proportions; what an experiment varies beside t makes a curve of its own."""
    curves: dict[str, dict[float, str]] = {}
    known = {label for _, label, _ in members}
    for experiment, label, spec in members:
        if experiment.part != "proportions":
            continue
        point = label.partition("[")[2].rstrip("]")
        others = [part for part in point.split(",") if part and not part.startswith("proportion_noise=")]
        name = f"{experiment.name}[{','.join(others)}]" if others else experiment.name
        start = {0.0: experiment.against} if experiment.against in known else {}
        curves.setdefault(name, start)[spec.training.proportion_noise] = label
    return {name: dict(sorted(points.items())) for name, points in curves.items()}


def _ordinal(main: Mapping[str, RunSpec], reference: str) -> dict[str, str]:
    """Two main experiments that differ by L_SimProp alone, if possible one of them the reference."""
    only_simprop = option_keys(["simprop"]) - option_keys(["prop"])
    pairs = [
        {"with": one, "without": other}
        for one, spec in main.items()
        for other, plain in main.items()
        if set(spec.losses) == {"simprop", "prop"}
        and plain.losses == {"prop": spec.losses["prop"]}
        and plain.encoder == spec.encoder
        and plain.training.model_dump(exclude=only_simprop) == spec.training.model_dump(exclude=only_simprop)
    ]
    return next((pair for pair in pairs if reference in pair.values()), pairs[0] if pairs else {})
