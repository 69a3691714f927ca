"""Vision Transformer: a transformer encoder over a sequence of image patches.

    z_0 = [class; x_1 E; ...; x_N E] + positions      (eq. 1)
    z'  = z + attention(norm(z))                      (eq. 2)
    z   = z' + mlp(norm(z'))                          (eq. 3)
    y   = head(norm(z_L[class]))                      (eq. 4)

    attention(z) = out([softmax(q_h k_h^T / sqrt(D_h)) v_h for each head h]),   [q, k, v] = z U     (eq. 5 to 8)

References:
- Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv:2010.11929: section 3 and appendix A; B.1 for dropout.
- Abnar, Zuidema 2020, "Quantifying Attention Flow in Transformers", arXiv:2005.00928: eq. 1, attention roll-out.

Deviations from the paper:
- The head is one linear layer, as in fine-tuning; the hidden layer that pre-training puts before it is left out.
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
from keras import layers, ops

from keras_dl.base import Layer
from keras_dl.checks import check_image_shape, check_rate, check_size
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.models.vision.classifier import ImageClassifier
from keras_dl.ops.activations import gelu
from keras_dl.weights import Entry, load_entries, read_safetensors, torch_entries


def attention_rollout(attentions):
    """How much of each input token reaches each output token through all layers, residuals included.

    The heads' mean of each layer is averaged with the identity, which stands for the residual, and the
    layers are multiplied.

    Args:
        attentions: list from the first layer to the last of float, `(batch, heads, tokens, tokens)`,
            rows (queries) that sum to 1.

    Returns:
        float, `(batch, tokens, tokens)`: `[b, i, j]` is the share of input token j in output token i; rows sum to 1.

    Reference: Abnar and Zuidema 2020, eq. 1.
    """
    identity = ops.eye(attentions[0].shape[-1])
    rollout = identity
    for attention in attentions:
        rollout = ops.matmul((ops.mean(ops.cast(attention, "float32"), axis=1) + identity) / 2, rollout)
    return rollout


def resize_positions(positions, grid, align_corners):
    """Learned positions for another grid of patches: the class token's as it is, the others by bicubic interpolation.

    It is the cubic convolution that torch uses (a = -0.75, values repeated past the border).

    Args:
        positions: float, `(1, 1 + side * side, width)`: the class token, then a square grid row by row.
        grid: `(rows, columns)` of the result.
        align_corners: bool. True keeps the outermost positions in place, as torchvision's `interpolate_embeddings`
            does; False the outer edges of the outermost patches, as transformers does.

    Returns:
        NumPy float array, `(1, 1 + rows * columns, width)`.

    Raises:
        ValueError: if the grid of `positions` is not square.
    """
    positions = np.asarray(positions)
    count = positions.shape[1] - 1
    side = math.isqrt(count)
    if side * side != count:
        raise ValueError(f"positions for {count} patches cannot be resized to {grid}: {count} is not a square.")
    if (side, side) == tuple(grid):
        return positions
    square = positions[0, 1:].reshape(side, side, -1).astype("float64")
    down, across = (_cubic_weights(side, n, align_corners) for n in grid)
    resized = np.einsum("rh,cw,hwd->rcd", down, across, square).reshape(1, grid[0] * grid[1], -1)
    return np.concatenate([positions[:, :1], resized.astype(positions.dtype)], axis=1)


def _cubic_weights(size, new_size, align_corners, a=-0.75):
    """Matrix `(new_size, size)` of one-dimensional cubic interpolation (Keys 1981, eq. 4, with free parameter `a`)."""
    if align_corners:
        places = np.arange(new_size) * ((size - 1) / max(new_size - 1, 1))
    else:
        places = (np.arange(new_size) + 0.5) * (size / new_size) - 0.5
    weights = np.zeros((new_size, size))
    for row, place in enumerate(places):
        for tap in range(math.floor(place) - 1, math.floor(place) + 3):
            x = abs(place - tap)
            near = ((a + 2) * x - (a + 3)) * x * x + 1
            far = ((x - 5) * x + 8) * x * a - 4 * a
            weights[row, min(max(tap, 0), size - 1)] += near if x <= 1 else far
    return weights


@keras.saving.register_keras_serializable(package="keras_dl")
class ClassToken(Layer):
    """Puts one learned token, at first zero, before a sequence: `(batch, n, width)` to `(batch, 1 + n, width)`."""

    def build(self, tokens_shape):
        self.token = self.add_weight(shape=(1, 1, tokens_shape[-1]), initializer="zeros", name="token")

    def call(self, tokens):
        return ops.concatenate([ops.zeros_like(tokens[:, :1]) + self.token, tokens], axis=1)


@keras.saving.register_keras_serializable(package="keras_dl")
class LearnedPositions(Layer):
    """Adds one learned vector to each position of `(batch, n, width)`."""

    def build(self, tokens_shape):
        self.positions = self.add_weight(
            shape=(1, *tokens_shape[1:]), initializer=keras.initializers.RandomNormal(stddev=0.02), name="positions"
        )

    def call(self, tokens):
        return tokens + self.positions


@keras.saving.register_keras_serializable(package="keras_dl")
class ViTBlock(Layer):
    """Pre-norm self-attention and MLP, each with a residual (eq. 2 and 3).

    Args:
        num_heads: int. Must divide the token width.
        mlp_dim: int. Width of the MLP's hidden layer.
        dropout_rate: float in [0, 1). After each dense layer but those of queries, keys and values.
        norm_epsilon: float. Added to variances.

    Call arguments:
        tokens: float, `(batch, tokens, width)`.
        training: bool. Whether dropout is on.

    Returns:
        float, `(batch, tokens, width)`.

    Raises:
        ValueError: if `num_heads` does not divide the width.
    """

    def __init__(self, num_heads, mlp_dim, dropout_rate=0.0, norm_epsilon=1e-6, **kwargs):
        super().__init__(**kwargs)
        self.num_heads = num_heads
        self.mlp_dim = mlp_dim
        self.dropout_rate = dropout_rate
        self.norm_epsilon = norm_epsilon

    def build(self, tokens_shape):
        width = tokens_shape[-1]
        if width % self.num_heads:
            raise ValueError(f"num_heads={self.num_heads} must divide the token width {width}.")
        shared = dict(dtype=self.dtype_policy)
        self.attention_norm = LayerNormalization(epsilon=self.norm_epsilon, name="attention_norm", **shared)
        self.query_key_value = layers.Dense(3 * width, name="query_key_value", **shared)
        self.out = layers.Dense(width, name="out", **shared)
        self.mlp_norm = LayerNormalization(epsilon=self.norm_epsilon, name="mlp_norm", **shared)
        self.expand = layers.Dense(self.mlp_dim, name="expand", **shared)
        self.project = layers.Dense(width, name="project", **shared)
        self.dropout = layers.Dropout(self.dropout_rate, name="dropout", **shared)
        for layer in (self.attention_norm, self.query_key_value, self.out, self.mlp_norm, self.expand):
            layer.build(tokens_shape)
        self.project.build((*tokens_shape[:-1], self.mlp_dim))

    def attend(self, tokens):
        """The attention of eq. 2.

        Returns:
            Two floats: what is added to the tokens, `(batch, tokens, width)`, and the attention
            weights, `(batch, heads, queries, keys)`, whose rows sum to 1.
        """
        width = tokens.shape[-1]
        head_dim = width // self.num_heads

        def heads(x):  # (batch, heads, tokens, head_dim); no tensor of rank 5, for delegates refuse them
            return ops.transpose(ops.reshape(x, (-1, x.shape[1], self.num_heads, head_dim)), (0, 2, 1, 3))

        query, key, value = map(heads, ops.split(self.query_key_value(self.attention_norm(tokens)), 3, axis=-1))
        scores = ops.matmul(query * head_dim**-0.5, ops.transpose(key, (0, 1, 3, 2)))
        weights = ops.cast(ops.softmax(ops.cast(scores, "float32")), tokens.dtype)
        attended = ops.transpose(ops.matmul(weights, value), (0, 2, 1, 3))
        return self.out(ops.reshape(attended, (-1, *tokens.shape[1:]))), weights

    def call(self, tokens, training=False):
        tokens = tokens + self.dropout(self.attend(tokens)[0], training=training)
        hidden = gelu(self.expand(self.mlp_norm(tokens)), training)
        hidden = self.project(self.dropout(hidden, training=training))
        return tokens + self.dropout(hidden, training=training)


# Table 1 of the paper. With 1,000 classes at 224x224: 86,567,656, 88,224,232 and 304,326,632 parameters.
PRESETS = {
    "vit_b16": dict(patch_size=16, hidden_dim=768, mlp_dim=3072, num_layers=12, num_heads=12),
    "vit_b32": dict(patch_size=32, hidden_dim=768, mlp_dim=3072, num_layers=12, num_heads=12),
    "vit_l16": dict(patch_size=16, hidden_dim=1024, mlp_dim=4096, num_layers=24, num_heads=16),
}


@keras.saving.register_keras_serializable(package="keras_dl")
class ViT(ImageClassifier):
    """Vision Transformer classifier.

    Args:
        image_shape: `(height, width, channels)`. `patch_size` must divide both sides.
        num_classes: int.
        patch_size: int, pixels. Side of a square patch.
        hidden_dim: int. Width of a token.
        mlp_dim: int. Width of each MLP's hidden layer.
        num_layers: int. Encoder blocks.
        num_heads: int. Must divide `hidden_dim`.
        dropout_rate: float in [0, 1).
        norm_epsilon: float. Added to variances; transformers' checkpoints were trained with 1e-12.
        mean: float, or one a channel, in [0, 255] pixels. With `std`, it puts pixels into [-1, 1], as the paper's
            code does.
        std: float, or one a channel, in [0, 255] pixels.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits, at first all 0.

    Raises:
        ValueError: if `patch_size` does not divide the image, or `num_heads` the width; it says both.

    Example:

    >>> model = ViT((32, 32, 3), 10, patch_size=8, hidden_dim=64, mlp_dim=128, num_layers=2, num_heads=4)
    >>> model(keras.ops.zeros((1, 32, 32, 3))).shape
    TensorShape([1, 10])
    >>> model.attention_map(keras.ops.zeros((1, 32, 32, 3))).shape
    TensorShape([1, 4, 4])
    """

    presets = PRESETS

    def __init__(
        self,
        image_shape=(224, 224, 3),
        num_classes=1000,
        patch_size=16,
        hidden_dim=768,
        mlp_dim=3072,
        num_layers=12,
        num_heads=12,
        dropout_rate=0.0,
        norm_epsilon=1e-6,
        mean=127.5,
        std=127.5,
        dtype=None,
        **kwargs,
    ):
        height, width, _ = image_shape = check_image_shape("image_shape", image_shape)
        num_classes = check_size("num_classes", num_classes)
        patch_size = check_size("patch_size", patch_size)
        hidden_dim = check_size("hidden_dim", hidden_dim)
        mlp_dim = check_size("mlp_dim", mlp_dim)
        num_layers = check_size("num_layers", num_layers)
        num_heads = check_size("num_heads", num_heads)
        dropout_rate = check_rate("dropout_rate", dropout_rate)
        if height % patch_size or width % patch_size:
            raise ValueError(f"patch_size={patch_size} must divide the sides of image_shape={image_shape}.")
        if hidden_dim % num_heads:
            raise ValueError(f"num_heads={num_heads} must divide hidden_dim={hidden_dim}.")

        images = keras.Input(image_shape, name="images")
        pixels = PixelNormalization(mean, std, dtype=dtype, name="pixels")(images)
        patches = layers.Conv2D(
            hidden_dim, patch_size, patch_size, kernel_initializer="lecun_normal", dtype=dtype, name="patches"
        )(pixels)
        tokens = layers.Reshape((-1, hidden_dim), dtype=dtype)(patches)  # (batch, patches, hidden_dim)
        tokens = ClassToken(dtype=dtype, name="class_token")(tokens)
        tokens = LearnedPositions(dtype=dtype, name="positions")(tokens)
        tokens = layers.Dropout(dropout_rate, dtype=dtype, name="dropout")(tokens)
        for i in range(num_layers):
            tokens = ViTBlock(num_heads, mlp_dim, dropout_rate, norm_epsilon, dtype=dtype, name=f"block_{i}")(tokens)
        features = LayerNormalization(epsilon=norm_epsilon, dtype=dtype, name="norm")(tokens[:, 0])
        logits = layers.Dense(num_classes, kernel_initializer="zeros", dtype=dtype, name="head")(features)
        super().__init__(inputs=images, outputs=logits, dtype=dtype, **kwargs)

        self.image_shape = image_shape
        self.num_classes = num_classes
        self.patch_size = patch_size
        self.hidden_dim = hidden_dim
        self.mlp_dim = mlp_dim
        self.num_layers = num_layers
        self.num_heads = num_heads
        self.dropout_rate = dropout_rate
        self.norm_epsilon = norm_epsilon
        self.mean = self.get_layer("pixels").mean
        self.std = self.get_layer("pixels").std

    @property
    def grid(self):
        """`(rows, columns)` of patches."""
        return self.image_shape[0] // self.patch_size, self.image_shape[1] // self.patch_size

    @property
    def _blocks(self):
        return [self.get_layer(f"block_{i}") for i in range(self.num_layers)]

    def attentions(self, images):
        """The attention weights of every block, in order: list of float, `(batch, heads, tokens, tokens)`."""
        blocks = self._blocks
        states = keras.Model(self.input, [block.input for block in blocks])(images, training=False)
        return [block.attend(tokens)[1] for block, tokens in zip(blocks, keras.tree.flatten(states), strict=True)]

    def attention_map(self, images):
        """Where the class token looks, by attention roll-out.

        Args:
            images: as the model takes them.

        Returns:
            float, `(batch, rows, columns)`: each patch's share in the last class token, at least 0. The sum is 1 less
            the class token's share in itself.
        """
        return ops.reshape(attention_rollout(self.attentions(images))[:, 0, 1:], (-1, *self.grid))

    def resized(self, image_shape):
        """A new model for images of another size, with this one's weights and its positions interpolated.

        Args:
            image_shape: `(height, width, channels)`.

        Returns:
            `ViT`.

        Raises:
            ValueError: if `patch_size` does not divide the new sides, or this model's images are not square.
        """
        model = type(self)(**(self.get_config() | dict(image_shape=image_shape)))
        for old, new in zip(self.weights, model.weights, strict=True):
            if old is self.get_layer("positions").positions:
                new.assign(resize_positions(old, model.grid, align_corners=False))
            else:
                new.assign(old)
        return model

    def load_torchvision(self, weights):
        """Takes the weights of torchvision's VisionTransformer; positions for another size are interpolated.

        torchvision's checkpoints want pixels normalised by `keras_dl.layers.pixels.IMAGENET_MEAN` and `IMAGENET_STD`.

        Args:
            weights: mapping from torchvision's names to NumPy arrays, or the path of a `.safetensors` file.

        Raises:
            ValueError: if entries are missing, unknown or of another shape; the message lists all of
                them, and the model stays as it was.
        """
        modules = {"conv_proj": "patches", "encoder.ln": "norm", "heads.head": "head"}
        block = {"ln_1": "attention_norm", "self_attention.out_proj": "out", "ln_2": "mlp_norm"}
        block |= {"mlp.0": "expand", "mlp.3": "project"}
        entries = self._torch_entries(modules, "encoder.layers.encoder_layer_{}", block)
        for i, layer in enumerate(self._blocks):
            kernel, bias = layer.query_key_value.weights
            prefix = f"encoder.layers.encoder_layer_{i}.self_attention.in_proj"
            entries[f"{prefix}_weight"] = Entry(kernel, tuple(kernel.shape)[::-1], np.transpose)
            entries[f"{prefix}_bias"] = Entry(bias, tuple(bias.shape), np.asarray)
        self._load(entries, weights, "class_token", "encoder.pos_embedding", align_corners=True)

    def load_transformers(self, weights):
        """Takes the weights of transformers' ViTForImageClassification; positions for another size are interpolated.

        Google's checkpoints want the default `mean` and `std`, and `norm_epsilon=1e-12`.

        Args:
            weights: mapping from transformers' names to NumPy arrays, or the path of a `.safetensors` file. Names of
                published files (`vit.encoder.layer.0.`) and of version 5's modules (`vit.layers.0.`) both will do.

        Raises:
            ValueError: if entries are missing, unknown or of another shape; the message lists all of
                them, and the model stays as it was.
        """
        weights = _as_mapping(weights)
        modules = {
            "vit.embeddings.patch_embeddings.projection": "patches",
            "vit.layernorm": "norm",
            "classifier": "head",
        }
        block = {"layernorm_before": "attention_norm", "layernorm_after": "mlp_norm"}
        if any(name.startswith("vit.encoder.layer.") for name in weights):
            prefix, attention = "vit.encoder.layer.{}", "attention.attention.{}"
            block |= {"attention.output.dense": "out", "intermediate.dense": "expand", "output.dense": "project"}
            projections = ("query", "key", "value")
        else:
            prefix, attention = "vit.layers.{}", "attention.{}"
            block |= {"attention.o_proj": "out", "mlp.fc1": "expand", "mlp.fc2": "project"}
            projections = ("q_proj", "k_proj", "v_proj")
        entries = self._torch_entries(modules, prefix, block)
        width = self.hidden_dim
        for i, layer in enumerate(self._blocks):
            kernel, bias = layer.query_key_value.weights
            for j, projection in enumerate(projections):
                name = f"{prefix.format(i)}.{attention.format(projection)}"
                columns = slice(j * width, (j + 1) * width)
                entries[f"{name}.weight"] = Entry(_Columns(kernel, columns), (width, width), np.transpose)
                entries[f"{name}.bias"] = Entry(_Columns(bias, columns), (width,), np.asarray)
        names = "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"
        self._load(entries, weights, *names, align_corners=False)

    def _torch_entries(self, modules, prefix, block):
        """Entries of the layers that torch and this model cut in the same way."""
        entries = {}
        for name, ours in modules.items():
            entries |= torch_entries(name, self.get_layer(ours))
        for i, layer in enumerate(self._blocks):
            for name, ours in block.items():
                entries |= torch_entries(f"{prefix.format(i)}.{name}", getattr(layer, ours))
        return entries

    def _load(self, entries, weights, token_name, positions_name, align_corners):
        weights = _as_mapping(weights)
        token, positions = self.get_layer("class_token").token, self.get_layer("positions").positions
        shape = np.shape(weights.get(positions_name, positions))
        resizable = (
            len(shape) == 3
            and (shape[0], shape[2]) == (1, self.hidden_dim)
            and math.isqrt(shape[1] - 1) ** 2 == shape[1] - 1
        )
        entries[token_name] = Entry(token, tuple(token.shape), np.asarray)
        entries[positions_name] = Entry(
            positions,
            shape if resizable else tuple(positions.shape),
            lambda array: resize_positions(array, self.grid, align_corners) if resizable else array,
        )
        load_entries(entries, weights)


class _Columns(NamedTuple):
    """Some columns of a variable, assigned as if they were one."""

    variable: keras.Variable
    columns: slice

    def assign(self, value):
        array = self.variable.numpy()
        array[..., self.columns] = value
        self.variable.assign(array)


def _as_mapping(weights):
    return weights if isinstance(weights, Mapping) else read_safetensors(weights)
