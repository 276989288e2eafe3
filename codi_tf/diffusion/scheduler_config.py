"""What a checkpoint's scheduler_config.json says: its diffusion, and the time grids of the samplers.

The reference is diffusers' StableDiffusionPipeline with `DDIMScheduler.from_pretrained` or
`DPMSolverMultistepScheduler.from_pretrained` of that file: a key that is missing has their default, whatever scheduler
the file names. What would change numbers and is not built here is refused.
"""

from __future__ import annotations

import math

from codi_tf.core.errors import UserError
from codi_tf.diffusion.process import PREDICTION_TYPES, TIMESTEP_SPACINGS, Schedule, make_schedule
from codi_tf.diffusion.sampling import Grid, ddim_grid, dpm_grid

SAMPLERS = {"dpm++": "sample", "dpm": "epsilon", "ddim": None}  # what is extrapolated
STEPS_OFFSET = 1  # StableDiffusionPipeline puts it in place of whatever the file says

# Values of keys that change nothing here; anything else is refused. A missing key is fine.
DIFFUSION = {
    "trained_betas": (None,),
    "rescale_betas_zero_snr": (False, None),
    "use_flow_sigmas": (False, None),
    "variance_type": (None, "fixed_small", "fixed_small_log", "fixed_large", "fixed_large_log"),
    "prediction_type": PREDICTION_TYPES,
    "timestep_spacing": TIMESTEP_SPACINGS,
    "clip_sample": (False, True, None),  # the pipeline turns it off, whatever the file says
    "thresholding": (False, None),
}
DPM_SOLVER = {
    "solver_order": (2,),
    "solver_type": ("midpoint", "logrho", "bh1", "bh2"),  # diffusers turns other solvers' types into the midpoint
    "use_karras_sigmas": (False, None),
    "use_exponential_sigmas": (False, None),
    "use_beta_sigmas": (False, None),
    "use_lu_lambdas": (False, None),
    "lambda_min_clipped": (-math.inf,),
}
# The schedulers of discrete, variance-preserving diffusion: all of them describe the process by the same keys.
SCHEDULERS = (
    "DDIMScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSDEScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LCMScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)


def check_scheduler(config: dict) -> None:
    """Refuses a scheduler_config.json whose diffusion is not the one that is built here.

    Raises:
        UserError: one line with the key, its value and the values that are possible.
    """
    name = config.get("_class_name", SCHEDULERS[0])
    if name not in SCHEDULERS:
        raise UserError(f"_class_name is {name!r}: only discrete variance-preserving diffusion (DDIM's) is built here")
    _refuse(config, DIFFUSION)


def make_schedule_of(config: dict) -> Schedule:
    """The schedule of a scheduler_config.json; missing keys as in diffusers: linear betas, 0.0001 to 0.02, 1000 times.

    Raises:
        UserError: for what `check_scheduler` or `diffusion.make_schedule` refuse, or values of another type.
    """
    check_scheduler(config)
    try:
        return make_schedule(
            config.get("beta_schedule", "linear"),
            config.get("num_train_timesteps", 1000),
            config.get("beta_start", 0.0001),
            config.get("beta_end", 0.02),
        )
    except TypeError as error:
        raise UserError(f"num_train_timesteps, beta_start, beta_end must be numbers ({error})") from None


def sampler_grid(config: dict, schedule: Schedule, sampler: str, num_steps: int) -> Grid:
    """The time grid of "ddim", "dpm" (DPM-Solver-2) or "dpm++" (DPM-Solver++(2M)), as diffusers makes it from the file.

    Each of the num_steps steps is one network evaluation. "dpm" ends at the schedule's time 0: there is no integrating
    the noise up to sigma = 0.

    Raises:
        UserError: for an unknown sampler, too many steps, or a key of the config that is not built here.
    """
    if sampler not in SAMPLERS:
        raise UserError(f"unknown sampler {sampler!r}; choose one of {', '.join(SAMPLERS)}")
    if sampler == "ddim":
        spacing, ends_clean = config.get("timestep_spacing", "leading"), config.get("set_alpha_to_one", True)
        return ddim_grid(schedule, num_steps, spacing=spacing, offset=STEPS_OFFSET, ends_clean=ends_clean)
    _refuse(config, DPM_SOLVER)
    final = config.get("final_sigmas_type", "zero")
    if final not in ("zero", "sigma_min"):
        raise UserError(f"final_sigmas_type is {final!r}: use zero or sigma_min")
    return dpm_grid(
        schedule,
        num_steps,
        extrapolate=SAMPLERS[sampler],
        spacing=config.get("timestep_spacing", "linspace"),
        offset=STEPS_OFFSET,
        ends_clean=sampler == "dpm++" and final == "zero",
        lower_order_final=config.get("lower_order_final", True),
        euler_at_final=config.get("euler_at_final", False),
    )


def _refuse(config: dict, possible: dict[str, tuple]) -> None:
    for key, values in possible.items():
        if key in config and config[key] not in values:
            shown = " or ".join(str(value) for value in values if value is not None) or "nothing"
            raise UserError(f"{key} is {config[key]!r}, which is not built here: only {shown} is")
