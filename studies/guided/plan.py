"""The plan of the study of guided distillation (Meng et al. 2023), as data: its worlds and their rows.

- "pixels": class-conditional scenes of 64 pixels, without an autoencoder, as in Table 1 and Fig. 6.
- "latents": scenes of 128 pixels in an autoencoder's latents, as in Fig. 11, by captions: the base is the shipped one.
- "transfer": scenes at noon as scenes at night, as in Fig. 12.

A row is one training, from a file of configs/ by changes to it, or only samples of models that other rows train. As in
the paper, all rows of a world start from one teacher, so the seeds are those of the distillation. Guidance is the
paper's w + 1. Nothing is tuned: what a row does not change is as its config has it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

SEEDS = (0, 1, 2)
BATCH = 32  # of the configs' teachers; images that are sampled at a time, too
STUDENTS = 16  # examples in an update of distillation
WEIGHTS = (0.0, 0.3, 1.0, 4.0)  # w of Table 1
RANGE = [1.0, 5.0]  # the guidance that is trained
STEPS = (16, 8, 4, 1)  # of Table 1
TEACHER = 64  # steps of the teacher; the paper's has 1,024
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
SHORT = {"train.ema_decay": 0.95, "train.batch_size": STUDENTS}  # phases are shorter than those of the configs
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
        folder: of a base that comes with codi_tf, in place of a training; "": none.
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
    folder: str = ""


@dataclass(frozen=True, eq=False)
class World:
    """Rows with one teacher, and what is measured of them.

    Attributes:
        name: of the world.
        title: in the report.
        rows: in their order.
        source: of the test images; pairs in a transfer.
        image_size: of the images.
        asks: what images are made for: "class", "caption", or "pair", the two captions of a transfer.
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
    asks: str
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
PHASES = {16: ([32, 16], 75), 8: ([8], 100), 4: ([4], 125), 1: ([2, 1], 125)}


def _two_stages(system: str, weights: tuple[float, ...], trained: list[float], name: str) -> tuple[Row, ...]:
    """Both stages in pixels, for a range of the guidance; the stochastic system has stage 1 of the deterministic."""
    shared = {**PIXELS, "method.guidance": trained}
    first = Row(f"{name}_stage_1", STAGE_1, {**shared, **FIRST}, 200, ("teacher",), encoded="scenes")
    sampler = "stochastic" if system == "stochastic" else "ddim"
    ways = {steps: {system: _ways(sampler, (steps,), weights)} for steps in STEPS}
    if system == "stochastic":
        return _distilled(name, "d_stage_1", {**shared, "method.stochastic": True}, PHASES, ways, encoded="scenes")
    return (first, *_distilled(name, first.name, shared, PHASES, ways, encoded="scenes"))


READER = Row("reader", "configs/scenes_reader.yaml", {"data.image_size": 64}, 3000, once=True)
PIXEL_ROWS = (
    READER,
    Row("teacher", "configs/scenes_classes.yaml", {}, 4000, once=True),
    Row(
        "undistilled",
        None,
        models=("teacher",),
        samples={
            "teacher": _ways("ddim", (TEACHER,), WEIGHTS),
            "ddim": _ways("ddim", (1, 4, 8, 16, 32), WEIGHTS),
            "ddpm": _ways("ddpm", (16, 64), WEIGHTS),
        },
        once=True,
        doubled=True,
    ),
    *_two_stages("deterministic", WEIGHTS, RANGE, "d"),
    *_two_stages("stochastic", WEIGHTS, RANGE, "s"),
    *(row for w in WEIGHTS for row in _two_stages("single", (w,), [1.0 + w, 1.0 + w], f"w{w:g}")),
)

CAPTIONED = {"data.prompts": True, "data.encode_once": 0}
LATENT_WEIGHTS, LATENT_STEPS = (0.0, 1.0, 4.0), (8, 4, 2, 1)
LATENT_ROWS = (
    Row("teacher", None, folder="assets/scenes-base", once=True),
    Row(
        "undistilled",
        None,
        models=("teacher",),
        samples={
            "teacher": _ways("ddim", (TEACHER,), LATENT_WEIGHTS),
            "ddim": _ways("ddim", (1, 2, 4, 8, 16), LATENT_WEIGHTS),
        },
        once=True,
        doubled=True,
    ),
    Row(
        "d_stage_1",
        STAGE_1,
        {**CAPTIONED, **FIRST, "method.guidance": RANGE},
        150,
        ("teacher",),
        encoded="scenes",
    ),
    *_distilled(
        "d",
        "d_stage_1",
        {**CAPTIONED, "method.guidance": RANGE},
        {8: ([32, 16, 8], 60), 4: ([4], 80), 2: ([2], 80), 1: ([1], 120)},
        {n: {"deterministic": _ways("ddim", (n,), LATENT_WEIGHTS)} for n in LATENT_STEPS},
        encoded="scenes",
    ),
)

TRANSFER_WEIGHTS, TRANSFER_STEPS = (0.0, 0.3, 1.0, 4.0), (16, 8, 4)
DOMAIN = {  # the shipped base, trained on
    **CAPTIONED,
    "method.network": None,
    "method.text_encoder": None,
    "train.learning_rate": 2e-4,
    "train.warmup_steps": 50,
}
WAYS = {16: ([64, 32, 16], 60), 8: ([8], 80), 4: ([4], 80)}


def _domain(name: str) -> Row:
    return Row(name, "configs/scenes_base.yaml", DOMAIN, 400, once=True, encoded=f"scenes:{name}")


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
        150,
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
            asks="class",
            examples=6000,
            reader="reader",
            measures=SETS,
            count=128,
            shown=8,
            seconds=0.06,
            fresh=0.2,
        ),
        World(
            "latents",
            "Fig. 11: captions, in latents",
            LATENT_ROWS,
            "scenes",
            128,
            asks="caption",
            examples=3000,
            reader="assets/scenes-reader",
            measures=(*SETS, "scene_accuracy"),
            count=128,
            shown=6,
            seconds=0.15,
            fresh=2.0,
        ),
        World(
            "transfer",
            "Fig. 12: transfer from noon to night",
            TRANSFER_ROWS,
            "scenes:noon-to-night",
            128,
            asks="pair",
            examples=2000,
            reader="assets/scenes-reader",
            measures=("psnr", "frechet_scenes", "scene_accuracy", "ssim", "sharpness"),
            count=96,
            shown=6,
            seconds=0.15,
            fresh=2.0,
        ),
    )
}
