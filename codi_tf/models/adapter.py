"""The paper's adapter and the adapted network."""

from __future__ import annotations

import keras
from keras import ops

from codi_tf.core.precision import built_in, make_policy
from codi_tf.models.controlnet import ControlNet
from codi_tf.models.t2i_adapter import T2IAdapter
from codi_tf.models.unet import UNet, UNetEncoder


class MuAdapter(keras.Model):
    """A copy of the base's encoder that sees the condition, and one scalar mu for every encoder feature (Eq. 12).

    The copy sees c and the prompt, neither z_t nor t: the clean condition latent stands at t = 0. Its features are
    therefore computed once for all sampling steps.

    Args:
        encoder_config: the arguments of the base's encoder (`UNet.encoder_config()`), with `in_channels` those of c.
    """

    condition_space = "latent"  # what `condition` is given: the condition's latent, not the image

    def __init__(self, encoder_config: dict, **kwargs):
        super().__init__(**kwargs)
        self.encoder_config = dict(encoder_config)
        self.encoder = UNetEncoder(name="encoder", **self.encoder_config)

    @classmethod
    def duplicate(cls, unet: UNet, *, condition_channels: int | None = None, name: str = "adapter") -> MuAdapter:
        """An adapter whose encoder starts as a copy of the UNet's (`copy_encoder`) and whose mu are 0.

        It computes in the UNet's format; its weights are float32, because they are trained.
        """
        config = unet.encoder_config()
        config["in_channels"] = condition_channels or config["in_channels"]
        with built_in(make_policy(unet.compute_dtype)):
            adapter = cls(config, name=name)
            adapter.build()
        adapter.encoder.copy_encoder(unet)
        return adapter

    def build(self, input_shape=None):
        self.encoder.build()
        self.mu = self.add_weight(name="mu", shape=(self.encoder.feature_count,), initializer="zeros")

    def call(self, c, context):
        """Condition latent c [B, h, w, C], prompt [B, M, D] -> the features h_eta(c), in the encoder's order."""
        return self.encoder(c, ops.zeros((1,), dtype="int32"), context)

    def recompute_blocks(self, recompute: bool = True) -> None:
        """Gradient checkpointing: see `UNetEncoder.recompute_blocks`."""
        self.encoder.recompute_blocks(recompute)

    def condition(self, c, context):
        """What does not depend on z_t and t, to be computed once an image: h_eta(c)."""
        return self(c, context)

    def adapt(self, features, condition, z_t, t, context):
        """The UNet's features -> the adapted ones; this adapter looks at neither z_t nor t."""
        return self.mix(features, condition)

    def residuals(self, condition):
        """What is added inside the UNet's encoder: nothing."""
        return None

    def mix(self, features, condition_features):
        """h' = (1 - mu) h_theta(z_t) + mu h_eta(c), feature by feature (Eq. 12)."""
        return [
            (1.0 - mu) * h + mu * h_c
            for mu, h, h_c in zip(
                ops.unstack(ops.cast(self.mu, features[0].dtype)), features, condition_features, strict=True
            )
        ]

    def get_config(self):
        return {"name": self.name, "encoder_config": self.encoder_config}


class AdaptedUNet(keras.Model):
    """A UNet and its adapter: w_theta(z_t, c, t). Without an adapter it is the UNet itself.

    An adapter offers `condition(c, context)`, computed once an image; `residuals(condition)`, added inside the UNet's
    encoder, or None; and `adapt(features, condition, z_t, t, context)`, computed in every step. `sees` tells whether
    its c is the condition's "latent" or the "image".
    """

    def __init__(self, unet: UNet, adapter: MuAdapter | ControlNet | T2IAdapter | None = None, **kwargs):
        super().__init__(dtype=unet.dtype_policy, **kwargs)
        self.unet, self.adapter = unet, adapter
        self.built = True  # both parts are

    def recompute_blocks(self, recompute: bool = True) -> None:
        """Gradient checkpointing in both parts: see `UNetEncoder.recompute_blocks`."""
        self.unet.recompute_blocks(recompute)
        if self.adapter is not None:
            self.adapter.recompute_blocks(recompute)

    @property
    def condition_space(self) -> str:
        """What `condition` takes of a condition image: its "latent" or the "image" itself."""
        return "latent" if self.adapter is None else self.adapter.condition_space

    def condition(self, c, context):
        """The features of the condition, to be computed once an image; None without an adapter."""
        return None if self.adapter is None else self.adapter.condition(c, context)

    @property
    def takes_guidance(self) -> bool:
        """Whether the guidance is an input of the network (guided distillation)."""
        return self.unet.time_cond_proj_dim is not None

    def call(self, z_t, t, condition_features, context, guidance=None):
        """z_t [B, h, w, C], t int [B] or [1], features from `condition`, prompt -> [B, h, w, out_channels].

        The guidance, float [B] or [1], 1 or left out for none, is for networks that take it.
        """
        if self.adapter is None:
            return self.unet(z_t, t, context, guidance)
        temb = self.unet.embed_time(t, guidance)
        skips = self.unet.encode(z_t, temb, context, residuals=self.adapter.residuals(condition_features))
        features = [*skips, self.unet.middle(skips[-1], temb, context)]
        *skips, middle = self.adapter.adapt(features, condition_features, z_t, t, context)
        return self.unet.decode(middle, skips, temb, context)

    def get_config(self):
        adapter = None if self.adapter is None else self.adapter.get_config()
        return {"name": self.name, "unet": self.unet.get_config(), "adapter": adapter}

    @classmethod
    def from_config(cls, config):
        unet = UNet.from_config(config["unet"])
        adapter = config["adapter"]
        if adapter is not None:
            kinds = {"encoder_config": MuAdapter, "adapter_type": T2IAdapter}
            adapter = next((kinds[key] for key in kinds if key in adapter), ControlNet).from_config(adapter)
        for part in (unet, adapter):
            if part is not None:
                part.build()
        return cls(unet, adapter, name=config["name"])
