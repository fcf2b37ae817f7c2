"""Cells that lie beside each other.

in:      centroids of cells
out:     graphs, smoothing over them, hidden cells from their neighbours
imports: cells and below
"""
