"""The section `jobs` of a study file."""

from pydantic import PositiveInt

from myostage.schema import Count, Section, Text, key


class Jobs(Section):
    """How work is cut into jobs; changes no result."""

    slides_per_job: Count = key(1, "slides handled by one job, one after another")
    threads: PositiveInt = key(2, "threads of a job that computes", le=1024)
    runs_per_job: Count | None = key(
        None,
        "training runs handled by one job, one after another; none: 1, of ready-made or drawn features 20",
    )
    scratch: Text | None = key(
        None,
        "folder of the computing node that a training job copies its tokens to first, such as "
        "`$SLURM_TMPDIR`; none: they are read where they are",
    )
    whole_checksums: bool = key(
        False,
        "whether slides, weights and annotations that were replaced are noticed by all their bytes, read at "
        "every start (seconds for each GB), instead of by size, head, tail and samples",
    )
