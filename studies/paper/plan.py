"""The plan of the study: all systems that it trains and measures, as data.

Every system has the same budget of updates from the same base; with two stages, each gets half. A row that starts from
the result of another row names it as its parent. `forwards` is the number of network evaluations per training example
and update, in addition to the student's forward and backward pass. `TRIED` are the settings from which the trials of a
family vary one at a time (`python -m studies.paper tune`). `CHOSEN` are the settings with the lowest FD-photos on the
validation photo, at 4 evaluations, or at 50 for systems that are not distilled.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field

UPDATES = 1000  # of a row, all stages together
HALF, QUARTER = UPDATES // 2, UPDATES // 4
BATCH = 24
TASKS = ("super_resolution", "inpainting")
SEEDS = (0, 1, 2)

DDIM = tuple(("ddim", steps, None) for steps in (1, 2, 4, 8))
AT_50 = (("ddim", 50, None),)
SOLVERS = (("dpm", 4, None), ("dpm++", 4, None))
RENOISING = (("consistency", 2, None), ("consistency", 4, None), ("stochastic", 4, None))


@dataclass(frozen=True)
class Row:
    """One system: its training and its samples.

    Attributes:
        name: of the row and its files.
        title: in tables.
        method: the config's section, `name` and options.
        updates: of the last stage.
        parent: the row whose result it starts from; None: the base.
        on_base: whether it trains the base alone, without task and adapter.
        adaptation, train: further options of these sections.
        rate: peak of the learning rate.
        samples: (sampler, steps, guidance) of the samples to measure.
        tasks: the tasks that it is trained for; "base" for a row that all tasks share.
        forwards: of the last stage, see the module's docstring.
    """

    name: str
    title: str
    method: dict
    updates: int = UPDATES
    parent: str | None = None
    on_base: bool = False
    adaptation: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    rate: float = 2e-3
    samples: tuple = DDIM
    tasks: tuple = TASKS
    forwards: int = 0


@dataclass(frozen=True)
class Settings:
    """The settings that trials vary: options of the method and of train, and the peak of the learning rate."""

    rate: float = 2e-3
    method: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)


TRIED = {
    "ldm": Settings(),
    "adapter": Settings(8e-3),
    "codi": Settings(method={"delta": 30}),
    "pe_codi": Settings(method={"delta": 30}),
    "cm": Settings(method={"delta": 30}),
    "cm_frozen": Settings(method={"delta": 30}),
    "gd": Settings(),
    "gd_1": Settings(),
}
CHOSEN = {
    "ldm": Settings(method={"space": "signal"}),
    "adapter": Settings(method={"space": "signal"}),
    "codi": Settings(method={"delta": 60}),  # of 1,000 training times; 1, as in the paper, is inert at this scale
    "pe_codi": Settings(method={"delta": 120}),
    "cm": Settings(method={"delta": 60}),
    "cm_frozen": Settings(method={"delta": 60}),
    "gd": Settings(4e-3),
    "gd_1": Settings(method={"space": "signal"}),
}

ADAPTER_ONLY = {"train": "adapter"}
GUIDED = (("ddim", 4, 1.5),)


def rows_of(settings: dict[str, Settings]) -> tuple[Row, ...]:
    """All rows, each with the settings of its family."""

    def finetune(name: str, title: str, family: str, updates: int = UPDATES, **options) -> Row:
        method = {"name": "finetune", "drop_condition": 0.1}
        return _row(name, title, settings[family], method, updates=updates, **options)

    def codi(name: str, title: str, family: str = "codi", updates: int = UPDATES, **options) -> Row:
        changes, options = options.pop("method", {}), {"forwards": 1, **options}
        method = {"name": "codi", "z_s": "own", "consistency": "noise", "guidance_weight": 2.0, **changes}
        return _row(name, title, settings[family], method, updates=updates, **options)

    def ablation(name: str, title: str, method: dict | None = None, **options) -> Row:
        return codi(name, title, updates=HALF, method=method or {}, tasks=TASKS[:1], **options)

    def consistency(name: str, title: str, family: str, **options) -> Row:
        method = {"name": "consistency"}
        return _row(
            name, title, settings[family], method, updates=HALF, samples=(*DDIM, *RENOISING), forwards=2, **options
        )

    def halving(name: str, title: str, updates: int, **options) -> Row:
        method = {
            "name": "guided",
            "stage": 2,
            "steps": [16, 8, 4],
            "updates": updates // 3,
            **options.pop("method", {}),
        }
        train = {"cycles": 3, "warmup_steps": 0}
        return _row(name, title, settings["gd"], method, updates=updates, train=train, forwards=2, **options)

    guidance = {"guidance": [1.0, 2.0]}
    return (
        # Starting points of later rows.
        finetune("ldm_half", "LDM, half of the budget", "ldm", HALF, samples=(*DDIM, *AT_50)),
        finetune("adapter_half", "adapter alone, half of the budget", "adapter", HALF, adaptation=ADAPTER_ONLY),
        halving("base_halved", "base, distilled to 4 steps", HALF, on_base=True, samples=(), tasks=("base",)),
        _row(
            "guided_1",
            "GD-II, stage 1",
            dataclasses.replace(settings["ldm"], method={}),
            {"name": "guided", "stage": 1, **guidance},
            updates=HALF // 5,
            parent="ldm_half",
            forwards=2,
        ),
        # Table 2.
        finetune("ldm", "LDM", "ldm", samples=(*DDIM, ("ddim", 20, None), *AT_50, *SOLVERS, *GUIDED)),
        finetune("adapter", "adapter alone", "adapter", adaptation=ADAPTER_ONLY, samples=(*DDIM, *AT_50, *SOLVERS)),
        codi("codi", "CoDi", samples=(*DDIM, *RENOISING)),
        codi("pe_codi", "PE-CoDi", "pe_codi", adaptation=ADAPTER_ONLY, samples=(*DDIM, *RENOISING)),
        halving(
            "gd_2",
            "GD-II",
            HALF - HALF // 5,
            method=guidance,
            parent="guided_1",
            samples=(*DDIM, *GUIDED, *RENOISING),
        ),
        finetune("gd_1", "GD-I", "gd_1", HALF, parent="base_halved"),
        consistency("cm_2", "CM-II", "cm", parent="ldm_half"),
        consistency("cm_2_frozen", "CM-II (frozen)", "cm_frozen", parent="adapter_half", adaptation=ADAPTER_ONLY),
        _row(  # beyond the budget: it starts from the finished GD-II
            "gd_2_stochastic",
            "GD-II for the stochastic sampler",
            dataclasses.replace(settings["ldm"], method={}),
            {"name": "guided", "stage": 2, "steps": [4], "updates": 100, "stochastic": True, **guidance},
            updates=100,
            parent="gd_2",
            samples=(("stochastic", 4, None), ("ddim", 4, None)),
            forwards=2,
        ),
        _row(  # for comparison: as many updates, for the deterministic sampler
            "gd_2_longer",
            "GD-II, as many updates more",
            dataclasses.replace(settings["ldm"], method={}),
            {"name": "guided", "stage": 2, "steps": [4], "updates": 100, **guidance},
            updates=100,
            parent="gd_2",
            samples=(("ddim", 4, None),),
            forwards=2,
        ),
        # Table 3, Fig. 2, Fig. 7: CoDi with one change, all at half of the budget, to compare with "codi_half".
        finetune(
            "controlnet", "LDM with a ControlNet", "ldm", HALF, adaptation={"adapter": "controlnet"}, tasks=TASKS[:1]
        ),
        ablation("codi_per_sample", "t per sample", {"t": "per_sample"}),
        ablation("codi_no_consistency", "no noise consistency", {"consistency": "none"}, forwards=0),
        ablation("codi_frozen_ode", "ODE of the frozen network", {"z_s": "frozen"}, forwards=2),
        ablation("codi_predicted", "ODE with the predicted noise (Algorithm 1)", {"z_s": "predicted"}),
        ablation("codi_no_guidance", "no guidance", {"guidance": "none"}),
        ablation("codi_random", "random initialization", adaptation={"pretrained": False}),
        ablation("codi_encoded", "guidance in the encoded space", {"guidance": "encoded"}),
        ablation("codi_pixel", "guidance in pixels", {"guidance": "pixel"}),
        ablation(
            "codi_perceptual",
            "perceptual guidance",
            {"guidance": "perceptual", "features": "assets/photos-base/features"},
        ),
        ablation("codi_t2i", "T2I-Adapter", adaptation={"adapter": "t2i"}),
        codi(
            "pe_codi_half",
            "PE-CoDi, half of the budget",
            "pe_codi",
            updates=HALF,
            adaptation=ADAPTER_ONLY,
            tasks=TASKS[:1],
        ),
        # Budgets.
        ablation("codi_half", "CoDi, half of the budget"),
        codi("codi_quarter", "CoDi, a quarter of the budget", updates=QUARTER, tasks=TASKS[:1]),
        finetune(
            "ldm_quarter", "LDM, a quarter of the budget", "ldm", QUARTER, tasks=TASKS[:1], samples=(*DDIM, *AT_50)
        ),
    )


def _row(name: str, title: str, settings: Settings, method: dict, *, train: dict | None = None, **options) -> Row:
    return Row(
        name,
        title,
        {**settings.method, **method},
        rate=settings.rate,
        train={"ema_decay": 0.95, "result_decay": 0.0, **settings.train, **(train or {})},
        **options,
    )


ROWS = rows_of(CHOSEN)


def halved(row: Row) -> Row:
    """A row with half of the updates in every stage, for the trials and their starting points."""
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


BY_NAME = {row.name: row for row in (*ROWS, *map(halved, rows_of(TRIED)))}


AT_4 = (("ddim", 4, None),)


@dataclass(frozen=True)
class Trial:
    """A setting to try on the validation photo, with one seed and half of the updates in every stage."""

    row: str
    name: str
    method: dict = field(default_factory=dict)
    train: dict = field(default_factory=dict)
    rate: float = 2e-3
    samples: tuple = AT_4


def _trials(row: str, *others: Trial, samples: tuple = AT_4) -> tuple[Trial, ...]:
    """The seven trials of a method: four learning rates and three other changes."""
    rates = (Trial(row, f"rate_{rate:g}", rate=rate, samples=samples) for rate in (1e-3, 2e-3, 4e-3, 8e-3))
    return (*rates, *(dataclasses.replace(trial, samples=samples) for trial in others))


def _deltas(row: str) -> tuple[Trial, ...]:
    return tuple(Trial(row, f"delta_{delta}", {"delta": delta}) for delta in (15, 60, 120))


def _others(row: str) -> tuple[Trial, ...]:
    """The other changes of methods without a delta."""
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
