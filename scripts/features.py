"""Ready-made features of the bags of one batch, as tokens, positions and labels."""

from pathlib import Path
from typing import Any

from myostage.features import ready_made
from myostage.runtime import jobs


def work(smk: Any) -> None:
    settings = smk.params.features
    dataset, root, name = settings["dataset"], Path(settings["root"]), settings["features"]
    side, encoder = settings["patch_px"], smk.params.encoder
    paths = jobs.paths(smk)

    def read(slide: str) -> None:
        bag = ready_made.read_bag(dataset, root, name, slide, side)
        ready_made.write_bag(
            bag,
            tokens_out=paths.tokens(slide, encoder),
            positions_out=paths.slide(slide, "positions.parquet"),
            labels_out=paths.slide(slide, "labels.parquet"),
            encoder_json=smk.params.encoder_json,
        )

    members = [
        jobs.Member(
            slide,
            f"slides/{slide}",
            ready_made.files(dataset, root, name, slide, side),
            [
                paths.tokens(slide, encoder),
                paths.slide(slide, "positions.parquet"),
                paths.slide(slide, "labels.parquet"),
            ],
        )
        for slide in smk.params.slides
    ]
    jobs.make_each(smk, members, read)


jobs.run(snakemake, work)
