"""One encoder fine-tuned on crops: of the training animals of its fold, or of all."""

from pathlib import Path
from typing import Any

from myostage.features import dino, encoder
from myostage.learning.outputs import learnt_and_predicted
from myostage.runtime import jobs
from myostage.study.sections.encoder import FoldEncoder, read_encoder


def work(smk: Any) -> None:
    settings = read_encoder(smk.params.settings)
    device = encoder.device()
    paths = jobs.paths(smk)
    out = Path(paths.tuned(settings.id))
    crops = {slide: Path(paths.slide(slide, "crops.parquet")) for slide in smk.params.slides}
    if isinstance(settings, FoldEncoder):
        learnt, _ = learnt_and_predicted(Path(smk.input.splits), settings.fold, crops)
        crops = {slide: crops[slide] for slide in learnt["slide"]}

    def tune(name: str) -> None:
        workers = smk.threads if device.type == "cuda" else 0
        dino.fine_tune(
            list(crops.values()), settings, out, out.parent / "checkpoint", device, workers=workers
        )

    read = [str(file) for file in (*crops.values(), smk.input.weights) if file]
    member = jobs.Member(settings.id, f"encoders/{settings.id}", read, [str(out)])
    jobs.make_each(smk, [member], tune)


jobs.run(snakemake, work)
