"""Vision Transformer: a transformer encoder over a sequence of image patches.

    z_0 = [class; x_1 E; ...; x_N E] + positions      (eq. 1)
    z'  = z + attention(norm(z))                      (eq. 2)
    z   = z' + mlp(norm(z'))                          (eq. 3)
    y   = head(norm(z_L[class]))                      (eq. 4)

    attention(z) = out([softmax(q_h k_h^T / sqrt(D_h)) v_h for each head h]),   [q, k, v] = z U     (eq. 5 to 8)

The block is `keras_dl.layers.transformer.TransformerBlock`, pre-norm with exact GELU. Weights start as in the authors'
code: matrices of the blocks at Glorot's uniform distribution, patches at LeCun's normal one, positions at a normal one
with a deviation of 0.02, biases of the MLPs at one of 1e-6, other biases, the class token and the head at 0.

References:
- Dosovitskiy et al. 2020, "An Image is Worth 16x16 Words", arXiv:2010.11929: section 3 and appendix A; B.1 for dropout.
- Abnar, Zuidema 2020, "Quantifying Attention Flow in Transformers", arXiv:2005.00928: eq. 1, attention roll-out.

Deviations from the paper:
- The head is one linear layer, as in fine-tuning. The hidden layer that pre-training adds is left out.
"""

import math
from collections.abc import Mapping

import keras
import numpy as np
from keras import layers, ops

from keras_dl.arguments import ImageShape, PerChannel, Positive, PositivePerChannel, Rate, Size, arguments
from keras_dl.base import Layer
from keras_dl.checks import check_heads
from keras_dl.compat import saved_path
from keras_dl.layers.attention import MultiHeadAttention
from keras_dl.layers.norm import LayerNormalization
from keras_dl.layers.pixels import PixelNormalization
from keras_dl.layers.transformer import TransformerBlock
from keras_dl.models.vision.classifier import ImageClassifier, logits_of
from keras_dl.weights import Entry, Weights, load_entries, read_safetensors, stacked, torch_entries


def attention_rollout(attentions: list):
    """The share of each input token in each output token through all layers, residuals included.

    The mean over the heads of each layer is averaged with the identity, which represents the residual. Then the layers
    are multiplied.

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
        mean = ops.mean(ops.cast(attention, "float32"), axis=1)  # (batch, queries, keys)
        rollout = ops.matmul((mean + identity) / 2, rollout)
    return rollout


def resize_positions(
    positions, grid: tuple[int, int], align_corners: bool, old_grid: tuple[int, int] | None = None
) -> np.ndarray:
    """Learned positions for another grid of patches, by bicubic interpolation. The class token's stay as they are.

    It is the cubic convolution of torch (a = -0.75, border values repeated).

    Args:
        positions: float, `(1, 1 + patches, width)`: the class token, then a grid row by row.
        grid: `(rows, columns)` of the result.
        align_corners: bool. True keeps the centers of the outermost patches in place, as torchvision's
            `interpolate_embeddings` does. False keeps their outer edges in place, as transformers does.
        old_grid: `(rows, columns)` of `positions`. None if it is not known: then it is `grid`, if that has as many
            patches, else a square.

    Returns:
        NumPy float array, `(1, 1 + rows * columns, width)`.

    Raises:
        ValueError: if the grid of `positions` is not known, and their number is not a square.
    """
    positions = np.asarray(positions)
    count = positions.shape[1] - 1
    if old_grid is None:
        side = math.isqrt(count)
        old_grid = grid if grid[0] * grid[1] == count else (side, side)
        if math.prod(old_grid) != count:
            raise ValueError(f"positions for {count} patches cannot be resized to {grid}: {count} is not a square.")
    if tuple(old_grid) == tuple(grid):
        return positions
    old = positions[0, 1:].reshape(*old_grid, -1).astype("float64")
    # (rows, old rows) and (columns, old columns)
    down, across = (_cubic_weights(n, m, align_corners) for n, m in zip(old_grid, grid, strict=True))
    resized = np.einsum("rh,cw,hwd->rcd", down, across, old).reshape(1, grid[0] * grid[1], -1)
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


class _Attention(MultiHeadAttention):
    """Multi-head attention that also reads `.keras` files of version 0.1.

    There, the block held a dense layer `query_key_value` and a dense layer `out` in its place.
    """

    def load_own_variables(self, store):
        block = (saved_path(store) or "").rpartition("/")[0]
        if len(store) or not block or not store.has_path(f"{block}/query_key_value"):
            super().load_own_variables(store)
            return
        variables = [np.split(store.get(f"{block}/query_key_value")[name], 3, axis=-1) for name in ("0", "1")]
        values = [array for pair in zip(*variables, strict=True) for array in pair]  # kernel and bias of each
        values += [store.get(f"{block}/out")[name] for name in ("0", "1")]
        for variable, array in zip(self.weights, values, strict=True):
            variable.assign(array.reshape(variable.shape))


@keras.saving.register_keras_serializable(package="keras_dl")
class ViTBlock(TransformerBlock):
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
        ValueError: if an argument is out of its range, or `num_heads` does not divide the width.

    Example:

    >>> ViTBlock(num_heads=2, mlp_dim=16)(ops.ones((1, 5, 8))).shape
    TensorShape([1, 5, 8])
    """

    attention_class = _Attention

    @arguments
    def __init__(
        self, num_heads: Size, mlp_dim: Size, dropout_rate: Rate = 0.0, norm_epsilon: Positive = 1e-6, **kwargs
    ):
        options = dict(activation="gelu", norm_first=True, mlp_dropout=True)
        options["mlp_bias_initializer"] = keras.initializers.RandomNormal(stddev=1e-6)
        super().__init__(num_heads, mlp_dim, dropout_rate=dropout_rate, norm_epsilon=norm_epsilon, **options, **kwargs)


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
        num_classes: int. None for a model without a head, which returns features.
        patch_size: int, pixels. Side of a square patch.
        hidden_dim: int. Width of a token.
        mlp_dim: int. Width of each MLP's hidden layer.
        num_layers: int. Number of encoder blocks.
        num_heads: int. Must divide `hidden_dim`.
        dropout_rate: float in [0, 1). Dropout of the tokens, of each sublayer's result and of the MLPs' hidden layers.
        norm_epsilon: float. Added to variances; transformers' checkpoints were trained with 1e-12.
        mean: float, or one per channel, in units of [0, 255] pixels. Subtracted from the image.
        std: float, or one per channel, in units of [0, 255] pixels. Divides it. The defaults put pixels into [-1, 1],
            as the paper's code does.

    Call arguments:
        images: `(batch, height, width, channels)`, raw pixels in [0, 255].

    Returns:
        float, `(batch, num_classes)`: logits, at first all 0. Without a head: features, `(batch, hidden_dim)`.

    Raises:
        ValueError: if an argument is out of its range, `patch_size` does not divide the sides of the image, or
            `num_heads` does not divide `hidden_dim`.

    Example:

    >>> model = ViT((32, 32, 3), 10, patch_size=8, hidden_dim=64, mlp_dim=128, num_layers=2, num_heads=4)
    >>> model(keras.ops.zeros((1, 32, 32, 3))).shape
    TensorShape([1, 10])
    >>> model.attention_map(keras.ops.zeros((1, 32, 32, 3))).shape
    TensorShape([1, 4, 4])
    """

    presets = PRESETS

    @arguments
    def __init__(
        self,
        image_shape: ImageShape = (224, 224, 3),
        num_classes: Size | None = 1000,
        patch_size: Size = 16,
        hidden_dim: Size = 768,
        mlp_dim: Size = 3072,
        num_layers: Size = 12,
        num_heads: Size = 12,
        dropout_rate: Rate = 0.0,
        norm_epsilon: Positive = 1e-6,
        mean: PerChannel = 127.5,
        std: PositivePerChannel = 127.5,
        dtype=None,
        **kwargs,
    ):
        if image_shape[0] % patch_size or image_shape[1] % patch_size:
            raise ValueError(f"patch_size={patch_size} must divide the sides of image_shape={image_shape}.")
        check_heads(num_heads, hidden_dim)

        images = keras.Input(image_shape, name="images")
        pixels = PixelNormalization(mean, std, name="pixels")(images)
        patches = layers.Conv2D(  # (batch, rows, columns, hidden_dim)
            hidden_dim, patch_size, patch_size, kernel_initializer="lecun_normal", name="patches"
        )(pixels)
        tokens = layers.Reshape((-1, hidden_dim))(patches)  # (batch, patches, hidden_dim)
        tokens = ClassToken(name="class_token")(tokens)  # (batch, 1 + patches, hidden_dim)
        tokens = LearnedPositions(name="positions")(tokens)
        tokens = layers.Dropout(dropout_rate, name="dropout")(tokens)
        for i in range(num_layers):
            tokens = ViTBlock(num_heads, mlp_dim, dropout_rate, norm_epsilon, name=f"block_{i}")(tokens)
        features = LayerNormalization(epsilon=norm_epsilon, name="features")(tokens[:, 0])  # (batch, hidden_dim)
        logits = logits_of(features, num_classes, kernel_initializer="zeros")
        super().__init__(inputs=images, outputs=logits, **kwargs)

    @property
    def grid(self) -> tuple[int, int]:
        """`(rows, columns)` of patches."""
        return self.image_shape[0] // self.patch_size, self.image_shape[1] // self.patch_size

    @property
    def _blocks(self):
        return [self.get_layer(f"block_{i}") for i in range(self.num_layers)]

    def attentions(self, images) -> list:
        """The attention weights of every block, in order: list of float, `(batch, heads, tokens, tokens)`."""
        blocks = self._blocks
        states = keras.Model(self.input, [block.input for block in blocks])(images, training=False)
        states = keras.tree.flatten(states)  # each (batch, tokens, hidden_dim)
        return [block.attention_weights(tokens) for block, tokens in zip(blocks, states, strict=True)]

    def attention_map(self, images):
        """Which patches the class token attends to, by attention roll-out.

        Args:
            images: as the model takes them.

        Returns:
            float, `(batch, rows, columns)`: each patch's share in the last class token, at least 0. The sum is 1 minus
            the class token's share in itself.
        """
        shares = attention_rollout(self.attentions(images))[:, 0, 1:]  # (batch, patches)
        return ops.reshape(shares, (-1, *self.grid))

    def resized(self, image_shape) -> "ViT":
        """A new model for images of another size, with the weights of this one. Positions are interpolated.

        Args:
            image_shape: `(height, width, channels)`.

        Returns:
            `ViT`.

        Raises:
            ValueError: if `patch_size` does not divide the new sides.
        """
        model = self.from_config(self.get_config() | dict(image_shape=image_shape))
        for old, new in zip(self.weights, model.weights, strict=True):
            if old is self.get_layer("positions").positions:
                new.assign(resize_positions(old, model.grid, align_corners=False, old_grid=self.grid))
            else:
                new.assign(old)
        return model

    def load_torchvision(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of torchvision's VisionTransformer. Positions of square images are interpolated.

        torchvision's checkpoints need `mean=IMAGENET_MEAN` and `std=IMAGENET_STD`, of `keras_dl.layers.pixels`.

        Args:
            weights: mapping from torchvision's names to NumPy arrays, or the path of a `.safetensors` file.
            head: bool. Whether the last layer is loaded too. False leaves it as it is, whatever classes `weights` has.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and the
                model keeps its weights.
        """
        modules = {"conv_proj": "patches", "encoder.ln": "features", "heads.head": "head"}
        block = {"ln_1": "attention_norm", "ln_2": "mlp_norm", "mlp.0": "expand", "mlp.3": "project"}
        attention = {"output": "self_attention.out_proj"}
        without = self._without(head, "heads.head")
        entries = self._torch_entries(modules, "encoder.layers.encoder_layer_{}", block, attention, without)
        for i, layer in enumerate(self._blocks):
            prefix = f"encoder.layers.encoder_layer_{i}.self_attention.in_proj"
            parts = layer.attention.torch_entries({name: name for name in ("query", "key", "value")})
            for kind in ("weight", "bias"):
                entries[f"{prefix}_{kind}"] = stacked([x for name, x in parts.items() if name.endswith(kind)])
        self._load(entries, weights, "class_token", "encoder.pos_embedding", True, without)

    def load_transformers(self, weights: Weights, head: bool = True) -> None:
        """Takes the weights of transformers' ViTForImageClassification. Positions of square images are interpolated.

        Google's checkpoints need the default `mean` and `std`, and `norm_epsilon=1e-12`.

        Args:
            weights: mapping from transformers' names to NumPy arrays, or the path of a `.safetensors` file. Names may
                be those of published files (`vit.encoder.layer.0.`) or of version 5's modules (`vit.layers.0.`).
            head: bool. Whether the last layer is loaded too. False leaves it as it is, whatever classes `weights` has.

        Raises:
            ValueError: if entries are missing, unknown or of another shape. The message lists all of them, and the
                model keeps its weights.
        """
        weights = _as_mapping(weights)
        modules = {
            "vit.embeddings.patch_embeddings.projection": "patches",
            "vit.layernorm": "features",
            "classifier": "head",
        }
        block = {"layernorm_before": "attention_norm", "layernorm_after": "mlp_norm"}
        if any(name.startswith("vit.encoder.layer.") for name in weights):
            prefix = "vit.encoder.layer.{}"
            block |= {"intermediate.dense": "expand", "output.dense": "project"}
            attention = {name: f"attention.attention.{name}" for name in ("query", "key", "value")}
            attention["output"] = "attention.output.dense"
        else:
            prefix = "vit.layers.{}"
            block |= {"mlp.fc1": "expand", "mlp.fc2": "project"}
            attention = {name: f"attention.{name[0]}_proj" for name in ("query", "key", "value", "output")}
        without = self._without(head, "classifier")
        entries = self._torch_entries(modules, prefix, block, attention, without)
        names = "vit.embeddings.cls_token", "vit.embeddings.position_embeddings"
        self._load(entries, weights, *names, False, without)

    def _torch_entries(self, modules, prefix, block, attention, without):
        """Entries of the layers that are also layers in torch: those of the model, of its blocks, and projections."""
        entries = {}
        for name, ours in modules.items():
            if name not in without:
                entries |= torch_entries(name, self.get_layer(ours))
        for i, layer in enumerate(self._blocks):
            for name, ours in block.items():
                entries |= torch_entries(f"{prefix.format(i)}.{name}", getattr(layer, ours))
            names = {ours: f"{prefix.format(i)}.{name}" for ours, name in attention.items()}
            entries |= layer.attention.torch_entries(names)
        return entries

    def _load(self, entries, weights, token_name, positions_name, align_corners, without):
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
        load_entries(entries, weights, without)


def _as_mapping(weights):
    return weights if isinstance(weights, Mapping) else read_safetensors(weights)
