"""Denoising diffusion probabilistic models: a U-Net that learns to undo a thousand small steps of noise.

    x_t = sqrt(abar_t) x_0 + sqrt(1 - abar_t) e,    L_simple = E |e - f(x_t, t)|^2                       training
    x_{t-1} = N(mean of q(x_{t-1} | x_t, x_0 = clip((x_t - sqrt(1 - abar_t) f) / sqrt(abar_t))), s_t^2)    sampling

The net can also predict the data or the velocity. The variance is beta, that of the posterior, or learned between the
two, by `L_simple + 0.001 L_vlb`, where no gradient of L_vlb goes through the mean. Samplers skip steps: their
mathematics is in `keras_dl.diffusion`.

References: Ho, Jain, Abbeel 2020, "Denoising Diffusion Probabilistic Models", arXiv:2006.11239; Nichol, Dhariwal 2021,
"Improved Denoising Diffusion Probabilistic Models", arXiv:2102.09672 (cosine betas, learned variance, fewer steps);
Song, Meng, Ermon 2020, "Denoising Diffusion Implicit Models", arXiv:2010.02502; Salimans, Ho 2022, arXiv:2202.00512
(velocity); Ho, Salimans 2022, arXiv:2207.12598 (guidance). Names and layouts of weights are those of diffusers.

Deviations:
- `patch_size` makes channels of patches of pixels, so that small machines can train on images of 28x28. The paper has
  1.
- The moving average starts with a smaller decay, `(1 + n) / (10 + n)` after n steps, or it would keep the first weights
  for 10,000 steps.
- L_vlb is in bits for each dimension, and the sum over steps is estimated as T times the term of one, as in the code of
  Improved DDPM.
- The likelihood of pixels is of the exact normal distribution, of which that code has an approximation.
- The papers' code rounds samples to whole pixels at last; here they are left as they are.
"""

import math

import keras
import numpy as np
import tensorflow as tf

from keras_dl.arguments import AtLeast, ImageShape, NumberIn, OneOf, Rate, Size, Sizes, SizesAtLeast, arguments
from keras_dl.diffusion.ancestral import posterior_steps, posterior_variances
from keras_dl.diffusion.betas import Betas, CosineBetas, LinearBetas
from keras_dl.diffusion.bound import normal_kl, pixel_log_likelihood, prior_kl, to_bits
from keras_dl.diffusion.process import ProcessOf, along
from keras_dl.diffusion.walking import seeded_noise, walk
from keras_dl.models.generative.diffusion_model import DiffusionModel
from keras_dl.models.generative.discrete_sampling import SAMPLERS, DiscreteSampling
from keras_dl.models.generative.unet import check_unet, diffusers_layers, unet
from keras_dl.models.upkeep import traced
from keras_dl.signatures import Signature
from keras_dl.weights import Weights, load_entries, read_safetensors, torch_entries

VARIANCES = ("fixed_small", "fixed_large", "learned")
VLB_WEIGHT = 0.001  # of L_vlb beside L_simple

PRESETS = {
    # Appendix B: 35.7 million parameters. FID 3.17 on CIFAR-10 in the paper.
    "ho2020_cifar10": dict(image_shape=(32, 32, 3)),
    # 114 million, for LSUN and CelebA-HQ.
    "ho2020_lsun": dict(image_shape=(256, 256, 3), multipliers=(1, 1, 2, 2, 4, 4), dropout_rate=0.0),
    # Digits of 8x8, and of 28x28 in patches of 2x2, for minutes on two cores.
    "digits8": dict(
        image_shape=(8, 8, 1), filters=32, multipliers=(1, 2), num_blocks=1, attention_sides=(4,), groups=8,
        dropout_rate=0.0, process="cosine", averaging=0.999,
    ),
    "digits28": dict(
        image_shape=(28, 28, 1), filters=32, multipliers=(1, 2), num_blocks=1, attention_sides=(7,), groups=8,
        dropout_rate=0.0, patch_size=2, process="cosine", averaging=0.999,
    ),
}  # fmt: skip


@keras.saving.register_keras_serializable(package="keras_dl")
class DDPM(DiscreteSampling, DiffusionModel):
    """Denoising diffusion probabilistic model of images, with the paper's U-Net.

    Compile it with an optimizer and no loss. The paper has Adam with a rate of 2e-4, a warm-up of 5,000 steps,
    `global_clipnorm=1.0`, batches of 128 and random flips. `fit(images)` needs no targets; with `num_classes`, it is
    `fit(images, labels)`. All methods but `fit` use the moving average of the weights.

    Args:
        image_shape: `(height, width, channels)`. The sides are multiples of `patch_size * 2 ** (levels - 1)`.
        filters: int, even. Channels of the first level.
        multipliers: sequence of int. Channels of each level over `filters`. Sides are halved between them.
        num_blocks: int. Residual blocks of a level, on the way down; one more on the way up.
        attention_sides: sequence of int. The longer sides, inside the net, of levels with attention in each block. The
            middle always has it.
        dropout_rate: float in [0, 1).
        groups: int. Of the normalizations.
        num_heads: int. Of attention.
        patch_size: int. Sides of the patches of pixels that become channels first.
        process: "linear" or "cosine", of 1,000 steps, or a `keras_dl.diffusion.Betas`.
        predicts: "noise", "data" or "velocity": what the net returns.
        variance: "fixed_large" (beta), "fixed_small" (of the posterior) or "learned" between them. Of ancestral
            sampling and of the bound.
        num_classes: int, or None: without labels.
        label_dropout: float in [0, 1). Share of the labels that training drops, for guidance.
        averaging: float in [0, 1). Decay of the moving average of the weights. 0 for none.
        sampler: "ddim" or "ancestral": what `sample` and the exported file do.
        sampling_steps: int. Steps of the sampler, at most those of the process.
        eta: float in [0, 1]. Noise of DDIM: 1 is as much as ancestral sampling has.
        guidance: float. How far `sample` goes beyond the label, for models with classes; 0 for not at all.
        seed: int or None. Of times, noise, dropped labels and samples.

    Call arguments:
        inputs: dict of `"images"`, `(batch, *image_shape)`, noisy images in the range [-1, 1] of the data; `"times"`,
            int, `(batch,)`, from 0; and, with `num_classes`, `"labels"`, int, `(batch,)`, where `num_classes` is none.
        training: bool. True uses the weights themselves, with dropout; False their moving average.

    Returns:
        float32, `(batch, *image_shape)`: what `predicts` says. With a learned variance, twice the channels: the second
        half tells the share of log beta in the logarithm, from -1 to 1.

    Raises:
        ValueError: if an argument is out of its range; the message has its name and value. By `fit`, if images are not
            raw pixels in [0, 255], or labels are missing or not wanted.

    Reference: arXiv:2006.11239, appendix B.

    Example:

    >>> model = DDPM.from_preset("digits8", seed=0)
    >>> model.compile(keras.optimizers.Adam(1e-3))
    >>> images = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 1))
    >>> history = model.fit(images, batch_size=8, verbose=0)
    >>> model.sample(4, num_steps=5).shape
    TensorShape([4, 8, 8, 1])
    """

    presets = PRESETS
    # 256 levels do not tell 1,000 times apart.
    float_layers = ("time_waves", "time_1", "time_2")

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (32, 32, 3),
        filters: AtLeast(4) = 128,
        multipliers: Sizes = (1, 2, 2, 2),
        num_blocks: Size = 2,
        attention_sides: SizesAtLeast(1, allow_empty=True) = (16,),
        dropout_rate: Rate = 0.1,
        groups: Size = 32,
        num_heads: Size = 1,
        patch_size: Size = 1,
        process: ProcessOf(Betas, linear=LinearBetas, cosine=CosineBetas) = "linear",
        predicts: OneOf("noise", "data", "velocity") = "noise",
        variance: OneOf(*VARIANCES) = "fixed_large",
        num_classes: Size | None = None,
        label_dropout: Rate = 0.1,
        averaging: Rate = 0.9999,
        sampler: OneOf(*SAMPLERS) = "ddim",
        sampling_steps: Size = 50,
        eta: NumberIn(0, 1) = 0.0,
        guidance: NumberIn(0) = 0.0,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        check_unet(image_shape, filters, multipliers, groups, num_heads, patch_size)
        if sampling_steps > process.size:
            raise ValueError(
                f"sampling_steps={sampling_steps} is more than the {process.size} steps that the net is trained on."
            )
        if guidance and num_classes is None:
            raise ValueError(f"guidance={guidance} needs num_classes: without labels it cannot go beyond them.")
        super().__init__(dtype=dtype, **kwargs)
        out_channels = image_shape[-1] * (2 if variance == "learned" else 1)

        def make_network(name):
            return unet(
                image_shape, out_channels, filters, multipliers, num_blocks, attention_sides, dropout_rate, groups,
                num_heads, patch_size, num_classes, name,
            )  # fmt: skip

        self._hold(make_network, averaging, seed)

    # The process.

    def q_sample(self, images, times, noise):
        """Noisy images: a draw of `q(x_t | x_0)`, float32, in the range [-1, 1] of the data.

        Args:
            images: `(batch, *image_shape)`, in [0, 255].
            times: int, `(batch,)`.
            noise: float, standard normal, the shape of `images`.
        """
        return self.process.perturb(self.to_inner(images), times, noise)

    def q_posterior(self, data, noisy, times):
        """`q(x_{t-1} | x_t, x_0)`: mean, the shape of `data`, and variance, `(batch, 1, 1, 1)`.

        Args:
            data, noisy: float, `(batch, *image_shape)`: x_0 and x_t, in the range [-1, 1].
            times: int, `(batch,)`.
        """
        steps = posterior_steps(self.process)
        of_data, of_state = (along(self.process.look_up(table, times), data) for table in steps[:2])
        variance = along(self.process.look_up(posterior_variances(self.process), times), data)
        return of_data * data + of_state * noisy, variance

    # What the net sees.

    def _split(self, output):
        """The prediction, and the share of log beta in the log-variance, or None."""
        return tf.split(output, 2, axis=-1) if self.variance == "learned" else (output, None)

    def _beyond(self, with_label, without, guidance):
        if self.variance != "learned":
            return super()._beyond(with_label, without, guidance)
        (first, share), (second, _) = self._split(with_label), self._split(without)
        return tf.concat([super()._beyond(first, second, guidance), share], -1)

    def predict_as(self, wanted, x, t, labels=None, guidance=0.0):
        prediction, _ = self._split(self.guided(x, t, labels, guidance))
        return self.process.convert(prediction, x, t, self.predicts, wanted)

    def log_variance(self, process, i, share, x):
        """The logarithm of the variance of `p(x_{i-1} | x_i)` for a process of the same or of fewer steps.

        Args:
            process: `Betas`.
            i: int32, `(batch,)`: indices of `process`.
            share: float, the shape of `x`, as the net returns it; None if the variance is not learned.
            x: float, `(batch, ...)`.
        """
        small = posterior_variances(process)
        small[0] = small[1] if len(small) > 1 else process.variances[0]  # the first is 0
        large = np.concatenate([small[:1], process.variances[1:]])
        if self.variance == "learned":
            low, high = (along(process.look_up(np.log(v), i), x) for v in (small, process.variances))
            return low + 0.5 * (share + 1.0) * (high - low)
        return along(process.look_up(np.log(small if self.variance == "fixed_small" else large), i), x)

    def denoise(self, noisy, times, labels=None, guidance=0.0):
        """What the net makes of noisy images.

        Args:
            noisy: float, `(batch, *image_shape)`, in the range [-1, 1] of the data.
            times: int, `(batch,)`.
            labels: int, `(batch,)`, or None.
            guidance: float.

        Returns:
            dict of float32: `"data"` and `"noise"`, as predicted, and `"log_variance"` of the step to `times - 1`.
        """
        prediction, share = self._split(self.guided(noisy, times, labels, guidance))
        found = {
            wanted: self.process.convert(prediction, noisy, times, self.predicts, wanted)
            for wanted in ("data", "noise")
        }
        return found | {"log_variance": self.log_variance(self.process, times, share, noisy)}

    # Training.

    def example_losses(self, prediction, inputs, targets):
        t, x, data = inputs["times"], inputs["images"], targets["data"]
        prediction, share = self._split(prediction)
        losses = super().example_losses(prediction, inputs, targets)
        if share is None:
            return losses
        seen = self.process.convert(tf.stop_gradient(prediction), x, t, self.predicts, "data")
        # The sum of L_vlb over all steps, by one of them.
        return losses + VLB_WEIGHT * self.process.size * self._bound_term(data, x, t, seen, share)

    def _bound_term(self, data, x, t, seen, share):
        """L_t of the bound in bits for each dimension, of the data that the net sees: float32, `(batch,)`."""
        log_variance = self.log_variance(self.process, t, share, x)
        mean, _ = self.q_posterior(seen, x, t)
        true_mean, _ = self.q_posterior(data, x, t)
        small = posterior_variances(self.process)
        small[0] = 1.0  # not used: at 0, the term is a likelihood
        true_log_variance = along(self.process.look_up(np.log(small), t), x)
        divergence = to_bits(normal_kl(true_mean, true_log_variance, mean, log_variance))
        return tf.where(t == 0, -to_bits(pixel_log_likelihood(data, mean, log_variance)), divergence)

    def bound(self, images, labels=None, seed: int = 0):
        """The variational bound of `-log p(images)` in bits for each dimension, by its terms. It takes a pass for each
        step of the process.

        Args:
            images: `(batch, *image_shape)`, whole pixels from 0 to 255.
            labels: int, `(batch,)`, or None.
            seed: int. Of the noise.

        Returns:
            dict of float32: `"terms"`, `(size, batch)`, L_0 to L_{T-1}; `"prior"`, `(batch,)`, L_T; `"total"`,
            `(batch,)`, the sum; and `"mse"`, `(size, batch)`, the squared error of the noise.
        """

        def run(images, labels):
            data = self.to_inner(images)
            noise_of = seeded_noise(tf.shape(data), seed)

            def step(found, i, z):
                t, noise = tf.fill(tf.shape(data)[:1], i), noise_of(i)
                x = self.process.perturb(data, t, noise)
                prediction, share = self._split(self.guided(x, t, labels))
                seen, heard = (self.process.convert(prediction, x, t, self.predicts, w) for w in ("data", "noise"))
                term = self._bound_term(data, x, t, tf.clip_by_value(seen, -1.0, 1.0), share)
                error = tf.reduce_mean(tf.square(heard - noise), axis=(1, 2, 3))
                return tf.tensor_scatter_nd_update(found, [[i]], tf.stack([term, error])[tf.newaxis])

            start = tf.zeros((self.process.size, 2, tf.shape(data)[0]))
            found = walk(step, start, num_steps=self.process.size)  # (size, 2, batch)
            return found[:, 0], found[:, 1], to_bits(prior_kl(self.process, data))

        images = tf.convert_to_tensor(np.asarray(images, "float32"))
        terms, errors, prior = traced(self, ("bound", seed, labels is None), run)(images, labels)
        return {"terms": terms, "prior": prior, "total": tf.reduce_sum(terms, 0) + prior, "mse": errors}

    # Files.

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of `Signature`.

        `denoise(images: float32, (batch_size, *image_shape), in [-1, 1]; times: int32, (batch_size,))` is one pass of
        the net. It returns `{"noise": ...}`, or what `predicts` says, and `"share"` of a learned variance.

        `sample(noise: float32, (batch_size, num_draws(), size of an image))` goes from noise to `{"images": float32,
        (batch_size, *image_shape), in [0, 255]}`, with the model's own settings. The loop is inside.

        With classes, both take `labels: int32, (batch_size,)`.
        """
        num_draws = self.num_draws()

        def denoise(images, times, labels=None):
            inputs = {"images": images, "times": times} | ({} if labels is None else {"labels": labels})
            prediction, share = self._split(self(inputs, training=False))
            return {self.predicts: prediction} | ({} if share is None else {"share": share})

        def sample(noise, labels=None):
            draws = self._draws(noise) if num_draws > 1 else None
            return {"images": self.from_inner(self._sampled(self._start(noise), draws, labels, **self._settings()))}

        def tensor(shape, dtype, name):
            return keras.KerasTensor(shape, dtype, name=name)

        labels = {} if self.num_classes is None else {"labels": tensor((batch_size,), "int32", "labels")}
        images = tensor((batch_size, *self.image_shape), "float32", "images")
        noise = tensor((batch_size, num_draws, math.prod(self.image_shape)), "float32", "noise")
        return {
            "denoise": Signature(
                denoise, {"images": images, "times": tensor((batch_size,), "int32", "times")} | labels
            ),
            "sample": Signature(sample, {"noise": noise} | labels),
        }

    # Weights.

    def load_diffusers(self, weights: Weights) -> None:
        """Loads the weights of diffusers' `UNet2DModel` of the same sizes, into the net and its moving average.

        Args:
            weights: the path of `diffusion_pytorch_model.safetensors`, or a mapping from name to array. Dense layers of
                attention may have the old names (`query`, `key`, `value`, `proj_attn`) or the new ones (`to_q`, ...).

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists them, and no weight is
                changed.
        """
        given = weights if hasattr(weights, "keys") else read_safetensors(weights)
        entries = {}
        for prefix, layer in diffusers_layers(self.network, self.multipliers, self.num_blocks).items():
            entries |= torch_entries(prefix, layer)
        new = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}

        def renamed(name):
            for old, name_now in new.items():
                name = name.replace(old, name_now)
            return name

        load_entries(entries, {renamed(name): given[name] for name in given.keys()})  # noqa: SIM118
        if self.average is not None:
            self.average.set_weights(self.network.get_weights())
