"""The paper's adapter and the adapted network."""

from __future__ import annotations

import keras
from keras import ops

from codi_tf.models.unet import UNet, UNetEncoder


class MuAdapter(keras.Model):
    """A copy of the base's encoder that sees the condition, and one scalar mu for every encoder feature (Eq. 12).

    The copy sees c and the prompt, neither z_t nor t: the clean condition latent stands at t = 0. Its features are
    therefore computed once for all sampling steps.

    Args:
        encoder_config: the arguments of the base's encoder (`UNet.encoder_config()`), with `in_channels` those of c.
    """

    def __init__(self, encoder_config: dict, **kwargs):
        super().__init__(**kwargs)
        self.encoder_config = dict(encoder_config)
        self.encoder = UNetEncoder(name="encoder", **self.encoder_config)

    @classmethod
    def duplicate(cls, unet: UNet, *, condition_channels: int | None = None, name: str = "adapter") -> MuAdapter:
        """An adapter whose encoder starts as a copy of the UNet's and whose mu are 0.

        Where the condition has more channels than a latent (a mask beside it), the kernel of the first convolution is
        copied for the first channels and zero for the others.
        """
        config = unet.encoder_config()
        config["in_channels"] = condition_channels or unet.in_channels
        adapter = cls(config, name=name)
        adapter.build()
        source = {path_below(unet, v): v for v in unet.variables}
        for variable in adapter.encoder.variables:
            value = ops.convert_to_numpy(source[path_below(adapter.encoder, variable)])
            if value.shape != variable.shape:  # conv_in alone
                extra = variable.shape[2] - value.shape[2]
                value = ops.pad(value[:, :, : variable.shape[2]], [[0, 0], [0, 0], [0, max(extra, 0)], [0, 0]])
            variable.assign(value)
        return adapter

    def build(self, input_shape=None):
        self.encoder.build()
        self.mu = self.add_weight(name="mu", shape=(self.encoder.feature_count,), initializer="zeros")

    def call(self, c, context):
        """Condition latent c [B, h, w, C], prompt [B, M, D] -> the features h_eta(c), in the encoder's order."""
        return self.encoder(c, ops.zeros((1,), dtype="int32"), context)

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
    """A UNet and its adapter: w_theta(z_t, c, t). Without an adapter it is the UNet itself."""

    def __init__(self, unet: UNet, adapter: MuAdapter | None = None, **kwargs):
        super().__init__(**kwargs)
        self.unet, self.adapter = unet, adapter
        self.built = True  # both parts are

    def condition(self, c, context):
        """The features of the condition, to be computed once an image; None without an adapter."""
        return None if self.adapter is None else self.adapter(c, context)

    def call(self, z_t, t, condition_features, context):
        """z_t [B, h, w, C], t int [B] or [1], features from `condition`, prompt -> [B, h, w, out_channels]."""
        if self.adapter is None:
            return self.unet(z_t, t, context)
        temb = self.unet.time_embedding(t)
        skips = self.unet.encode(z_t, temb, context)
        middle = self.unet.middle(skips[-1], temb, context)
        *skips, middle = self.adapter.mix([*skips, middle], condition_features)
        return self.unet.decode(middle, skips, temb, context)

    def get_config(self):
        adapter = None if self.adapter is None else self.adapter.get_config()
        return {"name": self.name, "unet": self.unet.get_config(), "adapter": adapter}

    @classmethod
    def from_config(cls, config):
        unet = UNet.from_config(config["unet"])
        adapter = None if config["adapter"] is None else MuAdapter.from_config(config["adapter"])
        for part in (unet, adapter):
            if part is not None:
                part.build()
        return cls(unet, adapter, name=config["name"])


def path_below(layer: keras.layers.Layer, variable) -> str:
    """The path of a variable below a layer that holds it."""
    return variable.path.split(f"{layer.name}/", 1)[1]
