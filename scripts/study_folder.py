"""Print the folder of a study's results; a sentence and status 1 where Snakemake must not read the file.

python scripts/study_folder.py config/demo.yaml

`make` asks it before Snakemake, which would run the code of a file that is a template. Imports are few, so
that this takes a moment; keys are checked later, when the rules are read.
"""

import os
import sys
from pathlib import Path

from myostage.errors import UserError
from myostage.study.yaml_file import read_mapping


def folder(file: str) -> str:
    """``results/study`` of a study file, as a path that no option begins with."""
    study = read_mapping(file)
    results = os.path.expanduser(os.path.expandvars(str(study.get("results", "results"))))  # noqa: PTH111
    made = Path(results, str(study.get("study", "")))
    return str(made) if made.is_absolute() else f"./{made}"


if __name__ == "__main__":
    try:
        print(folder(sys.argv[1]))
    except UserError as error:
        sys.exit(str(error))
