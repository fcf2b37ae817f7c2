"""The baselines, one file each: a record `BASELINE` (:class:`myostage.learning.baseline.Baseline`).

Enters: proportions of groups. Leaves: the same probabilities for each cell of a slide. Imports the
rooms below `study`.
"""
