"""Spectra of attention: the SPECTRUM table by band and by slide."""

import pandas as pd

from myostage.evaluation.resampling import mean_interval

# Eigenvalues of the graph Laplacian below this are low frequencies: adjacent cells mostly agree.
LOW_FREQUENCY = 0.5


def average_bands(table: pd.DataFrame) -> pd.DataFrame:
    """Mean share of power per experiment, signal and band of SPECTRUM, with its interval over slides.

    Columns ``experiment``, ``signal``, ``low``, ``high``, ``share``, ``share_low``, ``share_high``,
    ``slides``.
    """
    rows = []
    for (experiment, signal), part in table.groupby(["experiment", "signal"], sort=False):
        wide = part.pivot(index="slide", columns=["low", "high"], values="share").sort_index(axis=1)
        found = mean_interval(wide.to_numpy(dtype=float))
        numbers = dict(zip(("share", "share_low", "share_high"), found, strict=True))
        edges = wide.columns.to_frame(index=False)
        edges = edges.assign(experiment=str(experiment), signal=str(signal), slides=len(wide))
        rows.append(edges.assign(**numbers))
    names = ["experiment", "signal", "low", "high", "share", "share_low", "share_high", "slides"]
    return pd.concat(rows, ignore_index=True)[names] if rows else pd.DataFrame(columns=names)


def summarise_slides(table: pd.DataFrame) -> pd.DataFrame:
    """Share of power below LOW_FREQUENCY, energy and localisation of every slide.

    Columns ``experiment``, ``signal``, ``slide``, ``low_share``, ``energy``, ``instance_auroc``.
    """
    low = table["share"].where(table["high"] <= LOW_FREQUENCY + 1e-9, 0.0).where(table["share"].notna())
    keys = ["experiment", "signal", "slide"]
    grouped = table.assign(low_share=low).groupby(keys, sort=False)
    out = grouped[["energy", "instance_auroc"]].first()
    out.insert(0, "low_share", grouped["low_share"].sum(min_count=1))
    return out.reset_index()
