"""What a user writes, read and checked before anything runs.

in:      a study file and the tables it names
out:     checked sections, runs with their ids, roles of experiments, batches for the rules
imports: errors, paths, tables, runtime; neither torch nor pandas, since every job reads the Snakefile
"""
