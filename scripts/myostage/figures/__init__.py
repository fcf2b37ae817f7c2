"""Drawings of tables.

in:      tables of the workflow
out:     matplotlib figures and the rows behind them; no number that a table lacks
imports: evaluation and below; no torch
"""
