"""NCSN++ of a small size at 32 pixels: a training step, and a step of the sampler, against diffusers' U-Net.

The figures are in docs/speed.md.
"""

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_call, torch_descent
from keras_dl.extras import require

IMAGE, FILTERS, MULTIPLIERS, BLOCKS, BATCH = (32, 32, 3), 32, (1, 2, 2), 1, 16


def ours():
    import keras_dl

    return keras_dl.ScoreSDE(
        IMAGE, "ve", FILTERS, MULTIPLIERS, BLOCKS, (16,), dropout_rate=0.0, averaging=0.0, num_steps=2, seed=0
    )


def our_net():
    return ours().network


def keras_step(jit):
    """One step with Adam, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import numpy as np
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        model = ours()
        model.compile(keras.optimizers.Adam(2e-4), jit_compile=jit)
        model.optimizer.build(model.trainable_variables)
        images = tf.constant(np.random.default_rng(0).uniform(0, 255, (BATCH, *IMAGE)).astype("float32"))
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function((images,))["loss"])

    return set_up


def net():
    """NCSN++ of diffusers: blocks with skips, filters and a pyramid of inputs."""
    diffusers = require("diffusers", extra="benchmarks")
    widths = tuple(FILTERS * multiple for multiple in MULTIPLIERS)
    return diffusers.UNet2DModel(
        sample_size=IMAGE[0],
        in_channels=IMAGE[-1],
        out_channels=IMAGE[-1],
        block_out_channels=widths,
        layers_per_block=BLOCKS,
        time_embedding_type="fourier",
        norm_eps=1e-6,
        norm_num_groups=None,
        down_block_types=("SkipDownBlock2D", "AttnSkipDownBlock2D", "SkipDownBlock2D"),
        up_block_types=("SkipUpBlock2D", "AttnSkipUpBlock2D", "SkipUpBlock2D"),
        mid_block_scale_factor=2**0.5,
        attention_head_dim=None,
    )


def torch_step():
    """The same step: the squared error of the noise, at random times."""
    torch = require("torch", extra="benchmarks")
    torch.manual_seed(0)
    model = net().to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.Adam(model.parameters(), 2e-4)
    images = torch.rand(BATCH, IMAGE[-1], *IMAGE[:2]).contiguous(memory_format=torch.channels_last)

    def loss():
        sigma, noise = 0.01 * 5000 ** torch.rand(BATCH), torch.randn_like(images)
        x = images + sigma[:, None, None, None] * noise
        # It divides by sigma itself.
        return (sigma[:, None, None, None] * model(x, sigma).sample + noise).square().mean()

    return torch_descent(optimizer, loss)


def their_net():
    torch = require("torch", extra="benchmarks")

    class Noise(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.sigma = net(), torch.ones(1)

        def forward(self, x):
            return self.net(x, self.sigma).sample

    return Noise().to(memory_format=torch.channels_last).eval()


def denoise(batch):
    """Inference of our net."""

    def set_up():
        import numpy as np
        import tensorflow as tf

        model = our_net()
        inputs = {
            "images": tf.constant(np.random.default_rng(0).normal(size=(batch, *IMAGE)).astype("float32")),
            "times": tf.ones(batch),
        }
        function = tf.function(lambda: model(inputs, training=False))
        return lambda: function().numpy()

    return set_up


TASKS = [
    Task(
        "score_sde-train",
        f"NCSN++ of {FILTERS} filters, one step, batch {BATCH}, 32x32, float32",
        {"keras_dl graph": keras_step(jit=False), "keras_dl xla": keras_step(jit=True), "torch eager": torch_step},
        steps=5,
        warmup=2,
    ),
    Task(
        "score_sde-infer",
        f"NCSN++ of {FILTERS} filters, the score of one 32x32 image, float32",
        {"keras_dl graph": denoise(1), "torch eager": torch_call(their_net, 1, *IMAGE[::-1])},
        steps=30,
        warmup=5,
    ),
]
