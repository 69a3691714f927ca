"""DDPM's U-Net beside diffusers' `UNet2DModel` of the same size: a training step, one pass, and 50 steps of DDIM.

The figures are in docs/speed.md.
"""

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_call, torch_descent
from keras_dl.extras import require

IMAGE, FILTERS, LEVELS, ATTENTION, BATCH, STEPS = (32, 32, 3), 64, (1, 2, 2, 2), (16,), 16, 50


def ours():
    import keras_dl

    return keras_dl.DDPM(
        IMAGE, FILTERS, LEVELS, attention_sides=ATTENTION, dropout_rate=0.0, sampling_steps=STEPS, seed=0
    )


def keras_step(jit):
    """A training step with Adam and the moving average, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import numpy as np
        import tensorflow as tf

        model = ours()
        model.compile(keras.optimizers.Adam(2e-4), jit_compile=jit)
        model.optimizer.build(model.trainable_variables)
        images = tf.constant(np.random.default_rng(0).uniform(0, 255, (BATCH, *IMAGE)).astype("float32"))
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function((images,))["loss"])

    return set_up


def keras_denoise(jit):
    """One pass of one image."""

    def set_up():
        import numpy as np
        import tensorflow as tf

        model = ours()
        images = tf.constant(np.random.default_rng(0).normal(size=(1, *IMAGE)).astype("float32"))
        inputs = {"images": images, "times": tf.constant([500])}
        function = tf.function(lambda: model(inputs, training=False), jit_compile=jit)
        return lambda: function().numpy()

    return set_up


def keras_sample():
    """50 steps of DDIM in one graph."""
    model = ours()
    noise = model.draw_chains(1, seed=0)
    return lambda: model.sample(noise=noise).numpy()


def keras_sample_by_steps():
    """The same steps from Python, each pass compiled."""
    import tensorflow as tf

    from keras_dl.diffusion import ddim

    model = ours()
    function = tf.function(lambda x, t: model({"images": x, "times": t}, training=False))
    process = model.process.respaced(STEPS)
    places = tf.constant(process.places, "int32")
    start = model.draw_noise(1, seed=0)

    def predict(x, i):
        data = process.convert(function(x, tf.gather(places, i)), x, i, "noise", "data")
        return tf.clip_by_value(data, -1.0, 1.0)

    return lambda: ddim(predict, start, process).numpy()


def unet():
    """diffusers' U-Net with the same weights in number."""
    diffusers = require("diffusers", extra="benchmarks")
    sides = [IMAGE[0] // 2**i for i in range(len(LEVELS))]
    kinds = ["Attn" if side in ATTENTION else "" for side in sides]
    return diffusers.UNet2DModel(
        sample_size=IMAGE[0],
        block_out_channels=[FILTERS * n for n in LEVELS],
        down_block_types=[f"{kind}DownBlock2D" for kind in kinds],
        up_block_types=[f"{kind}UpBlock2D" for kind in reversed(kinds)],
        norm_eps=1e-6,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        attention_head_dim=None,
    )


def torch_step():
    """The same training step, with Adam and a moving average."""
    torch = require("torch", extra="benchmarks")
    torch.manual_seed(0)
    net = unet().to(memory_format=torch.channels_last).train()
    average = torch.optim.swa_utils.AveragedModel(net, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9999))
    optimizer = torch.optim.Adam(net.parameters(), 2e-4)
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(net))
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000), 0)
    images = torch.rand(BATCH, IMAGE[-1], *IMAGE[:2]).contiguous(memory_format=torch.channels_last) * 2 - 1

    def loss():
        t, noise = torch.randint(0, 1000, (BATCH,)), torch.randn_like(images)
        alpha, sigma = (x[t][:, None, None, None].sqrt() for x in (kept, 1 - kept))
        return torch.nn.functional.mse_loss(net(alpha * images + sigma * noise, t).sample, noise)

    return torch_descent(optimizer, loss)


def torch_denoise():
    """One pass of one image."""
    torch = require("torch", extra="benchmarks")

    class Pass(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = unet()

        def forward(self, x):
            return self.net(x, 500).sample

    return Pass().to(memory_format=torch.channels_last).eval()


def torch_sample():
    """50 steps of diffusers' DDIM scheduler."""
    torch, diffusers = require("torch", extra="benchmarks"), require("diffusers", extra="benchmarks")
    net, scheduler = torch_denoise().net, diffusers.DDIMScheduler()
    scheduler.set_timesteps(STEPS)
    start = torch.randn(1, IMAGE[-1], *IMAGE[:2])

    def run():
        x = start
        with torch.inference_mode():
            for t in scheduler.timesteps:
                x = scheduler.step(net(x, t).sample, t, x).prev_sample
        return x.numpy()

    return run


TASKS = [
    Task(
        "ddpm-train",
        f"DDPM, a training step of {BATCH} images of 32x32, {FILTERS} channels, float32",
        {"keras_dl graph": keras_step(jit=False), "keras_dl xla": keras_step(jit=True), "diffusers": torch_step},
        steps=3,
        warmup=2,
    ),
    Task(
        "ddpm-denoise",
        "DDPM, one pass of one image of 32x32, float32",
        {
            "keras_dl graph": keras_denoise(jit=False),
            "keras_dl xla": keras_denoise(jit=True),
            "diffusers": torch_call(torch_denoise, 1, IMAGE[-1], *IMAGE[:2]),
        },
        steps=20,
        warmup=3,
    ),
    Task(
        "ddpm-sample",
        f"DDPM, {STEPS} steps of DDIM of one image of 32x32, float32",
        {"keras_dl, one graph": keras_sample, "keras_dl, steps from Python": keras_sample_by_steps,
         "diffusers": torch_sample},
        steps=3,
        warmup=1,
    ),
]  # fmt: skip
