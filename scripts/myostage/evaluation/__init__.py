"""How good predictions are, and which differences are significant.

in:      predictions, outcomes and annotated stages
out:     tables of metrics, comparisons and what else a study measures
imports: learning and below; torch only where it computes
"""
