"""CycleGAN: translation of images between two domains, learned from images that are not paired.

    G: A -> B,   F: B -> A,   D_B and D_A judge images of B and of A

    L_adv   = E_a (D_B(G(a)) - 1)^2 + E_b (D_A(F(b)) - 1)^2
    L_cycle = E_a |F(G(a)) - a| + E_b |G(F(b)) - b|             (means over the pixels, in [-1, 1])
    L_same  = E_b |G(b) - b| + E_a |F(a) - a|

    G, F: min L_adv + cycle_weight (L_cycle + identity_weight L_same)
    D_B:  min (E_b (D_B(b) - 1)^2 + E_a D_B(history of G(a))^2) / 2,   D_A alike

Both generators move first, by one optimizer, then both discriminators, by another one. These see what was generated
before the first move, exchanged with a history of 50 images each.

Reference: Zhu, Park, Isola, Efros 2017, "Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial
Networks", arXiv:1703.10593, section 3 and 4, eq. 3, and the authors' code, pytorch-CycleGAN-and-pix2pix.

Deviations:
- Pixels are in [0, 255] for users. The losses are of values in [-1, 1], as the authors'.
- Both uses of a net in a loss are one batch: instance normalization keeps its images apart, so the sums are the same.
- As in the code, convolutions before a normalization have biases, which change nothing: 5,248 in a ResNet-9.
"""

import re
import warnings

import keras
from keras import ops

from keras_dl.arguments import AtLeast, ImageShapeAtLeast, NumberIn, Size, arguments
from keras_dl.checks import shape_of, shapes_agree
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.models.generative.adversarial import AdversarialModel, discriminator_objective
from keras_dl.models.generative.cyclegan_nets import (
    discriminator,
    discriminator_layers,
    generator,
    generator_layers,
    patch_size,
)
from keras_dl.models.generative.image_history import ImageHistory
from keras_dl.models.generative.unpaired import check_set, unpaired
from keras_dl.models.upkeep import BatchRange, FirstBatch, check_finite, check_pixels
from keras_dl.signatures import Signature
from keras_dl.weights import Weights, load_entries, read_safetensors, torch_entries

PRESETS = {
    # Of the authors, for photographs of 256x256: generators of 11,378,179 parameters each, discriminators of 2,764,737.
    "zhu2017_256": dict(image_shape=(256, 256, 3), num_blocks=9),
    # For 128x128: generators of 7,837,699.
    "zhu2017_128": dict(image_shape=(128, 128, 3), num_blocks=6),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class CycleGAN(FirstBatch, AdversarialModel):
    """Two generators that translate images between the domains A and B, and two discriminators.

    Compile it with one optimizer, of which the discriminators get a copy, or with two, and no loss. The authors have
    `Adam(rate, beta_1=0.5)` with `rate = keras_dl.schedules.LinearDecay(2e-4, steps_per_epoch)`, batches of one, and
    200 epochs. `fit` takes images of A and of B: `fit(images_a, images_b)`, or a `tf.data.Dataset` of pairs of batches,
    such as `CycleGAN.unpaired(images_a, images_b)` makes of sets of any sizes. The two images of a pair have nothing to
    do with each other. In the logs, `loss` is the sum of the discriminators', and 0.5 where they cannot tell.

    Args:
        image_shape: `(height, width, channels)` of both domains. 4 must divide both sides.
        filters: int. Channels of the generators' largest maps.
        num_blocks: int. Residual blocks of each generator. The authors have 9, and 6 for sides of 128.
        discriminator_filters: int. Channels of the discriminators' largest maps.
        discriminator_layers: int. Convolutions of stride 2 in each discriminator. 3 make it see patches of 70x70.
        cycle_weight: float. Of the cycle's loss.
        identity_weight: float. Of what a generator changes in images of its target, as a share of `cycle_weight`.
        history_size: int. Generated images that are kept for each discriminator. 0 for none.
        seed: int or None. Of the exchanges with the history.

    Call arguments:
        images: number, `(batch, height, width, channels)`, in [0, 255]: of A. 4 must divide both sides, which may be
            others than those of `image_shape`.

    Returns:
        float32, same shape: images of B, in [0, 255].

    Raises:
        ValueError: if an argument is out of its range, or the image is too small for the discriminator; the message has
            its name and value. By `fit`, if an image set has one image alone or other shapes; and after the first step,
            if images are not raw pixels in [0, 255].

    Reference: arXiv:1703.10593.

    Example:

    >>> model = CycleGAN((32, 32, 1), filters=4, num_blocks=1, discriminator_filters=4)
    >>> model.patch_size
    70
    >>> there, back = model.cycle(ops.zeros((2, 32, 32, 1)))
    >>> there.shape, back.shape
    (TensorShape([2, 32, 32, 1]), TensorShape([2, 32, 32, 1]))
    """

    presets = PRESETS
    order = ("generator", "discriminator")
    figures = ("adversarial_loss", "cycle_loss", "identity_loss", "real_logit", "fake_logit")
    unpaired = staticmethod(unpaired)

    @arguments
    def __init__(
        self,
        image_shape: ImageShapeAtLeast(8) = (256, 256, 3),
        filters: Size = 64,
        num_blocks: Size = 9,
        discriminator_filters: Size = 64,
        discriminator_layers: Size = 3,
        cycle_weight: NumberIn(0.0) = 10.0,
        identity_weight: NumberIn(0.0) = 0.5,
        history_size: AtLeast(0) = 50,
        seed: int | None = None,
        dtype=None,
        **kwargs,
    ):
        super().__init__(dtype=dtype, **kwargs)
        *sides, channels = image_shape
        _check_sides("image_shape", image_shape, sides)
        least = 3 * 2**discriminator_layers
        if min(sides) < least:
            raise ValueError(
                f"image_shape={image_shape} is too small for discriminator_layers={discriminator_layers}, which need "
                f"sides of at least {least}: smaller ones leave one pixel to a normalization, or no logit. Give fewer."
            )
        self.scaling = PixelNormalization(127.5, 127.5, dtype="float32", name="scaling")
        self.generator_ab = generator(channels, filters, num_blocks, "generator_ab")
        self.generator_ba = generator(channels, filters, num_blocks, "generator_ba")
        judges = (channels, discriminator_filters, discriminator_layers)
        self.discriminator_a = discriminator(*judges, "discriminator_a")
        self.discriminator_b = discriminator(*judges, "discriminator_b")
        self.history_a = ImageHistory(history_size, image_shape, name="history_a")
        self.history_b = ImageHistory(history_size, image_shape, name="history_b")
        self.seed_generator = keras.random.SeedGenerator(seed)
        self.batch_ranges = [BatchRange(f"range_{domain}") for domain in "ab"]
        self.built = True

    @property
    def generators(self):
        return [self.generator_ab, self.generator_ba]

    @property
    def discriminators(self):
        return [self.discriminator_a, self.discriminator_b]

    @property
    def patch_size(self) -> int:
        """The side in pixels of the patch that one logit judges."""
        return patch_size(self.discriminator_layers)

    def call(self, images, training=False):
        return self._translate(self.generator_ab, images, training)

    def compute_output_shape(self, images_shape):
        return tuple(images_shape)

    def compute_output_spec(self, images, training=False):
        return keras.KerasTensor(self.compute_output_shape(images.shape), "float32")

    def _translate(self, net, images, training=False):
        shape = shape_of(images)
        if shape is not None:
            if not shapes_agree(shape, (None, None, None, self.image_shape[-1])):
                channels = self.image_shape[-1]
                raise ValueError(f"images has the shape {shape}; it must be (batch, height, width, {channels}).")
            _check_sides("images.shape", shape, [side for side in shape[1:3] if side is not None])
        return 127.5 * net(self.scaling(images), training=training) + 127.5

    def a_to_b(self, images):
        """Images of A as images of B.

        Args:
            images: number, `(batch, height, width, channels)`, in [0, 255].

        Returns:
            float32, same shape, in [0, 255].

        Raises:
            ValueError: if the shape is another, or 4 does not divide a side.
        """
        return self._translate(self.generator_ab, images)

    def b_to_a(self, images):
        """Images of B as images of A: as `a_to_b`."""
        return self._translate(self.generator_ba, images)

    def cycle(self, images, domain: str = "a"):
        """Images translated, and translated back.

        Args:
            images: as of `a_to_b`.
            domain: "a" or "b". Where the images are from.

        Returns:
            `(there, back)`: images of the other domain, and of this one.
        """
        if domain not in ("a", "b"):
            raise ValueError(f"domain={domain!r} must be 'a' or 'b'.")
        first, second = (self.a_to_b, self.b_to_a) if domain == "a" else (self.b_to_a, self.a_to_b)
        there = first(images)
        return there, second(there)

    # Training.

    def fit(self, x=None, y=None, *args, **kwargs):
        """As Keras's, with images of A and of B: two arrays of as many images, or a dataset of pairs of batches."""
        for name, images in (("x", x), ("y", y)):
            check_set(name, images)
        shapes = [shape_of(images) for images in (x, y) if hasattr(images, "shape")]
        if len(shapes) == 2 and shapes[0][0] != shapes[1][0]:
            raise ValueError(
                f"x has {shapes[0][0]} images and y has {shapes[1][0]}. Sets of different sizes become batches by "
                "fit(CycleGAN.unpaired(images_a, images_b))."
            )
        return super().fit(x, y, *args, **kwargs)

    def examples(self, data):
        """Both batches in [-1, 1]."""
        images_a, images_b, weights = keras.utils.unpack_x_y_sample_weight(data)
        if images_b is None:
            raise ValueError("y=None: CycleGAN is trained on images of two domains, fit(images_a, images_b).")
        if weights is not None:
            raise ValueError("sample_weight was given, and would not be used.")
        for name, images in (("x", images_a), ("y", images_b)):
            if not shapes_agree(shape_of(images), (None, *self.image_shape)):
                raise ValueError(
                    f"{name} has images of shape {shape_of(images)[1:]}; image_shape is {self.image_shape}."
                )
        if not shapes_agree(shape_of(images_a), shape_of(images_b)):
            raise ValueError(f"x has a batch of {images_a.shape[0]} and y one of {images_b.shape[0]}.")
        return self.scaling(images_a), self.scaling(images_b)

    def generator_loss(self, data, made):
        a, b = data
        if self.identity_weight:
            fake_b, same_b = ops.split(self.generator_ab(ops.concatenate([a, b]), training=True), 2)
            fake_a, same_a = ops.split(self.generator_ba(ops.concatenate([b, a]), training=True), 2)
            identity = _distance(same_a, a) + _distance(same_b, b)
        else:
            fake_b, fake_a = self.generator_ab(a, training=True), self.generator_ba(b, training=True)
            identity = ops.zeros(())
        back_a, back_b = self.generator_ba(fake_b, training=True), self.generator_ab(fake_a, training=True)
        cycle = _distance(back_a, a) + _distance(back_b, b)
        judged = self.discriminator_a(fake_a, training=True), self.discriminator_b(fake_b, training=True)
        adversarial = sum(ops.mean(ops.square(logits - 1.0)) for logits in judged)
        made["fakes"] = ops.stop_gradient(fake_a), ops.stop_gradient(fake_b)
        figures = {"adversarial_loss": adversarial, "cycle_loss": cycle, "identity_loss": identity}
        return adversarial + self.cycle_weight * (cycle + self.identity_weight * identity), figures

    def discriminator_loss(self, data, made):
        histories = self.history_a, self.history_b
        shown = [
            history(fake, *self.draw_exchanges(ops.shape(fake)[0]))
            for history, fake in zip(histories, made["fakes"], strict=True)
        ]
        return self._judge(data, shown)

    def _judge(self, real, fake):
        """The discriminators' loss on real and generated images, and its figures."""
        loss, logits = 0.0, []
        for net, some, others in zip(self.discriminators, real, fake, strict=True):
            logits.append(ops.split(net(ops.concatenate([some, others]), training=True), 2))
            loss += discriminator_objective("least_squares", *logits[-1])
        means = [ops.mean(ops.stack([ops.mean(x) for x in side])) for side in zip(*logits, strict=True)]
        return loss, dict(zip(("real_logit", "fake_logit"), means, strict=True))

    def draw_exchanges(self, count):
        """Which images of a batch are exchanged with a history, and for which of its images: `(batch,)` each."""
        exchange = keras.random.uniform((count,), seed=self.seed_generator) > 0.5
        places = keras.random.randint((count,), 0, max(self.history_size, 1), seed=self.seed_generator)
        return exchange, places

    def train_step(self, data):
        for metric, images in zip(self.batch_ranges, data, strict=False):
            metric.update_state(images)
        return super().train_step(data)

    def test_step(self, data):
        """All losses, without the history."""
        data, made = self.examples(data), {}
        generators, figures = self.generator_loss(data, made)
        discriminators, others = self._judge(data, made["fakes"])
        for name, figure in (figures | others).items():
            self.trackers[name].update_state(figure)
        return self._logged(dict(generator=generators, discriminator=discriminators))

    def _check_first_batch(self):
        for name, metric in zip(("images of A", "images of B"), self.batch_ranges, strict=True):
            lowest, highest, _ = metric.observed()
            check_finite(lowest, highest, name)
            check_pixels(self, lowest, highest, name)

    # Weights and files.

    def load_torch(
        self,
        g_a: Weights | None = None,
        g_b: Weights | None = None,
        d_a: Weights | None = None,
        d_b: Weights | None = None,
    ) -> None:
        """Loads weights in the layout of the authors' code. All are checked before the first one changes.

        Its files are called `latest_net_G_A.pth` and so on. There, `G_A` translates A to B, and `D_A` judges images of
        B. Files of old versions of torch hold statistics of instance normalization, which nothing uses: they are
        dropped, with a warning.

        Args:
            g_a, g_b, d_a, d_b: the `state_dict` of a net as NumPy arrays by name, or the path of a `.safetensors` file.
                None leaves the net as it is.

        Raises:
            ValueError: if none is given; or if entries are missing, unknown or of another shape. The message lists
                them, and no weight is changed.
        """
        nets = {
            "g_a": (g_a, self.generator_ab, generator_layers(self.num_blocks)),
            "g_b": (g_b, self.generator_ba, generator_layers(self.num_blocks)),
            "d_a": (d_a, self.discriminator_b, discriminator_layers(self.discriminator_layers)),
            "d_b": (d_b, self.discriminator_a, discriminator_layers(self.discriminator_layers)),
        }
        entries, weights, dropped = {}, {}, []
        for side, (given, net, names) in nets.items():
            if given is None:
                continue
            given = given if hasattr(given, "keys") else read_safetensors(given)
            for layer, prefix in names.items():
                found = torch_entries(prefix, net.get_layer(layer))
                entries |= {f"{side}: {name}": entry for name, entry in found.items()}
            # A normalization is the module after its convolution.
            norms = {re.sub(r"\d+$", lambda number: str(int(number[0]) + 1), prefix) for prefix in names.values()}
            statistics = {f"{norm}.running_{kind}" for norm in norms for kind in ("mean", "var")}
            dropped += sorted(f"{side}: {name}" for name in given if name in statistics)
            weights |= {f"{side}: {name}": array for name, array in given.items() if name not in statistics}
        if not entries:
            raise ValueError("g_a, g_b, d_a and d_b are all None: give the weights of at least one net.")
        load_entries(entries, weights)
        if dropped:
            warnings.warn(
                f"{len(dropped)} statistics of instance normalization were dropped, which normalizes by those of the "
                f"image itself: {', '.join(dropped[:4])}{', ...' if len(dropped) > 4 else ''}.",
                stacklevel=2,
            )

    def serving_signatures(self, batch_size: int = 1) -> dict[str, Signature]:
        """The entry points of a device: dict of two `Signature`.

        `a_to_b(images: uint8, (batch_size, *image_shape))` returns `{"images": float32, same shape, in [0, 255]}`.
        `b_to_a` goes the other way.
        """
        images = keras.KerasTensor((batch_size, *self.image_shape), "uint8", name="images")
        return {
            "a_to_b": Signature(lambda images: {"images": self.a_to_b(images)}, {"images": images}),
            "b_to_a": Signature(lambda images: {"images": self.b_to_a(images)}, {"images": images}),
        }


def _distance(images, others):
    """The mean absolute difference."""
    return ops.mean(ops.abs(images - others))


def _check_sides(name, shape, sides):
    if any(side % 4 or side < 8 for side in sides):
        raise ValueError(
            f"{name}={tuple(shape)}: 4 must divide both sides, which must be at least 8. The generators halve them "
            "twice, and double them again: another image would come back in another size."
        )
