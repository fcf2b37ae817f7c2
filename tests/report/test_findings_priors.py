"""What the page says of the proportions of a slide's group, put into its stages."""

import numpy as np
import pandas as pd

from myostage.report import summary
from myostage.report.findings import Facts
from myostage.report.findings_priors import CAUTION, describe_priors, tabulate_priors
from myostage.study.sections.prediction import Prediction
from support import study_tables
from support.study_facts import FULL, difference, everything, facts, parts

ALONE = {"name": "group_majority", "method": "group_majority"}


def measured(prediction: Prediction, to_group: float = 0.0) -> Facts:
    """A study in which transport gains .08, and what differs from knowing the group alone."""
    made = parts([*FULL, ALONE], prediction=prediction)
    rows = [
        *everything(),
        difference("prop[prior=transport]", "prop", 0.08, family="prior"),
        difference("prop[prior=group]", "prop", 0.03, family="prior"),
        difference("prop", "group_majority", -0.05, family="group"),
        difference("prop[prior=transport]", "group_majority", to_group, family="group"),
    ]
    found = facts(rows, made, wrong_tables=study_tables.wrong_tables())
    own = found.metrics[found.metrics["experiment"] == "prop"]
    put = own.assign(experiment="prop[prior=transport]", value=0.88)
    return Facts(**(vars(found) | {"metrics": pd.concat([found.metrics, put])}))


def test_the_page_leads_with_what_the_proportions_add() -> None:
    text = " ".join(describe_priors(measured(Prediction(compare=("group", "transport")))))
    assert "prop[prior=transport]" in text and "+.080" in text
    assert "made without any prior" in text and CAUTION not in text


def test_methods_no_better_than_the_group_alone_are_named() -> None:
    asked = Prediction(compare=("transport",))
    equal = " ".join(describe_priors(measured(asked)))
    assert "worse than knowing the group alone: prop (" in equal
    assert "no better than knowing the group alone: prop[prior=transport] (" in equal
    better = " ".join(describe_priors(measured(asked, 0.05)))
    assert "better than knowing the group alone: prop[prior=transport] (+.050" in better


def test_how_wrong_a_table_may_be_is_said_with_its_draws_and_animals() -> None:
    text = " ".join(describe_priors(measured(Prediction(compare=("transport",)))))
    assert "by transport: combined up to t = .5; prop[sigma=0.1,bins=6] up to t = 1 (accuracy; 4" in text


def test_the_page_warns_of_comparing_groups_where_a_prior_is_on() -> None:
    for settings in (Prediction(prior="group"), Prediction(prior="group", strength=0.5)):
        text = " ".join(describe_priors(measured(settings)))
        assert CAUTION in text and "by Bayes' rule" in text
    assert "with weight .5 of the table" in text


def test_the_table_has_each_method_without_and_with_and_the_group_alone() -> None:
    grid = tabulate_priors(measured(Prediction(compare=("transport",))))
    assert grid is not None
    rows = [list(row) for row in grid.rows]
    assert [row[0] for row in rows] == ["prop", "group_majority (the group alone)"]
    assert str(rows[0][1]).startswith(".800") and any(str(cell).startswith(".880") for cell in rows[0])


def test_a_study_that_asks_for_none_has_no_such_section(tmp_path) -> None:  # type: ignore[no-untyped-def]
    plain = facts(everything())
    assert not summary.asks_priors(plain) and tabulate_priors(plain) is None
    found = measured(Prediction(compare=("transport",)))
    summary.write(tmp_path / "page.html", found)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert page.index("proportions add when a slide is staged") < page.index("Does the ordinal term help")
    assert np.isfinite(found.measured["prop"].value)
