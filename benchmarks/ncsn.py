"""NCSN of the second paper: a training step against the same net of torch's layers, and chains against a Python loop.

The figures are in docs/speed.md.
"""

from keras_dl.benchmarks.contenders import Task
from keras_dl.benchmarks.devices import torch_descent
from keras_dl.extras import require

IMAGE, FILTERS, BATCH = (32, 32, 3), 32, 16
CHAINS, LEVELS, STEPS = 16, 10, 5


def ours():
    import keras_dl
    from keras_dl.diffusion import GeometricLevels

    levels = GeometricLevels(50.0, 0.01, LEVELS)
    return keras_dl.NCSN(IMAGE, filters=FILTERS, process=levels, step_size=6e-6, steps_per_level=STEPS, seed=0)


def keras_step(jit):
    """One step with Adam and the moving average, compiled as `fit` compiles it."""

    def set_up():
        import keras
        import numpy as np
        import tensorflow as tf

        keras.utils.set_random_seed(0)
        model = ours()
        model.compile(keras.optimizers.Adam(1e-4), jit_compile=jit)
        images = tf.constant(np.random.default_rng(0).uniform(0, 255, (BATCH, *IMAGE)).astype("float32"))
        function = tf.function(model.train_step, jit_compile=jit, reduce_retracing=True)
        return lambda: float(function((images,))["loss"])

    return set_up


def net():
    """The net in torch's layers: as many parameters as ours."""
    torch = require("torch", extra="benchmarks")
    nn, functional = torch.nn, torch.nn.functional

    class Norm(nn.Module):
        def __init__(self, channels):
            super().__init__()
            self.alpha, self.gamma, self.beta = (nn.Parameter(torch.ones(1, channels, 1, 1)) for _ in range(3))

        def forward(self, x):
            means = x.mean((2, 3), keepdim=True)
            variance = means.var(1, keepdim=True)
            spread = (means - means.mean(1, keepdim=True)) / (variance + 1e-5).sqrt()
            return self.gamma * (functional.instance_norm(x) + self.alpha * spread) + self.beta

    def conv(inputs, outputs, size=3, dilation=1, bias=True):
        return nn.Conv2d(inputs, outputs, size, padding=dilation * (size // 2), dilation=dilation, bias=bias)

    class Residual(nn.Module):
        def __init__(self, inputs, outputs, down=False, dilation=1):
            super().__init__()
            self.halved = down and dilation == 1
            width = inputs if down else outputs
            self.norms = nn.ModuleList([Norm(inputs), Norm(width)])
            self.convs = nn.ModuleList([conv(inputs, width, 3, dilation), conv(width, outputs, 3, dilation)])
            size = 1 if self.halved else 3
            self.shortcut = conv(inputs, outputs, size, dilation) if down else nn.Identity()

        def forward(self, x):
            hidden = x
            for norm, layer in zip(self.norms, self.convs, strict=True):
                hidden = layer(functional.elu(norm(hidden)))
            outputs = hidden, self.shortcut(x)
            return sum(functional.avg_pool2d(y, 2) for y in outputs) if self.halved else sum(outputs)

    class Convolved(nn.Module):
        def __init__(self, channels, blocks):
            super().__init__()
            self.convs = nn.ModuleList([conv(channels, channels, bias=False) for _ in range(2 * blocks)])

        def forward(self, x):
            for first, second in zip(self.convs[::2], self.convs[1::2], strict=True):
                x = x + second(functional.elu(first(functional.elu(x))))
            return x

    class Refined(nn.Module):
        def __init__(self, inputs, outputs, several, last):
            super().__init__()
            count = 2 if several else 1
            self.adapted = nn.ModuleList([Convolved(inputs, 2) for _ in range(count)])
            self.fused = nn.ModuleList([conv(inputs, outputs) for _ in range(count)] if several else [])
            self.pooled = nn.ModuleList([conv(outputs, outputs, bias=False) for _ in range(2)])
            self.output = Convolved(outputs, 3 if last else 1)

        def forward(self, *maps):
            maps = [adapted(x) for adapted, x in zip(self.adapted, maps, strict=True)]
            if self.fused:
                size = maps[0].shape[2:]
                maps = [
                    functional.interpolate(fuse(x), size, mode="bilinear", align_corners=True)
                    for fuse, x in zip(self.fused, maps, strict=True)
                ]
            x = path = functional.elu(sum(maps))
            for layer in self.pooled:
                path = layer(functional.max_pool2d(path, 5, 1, 2))
                x = x + path
            return self.output(x)

    class RefineNet(nn.Module):
        def __init__(self):
            super().__init__()
            n, m = FILTERS, 2 * FILTERS
            self.begin, self.norm, self.end = conv(IMAGE[-1], n), Norm(n), conv(n, IMAGE[-1])
            stages = ((n, n, False, 1), (n, m, True, 1), (m, m, True, 2), (m, m, True, 4))
            self.stages = nn.ModuleList(
                [nn.Sequential(Residual(a, b, down, d), Residual(b, b, False, d)) for a, b, down, d in stages]
            )
            refined = ((m, m, False, False), (m, m, True, False), (m, n, True, False), (n, n, True, True))
            self.refined = nn.ModuleList([Refined(*sizes) for sizes in refined])

        def forward(self, x, sigma):
            x, maps = self.begin(2 * x - 1), []
            for stage in self.stages:
                x = stage(x)
                maps.append(x)
            x = self.refined[0](maps.pop())
            for block in self.refined[1:]:
                x = block(maps.pop(), x)
            return self.end(functional.elu(self.norm(x))) / sigma

    return RefineNet()


def torch_step():
    torch = require("torch", extra="benchmarks")
    torch.manual_seed(0)
    model = net().to(memory_format=torch.channels_last).train()
    average = torch.optim.swa_utils.AveragedModel(model, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.999))
    optimizer = torch.optim.Adam(model.parameters(), 1e-4)
    optimizer.register_step_post_hook(lambda *_: average.update_parameters(model))
    sigmas = torch.logspace(1.69897, -2, LEVELS)
    images = torch.rand(BATCH, IMAGE[-1], *IMAGE[:2]).contiguous(memory_format=torch.channels_last)

    def loss():
        sigma, noise = sigmas[torch.randint(LEVELS, (BATCH,))].reshape(-1, 1, 1, 1), torch.randn_like(images)
        return 0.5 * (sigma * model(images + sigma * noise, sigma) + noise).square().sum((1, 2, 3)).mean()

    return torch_descent(optimizer, loss)


def whole_chain():
    """The whole chain as one graph."""
    model = ours()
    noise = model.draw_chains(CHAINS, seed=0)
    return lambda: float(model.sample(noise=noise)[0, 0, 0, 0])


def step_by_step():
    """The same chain as a Python loop around a compiled score."""
    import tensorflow as tf

    from keras_dl.diffusion import annealed_langevin

    model = ours()
    noise = tf.reshape(model.draw_chains(CHAINS, seed=0), (CHAINS, -1, *IMAGE))
    score = tf.function(lambda x, t: model({"images": x, "times": t}, training=False))

    def run():
        start = 0.5 + 50.0 * noise[:, 0]
        x = annealed_langevin(
            score, start, lambda i: noise[:, i + 1], model.process, model.step_size, STEPS, unroll=True
        )
        return float(x[0, 0, 0, 0])

    return run


TASKS = [
    Task(
        "ncsn-train",
        f"NCSN, one step with the moving average, batch {BATCH}, 32x32, {FILTERS} filters, float32",
        {"keras_dl graph": keras_step(jit=False), "keras_dl xla": keras_step(jit=True), "torch eager": torch_step},
        steps=5,
        warmup=2,
    ),
    Task(
        "ncsn-sample",
        f"NCSN, {CHAINS} chains of {LEVELS * STEPS + 1} steps, 32x32, float32",
        {"keras_dl one graph": whole_chain, "keras_dl Python loop": step_by_step},
        steps=3,
        warmup=1,
    ),
]
