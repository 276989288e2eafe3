"""What the study trains and measures: rows as data.

Every system has the same budget of optimizer updates from the same base; where there are two stages, each gets half. A
row that goes on from another one names it as its parent. `forwards` are the network evaluations of a training example
in an update beside the student's own forward and backward pass. The rates and averages of each family are those of the
best of its trials (`python -m benchmarks.study tune`), by FD-photos on the validation photo: at 4 evaluations, of what
is not distilled at 50.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

UPDATES = 1000  # of a row, all stages together
HALF = UPDATES // 2
TASKS = ("super_resolution", "inpainting")
SEEDS = (0, 1, 2)
DELTA = 30  # of 1,000 training times; 1, as in the paper, is inert at this scale

DDIM = tuple(("ddim", steps, None) for steps in (1, 2, 4, 8))
AT_50 = (("ddim", 50, None),)
SOLVERS = (("dpm", 4, None), ("dpm++", 4, None))
RENOISING = (("consistency", 2, None), ("consistency", 4, None), ("stochastic", 4, None))


@dataclass(frozen=True)
class Row:
    """One system: how it is trained, and how it is sampled afterwards.

    Attributes:
        name: of the row and its files.
        title: in tables.
        method: the config's section, `name` and options.
        updates: of the last stage.
        parent: the row whose result it starts from; None: the base.
        on_base: whether it trains the base alone, without task and adapter.
        adaptation, train: further options of these sections.
        rate: peak of the learning rate, chosen by the trials below.
        samples: (sampler, steps, guidance) that are measured.
        tasks: where it is run; "base" for what all tasks share.
        forwards: see above, of the last stage.
    """

    name: str
    title: str
    method: dict
    updates: int = UPDATES
    parent: str | None = None
    on_base: bool = False
    adaptation: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    rate: float = 1e-3
    samples: tuple = DDIM
    tasks: tuple = TASKS
    forwards: int = 0


ADAPTER_ONLY = {"train": "adapter"}
FINETUNE = {"name": "finetune", "drop_condition": 0.1}
AVERAGE = {"ema_decay": 0.95}

# What the trials chose, a family each.
LDM = {"rate": 2e-3, "train": AVERAGE}
ADAPTER = {"rate": 8e-3, "train": AVERAGE}
CODI = {"rate": 2e-3, "train": AVERAGE}
PE_CODI = {"rate": 2e-3, "train": AVERAGE}
CM = {"rate": 2e-3, "train": AVERAGE}
CM_FROZEN = {"rate": 2e-3, "train": AVERAGE}
GD = {"rate": 2e-3, "train": {**AVERAGE, "cycles": 3, "warmup_steps": 0}}
GD_1 = {"rate": 2e-3, "train": AVERAGE}


def _codi(**changes) -> dict:
    return {"name": "codi", "delta": DELTA, "guidance_weight": 2.0, **changes}


def _ablation(name: str, title: str, method: dict, **options) -> Row:
    return Row(name, title, method, HALF, **{**CODI, "tasks": TASKS[:1], "forwards": 1, **options})


def _halving(updates: int, **options) -> dict:
    return {"name": "guided", "stage": 2, "steps": [16, 8, 4], "updates": updates // 3, **options}


GUIDED = (("ddim", 4, 1.5),)

ROWS = (
    # What later rows start from.
    Row("ldm_half", "LDM, half of the budget", FINETUNE, HALF, samples=(*DDIM, *AT_50), **LDM),
    Row(
        "adapter_half",
        "adapter alone, half of the budget",
        FINETUNE,
        HALF,
        adaptation=ADAPTER_ONLY,
        **ADAPTER,
    ),
    Row(
        "base_halved",
        "base, distilled to 4 steps",
        _halving(HALF),
        HALF,
        on_base=True,
        samples=(),
        tasks=("base",),
        forwards=2,
        **GD,
    ),
    Row(
        "guided_1",
        "GD-II, stage 1",
        {"name": "guided", "stage": 1, "guidance": [1.0, 2.0]},
        HALF // 5,
        parent="ldm_half",
        forwards=2,
        **LDM,
    ),
    # Table 2.
    Row("ldm", "LDM", FINETUNE, samples=(*DDIM, ("ddim", 20, None), *AT_50, *SOLVERS, *GUIDED), **LDM),
    Row(
        "adapter",
        "adapter alone",
        FINETUNE,
        adaptation=ADAPTER_ONLY,
        samples=(*DDIM, *AT_50, *SOLVERS),
        **ADAPTER,
    ),
    Row("codi", "CoDi", _codi(), samples=(*DDIM, *RENOISING), forwards=1, **CODI),
    Row(
        "pe_codi",
        "PE-CoDi",
        _codi(),
        adaptation=ADAPTER_ONLY,
        samples=(*DDIM, *RENOISING),
        forwards=1,
        **PE_CODI,
    ),
    Row(
        "gd_2",
        "GD-II",
        _halving(HALF - HALF // 5, guidance=[1.0, 2.0]),
        HALF - HALF // 5,
        parent="guided_1",
        samples=(*DDIM, ("ddim", 4, 1.5), *RENOISING),
        forwards=2,
        **GD,
    ),
    Row("gd_1", "GD-I", FINETUNE, HALF, parent="base_halved", **GD_1),
    Row(
        "cm_2",
        "CM-II",
        {"name": "consistency", "delta": DELTA},
        HALF,
        parent="ldm_half",
        samples=(*DDIM, *RENOISING),
        forwards=2,
        **CM,
    ),
    Row(
        "cm_2_frozen",
        "CM-II (frozen)",
        {"name": "consistency", "delta": DELTA},
        HALF,
        parent="adapter_half",
        adaptation=ADAPTER_ONLY,
        samples=(*DDIM, *RENOISING),
        forwards=2,
        **CM_FROZEN,
    ),
    Row(  # beyond the budget: it goes on from the whole of GD-II
        "gd_2_stochastic",
        "GD-II for the stochastic sampler",
        {"name": "guided", "stage": 2, "steps": [4], "updates": 100, "stochastic": True, "guidance": [1.0, 2.0]},
        100,
        parent="gd_2",
        samples=(("stochastic", 4, None), ("ddim", 4, None)),
        forwards=2,
        **LDM,
    ),
    # Table 3, Fig. 2, Fig. 7: CoDi with one thing changed, all at half of the budget, beside "codi_half".
    Row(
        "controlnet",
        "LDM with a ControlNet",
        FINETUNE,
        HALF,
        adaptation={"adapter": "controlnet"},
        tasks=TASKS[:1],
        **LDM,
    ),
    _ablation("codi_per_sample", "t per sample", _codi(t="per_sample")),
    _ablation("codi_no_consistency", "no noise consistency", _codi(consistency="none"), forwards=0),
    _ablation("codi_frozen_ode", "ODE of the frozen network", _codi(z_s="frozen"), forwards=2),
    _ablation("codi_predicted", "ODE with the predicted noise (Algorithm 1)", _codi(z_s="predicted")),
    _ablation("codi_no_guidance", "no guidance", _codi(guidance="none")),
    _ablation("codi_random", "random initialisation", _codi(), adaptation={"pretrained": False}),
    _ablation("codi_encoded", "guidance in the encoded space", _codi(guidance="encoded")),
    _ablation("codi_pixel", "guidance in pixels", _codi(guidance="pixel")),
    _ablation(
        "codi_perceptual",
        "perceptual guidance",
        _codi(guidance="perceptual", features="assets/photos-base/features"),
    ),
    _ablation("codi_t2i", "T2I-Adapter", _codi(), adaptation={"adapter": "t2i"}),
    # Budgets.
    Row("codi_half", "CoDi, half of the budget", _codi(), HALF, tasks=TASKS[:1], forwards=1, **CODI),
    Row("codi_double", "CoDi, twice the budget", _codi(), 2 * UPDATES, tasks=TASKS[:1], forwards=1, **CODI),
    Row(
        "ldm_double",
        "LDM, twice the budget",
        FINETUNE,
        2 * UPDATES,
        tasks=TASKS[:1],
        samples=(*DDIM, *AT_50),
        **LDM,
    ),
)


def halved(row: Row) -> Row:
    """A row with half of the updates in every stage: what the trials train, and what they start from."""
    method = dict(row.method)
    if "updates" in method:
        method["updates"] //= 2
    parent = None if row.parent is None else f"half_{row.parent}"
    return dataclasses.replace(
        row,
        name=f"half_{row.name}",
        title=f"{row.title}, half of it",
        method=method,
        updates=row.updates // 2,
        parent=parent,
        samples=(),
    )


BY_NAME = {row.name: row for row in (*ROWS, *map(halved, ROWS))}


AT_4 = (("ddim", 4, None),)


@dataclass(frozen=True)
class Trial:
    """A setting that is tried on the validation photo with one seed, and with half of the updates in every stage."""

    row: str
    name: str
    method: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    rate: float = 2e-3
    samples: tuple = AT_4


def _trials(row: str, *others: Trial, samples: tuple = AT_4) -> tuple[Trial, ...]:
    """Four learning rates, and three other changes: seven trials for every method."""
    rates = (Trial(row, f"rate_{rate:g}", rate=rate, samples=samples) for rate in (1e-3, 2e-3, 4e-3, 8e-3))
    return (*rates, *(dataclasses.replace(trial, samples=samples) for trial in others))


def _deltas(row: str) -> tuple[Trial, ...]:
    return tuple(Trial(row, f"delta_{delta}", {"delta": delta}) for delta in (15, 60, 120))


def _others(row: str) -> tuple[Trial, ...]:
    """Of methods without a delta."""
    averages = (Trial(row, f"ema_{decay}", train={"ema_decay": decay}) for decay in (0.9, 0.98))
    return (*averages, Trial(row, "error_of_signal", {"space": "signal"}))


CONSISTENCY_AT_4 = (*AT_4, ("consistency", 4, None))
AT_4_AND_50 = (*AT_4, ("ddim", 50, None))
TRIALS = (
    *_trials("ldm", *_others("ldm"), samples=AT_4_AND_50),
    *_trials("adapter", *_others("adapter"), samples=AT_4_AND_50),
    *_trials("codi", *_deltas("codi")),
    *_trials("pe_codi", *_deltas("pe_codi")),
    *_trials("cm_2", *_deltas("cm_2"), samples=CONSISTENCY_AT_4),
    *_trials("cm_2_frozen", *_deltas("cm_2_frozen"), samples=CONSISTENCY_AT_4),
    *_trials(
        "gd_2",
        Trial("gd_2", "two_phases", {"steps": [8, 4], "updates": HALF // 5}, {"cycles": 2}),
        Trial("gd_2", "four_phases", {"steps": [32, 16, 8, 4], "updates": HALF // 10}, {"cycles": 4}),
        Trial("gd_2", "ema_0.9", train={"ema_decay": 0.9}),
    ),
    *_trials("gd_1", *_others("gd_1")),
)
