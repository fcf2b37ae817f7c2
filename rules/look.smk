"""Figures: each is declared by its record in scripts/myostage/figures/, and drawn by the notebook of its theme.

in:   tables of the chain
out:  figures/{figure}.png, .svg and .csv, some .html and .tex; the executed notebook is
      kept beside the log

A job draws the figures of one theme and leaves a receipt: those that are there, made from the same files by the same
code, are left as they are. A figure is asked for by its file.
"""

import re
from pathlib import Path

# that a figure appears with the job of its theme is as it should be
logger.addFilter(
    lambda line: not re.search(r"output files of rule figure_\w+ were not present", line.getMessage())
)


def code_of(*keys, theme):
    """Digest of what draws these kinds of figures; what they import at first use is reached from style and views."""
    drawing = (f"myostage/figures/{name}.py" for name in ("style", "views", *keys))
    return code("look.py", f"../notebooks/{theme}.ipynb", *drawing)(None)


def specification(theme):
    """What the job of a theme is given for each of its figures."""
    return {
        name: {
            "key": figure.key,
            "files": figure.request.files,
            "parameters": figure.request.parameters,
            "inputs": PLAN.behind(figure.request.files),
            "outputs": [PATHS.study(f"figures/{name}{ending}") for ending in figure.record.endings],
            "caption": figure.record.caption,
            "code": code_of(figure.key, theme=theme),
        }
        for name, figure in DRAWN.items()
        if figure.record.theme == theme
    }


for theme in dict.fromkeys(figure.record.theme for figure in DRAWN.values()):

    rule:
        name:
            f"look_{theme}"
        input:
            PLAN.behind([figure.request.files for figure in DRAWN.values() if figure.record.theme == theme]),
            notebook=f"{workflow.basedir}/notebooks/{theme}.ipynb",
        output:
            PATHS.receipt("look", theme),
        log:
            PATHS.log("look", theme),
        benchmark:
            PATHS.benchmark("look", theme)
        conda:
            "../envs/myostage.yaml"
        threads: 1
        resources:
            **needs("look"),
        params:
            figures=lambda wildcards, theme=theme: specification(theme),
            code=lambda wildcards, theme=theme: code_of(
                *[figure.key for figure in DRAWN.values() if figure.record.theme == theme], theme=theme
            ),
        message:
            f"Drawing the figures of {theme.replace('_', ' ')}"
        script:
            "../scripts/look.py"


for name, figure in DRAWN.items():

    # The job of the theme has written the files; here they become known to Snakemake, one figure by one.
    rule:
        name:
            f"figure_{name}"
        input:
            PATHS.receipt("look", figure.record.theme),
        output:
            report(
                touch(PATHS.study(f"figures/{name}.png")),
                caption=str(Path(PATHS.log("look", name)).with_suffix(".rst").resolve()),
                category=figure.record.category,
            ),
            [
                (
                    report(touch(file), category=figure.record.category)
                    if file.endswith(".html")
                    else touch(file)
                )
                for file in [PATHS.study(f"figures/{name}{ending}") for ending in figure.record.endings[1:]]
            ],
