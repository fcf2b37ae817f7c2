"""An encoder fine-tuned on the crops of a study by DINO (arXiv 2104.14294): no label, no proportion is read.

A student learns to give a crop's views the scores that its teacher, a moving average of itself, gives the
crop's large views. Loss, projection head, views and schedules are lightly's.

Everything random is a function of (seed, step); a job that was killed and resumes therefore ends with the
weights of one that was not (bit for bit on a CPU).
"""

import hashlib
import json
import logging
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from myostage import tables
from myostage.cells.tables import CROP_PX, CROPS
from myostage.errors import UserError
from myostage.features.encoder import build, crop_pixels, normalisation
from myostage.runtime.checkpoints import Checkpoints, Progress
from myostage.study.sections.encoder import NOT_IN_TOKENS, Dino, Encoder

log = logging.getLogger(__name__)

# As DINO: heads of 2048 for ViTs of width 384 and 768; a head must not outweigh a narrower ViT.
HEAD_PER_WIDTH = 6
HEAD_HIDDEN = 2048
HEAD_BOTTLENECK = 256
CLIP = 3.0
# Share of the steps in which the learning rate rises and the prototypes stand still.
WARMUP = 0.1
FINAL_RATE = 0.01
LARGE_VIEWS = 2
# Crops per read, and steps whose losses stay on the device: reading one waits for the GPU.
CROPS_PER_READ = 256
STEPS_PER_READOUT = 25

# Shares of the crop's area. A large view is the crop enlarged by at most 1.2, a small one keeps its scale
# within 20 %: the size of a cell tells its stage, and views that hide it would teach to ignore it.
LARGE_SCALE = (0.7, 1.0)
SMALL_SCALE = (0.2, 0.35)
# Likewise the balance of haematoxylin and eosin, from basophilic young fibres to eosinophilic mature ones:
# no grey or solarised views, no change of hue; what varies is how strongly a slide is stained. lightly halves
# these (its cj_strength of 0.5, which it does not hand to every view).
COLOUR = {"cj_bright": 0.4, "cj_contrast": 0.4, "cj_sat": 0.2, "cj_hue": 0.0}
# Focus varies less than DINO's blur, which would wipe out nuclei of a few px.
BLUR_PX = (0.1, 0.8)
BLURRED = (0.5, 0.1, 0.3)

Views = Callable[[Image.Image], list[Tensor]]


def fine_tune(
    crops: Sequence[Path],
    encoder: Encoder,
    out: Path,
    checkpoint_dir: Path,
    device: torch.device,
    made_by: str = "",
    *,
    workers: int = 0,
) -> None:
    """Fine-tune all of the encoder on crops and write the teacher's ViT.

    Parameters
    ----------
    crops : sequence of Path
        ``CROPS`` of every slide. Those that some step draws are kept in memory, 12 kB each.
    encoder : config.Encoder
        Its ``weights`` are where it starts, its ``dino`` says how it goes on.
    out : Path
        Safetensors by timm's names, as :func:`encoder.build` reads them; position embeddings are those of the
        crop's grid. Metadata ``encoder``, ``versions``, ``made_by``.
    checkpoint_dir : Path
        Folder of this encoder's checkpoints; one that fits is resumed, all are deleted at the end.
    device : torch.device
        On a GPU in bfloat16 autocast, on a CPU in float32.
    workers : int
        Processes that draw views; 0 draws them in this one. Changes no result.

    Raises
    ------
    UserError
        lightly is missing, there are no crops, the weights cannot be read, or the loss is not finite.
    ValueError
        ``encoder.dino`` is not set.
    """
    settings = encoder.dino
    if settings is None:
        raise ValueError(f"encoder {encoder.id} is not to be fine-tuned")
    _require_lightly()
    from lightly.loss import DINOLoss
    from lightly.models.utils import update_momentum
    from lightly.utils.scheduler import cosine_schedule, cosine_warmup_schedule

    images, order = read_crops(crops, settings)
    student, teacher = _Network(encoder, settings), _Network(encoder, settings)
    teacher.requires_grad_(False)
    checkpoints = Checkpoints(checkpoint_dir, _fingerprint(encoder, student, images), (Path(__file__),))
    student.to(device)
    teacher.to(device)
    # warmup_teacher_temp only matters to callers that count epochs
    criterion = DINOLoss(settings.prototypes, teacher_temp=settings.teacher_temperature).to(device)
    trained = [parameter for parameter in student.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(
        [  # as DINO: biases and gains do not decay
            {"params": [p for p in trained if p.ndim > 1], "weight_decay": settings.weight_decay},
            {"params": [p for p in trained if p.ndim <= 1], "weight_decay": 0.0},
        ]
    )
    kept = {"student": student, "teacher": teacher, "criterion": criterion, "optimiser": optimiser}
    done = 0
    resumed = checkpoints.load()
    if resumed is not None:
        done = resumed["step"]
        for name, part in kept.items():
            part.load_state_dict(resumed[name])
        log.info("%s: resumed at step %d", encoder.id, done)
    progress = Progress(encoder.id, settings.steps, done)
    pending: list[Tensor] = []

    def read_out() -> None:
        """Tell the pending losses, refusing what is not finite."""
        rows = torch.stack(pending).tolist()
        for step, (loss, norm) in enumerate(rows, start=done - len(rows)):
            if not (math.isfinite(loss) and math.isfinite(norm)):
                raise UserError(
                    f"encoder {encoder.id}: the loss of DINO is not finite at step {step} (loss {loss}, "
                    f"gradient norm {norm}; {checkpoints.last()}); lower encoder.dino.learning_rate"
                )
        progress.advance(len(rows), rows[-1][0])
        pending.clear()

    rising = round(WARMUP * settings.steps)
    for views in _batches(images, order, student.backbone, settings, done, device, workers):
        rate = settings.learning_rate * cosine_warmup_schedule(
            done, settings.steps, 1.0, FINAL_RATE, rising, warmup_start_value=0.0
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            with torch.no_grad():
                wanted = teacher(views[:LARGE_VIEWS])
            scores = student(views)
        # in float32: temperatures sharpen what bfloat16 has rounded
        loss = criterion([view.float() for view in wanted], [view.float() for view in scores])
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        student.head.cancel_last_layer_gradients(current_epoch=done)
        norm = nn.utils.clip_grad_norm_(trained, CLIP)
        optimiser.step()
        update_momentum(student, teacher, cosine_schedule(done, settings.steps, settings.momentum, 1.0))
        pending.append(torch.stack([loss.detach(), norm]))
        done += 1
        saving = done % settings.checkpoint_every == 0
        if saving or len(pending) == STEPS_PER_READOUT or done == settings.steps:
            read_out()
        if saving:
            checkpoints.save(0, done, {name: part.state_dict() for name, part in kept.items()})

    state = {name: value.cpu().contiguous() for name, value in teacher.backbone.state_dict().items()}
    versions = {package: metadata.version(package) for package in ("torch", "timm", "lightly")}
    said = {"encoder": encoder.model_dump_json(), "versions": json.dumps(versions), "made_by": made_by}
    with tables.atomic(out) as temporary:
        safetensors.torch.save_file(state, temporary, said)
    checkpoints.clear()


def read_crops(paths: Sequence[Path], settings: Dino) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The crops that the steps draw, and which of them is drawn when.

    Returns
    -------
    images : uint8[n, 64, 64, 3]
        Crops that are drawn at least once.
    order : int64[steps * batch_size]
        Row of ``images`` of each draw: all crops of the study shuffled, and again until every step has its
        batch.
    """
    counts = []
    for path in paths:
        with tables.open_table(path, CROPS) as file:
            counts.append(file.metadata.num_rows)
    total, draws = sum(counts), settings.steps * settings.batch_size
    if total == 0:
        raise UserError("encoder.dino: the slides have no crops to learn from; look at their segmentation")
    rng = np.random.default_rng(settings.seed)
    shuffled = np.concatenate([rng.permutation(total) for _ in range(-(-draws // total))])[:draws]
    drawn, order = np.unique(shuffled, return_inverse=True)
    images = np.empty((len(drawn), CROP_PX, CROP_PX, 3), np.uint8)
    first = 0
    for path in paths:
        with tables.open_table(path, CROPS) as file:
            for batch in file.iter_batches(CROPS_PER_READ, columns=["image"]):
                low, high = np.searchsorted(drawn, [first, first + len(batch)])
                images[low:high] = crop_pixels(batch.column("image"))[drawn[low:high] - first]
                first += len(batch)
    return images, order


class _Network(nn.Module):
    """ViT and projection head: views [B, 3, s, s] of any two sizes to the scores [B, P] of each."""

    def __init__(self, encoder: Encoder, settings: Dino) -> None:
        from lightly.models.modules.heads import DINOProjectionHead

        super().__init__()
        self.backbone = build(encoder.model_copy(update={"dino": None}), any_size=True)
        width = int(self.backbone.embed_dim)
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of torch, on lightly's weight_norm
            torch.manual_seed(settings.seed)
            self.head = DINOProjectionHead(
                width,
                min(HEAD_HIDDEN, HEAD_PER_WIDTH * width),
                HEAD_BOTTLENECK,
                settings.prototypes,
                freeze_last_layer=round(WARMUP * settings.steps),
            )

    def forward(self, views: Sequence[Tensor]) -> list[Tensor]:
        # views of one size pass together
        parts = [views[:LARGE_VIEWS], views[LARGE_VIEWS:]]
        tokens = [self.backbone.forward_features(torch.cat(list(part))) for part in parts if part]
        scores = self.head(torch.cat([part[:, 0] for part in tokens]))
        return list(scores.split(len(views[0])))


def views_of(model: VisionTransformer, settings: Dino) -> Views:
    """From a crop to its views: two of the model's image size, the rest of half that size, normalised."""
    from lightly.transforms import DINOTransform

    grid, patch = model.patch_embed.grid_size[0], model.patch_embed.patch_size[0]
    mean, std = normalisation(model)
    transform: Any = DINOTransform(
        global_crop_size=grid * patch,
        global_crop_scale=LARGE_SCALE,
        local_crop_size=max(1, grid // 2) * patch,
        local_crop_scale=SMALL_SCALE,
        n_local_views=settings.local_crops,
        vf_prob=0.5,  # a cell has no way up
        rr_prob=0.5,
        random_gray_scale=0.0,
        gaussian_blur=BLURRED,
        sigmas=BLUR_PX,
        solarization_prob=0.0,
        normalize={"mean": list(mean), "std": list(std)},
        **COLOUR,
    )
    return transform


class _Draws(Dataset[list[Tensor]]):
    """The views of every draw, a function of the seed and the draw's number alone."""

    def __init__(self, images: NDArray[np.uint8], order: NDArray[np.int64], views: Views, seed: int) -> None:
        self.images, self.order, self.views, self.seed = images, order, views, seed

    def __getitem__(self, draw: int) -> list[Tensor]:
        with _seeded(self.seed, draw):
            return self.views(Image.fromarray(self.images[self.order[draw]]))


def _batches(
    images: NDArray[np.uint8],
    order: NDArray[np.int64],
    model: VisionTransformer,
    settings: Dino,
    done: int,
    device: torch.device,
    workers: int,
) -> Iterator[list[Tensor]]:
    """The views of the steps left, each a list of [B, 3, s, s] on ``device``."""
    loader = DataLoader(
        _Draws(images, order, views_of(model, settings), settings.seed),
        batch_size=settings.batch_size,
        sampler=range(done * settings.batch_size, len(order)),
        num_workers=workers,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),  # else it would draw from the caller's
    )
    for views in loader:
        yield [view.to(device, non_blocking=True) for view in views]


@contextmanager
def _seeded(*seed: int) -> Iterator[None]:
    """Seed numpy's and torch's global generators, which the transforms draw from, and put them back."""
    numpys, torchs = np.random.SeedSequence(seed).generate_state(2)
    before = np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(int(torchs))
        np.random.seed(numpys)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


def _fingerprint(encoder: Encoder, start: nn.Module, images: NDArray[np.uint8]) -> str:
    """What a checkpoint must share with a job to be resumed by it: settings, first weights and crops."""
    digest = hashlib.sha256(encoder.model_dump_json(exclude=NOT_IN_TOKENS).encode())
    for value in start.state_dict().values():
        digest.update(value.numpy())
    digest.update(images.data)
    return digest.hexdigest()


def _require_lightly() -> None:
    try:
        import lightly  # noqa: F401
    except ImportError as error:
        raise UserError(
            f"encoder.dino: the package lightly cannot be imported ({error}); install it with `make install`"
        ) from None
