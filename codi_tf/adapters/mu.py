"""The paper's adapter: a copy of the base's encoder whose features are mixed with the UNet's (Eq. 12)."""

from __future__ import annotations

import keras
from keras import ops

from codi_tf.adapters import ADAPTERS
from codi_tf.adapters.adapted import Adapter
from codi_tf.checkpoints.base import Base
from codi_tf.core.errors import UserError
from codi_tf.core.precision import built_in, make_policy
from codi_tf.models.unet import UNet, UNetEncoder


@ADAPTERS.register("mu")
class MuAdapter(Adapter):
    """A copy of the base's encoder that takes the condition, and one scalar mu for every encoder feature (Eq. 12).

    The copy takes c and the prompt, but neither z_t nor t: its time is always 0, that of a clean latent. Its features
    are therefore computed once for all sampling steps.

    Args:
        encoder_config: the arguments of the base's encoder (`UNet.encoder_config()`), with `in_channels` those of c.

    Raises:
        UserError: see `UNetEncoder`.
    """

    condition_space = "latent"
    condition_takes_prompt = True
    copied = "encoder."

    def __init__(self, encoder_config: dict, **kwargs):
        super().__init__(**kwargs)
        self.encoder_config = dict(encoder_config)
        self.encoder = UNetEncoder(name="encoder", **self.encoder_config)

    @classmethod
    def for_base(cls, base: Base, condition_channels: int) -> MuAdapter:
        assert base.unet is not None
        return cls.duplicate(base.unet, condition_channels=cls.input_channels(base, condition_channels))

    @classmethod
    def duplicate(cls, unet: UNet, *, condition_channels: int | None = None, name: str = "adapter") -> MuAdapter:
        """An adapter whose encoder starts as a copy of the UNet's (`copy_encoder`) and whose mu are 0.

        It computes in the UNet's format; its weights are float32, because they are trained. `condition_channels` are
        those of c; None: those of the UNet.
        """
        config = unet.encoder_config()
        config["in_channels"] = condition_channels or config["in_channels"]
        with built_in(make_policy(unet.compute_dtype)):
            adapter = cls(config, name=name)
            adapter.build()
        adapter.encoder.copy_encoder(unet)
        return adapter

    def check(self, base: Base, condition_channels: int) -> None:
        wanted, channels = self.input_channels(base, condition_channels), self.encoder.in_channels
        if channels != wanted:
            raise UserError(
                f"the adapter takes {channels} channels, the task's condition has {wanted}: make another one"
            )

    def build(self, input_shape=None):
        self.encoder.build()
        self.mu = self.add_weight(name="mu", shape=(self.encoder.feature_count,), initializer="zeros")

    def call(self, c, context):
        """Condition latent c [B, h, w, C], prompt [B, M, D] -> the features h_eta(c), in the encoder's order."""
        return self.encoder(c, ops.zeros((1,), dtype="int32"), context)

    def condition(self, c, conditioning):
        """h_eta(c)."""
        return self(c, conditioning.context)

    def adapt(self, features, condition_features, z_t, t, conditioning):
        """`mix`: z_t and t are not used."""
        return self.mix(features, condition_features)

    def mix(self, features, condition_features):
        """h' = (1 - mu) h_theta(z_t) + mu h_eta(c), feature by feature (Eq. 12), lists of [B, h, w, C]."""
        return [
            (1.0 - mu) * h + mu * h_c
            for mu, h, h_c in zip(
                ops.unstack(ops.cast(self.mu, features[0].dtype)), features, condition_features, strict=True
            )
        ]

    def recompute_blocks(self, recompute: bool = True) -> None:
        self.encoder.recompute_blocks(recompute)

    @property
    def scaled_parameters(self) -> list[keras.Variable]:
        return [self.mu]

    def log_scalars(self) -> dict[str, float]:
        return {"mu_mean": float(ops.mean(ops.abs(self.mu)))}

    def emit_condition(self, g, nets, c, context):
        """mu h_eta(c), feature by feature, and, last, the vector 1 - mu: the steps then need no weight of the adapter.

        Another adapter of the same base therefore differs in this part alone (`export.package.adapters`).
        """
        encoder = self.encoder
        time = g.constant(nets.of_time(0, encoder.time_embedding))
        temb = nets.time_embedding(g, encoder.time_embedding, time)
        skips = nets.encode(g, encoder, c, temb, context)
        mu = g.weight(self.mu)
        features = [*skips, nets.middle(g, encoder, skips[-1], temb, context)]
        return [*(g.multiply(h, g.channels(mu, i, i + 1)) for i, h in enumerate(features)), g.affine(mu, -1.0, 1.0)]

    def emit_adapt(self, g, nets, features, condition_features, z, time, context):
        *scaled, kept = condition_features
        return [
            g.add(g.multiply(h, g.channels(kept, i, i + 1)), h_c)
            for i, (h, h_c) in enumerate(zip(features, scaled, strict=True))
        ]

    def neutral_features(self, count):
        return [0.0] * (count - 1) + [1.0]  # of 1 - mu

    def emitted_features(self, condition_features):
        mu = ops.convert_to_numpy(self.mu)
        return [*(m * h for m, h in zip(mu, condition_features, strict=True)), 1.0 - mu]

    def get_config(self):
        return {"name": self.name, "encoder_config": self.encoder_config}
