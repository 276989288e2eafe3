"""A checkpoint's scheduler_config.json: its diffusion process, and which of its values are supported.

The reference is diffusers' StableDiffusionPipeline with `DDIMScheduler.from_pretrained` or
`DPMSolverMultistepScheduler.from_pretrained` of that file: a key that is missing has their default, whatever scheduler
the file names. Values that would change the numbers and are not supported here are refused. The time grids
are made in `samplers`.
"""

from __future__ import annotations

from codi_tf.core.errors import UserError
from codi_tf.core.showing import shown
from codi_tf.diffusion.process import PREDICTION_TYPES, TIMESTEP_SPACINGS, Schedule, make_schedule

REVERSE = "DDIMInverseScheduler"  # of a base that leads from images to noise
STEPS_OFFSET = 1  # StableDiffusionPipeline uses it whatever the file says

# Values of keys that change nothing here; others are refused. A missing key is fine.
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
# The schedulers of discrete, variance-preserving diffusion: all of them describe the process by the same keys.
SCHEDULERS = (
    "DDIMScheduler",
    REVERSE,
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
    """Refuses a scheduler_config.json of a diffusion process that is not supported.

    Raises:
        UserError: one line with the key, its value and the values that are possible.
    """
    name = config.get("_class_name", SCHEDULERS[0])
    if name not in SCHEDULERS:
        raise UserError(
            f"_class_name is {shown(name)}: only discrete variance-preserving diffusion (DDIM's) is built here"
        )
    check_values(config, DIFFUSION)


def is_reverse(config: dict) -> bool:
    """Whether a base was distilled to lead from images to noise, so that it generates nothing."""
    return config.get("_class_name") == REVERSE


def make_schedule_of(config: dict) -> Schedule:
    """The schedule of a scheduler_config.json; missing keys as in diffusers: linear betas, 0.0001 to 0.02, 1000 times.

    Raises:
        UserError: for what `check_scheduler` or `process.make_schedule` refuse, or values of another type.
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


def check_values(config: dict, possible: dict[str, tuple]) -> None:
    """Refuses a config with other values than the possible ones; a missing key is fine. Raises UserError."""
    for key, values in possible.items():
        if key in config and config[key] not in values:
            built = " or ".join(str(value) for value in values if value is not None) or "nothing"
            raise UserError(f"{key} is {shown(config[key])}, which is not built here: only {built} is")
