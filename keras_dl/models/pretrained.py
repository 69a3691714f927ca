"""Published models by their folder or their name on the Hugging Face Hub: class and sizes follow from the config.

A family is a kind of config, as `model_type` of transformers or `_class_name` of diffusers says. A config that asks for
what the class does not compute is an error, for the outputs would be others than the published ones.
"""

import os
import re
from collections.abc import Callable
from typing import NamedTuple

import keras

from keras_dl.checkpoints import Checkpoint, read_checkpoint
from keras_dl.files import FileError
from keras_dl.models.detection.detr import DETR
from keras_dl.models.generative.ddpm import DDPM
from keras_dl.models.sequence.transformer_encoder import TransformerEncoder
from keras_dl.models.sequence.transformer_lm import TransformerLM
from keras_dl.models.vision.convnext import ConvNeXt
from keras_dl.models.vision.resnet import ResNet
from keras_dl.models.vision.vit import ViT


class Family(NamedTuple):
    """How published models of a kind are read.

    Attributes:
        build: `build(checkpoint, overrides)` returns the model without its weights.
        load: `load(model, weights, head)` gives it the weights; `head=False` for those of a head of other classes.
    """

    build: Callable
    load: Callable


def from_pretrained(source: str | os.PathLike, *, revision: str | None = None, **overrides) -> keras.Model:
    """A published model with its weights.

    Args:
        source: the path of a folder with `config.json` and `model.safetensors`, or an id on the Hugging Face Hub,
            `"owner/name"`. Shards with their index are read, too.
        revision: str. Branch, tag or commit on the Hub; None for its main branch.
        **overrides: arguments of the class, which win over the config. `num_classes=10` gives a classifier a new head
            of that many classes, `num_classes=None` none: it then returns features.

    Returns:
        `ResNet`, `ViT`, `ConvNeXt`, `DETR`, `TransformerEncoder` (BERT), `TransformerLM` (GPT-2) or `DDPM` (diffusers'
        `UNet2DModel`), not compiled. Pixels are raw in [0, 255]: `preprocessor_config.json` sets mean and std.

    Raises:
        ValueError: if the source is not there, its config is of another kind of model or asks for what the class does
            not compute, weights do not fit, or an argument is wrong. Files are named.
        ImportError: if an id is given and huggingface_hub is not installed: `pip install 'keras_dl[hub]'`.

    Example::

        model = keras_dl.from_pretrained("google/vit-base-patch16-224", num_classes=10)
        model.backbone.trainable = False
    """
    checkpoint = read_checkpoint(source, revision)
    kind = checkpoint.config.get("model_type") or checkpoint.config.get("_class_name")
    if kind not in FAMILIES:
        raise FileError(
            checkpoint.folder / "config.json", f"is of a {kind!r}; there are: {', '.join(sorted(FAMILIES))}."
        )
    family = FAMILIES[kind]
    model = family.build(checkpoint, overrides)
    family.load(model, checkpoint.weights, "num_classes" not in overrides)
    return model


class _Config:
    """A config whose values are asked for by name, with errors that name the file."""

    def __init__(self, checkpoint: Checkpoint):
        self.values, self.path = checkpoint.config, checkpoint.folder / "config.json"

    def __call__(self, name, default=None):
        value = self.values.get(name, default)
        if value is None:
            raise FileError(self.path, f"has no {name!r}.")
        return value

    def only(self, model, **allowed):
        """Refuses values other than those that the class computes: a tuple each, the first for a missing one."""
        for name, choices in allowed.items():
            value = self.values.get(name, choices[0])
            if value not in choices:
                some = " or ".join(map(repr, choices))
                raise FileError(self.path, f"has {name}={value!r}; {model} computes {some}.")


def _image_side(size):
    return (size, size) if isinstance(size, int) else tuple(size)


def _pixels(checkpoint):
    """Mean and std in units of [0, 255], as the preprocessor has them."""
    known = {"image_mean": "mean", "image_std": "std"}
    given = {ours: checkpoint.preprocessor.get(theirs) for theirs, ours in known.items()}
    return {name: tuple(255.0 * x for x in value) for name, value in given.items() if value is not None}


def _classes(checkpoint, name):
    """`num_classes` of a classifier whose last layer is called so; None without one."""
    weight = checkpoint.weights.get(f"{name}.weight")
    return dict(num_classes=None if weight is None else len(weight))


def _with_prefix(weights, prefix, *others):
    """The names of a model with a head, for the weights of one without: they lack the prefix."""
    if any(name.startswith(prefix) for name in weights):
        return weights
    return {name if name.startswith(others) else f"{prefix}{name}": array for name, array in weights.items()}


def _vit(checkpoint, overrides):
    config = _Config(checkpoint)
    config.only("ViT", hidden_act=("gelu",), qkv_bias=(True,))
    height, width = _image_side(config("image_size", 224))
    return ViT(
        **dict(
            image_shape=(height, width, config("num_channels", 3)),
            patch_size=config("patch_size", 16),
            hidden_dim=config("hidden_size"),
            mlp_dim=config("intermediate_size"),
            num_layers=config("num_hidden_layers"),
            num_heads=config("num_attention_heads"),
            norm_epsilon=config("layer_norm_eps", 1e-12),
        )
        | _classes(checkpoint, "classifier")
        | _pixels(checkpoint)
        | overrides
    )


def _load_vit(model, weights, head):
    weights = _with_prefix(weights, "vit.", "classifier.")
    # The pooler is of pre-training: no classifier uses it.
    model.load_transformers({k: x for k, x in weights.items() if not k.startswith("vit.pooler.")}, head=head)


def _convnext(checkpoint, overrides):
    config = _Config(checkpoint)
    config.only("ConvNeXt", hidden_act=("gelu",))
    height, width = _image_side(config("image_size", 224))
    return ConvNeXt(
        **dict(
            image_shape=(height, width, config("num_channels", 3)),
            num_blocks=config("depths"),
            filters=config("hidden_sizes"),
            patch_size=config("patch_size", 4),
            stochastic_depth_rate=config("drop_path_rate", 0.0),
        )
        | _classes(checkpoint, "classifier")
        | _pixels(checkpoint)
        | overrides
    )


def _load_convnext(model, weights, head):
    model.load_transformers(_with_prefix(weights, "convnext.", "classifier."), head=head)


def _resnet(checkpoint, overrides):
    config = _Config(checkpoint)
    config.only("ResNet", hidden_act=("relu",), downsample_in_first_stage=(False,), downsample_in_bottleneck=(False,))
    block, widths = config("layer_type", "bottleneck"), config("hidden_sizes")
    expansion = 4 if block == "bottleneck" else 1
    filters = tuple(width // expansion for width in widths)
    if config("embedding_size", filters[0]) != filters[0]:
        raise FileError(config.path, f"has embedding_size={config('embedding_size')}; ResNet computes {filters[0]}.")
    return ResNet(
        **dict(
            image_shape=(224, 224, config("num_channels", 3)),  # a ResNet takes any; its config has none
            num_blocks=config("depths"),
            filters=filters,
            block=block,
        )
        | _classes(checkpoint, "classifier.1")
        | _pixels(checkpoint)
        | overrides
    )


def _load_resnet(model, weights, head):
    model.load_transformers(_with_prefix(weights, "resnet.", "classifier."), head=head)


def _detr(checkpoint, overrides):
    config = _Config(checkpoint)
    config.only("DETR", activation_function=("relu",), position_embedding_type=("sine",))
    for name in ("ffn_dim", "attention_heads"):
        config.only("DETR", **{f"decoder_{name}": (config(f"encoder_{name}"),)})
    body = _resnet_body(checkpoint.config.get("backbone_config"), config)
    return DETR(
        **dict(
            num_classes=len(checkpoint.weights["class_labels_classifier.bias"]) - 1,
            dilated=(len(body["num_blocks"]),) if config("dilation", False) else (),
            frozen_norms=True,
            num_queries=config("num_queries"),
            hidden_dim=config("d_model"),
            num_heads=config("encoder_attention_heads"),
            mlp_dim=config("encoder_ffn_dim"),
            num_encoder_layers=config("encoder_layers"),
            num_decoder_layers=config("decoder_layers"),
            dropout_rate=config("dropout", 0.1),
            class_cost=config("class_cost", 1.0),
            l1_cost=config("bbox_cost", 5.0),
            giou_cost=config("giou_cost", 2.0),
            l1_loss=config("bbox_loss_coefficient", 5.0),
            giou_loss=config("giou_loss_coefficient", 2.0),
            no_object_weight=config("eos_coefficient", 0.1),
        )
        | body
        | _pixels(checkpoint)
        | overrides
    )


def _resnet_body(given, config):
    """Blocks and filters of a backbone, by a config of its own or, of timm's, by its name."""
    if not given:
        name = config("backbone")
        known = [x for x in ResNet.presets if re.fullmatch(r"resnet(18|34|50|101)", x)]
        if name not in known:
            raise FileError(config.path, f"has backbone={name!r}; DETR has one of {', '.join(known)}.")
        return {key: ResNet.presets[name][key] for key in ("num_blocks", "block")}
    if given.get("model_type", "resnet") != "resnet":
        raise FileError(config.path, f"has a backbone_config of a {given['model_type']!r}; DETR has a 'resnet'.")
    block = given.get("layer_type", "bottleneck")
    filters = tuple(width // (4 if block == "bottleneck" else 1) for width in given["hidden_sizes"])
    return dict(num_blocks=tuple(given["depths"]), filters=filters, block=block)


def _bert(checkpoint, overrides):
    return TransformerEncoder.from_bert(checkpoint.weights, checkpoint.config, **overrides)


def _gpt2(checkpoint, overrides):
    config = _Config(checkpoint)
    config.only(
        "TransformerLM",
        activation_function=("gelu_new", "gelu_pytorch_tanh"),
        scale_attn_weights=(True,),
        scale_attn_by_inverse_layer_idx=(False,),
        add_cross_attention=(False,),
        tie_word_embeddings=(True,),
    )
    width, end = config("n_embd"), config("eos_token_id", 50_256)
    return TransformerLM(
        **dict(
            vocabulary_size=config("vocab_size"),
            max_length=config("n_positions"),
            num_layers=config("n_layer"),
            hidden_dim=width,
            mlp_dim=config("n_inner", 4 * width) if checkpoint.config.get("n_inner") else 4 * width,
            num_heads=config("n_head"),
            dropout_rate=config("resid_pdrop", 0.1),
            attention_dropout_rate=config("attn_pdrop", 0.1),
            norm_epsilon=config("layer_norm_epsilon", 1e-5),
            end_token=end,
            padding_token=end,
        )
        | overrides
    )


def _unet(checkpoint, overrides):
    config = _Config(checkpoint)
    widths, heads = config("block_out_channels"), checkpoint.config.get("attention_head_dim", 8)
    downs, ups = config("down_block_types"), config("up_block_types")
    plain, attending = ("DownBlock2D", "UpBlock2D"), ("AttnDownBlock2D", "AttnUpBlock2D")
    for down, up in zip(downs, reversed(ups), strict=True):
        if (down, up) not in (plain, attending):
            raise FileError(config.path, f"has the blocks {down} and {up} at one size; DDPM has {plain}, {attending}.")
    for name in ("downsample_padding", "flip_sin_to_cos", "freq_shift", "norm_eps"):
        config(name)  # what diffusers takes for a missing one is not DDPM's
    config.only(
        "DDPM",
        num_class_embeds=(None,),
        act_fn=("silu",),
        time_embedding_type=("positional",),
        mid_block_scale_factor=(1,),
        downsample_padding=(0,),
        center_input_sample=(False,),
        flip_sin_to_cos=(False,),
        freq_shift=(1,),
        norm_eps=(1e-6,),
        resnet_time_scale_shift=("default",),
        class_embed_type=(None,),
        add_attention=(True,),
    )
    if heads is not None and any(width != heads for width, down in zip(widths, downs, strict=True) if "Attn" in down):
        raise FileError(config.path, f"has attention_head_dim={heads}; DDPM has one head: None, or the channels.")
    height, width = _image_side(config("sample_size"))
    channels, out_channels = config("in_channels", 3), config("out_channels", 3)
    if out_channels not in (channels, 2 * channels) or any(w % widths[0] for w in widths):
        raise FileError(
            config.path,
            f"has out_channels={out_channels} and block_out_channels={widths}; DDPM has as many channels as "
            f"in_channels={channels} or twice as many, and multiples of the first width.",
        )
    sides = [max(height, width) >> level for level, down in enumerate(downs) if "Attn" in down]
    return DDPM(
        **dict(
            image_shape=(height, width, channels),
            filters=widths[0],
            multipliers=tuple(w // widths[0] for w in widths),
            num_blocks=config("layers_per_block", 2),
            attention_sides=tuple(sides),
            groups=config("norm_num_groups", 32),
            dropout_rate=config("dropout", 0.0),
            variance="fixed_large" if out_channels == channels else "learned",
        )
        | overrides
    )


FAMILIES = {
    "vit": Family(_vit, _load_vit),
    "convnext": Family(_convnext, _load_convnext),
    "resnet": Family(_resnet, _load_resnet),
    "detr": Family(_detr, lambda model, weights, head: model.load_transformers(weights, head)),
    "bert": Family(_bert, lambda model, weights, head: None),  # `from_bert` has loaded them
    "gpt2": Family(_gpt2, lambda model, weights, head: model.load_transformers(weights)),
    "UNet2DModel": Family(_unet, lambda model, weights, head: model.load_diffusers(weights)),
}
