"""What a study found of other ways to learn stages from proportions: ordinal heads, published losses."""

from myostage.report.by_metric import Section, describe_metrics, find_to_reference
from myostage.report.findings import Facts


def list_rivals(facts: Facts) -> list[str]:
    """The experiments of part `rivals`."""
    return [label for label, part in facts.structure.parts.items() if part == "rivals"]


def describe_rivals(facts: Facts) -> Section | None:
    """Whether a rival beats the reference; those that see cell labels against what they change."""
    labels = list_rivals(facts)
    if not labels:
        return None
    rivals = [label for label in labels if label not in facts.structure.label_learners]
    changed = facts.family("against")
    sentences = describe_metrics("another head or loss", rivals, [facts], [facts.metric])
    rows = find_to_reference(facts, rivals)
    rows += [changed[label] for label in labels if label in changed and label not in rivals]
    return Section("rivals", "Do other heads and losses do better?", sentences, rows)
