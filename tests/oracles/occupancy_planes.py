"""Makes occupancy_planes.npz: the convolutional networks of the authors' code at tiny widths.

    python tests/oracles/occupancy_planes.py FOLDER

FOLDER is autonomousvision/convolutional_occupancy_networks at its commit 838bea5b2f13 (MIT). `scatter_reduce_` of torch
stands for the package torch_scatter. All else is theirs. Weights are random, so that no term drops out. Some points of
the clouds, and some that are asked about, are at a border of the cube or outside of it.

    keys                 what
    {net}/weight/...     the state dict; net is planes, plane (one of them) or plain (without a U-Net)
    {net}/cloud          float32, (batch, n, 3)
    {net}/points         float32, (batch, points, 3)
    {net}/occupancies    float32, (batch, points)
    {net}/code/{plane}   float32, (batch, channels, rows, columns)
    {net}/logits         float32, (batch, points)
    planes/loss          of a training step: summed over points, averaged over shapes
    planes/gradient/...  its gradient by each parameter
    count                the parameters of the authors' configuration pointcloud/shapenet_3plane

Made with torch 2.13.0 on CPU, in an environment of its own.
"""

import pathlib
import sys
import types

import numpy as np
import torch

CODE, HIDDEN, ENCODER, RESOLUTION = 6, 8, 7, 8
UNET = dict(depth=3, merge_mode="concat", start_filts=4)


def scatter_max(values, index, dim_size):
    index = index.expand_as(values)
    found = values.new_zeros(*values.shape[:2], dim_size)
    return found.scatter_reduce_(2, index, values, "amax", include_self=False), None


def scatter_mean(values, index, out):
    return out.scatter_reduce_(2, index.expand_as(values), values, "mean", include_self=False)


def module(folder, name, names=None):
    """The module `name` of the folder; of some, only what is named in `names`, which are made here."""
    for i in range(1, name.count(".") + 1):
        sys.modules.setdefault(".".join(name.split(".")[:i]), types.ModuleType("package"))
    found = types.ModuleType(name)
    sys.modules[name] = found
    vars(found).update(names or {})
    if names is None:
        source = (folder / f"{name.replace('.', '/')}.py").read_text()
        exec(compile(source, name, "exec"), vars(found))
    return found


def randomized(net):
    for tensor in net.state_dict().values():
        tensor.normal_(0.0, 0.4 if tensor.ndim < 2 else tensor[0].numel() ** -0.5)
    return net.eval()


def arrays(prefix, tensors):
    return {f"{prefix}/{name}": x.detach().numpy().copy() for name, x in tensors}


def main(folder):
    torch.manual_seed(0)
    module(folder, "torch_scatter", {"scatter_mean": scatter_mean, "scatter_max": scatter_max})
    module(folder, "src.utils.libkdtree", {"KDTree": None})
    module(folder, "src.encoder.unet3d", {"UNet3D": None})
    for name in ("src.common", "src.layers", "src.encoder.unet"):
        module(folder, name)
    encoders = module(folder, "src.encoder.pointnet")
    decoders = module(folder, "src.conv_onet.models.decoder")

    def net(planes, unet, code=CODE, encoder=ENCODER, hidden=HIDDEN, resolution=RESOLUTION):
        sizes = dict(plane_resolution=resolution, plane_type=planes, hidden_dim=encoder, padding=0.1)
        parts = {
            "encoder": encoders.LocalPoolPointnet(c_dim=code, unet=unet is not None, unet_kwargs=unet, **sizes),
            "decoder": decoders.LocalDecoder(c_dim=code, hidden_size=hidden, padding=0.1),
        }
        return randomized(torch.nn.ModuleDict(parts))

    three = ["xz", "xy", "yz"]
    published = net(three, dict(depth=4, merge_mode="concat", start_filts=32), 32, 32, 32, 64)
    found = {"count": np.array(sum(x.numel() for x in published.parameters()))}
    for name, model in {"planes": net(three, UNET), "plane": net(["xz"], UNET), "plain": net(three, None)}.items():
        points, occupied = 1.3 * (torch.rand(2, 20, 3) - 0.5), (torch.rand(2, 20) < 0.3).float()
        cloud = 1.2 * (torch.rand(2, 40, 3) - 0.5)
        for x in (points, cloud):
            x[0, :3] = torch.tensor([[0.55, 0.55, 0.55], [-0.55, -0.55, -0.55], [0.0, 0.55, -0.55]])
        found |= arrays(f"{name}/weight", model.state_dict().items())
        found |= {f"{name}/points": points.numpy(), f"{name}/occupancies": occupied.numpy()}
        found[f"{name}/cloud"] = cloud.numpy()
        code = model["encoder"](cloud)
        logits = model["decoder"](points, code)
        found |= arrays(f"{name}/code", code.items())
        found[f"{name}/logits"] = logits.detach().numpy()
        if name == "planes":
            entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, occupied, reduction="none")
            loss = entropy.sum(-1).mean()
            loss.backward()
            found["planes/loss"] = loss.detach().numpy()
            found |= arrays("planes/gradient", ((key, x.grad) for key, x in model.named_parameters()))
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **found)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
