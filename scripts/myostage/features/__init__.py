"""Numbers that describe a cell before any training.

in:      crops, or ready-made features
out:     tokens of a frozen encoder, weights tuned without labels
imports: cells and below
"""
