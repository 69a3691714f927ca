"""The layout of the weights of occupancy networks, as in the code of the authors.

It is autonomousvision/occupancy_networks, and autonomousvision/convolutional_occupancy_networks of those with planes.
"""

from keras_dl.weights import Entry, Weights, load_entries, torch_entries


def load(model, weights: Weights) -> None:
    """As `OccupancyNetwork.load_torch`."""
    if model.encoder == "local_points":
        load_entries(_local_decoder(model) | _plane_encoder(model.get_layer("encoder")), weights)
        return
    entries = _decoder(model)
    if model.encoder == "points":
        entries |= _cloud_encoder(model.get_layer("encoder"))
    elif model.encoder == "image":
        entries |= _image_encoder(model.get_layer("encoder"))
    elif model.encoder == "voxels":
        entries |= _voxel_encoder(model.get_layer("encoder"))
    if model.latent_dim:
        entries |= _latent_encoder(model.get_layer("latent_encoder"))
    load_entries(entries, weights)


def _decoder(model):
    decoder = model.get_layer("decoder")
    conditional = model.decoder == "conditional_norm"
    axes = 1 if conditional else 0  # convolutions over single points, or dense layers
    entries = torch_entries("decoder.fc_p", decoder.get_layer("coordinates"), kernel_axes=axes)
    entries |= torch_entries("decoder.fc_out", decoder.get_layer("occupancy"), kernel_axes=axes)
    if model.latent_dim:
        entries |= torch_entries("decoder.fc_z", decoder.get_layer("latents_added"))
    if model.encoder and not conditional:
        entries |= torch_entries("decoder.fc_c", decoder.get_layer("code_added"))
    for i in range(model.num_blocks):
        block = decoder.get_layer(f"block_{i}")
        if conditional:
            for k, (norm, dense) in enumerate(zip(block.norms, block.dense, strict=True)):
                entries |= _norm(f"decoder.block{i}.bn_{k}", norm)
                entries |= torch_entries(f"decoder.block{i}.fc_{k}", dense, kernel_axes=1)
        else:
            entries |= _block(f"decoder.block{i}", block)
    return entries | (_norm("decoder.bn", decoder.get_layer("norm")) if conditional else {})


def _local_decoder(model):
    decoder = model.get_layer("decoder")
    entries = torch_entries("decoder.fc_p", decoder.get_layer("coordinates"))
    entries |= torch_entries("decoder.fc_out", decoder.get_layer("occupancy"))
    for i in range(model.num_blocks):
        entries |= torch_entries(f"decoder.fc_c.{i}", decoder.get_layer(f"features_added_{i}"))
        entries |= _block(f"decoder.blocks.{i}", decoder.get_layer(f"block_{i}"))
    return entries


def _norm(prefix, layer):
    entries = torch_entries(f"{prefix}.conv_gamma", layer.gamma, kernel_axes=1)
    entries |= torch_entries(f"{prefix}.conv_beta", layer.beta, kernel_axes=1)
    return entries | torch_entries(f"{prefix}.bn", layer.norm)


def _block(prefix, block):
    entries = torch_entries(f"{prefix}.fc_0", block.first) | torch_entries(f"{prefix}.fc_1", block.second)
    return entries | (torch_entries(f"{prefix}.shortcut", block.shortcut) if block.shortcut else {})


def _cloud_encoder(encoder):
    entries = torch_entries("encoder.fc_pos", encoder.position) | torch_entries("encoder.fc_c", encoder.last)
    for i, block in enumerate(encoder.blocks):
        entries |= _block(f"encoder.block_{i}", block)
    return entries


def _plane_encoder(encoder):
    entries = torch_entries("encoder.fc_pos", encoder.position) | torch_entries("encoder.fc_c", encoder.last)
    for i, block in enumerate(encoder.blocks):
        entries |= _block(f"encoder.blocks.{i}", block)
    if encoder.unet is None:
        return entries
    unet = encoder.unet
    entries |= torch_entries("encoder.unet.conv_final", unet.last)
    for i, layer in enumerate(unet.enlarging):
        entries |= torch_entries(f"encoder.unet.up_convs.{i}.upconv", layer)
    for way, pairs in (("down", unet.down), ("up", unet.up)):
        for i, pair in enumerate(pairs):
            for k, layer in enumerate(pair, 1):
                entries |= torch_entries(f"encoder.unet.{way}_convs.{i}.conv{k}", layer)
    return entries


def _image_encoder(encoder):
    entries = {}
    for name, layer in encoder.torch_modules().items():
        entries |= torch_entries(f"encoder.{name}" if name == "fc" else f"encoder.features.{name}", layer)
    return entries


def _voxel_encoder(encoder):
    entries = {}
    for i, layer in enumerate(encoder.convolutions):
        prefix = f"encoder.conv_{i - 1}" if i else "encoder.conv_in"
        depth, height, width, channels, filters = layer.kernel.shape
        entries[f"{prefix}.weight"] = Entry(
            layer.kernel, (filters, channels, depth, height, width), lambda array: array.transpose(2, 3, 4, 1, 0)
        )
        entries[f"{prefix}.bias"] = Entry(layer.bias, tuple(layer.bias.shape), lambda array: array)
    entries |= torch_entries("encoder.fc", encoder.last)
    size, units = encoder.last.kernel.shape
    side = round((size // filters) ** (1 / 3))

    def reorder(array):  # torch flattens the channels first
        return array.reshape(units, filters, side, side, side).transpose(2, 3, 4, 1, 0).reshape(size, units)

    return entries | {"encoder.fc.weight": Entry(encoder.last.kernel, (units, size), reorder)}


def _latent_encoder(encoder):
    layers = {"fc_pos": encoder.position, "fc_0": encoder.occupied, "fc_1": encoder.first}
    layers |= {"fc_2": encoder.joined[0], "fc_3": encoder.joined[1]}
    layers |= {"fc_mean": encoder.heads["mean"], "fc_logstd": encoder.heads["log_std"]}
    if encoder.condition is not None:
        layers["fc_c"] = encoder.condition
    entries = {}
    for name, layer in layers.items():
        entries |= torch_entries(f"encoder_latent.{name}", layer)
    return entries
