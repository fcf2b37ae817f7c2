"""Metrics: each is declared once, in the file of its family, with the function that computes it.

A family is a file that lists its METRICS; registry.py joins the families. The study reads the names at parse
time: nothing here imports more than numpy, and of the library nothing but ``numbers`` and ``weighted``.
"""
