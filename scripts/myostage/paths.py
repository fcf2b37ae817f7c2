"""Where everything of a study lies: nobody builds a path below results/ by hand."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Paths:
    """The files of one study below ``results/{study}``; every method returns a path as a string."""

    root: str

    @classmethod
    def of(cls, results: str, study: str) -> "Paths":
        return cls(str(Path(results) / study))

    def study(self, name: str) -> str:
        """A file of the study: ``slides.parquet``, ``splits.parquet``, ``metrics.parquet``."""
        return f"{self.root}/{name}"

    def slide(self, slide: str, name: str) -> str:
        """A file of one slide: ``tiles.parquet``, ``cells.parquet``, ``crops.parquet``."""
        return f"{self.root}/slides/{slide}/{name}"

    def tokens(self, slide: str, encoder: str) -> str:
        """The tokens of one slide under one encoder id."""
        return f"{self.root}/slides/{slide}/tokens/{encoder}.parquet"

    def tuned(self, encoder: str) -> str:
        """The weights of an encoder id that the study fine-tunes itself."""
        return f"{self.root}/encoders/{encoder}/weights.safetensors"

    def precheck(self, source: str, size: int) -> str:
        """What is known of bags of ``size`` cells of a slide or group, before a run trains on them."""
        return f"{self.root}/precheck/{source}_{size}.json"

    def run(self, run: str, name: str) -> str:
        """A file of one run: ``model.safetensors``, ``history.parquet``, ``predictions.parquet``."""
        return f"{self.root}/runs/{run}/{name}"

    def statement(self, member: str, rule: str) -> str:
        """What made the files of one slide (``slides/{slide}``) or run (``runs/{run}``) by one rule."""
        return f"{self.root}/{member}/made/{rule}.json"

    def receipt(self, rule: str, batch: str) -> str:
        """What a job made for all slides or runs of its batch: there once all of them are."""
        return f"{self.root}/made/{rule}/{batch}.json"

    def log(self, rule: str, name: str) -> str:
        return f"{self.root}/logs/{rule}/{name}.log"

    def benchmark(self, rule: str, name: str) -> str:
        return f"{self.root}/benchmarks/{rule}/{name}.tsv"
