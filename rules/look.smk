"""Figures: each is declared by its record in scripts/myostage/figures/, and drawn by the notebook of its theme.

in:   tables of the chain
out:  figures/{figure}.png, .svg and .csv, some .html and .tex; the executed notebook is
      kept beside the log

A job draws the figures of one theme and leaves a receipt: those that are there, made from the same files by the same
code, are left as they are. A figure is asked for by its file; one whose files are gone is drawn again alone.
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
            "outputs": files_of(name, figure),
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


def files_of(name, figure):
    return [PATHS.study(f"figures/{name}{ending}") for ending in figure.record.endings]


def reported(name, figure, flag):
    """The files of a figure as outputs, each with ``flag``; those that a report shows are marked."""
    for file in files_of(name, figure):
        if file.endswith(".png"):
            caption = str(Path(PATHS.log("look", name)).with_suffix(".rst").resolve())
            yield report(flag(file), caption=caption, category=figure.record.category)
        elif file.endswith(".html"):
            yield report(flag(file), category=figure.record.category)
        else:
            yield flag(file)


def is_lost(name, figure):
    """Whether the theme was drawn and files of this figure are gone, or empty, since."""
    drawn = Path(PATHS.receipt("look", figure.record.theme)).exists()
    return drawn and not all(
        Path(file).exists() and Path(file).stat().st_size for file in files_of(name, figure)
    )


for name, figure in DRAWN.items():

    if is_lost(name, figure):

        rule:
            name:
                f"figure_{name}"
            input:
                PLAN.behind(figure.request.files),
                notebook=f"{workflow.basedir}/notebooks/{figure.record.theme}.ipynb",
            output:
                *reported(name, figure, str),
            log:
                PATHS.log("look", f"{name}.alone"),
            conda:
                "../envs/myostage.yaml"
            threads: 1
            resources:
                **needs("look"),
            params:
                figures=lambda wildcards, output, name=name, theme=figure.record.theme: {
                    name: specification(theme)[name]
                },
            message:
                f"Drawing {name} again"
            script:
                "../scripts/look.py"

    else:

        # The job of the theme has written the files; here they become known to Snakemake, one figure by one.
        rule:
            name:
                f"figure_{name}"
            input:
                PATHS.receipt("look", figure.record.theme),
            output:
                *reported(name, figure, touch),
