"""Ready-made features of the slides of one batch, as tokens, positions and labels."""

from pathlib import Path
from typing import Any

from myostage.features import cut, ready_made
from myostage.runtime import jobs


def work(smk: Any) -> None:
    settings, paths, encoder_json = smk.params.features, jobs.paths(smk), smk.params.encoder_json

    def outputs(slide: str) -> dict[str, str]:
        return {
            "tokens_out": paths.tokens(slide, smk.params.encoder),
            "positions_out": paths.slide(slide, "positions.parquet"),
            "labels_out": paths.slide(slide, "labels.parquet"),
        }

    def members(inputs: dict[str, list[str]]) -> list[jobs.Member]:
        return [
            jobs.Member(slide, f"slides/{slide}", files, list(outputs(slide).values()))
            for slide, files in inputs.items()
        ]

    if "table" in settings:
        table = cut.Cut(settings["table"], settings["columns"], settings["stages"])
        jobs.make_each(
            smk,
            members({slide: [settings["table"]] for slide in smk.params.slides}),
            lambda slide: table.write(slide, **outputs(slide), encoder_json=encoder_json),
            ready=table.check,
        )
        return
    dataset, root, name = settings["dataset"], Path(settings["root"]), settings["features"]
    side = settings["patch_px"]

    def read(slide: str) -> None:
        bag = ready_made.read_bag(dataset, root, name, slide, side)
        ready_made.write_bag(bag, **outputs(slide), encoder_json=encoder_json)

    files = {slide: ready_made.files(dataset, root, name, slide, side) for slide in smk.params.slides}
    jobs.make_each(smk, members(files), read)


jobs.run(snakemake, work)
