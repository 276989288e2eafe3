"""The plan of the study, as data: its worlds, its rows and how each is tuned.

A row is one system. Its budget is a share of its world's updates, all stages together; a row that starts from the
result of another names it as its parent. CoDi has the defaults of `codi_tf.CoDi`, made for 4 evaluations, with its
world's delta; its variants change one thing each.

Every row is tuned by one rule. Its last stage is trained with each of the world's two learning rates, for a quarter
of the world's updates, with seed 0. The rate whose images of the validation set have the lowest decisive measure is the
row's, in all tasks of the world. The rate of mu is 30 times that rate, so it moves along. Rows of one system, which
differ in their number of updates or their base, share these trials.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

EARLY_BATCH = 32
SEEDS = (0, 1, 2)
COMPUTE = "bfloat16"  # of training and sampling
TRIAL = 0.25  # the share of the world's updates in a trial
TIMES, STEPS = 1000, 4  # T of both bases; N of the paper's tables

DDIM = tuple(("ddim", steps, None) for steps in (1, 2, 4, 8))
FEW = DDIM[:3]
AT_4 = ("ddim", 4, None)
AT_50 = ("ddim", 50, None)
UNDISTILLED = ("ddim", 20, None)  # what trials of undistilled systems are judged by
SOLVERS = (("dpm", 4, None), ("dpm++", 4, None))
RENOISING = (("consistency", 4, None), ("stochastic", 4, None))
GUIDED = (("ddim", 4, 1.5),)


@dataclass(frozen=True)
class World:
    """Data with a base, and what is measured on them.

    Attributes:
        name: of the world.
        base: the folder of the base.
        recipe: the config that trains the base.
        early_updates: the updates of an early base, trained by that config with batches of EARLY_BATCH.
        data: options of the data.
        updates: the whole budget of a row.
        batch: examples of an update.
        examples: training examples, encoded once.
        rates: the peaks of the learning rate that every row is tried with; rows without trials have the first.
        delta: t - s of CoDi and of consistency distillation: of photos CoDi's default, T / 16; of scenes the recipes'.
        measures: metrics that the tables show; the first one decides.
        also: metrics that comparisons show besides the decisive one; the first says how far an image is from what its
            condition asks for.
        weights: what metrics need, `Option.key` -> argument.
        count: images of the test.
        chosen_on: images of the validation set, on which settings are chosen.
        validation: a held-out photo that these are crops of, and the test leaves out; None: other scenes.
        shown: images in a strip.
        seconds: of one core for one network pass on a batch, measured; for the estimate alone.
        note: what readers of its tables should know.
    """

    name: str
    base: str
    recipe: str
    early_updates: int
    data: dict
    updates: int
    batch: int
    examples: int
    rates: tuple[float, ...]
    delta: int
    measures: tuple[str, ...]
    also: tuple[str, ...]
    weights: dict[str, str]
    count: int
    chosen_on: int
    validation: str | None
    shown: int
    seconds: float
    note: str


PHOTOS = World(
    "photos",
    "assets/photos-base",
    "configs/photos_base.yaml",
    900,  # of 9,000
    {"source": "photos", "image_size": 64, "recolor": True},
    updates=400,
    batch=16,
    examples=4800,
    rates=(1e-3, 3e-3),
    delta=62,
    measures=("frechet_photos", "sharpness", "latent_error", "psnr", "ssim"),
    also=("latent_error", "sharpness"),
    weights={"features": "assets/photos-base/features"},
    count=256,
    chosen_on=192,
    validation="coffee",
    shown=8,
    seconds=0.03,
    note="Test images are overlapping crops of few photos; no interval includes the effect of other photos.",
)
SCENES = World(
    "scenes",
    "assets/scenes-base",
    "configs/scenes_base.yaml",
    600,  # of 40,000
    {"source": "scenes", "image_size": 128},
    updates=240,
    batch=12,
    examples=3072,
    rates=(5e-4, 1.5e-3),
    delta=250,
    measures=("frechet_scenes", "scene_variety", "scene_depth", "scene_accuracy", "sharpness", "latent_error"),
    also=("scene_depth", "scene_variety", "latent_error", "sharpness"),
    weights={"reader": "assets/scenes-reader"},
    count=96,
    chosen_on=96,
    validation=None,
    shown=4,
    seconds=0.125,
    note="The depth map leaves colors, materials, floor and light open. So *statements* cannot come close to 1, and "
    "*variety lost* tells whether all kinds are chosen.",
)
WORLDS = {world.name: world for world in (PHOTOS, SCENES)}
TASKS = {"super_resolution": PHOTOS, "inpainting": PHOTOS, "depth": SCENES}  # scenes: without captions
ABLATED = ("super_resolution", "depth")  # the first task of each world: its trials, and the ablations


@dataclass(frozen=True)
class Row:
    """One system: its training and its samples.

    Attributes:
        name: of the row and its files.
        title: in tables.
        method: the config's section, `name` and options; None: the world's early base.
        share: of the world's updates, for the last stage.
        parent: the row whose result it starts from; None: the base.
        adaptation, train: further options of these sections.
        samples: (sampler, steps, guidance) of the samples to measure.
        judged: the sample that it is for, by which its trials are judged; None: no trials, it has the first rate.
        tasks: the tasks that it is trained for. A row of a world's base alone has the world's name there.
        system: rows of one system share their trials; "": its own name.
        once: whether one seed serves all.
    """

    name: str
    title: str
    method: dict[str, Any] | None
    share: float = 1.0
    parent: str | None = None
    adaptation: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    samples: tuple = DDIM
    judged: tuple | None = AT_4
    tasks: tuple[str, ...] = tuple(TASKS)
    system: str = ""
    once: bool = False

    @property
    def on_base(self) -> bool:
        """Whether it trains the base alone, without task and adapter."""
        return self.tasks == tuple(WORLDS)

    @property
    def tuned_as(self) -> str:
        """The name of its system."""
        return self.system or self.name


def world_of(task: str) -> World:
    """The world of a task, or of a row on the base."""
    return TASKS[task] if task in TASKS else WORLDS[task]


ADAPTER = {"adaptation": {"train": "adapter"}}
GUIDANCE = {"guidance": [1.0, 2.0]}


def _finetune(name: str, title: str, share: float = 1.0, **options) -> Row:
    method = {"name": "finetune", "drop_condition": 0.1}
    return Row(name, title, method, share, **{"judged": UNDISTILLED, "samples": (*DDIM, AT_50), **options})


def _codi(name: str, title: str, changes: dict | None = None, share: float = 1.0, **options) -> Row:
    return Row(name, title, {"name": "codi", "steps": STEPS, **(changes or {})}, share, **options)


def _ablation(name: str, title: str, changes: dict | None = None, **options) -> Row:
    """CoDi with one change, at half of the budget, to compare with "codi_half"."""
    return _codi(name, title, changes, 0.5, **{"tasks": ABLATED, "samples": FEW, **options})


def _weighted(name: str, title: str, changes: dict, **options) -> Row:
    """An ablation whose loss has no `method.steps`: it has the weight that CoDi has."""
    return _ablation(name, title, {"steps": None, **changes}, **options)


def _horizon(steps: int) -> Row:
    samples = {"samples": DDIM, "judged": ("ddim", steps, None), "tasks": tuple(TASKS)}
    return _ablation(f"codi_n{steps}", f"CoDi made for {steps}", {"steps": steps}, **samples)


def _halving(name: str, title: str, share: float, **options) -> Row:
    method = {"name": "guided", "stage": 2, "steps": [16, 8, 4], **options.pop("method", {})}
    return Row(name, title, method, share, train={"cycles": 3, "warmup_steps": 0}, **options)


def _last_phase(name: str, title: str, method: dict, **options) -> Row:
    """GD-II, trained on for 4 steps beyond the budget."""
    method = {"name": "guided", "stage": 2, "steps": [4], **GUIDANCE, **method}
    return Row(name, title, method, 0.1, parent="gd_2", system="gd_2", **options)


def _consistency(name: str, title: str, parent: str, **options) -> Row:
    samples = (*DDIM, ("consistency", 2, None), *RENOISING)
    judged = ("consistency", 4, None)
    return Row(name, title, {"name": "consistency"}, 0.5, parent, samples=samples, judged=judged, **options)


LITERAL = {"z_s": "own", "consistency": "noise", "steps": None, "guidance_weight": 1.0, "delta": 1}
ROWS = (
    # Starting points of later rows.
    _finetune("ldm_half", "LDM, half of the budget", 0.5, system="ldm"),
    _finetune("adapter_half", "adapter alone, half of the budget", 0.5, system="adapter", samples=(AT_4,), **ADAPTER),
    _halving("base_halved", "base, distilled to 4 steps", 0.5, samples=(), judged=None, tasks=tuple(WORLDS)),
    Row("base_early", "early base", None, samples=(), judged=None, tasks=tuple(WORLDS), once=True),
    Row(
        "guided_1",
        "GD-II, stage 1",
        {"name": "guided", "stage": 1, **GUIDANCE},
        0.1,
        "ldm_half",
        samples=(),
        judged=UNDISTILLED,
    ),
    # Table 2, at equal updates.
    _finetune("ldm", "LDM", samples=(*DDIM, AT_50, *SOLVERS, *GUIDED)),
    _finetune("adapter", "adapter alone", samples=(*DDIM, AT_50, *SOLVERS), **ADAPTER),
    _codi("codi", "CoDi", samples=(*DDIM, *RENOISING)),
    _codi("pe_codi", "PE-CoDi", samples=DDIM, **ADAPTER),
    _codi("codi_paper", "CoDi, the paper's literal loss", LITERAL, train={"result_decay": 0.0}),
    _halving("gd_2", "GD-II", 0.4, method=GUIDANCE, parent="guided_1", samples=(*DDIM, *GUIDED, *RENOISING)),
    _finetune("gd_1", "GD-I", 0.5, parent="base_halved", samples=DDIM, judged=AT_4),
    _consistency("cm_2", "CM-II", "ldm_half"),
    _consistency("cm_2_frozen", "CM-II (frozen)", "adapter_half", **ADAPTER),
    # Equal compute: an update of CoDi takes 4 passes, one of fine-tuning 3. Systems of two stages have 4 on average.
    _finetune("ldm_compute", "LDM, CoDi's compute", 4 / 3, system="ldm", samples=(AT_4, AT_50)),
    _finetune("adapter_compute", "adapter alone, CoDi's compute", 4 / 3, system="adapter", samples=(AT_50,), **ADAPTER),
    # Beyond the budget: they start from the finished GD-II.
    _last_phase(
        "gd_2_stochastic",
        "GD-II for the stochastic sampler",
        {"stochastic": True},
        samples=(("stochastic", 4, None), AT_4),
        judged=("stochastic", 4, None),
    ),
    _last_phase("gd_2_longer", "GD-II, as many updates more", {}, samples=(AT_4,)),
    # Horizons.
    *map(_horizon, (1, 2, 8)),
    _ablation("codi_half", "CoDi, half of the budget", samples=DDIM, tasks=tuple(TASKS), system="codi"),
    # Table 3, Fig. 2, Fig. 7.
    _finetune(
        "controlnet",
        "LDM with a ControlNet",
        0.5,
        adaptation={"adapter": "controlnet"},
        tasks=ABLATED,
        samples=(*FEW, AT_50),
    ),
    _ablation("codi_per_sample", "t per sample", {"t": "per_sample"}, samples=DDIM),
    _ablation("codi_per_sample_n8", "t per sample, made for 8", {"t": "per_sample", "steps": 8}, samples=DDIM),
    _weighted("codi_no_consistency", "no consistency", {"consistency": "none"}),
    _ablation("codi_frozen_ode", "ODE of the frozen network", {"z_s": "frozen"}, samples=DDIM),
    _weighted("codi_noise", "consistency in the noise (Algorithm 1)", {"consistency": "noise"}, samples=DDIM),
    _ablation(
        "codi_0_1_0",
        "the loss of 0.1.0",
        {"z_s": "own", "consistency": "noise", "steps": None, "guidance_weight": 2.0, "delta": 60},
    ),
    _weighted("codi_no_guidance", "no guidance", {"guidance": "none"}),
    _ablation("codi_random", "random initialization", adaptation={"pretrained": False}),
    _weighted("codi_encoded", "guidance in the encoded space", {"guidance": "encoded"}),
    _weighted("codi_pixel", "guidance in pixels", {"guidance": "pixel"}),
    _weighted(
        "codi_perceptual", "perceptual guidance", {"guidance": "perceptual", "features": "assets/photos-base/features"}
    ),
    _ablation("codi_t2i", "T2I-Adapter", adaptation={"adapter": "t2i"}),
    _ablation("pe_codi_half", "PE-CoDi, half of the budget", system="pe_codi", **ADAPTER),
    # Budgets.
    _codi("codi_quarter", "CoDi, a quarter of the budget", None, 0.25, system="codi", tasks=ABLATED, samples=(AT_4,)),
    _finetune("ldm_quarter", "LDM, a quarter of the budget", 0.25, system="ldm", tasks=ABLATED, samples=(AT_4, AT_50)),
    # A poor base.
    _ablation("codi_early", "CoDi from the early base", parent="base_early", system="codi", samples=DDIM),
    _finetune("ldm_early", "LDM from the early base", 0.5, parent="base_early", system="ldm", tasks=ABLATED),
)
BY_NAME = {row.name: row for row in ROWS}


def chain(row: Row) -> list[Row]:
    """A row and the rows that it starts from, the last stage first."""
    return [row] if row.parent is None else [row, *chain(BY_NAME[row.parent])]


def updates_of(row: Row, task: str) -> int:
    """The updates of the row's last stage."""
    world = world_of(task)
    return world.early_updates if row.method is None else max(round(row.share * world.updates), 1)


def method_of(row: Row, task: str) -> dict[str, Any]:
    """The config's method section of a row with a method: it has its world's delta, and the weight that follows."""
    delta = world_of(task).delta
    method = dict(row.method or {})
    if method["name"] in ("codi", "consistency"):
        method = {"delta": delta, **method}
    if method["name"] == "codi" and method["steps"] is None:
        method = {"guidance_weight": delta * STEPS / TIMES, **method}
    return method


def sample_name(sampler: str, steps: int, guidance: float | None = None) -> str:
    """The name of a sample: ddim-4, or ddim-4-guidance-1.5."""
    return f"{sampler}-{steps}" + ("" if guidance is None else f"-guidance-{guidance}")
