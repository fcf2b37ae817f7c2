"""Cells of a slide, each once.

in:      tiles
out:     outlines, measures, crops, annotated stages
imports: slides and below
"""
