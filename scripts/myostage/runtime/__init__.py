"""How the script of a rule runs.

in:      the job that Snakemake hands over
out:     logs, receipts, statements of what made a file, checkpoints, copies on a node's disk
imports: errors, paths, tables
"""
