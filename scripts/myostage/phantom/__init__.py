"""Drawn tissue whose truth is known, and bags composed from labelled crops.

in:      sizes, proportions and a seed
out:     slides with annotations, tables of crops
imports: study and below
"""
