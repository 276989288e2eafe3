"""python -m benchmarks.torch_step: our training step against a PyTorch step of the same networks, in one run.

The same UNet (diffusers' module, built from the base's own config.json), a duplicated encoder mixed in by Eq. 12, the
same loss (Eq. 15 in the signal, with a predicted z_s), gradients clipped, fused AdamW, each moving average by one
foreach call. Weights are random on PyTorch's side: time does not depend on them. Needs the extra `peers`.
"""

from __future__ import annotations

import copy
import sys
from pathlib import Path

from benchmarks.demo import CONFIG, trainer_and_batch
from benchmarks.timing import side_by_side
from codi_tf import config
from codi_tf.core.command_line import run_command, start_tensorflow
from codi_tf.core.errors import UserError


def torch_step(unet_config: dict, batch_size: int, size: int, experiment: config.Experiment, context, schedule):
    """Return a function that runs one step of PyTorch."""
    import benchmarks.torchvision_operators  # noqa: F401  (before anything imports torchvision)

    # isort: split
    import torch
    from diffusers import UNet2DConditionModel
    from torch.nn.functional import mse_loss

    from codi_tf.diffusion.horizon import weight_for_steps

    settings, train = experiment.method, experiment.train
    alphas, sigmas = (torch.tensor(table) for table in schedule)

    class Adapted(torch.nn.Module):
        """Eq. 12: h' = (1 - mu) h_theta(z_t) + mu h_eta(c)."""

        def __init__(self):
            super().__init__()
            self.unet = UNet2DConditionModel.from_config(unet_config)
            self.encoder = copy.deepcopy(self.unet)
            for part in ("up_blocks", "conv_norm_out", "conv_out"):
                setattr(self.encoder, part, None)
            features = self._encode(self.unet, torch.zeros(1, 4, size, size), torch.zeros(1), context[:1])
            self.mu = torch.nn.Parameter(torch.zeros(len(features[0]) + 1))

        @staticmethod
        def _encode(unet, x, t, context):
            embedding = unet.time_embedding(unet.time_proj(t.expand(len(x))))
            h = unet.conv_in(x)
            skips = [h]
            for block in unet.down_blocks:
                options = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
                h, states = block(hidden_states=h, temb=embedding, **options)
                skips += states
            return skips, unet.mid_block(h, embedding, encoder_hidden_states=context), embedding

        def forward(self, z_t, t, c, context):
            skips, h, embedding = self._encode(self.unet, z_t, t, context)
            adapter_skips, middle, _ = self._encode(self.encoder, c, torch.zeros_like(t), context)
            pairs = zip([*skips, h], [*adapter_skips, middle], self.mu, strict=True)
            *skips, h = (torch.lerp(theta, eta, mu) for theta, eta, mu in pairs)
            for block in self.unet.up_blocks:
                taken = len(block.resnets)
                options = {"encoder_hidden_states": context} if getattr(block, "has_cross_attention", False) else {}
                h = block(hidden_states=h, temb=embedding, res_hidden_states_tuple=tuple(skips[-taken:]), **options)
                skips = skips[:-taken]
            return self.unet.conv_out(self.unet.conv_act(self.unet.conv_norm_out(h)))

    torch.manual_seed(0)
    context = torch.tensor(context).expand(batch_size, -1, -1)
    student = Adapted()
    averages = [copy.deepcopy(student).requires_grad_(False) for _ in range(2)]  # theta- and the result
    weight = weight_for_steps(settings.steps, settings.delta, schedule)
    weights = [p for name, p in student.named_parameters() if name != "mu"]
    groups = [{"params": weights}, {"params": [student.mu], "lr": train.learning_rate * experiment.adaptation.mu_rate}]
    optimizer = torch.optim.AdamW(groups, lr=train.learning_rate, weight_decay=0.0, fused=True)
    x, c = (torch.randn(batch_size, 4, size, size) for _ in range(2))

    def predictions(network, z, t):
        v = network(z, t[None], c, context)
        return alphas[t] * z - sigmas[t] * v, sigmas[t] * z + alphas[t] * v

    def step():
        t = torch.randint(1, len(alphas), ())
        s = torch.clamp(t - settings.delta, min=0)
        eps = torch.randn_like(x)
        x_hat, eps_hat = predictions(student, alphas[t] * x + sigmas[t] * eps, t)
        with torch.no_grad():
            target, _ = predictions(averages[0], alphas[s] * x_hat + sigmas[s] * eps_hat, s)
        loss = mse_loss(x_hat, target) + weight * mse_loss(x_hat, x)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), train.clip_norm)
        optimizer.step()
        for average, decay in zip(averages, (train.ema_decay, train.result_decay), strict=True):
            torch._foreach_lerp_(list(average.parameters()), list(student.parameters()), 1.0 - decay)
        return float(loss)

    return step


def measure() -> dict[str, float]:
    """Median seconds of "ours" and "PyTorch" at the sizes of the demo."""
    start_tensorflow()
    import json

    import tensorflow as tf

    experiment, trainer, batch = trainer_and_batch()
    base, step = trainer.base, tf.function(trainer.train_step, autograph=False)
    batch_size, size = batch["latent"].shape[:2]
    unet_config = json.loads((Path(experiment.base) / "unet" / "config.json").read_text("utf-8"))
    try:
        theirs = torch_step(unet_config, batch_size, size, experiment, base.context, base.schedule)
    except ImportError as error:
        raise UserError(f"{error}: install the extra 'peers'") from None
    return side_by_side({"ours": lambda: float(step(batch)["loss"]), "PyTorch": theirs})


def _main(arguments: list[str]) -> None:
    seconds, images = measure(), config.load(CONFIG).train.batch_size
    for name, value in seconds.items():
        print(f"{name:8} {1e3 * value:7.1f} ms a step  {images / value:7.1f} images/s")
    print(f"ours, as a multiple of PyTorch's images/s  {seconds['PyTorch'] / seconds['ours']:.2f}   (bar: 1)")


if __name__ == "__main__":
    sys.exit(run_command(_main))
