"""The sections of a study file: every key with its type, limits, meaning, default and source; a file each.

One frozen pydantic model per section, unknown keys forbidden. What no single section can know (tables, files,
the grid of runs) is in ..check and ..expand.
"""
