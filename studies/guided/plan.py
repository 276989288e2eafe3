"""The plan of the study of guided distillation (Meng et al. 2023), as data: its worlds and their rows.

- "pixels": class-conditional scenes of 64 pixels, without an autoencoder, as in Table 1 and Fig. 6.
- "latents": class-conditional scenes of 128 pixels in an autoencoder's latents, as in Fig. 11.
- "transfer": scenes at noon as scenes at night, as in Fig. 12.

A row is one training, from a file of configs/ by changes to it, or only samples of models that other rows train. As in
the paper, all rows of a world start from one teacher, so the seeds are those of the distillation. Guidance is the
paper's w + 1. Nothing is tuned: what a row does not change is as its config has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SEEDS = (0, 1, 2)
BATCH = 32  # of the configs; images that are sampled at a time, too
WEIGHTS = (0.0, 0.3, 1.0, 4.0)  # w of Table 1
RANGE = [1.0, 5.0]  # the guidance that is trained
STEPS = (16, 8, 4, 1)  # of Table 1
TEACHER = 128  # steps of the teacher; the paper's has 1,024
STAGE_1, STAGE_2 = "configs/scenes_guided_1.yaml", "configs/scenes_guided_2.yaml"

SYSTEMS = {  # name -> title in tables
    "deterministic": "Distilled, deterministic (D)",
    "stochastic": "Distilled, stochastic (S)",
    "single": "Distilled for a single w",
    "ddim": "DDIM",
    "ddpm": "DDPM",
    "teacher": "Teacher (DDIM)",
    "distilled": "Distilled, there and back",
    "undistilled": "DDIM, there and back",
}
SHORT = {"train.ema_decay": 0.95}  # phases are shorter than those of the configs
FIRST = {**SHORT, "train.warmup_steps": 30}
Way = tuple[str, int, float]  # sampler, steps, guidance


@dataclass(frozen=True, eq=False)
class Row:
    """One training, or samples of what other rows have trained.

    Attributes:
        name: of the row and its files.
        config: a file of configs/; None: nothing is trained, and the models are sampled.
        changes: options of the config, by their keys, such as "method.steps".
        updates: of the training.
        models: the row that it starts from, or those that are sampled: for a transfer the way there, and the way back.
        samples: what is measured, by system.
        once: whether one seed serves all.
        encoded: the source whose encoded examples it is trained on; "": its config's own, rendered anew.
        doubled: whether guidance takes a second evaluation of the network in its samples.
    """

    name: str
    config: str | None
    changes: dict[str, Any] = field(default_factory=dict)
    updates: int = 0
    models: tuple[str, ...] = ()
    samples: dict[str, tuple[Way, ...]] = field(default_factory=dict)
    once: bool = False
    encoded: str = ""
    doubled: bool = False


@dataclass(frozen=True, eq=False)
class World:
    """Rows with one teacher, and what is measured of them.

    Attributes:
        name: of the world.
        title: in the report.
        rows: in their order.
        source: of the test images; pairs in a transfer.
        image_size: of the images.
        labels: whether images are made for classes; otherwise for captions.
        examples: how many are encoded once, of each source.
        reader: the folder of a reader of scenes, or the row that trains one.
        measures: metrics of the tables; the first two are those of Table 1.
        count: images of the test.
        shown: images in a strip.
        seconds: of one core for one network pass on a batch, for the estimate alone.
        fresh: seconds of one core to render and encode a batch.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    source: str
    image_size: int
    labels: bool
    examples: int
    reader: str
    measures: tuple[str, ...]
    count: int
    shown: int
    seconds: float
    fresh: float

    def row(self, name: str) -> Row:
        """A row by its name."""
        return next(row for row in self.rows if row.name == name)


def _ways(sampler: str, steps: tuple[int, ...], weights: tuple[float, ...]) -> tuple[Way, ...]:
    return tuple((sampler, n, 1.0 + w) for n in steps for w in weights)


def _distilled(
    prefix: str,
    parent: str,
    shared: dict[str, Any],
    phases: dict[int, tuple[list[int], int]],
    ways: dict[int, dict],
    config: str = STAGE_2,
    **options,
) -> tuple[Row, ...]:
    """The chain of stage 2: a row for each number of steps of `phases`, {N: (numbers of steps, updates of each)}."""
    rows: list[Row] = []
    for steps, (numbers, updates) in phases.items():
        changes = {**shared, **SHORT, "method.steps": numbers, "method.updates": updates}
        start = rows[-1].name if rows else parent
        total = updates * len(numbers)
        rows.append(Row(f"{prefix}_{steps}", config, changes, total, (start,), ways.get(steps, {}), **options))
    return tuple(rows)


PIXELS = {  # the network predicts the signal, whose error in v would be without bounds
    "data.image_size": 64,
    "data.prompts": False,
    "data.classes": True,
    "data.encode_once": 0,
    "method.space": "signal",
}
PHASES = {16: ([32, 16], 100), 8: ([8], 150), 4: ([4], 200), 1: ([2, 1], 200)}


def _two_stages(system: str, weights: tuple[float, ...], trained: list[float], name: str) -> tuple[Row, ...]:
    """Both stages in pixels, for a range of the guidance; the stochastic system has stage 1 of the deterministic."""
    shared = {**PIXELS, "method.guidance": trained}
    first = Row(f"{name}_stage_1", STAGE_1, {**shared, **FIRST}, 300, ("teacher",), encoded="scenes")
    sampler = "stochastic" if system == "stochastic" else "ddim"
    ways = {steps: {system: _ways(sampler, (steps,), weights)} for steps in STEPS}
    if system == "stochastic":
        return _distilled(name, "d_stage_1", {**shared, "method.stochastic": True}, PHASES, ways, encoded="scenes")
    return (first, *_distilled(name, first.name, shared, PHASES, ways, encoded="scenes"))


READER = Row("reader", "configs/scenes_reader.yaml", {"data.image_size": 64}, 5000, once=True)
PIXEL_ROWS = (
    READER,
    Row("teacher", "configs/scenes_classes.yaml", {}, 8000, once=True),
    Row(
        "undistilled",
        None,
        models=("teacher",),
        samples={
            "teacher": _ways("ddim", (TEACHER,), WEIGHTS),
            "ddim": _ways("ddim", (1, 4, 8, 16, 32, 64), WEIGHTS),
            "ddpm": _ways("ddpm", (16, 64), WEIGHTS),
        },
        once=True,
        doubled=True,
    ),
    *_two_stages("deterministic", WEIGHTS, RANGE, "d"),
    *_two_stages("stochastic", WEIGHTS, RANGE, "s"),
    *(row for w in WEIGHTS for row in _two_stages("single", (w,), [1.0 + w, 1.0 + w], f"w{w:g}")),
)

LATENTS = {"data.prompts": False, "data.classes": True, "data.encode_once": 0}
LATENT_WEIGHTS, LATENT_STEPS = (0.0, 1.0, 4.0), (8, 4, 2, 1)
LATENT_ROWS = (
    Row(
        "teacher",
        "configs/scenes_base.yaml",
        {**LATENTS, "method.text_encoder": None, "method.network.num_class_embeds": 33},
        5000,
        once=True,
        encoded="scenes",
    ),
    Row(
        "undistilled",
        None,
        models=("teacher",),
        samples={
            "teacher": _ways("ddim", (TEACHER // 2,), LATENT_WEIGHTS),
            "ddim": _ways("ddim", (1, 2, 4, 8, 16), LATENT_WEIGHTS),
        },
        once=True,
        doubled=True,
    ),
    Row(
        "d_stage_1",
        STAGE_1,
        {**LATENTS, **FIRST, "method.guidance": RANGE},
        300,
        ("teacher",),
        encoded="scenes",
    ),
    *_distilled(
        "d",
        "d_stage_1",
        {**LATENTS, "method.guidance": RANGE},
        {8: ([32, 16, 8], 80), 4: ([4], 150), 2: ([2], 150), 1: ([1], 200)},
        {n: {"deterministic": _ways("ddim", (n,), LATENT_WEIGHTS)} for n in LATENT_STEPS},
        encoded="scenes",
    ),
)

TRANSFER_WEIGHTS, TRANSFER_STEPS = (0.0, 0.3, 1.0, 4.0), (16, 8, 4)
CAPTIONED = {"data.prompts": True, "data.encode_once": 0}
DOMAIN = {  # the shipped base, trained on
    **CAPTIONED,
    "method.network": None,
    "method.text_encoder": None,
    "train.learning_rate": 2e-4,
    "train.warmup_steps": 50,
}
WAYS = {16: ([64, 32, 16], 100), 8: ([8], 150), 4: ([4], 150)}


def _domain(name: str) -> Row:
    return Row(name, "configs/scenes_base.yaml", DOMAIN, 1000, once=True, encoded=f"scenes:{name}")


TRANSFER_ROWS = (
    _domain("noon"),
    _domain("night"),
    *_distilled(  # the way there, without guidance
        "noon",
        "noon",
        {**CAPTIONED, "train.cycles": 0},
        WAYS,
        {},
        "configs/scenes_reverse.yaml",
        encoded="scenes:noon",
    ),
    Row(
        "night_stage_1",
        STAGE_1,
        {**CAPTIONED, **FIRST, "method.guidance": RANGE},
        300,
        ("night",),
        encoded="scenes:night",
    ),
    *_distilled(
        "night",
        "night_stage_1",
        {**CAPTIONED, "method.guidance": RANGE},
        WAYS,
        {},
        encoded="scenes:night",
    ),
    Row(
        "undistilled",
        None,
        models=("noon", "night"),
        samples={"undistilled": _ways("ddim", (64, *TRANSFER_STEPS), TRANSFER_WEIGHTS)},
        once=True,
        doubled=True,
    ),
    *(
        Row(
            f"transfer_{steps}",
            None,
            models=(f"noon_{steps}", f"night_{steps}"),
            samples={"distilled": _ways("ddim", (steps,), TRANSFER_WEIGHTS)},
        )
        for steps in TRANSFER_STEPS
    ),
)

SETS = ("frechet_scenes", "scene_score", "scene_precision", "scene_recall", "sharpness")
WORLDS = {
    world.name: world
    for world in (
        World(
            "pixels",
            "Table 1 and Fig. 6: classes, in pixels",
            PIXEL_ROWS,
            "scenes",
            64,
            labels=True,
            examples=10_000,
            reader="reader",
            measures=SETS,
            count=256,
            shown=8,
            seconds=0.25,
            fresh=0.2,
        ),
        World(
            "latents",
            "Fig. 11: classes, in latents",
            LATENT_ROWS,
            "scenes",
            128,
            labels=True,
            examples=20_000,
            reader="assets/scenes-reader",
            measures=SETS,
            count=256,
            shown=6,
            seconds=0.37,
            fresh=2.0,
        ),
        World(
            "transfer",
            "Fig. 12: transfer from noon to night",
            TRANSFER_ROWS,
            "scenes:noon-to-night",
            128,
            labels=False,
            examples=6000,
            reader="assets/scenes-reader",
            measures=("psnr", "frechet_scenes", "scene_accuracy", "ssim", "sharpness"),
            count=128,
            shown=6,
            seconds=0.37,
            fresh=2.0,
        ),
    )
}
