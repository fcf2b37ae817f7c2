"""The loss terms, one file each: a record `TERM` (:class:`myostage.learning.term.Term`) and what it computes.

Enters: a step's embedding, logits and proportions. Leaves: the unweighted value. Imports the rooms
below `study`; torch only inside functions, since the records are read with the study.
"""
