"""Makes pointnet2.npz: the networks of Pointnet_Pointnet2_pytorch at tiny sizes.

    python tests/oracles/pointnet2.py FOLDER

FOLDER has the files `models/pointnet2_*.py` of yanx27/Pointnet_Pointnet2_pytorch at its commit eb64fe0b4c24 (MIT). This
script changes four things in them, and all else is theirs:

- layers get small widths, and take the width of their inputs from the first call;
- levels get few centers and small groups;
- sampling starts at the first point, not at a random one;
- squared distances are sums of squared differences: those of `a^2 - 2 a b + b^2` are off by 1e-7, and can be negative,
  where the interpolation divides by them.

Weights and statistics of batch normalization are random, so that no term drops out.

    keys                     what
    {net}/weight/...         the state dict; net is ssg, msg, part, part_msg, sem or sem_msg
    {net}/points             float32, (batch, points, channels); of ssg and msg with normals
    {net}/log_probabilities  in inference
    part/category            int32, (batch,), of part and part_msg
    msg/labels, msg/loss     mean cross-entropy of one training step without dropout
    msg/gradient/...         its gradient by each parameter
    msg/after/...            the buffers after that step
    indices/points           float32, (batch, points, 3)
    indices/sampled          int32, (batch, 20): farthest_point_sample
    indices/grouped          int32, (batch, 20, 6): query_ball_point of radius 0.2

Made with torch 2.13.0 on CPU, in an environment of its own.
"""

import pathlib
import sys
import types

import numpy as np
import torch
from torch import nn

WIDTHS = {16: 3, 32: 4, 64: 5, 96: 6, 128: 7, 196: 8, 256: 9, 384: 10, 512: 11, 1024: 12}
CENTERS = {1024: 24, 512: 20, 256: 12, 128: 8, 64: 6, 16: 4}
GROUPS = {16: 3, 32: 4, 64: 5, 128: 6}
CLASSES, PARTS, CATEGORIES, POINTS = 5, 7, 16, 40


class SmallLayers:
    """`torch.nn` with narrow layers."""

    def __getattr__(self, name):
        kind = getattr(nn, name)
        if name.startswith("BatchNorm"):
            return lambda width: kind(WIDTHS[width])
        if name in ("Conv1d", "Conv2d", "Linear"):
            lazy = getattr(nn, f"Lazy{name}")
            return lambda inputs, outputs, *kernel: lazy(WIDTHS.get(outputs, outputs), *kernel)
        return kind


def loaded(folder, name):
    """The module `name`, with narrow layers."""
    source = (folder / f"{name}.py").read_text().replace("import torch.nn as nn\n", "").replace("B, 1024", "B, -1")
    module = types.ModuleType(name)
    module.nn = SmallLayers()
    sys.modules[name] = sys.modules[f"models.{name}"] = module
    exec(compile(source, name, "exec"), vars(module))
    return module


def square_distance(src, dst):
    return (src[:, :, None] - dst[:, None]).square().sum(-1)


def randomized(model, *inputs):
    """The model after its first call, in inference, with random statistics, few centers and small groups."""
    for module in model.modules():
        if hasattr(module, "npoint"):
            module.npoint = CENTERS.get(module.npoint)
        if hasattr(module, "nsample"):
            module.nsample = GROUPS.get(module.nsample)
        if hasattr(module, "nsample_list"):
            module.nsample_list = [GROUPS[size] for size in module.nsample_list]
    model(*inputs)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0.0, 0.3)
    return model.eval()


def arrays(prefix, tensors):
    return {f"{prefix}/{name}": x.detach().numpy().copy() for name, x in tensors if "num_batches" not in name}


def main(folder):
    torch.manual_seed(0)
    sys.modules["models"] = types.ModuleType("models")
    utils = loaded(folder, "pointnet2_utils")
    utils.square_distance = square_distance
    first = {"randint": lambda low, high, size, dtype: torch.zeros(size, dtype=dtype)}
    utils.torch = types.SimpleNamespace(**vars(torch) | first)
    nets = {
        "ssg": ("cls_ssg", 6, dict(num_class=CLASSES, normal_channel=True)),
        "msg": ("cls_msg", 6, dict(num_class=CLASSES, normal_channel=True)),
        "part": ("part_seg_ssg", 3, dict(num_classes=PARTS)),
        "part_msg": ("part_seg_msg", 3, dict(num_classes=PARTS)),
        "sem": ("sem_seg", 9, dict(num_classes=CLASSES)),
        "sem_msg": ("sem_seg_msg", 9, dict(num_classes=CLASSES)),
    }
    category = torch.tensor([3, 0, 15])
    one_hot = nn.functional.one_hot(category, CATEGORIES).float()[:, None]
    found = {"part/category": category.numpy().astype("int32")}
    for name, (file, channels, options) in nets.items():
        points = torch.randn(3, POINTS, channels)
        points[..., :3] *= 0.15
        inputs = (points.mT, one_hot) if "part" in name else (points.mT,)
        net = randomized(loaded(folder, f"pointnet2_{file}").get_model(**options), *inputs)
        nets[name] = net
        found |= arrays(f"{name}/weight", net.state_dict().items())
        with torch.inference_mode():
            outputs, _ = net(*inputs)
        found |= {f"{name}/points": points.numpy(), f"{name}/log_probabilities": outputs.numpy()}

    net = nets["msg"].train()
    net.drop1.p = net.drop2.p = 0.0
    labels = torch.tensor([4, 1, 2])
    loss = nn.functional.nll_loss(net(torch.tensor(found["msg/points"]).mT)[0], labels)
    loss.backward()
    found |= {"msg/labels": labels.numpy(), "msg/loss": loss.detach().numpy()}
    found |= arrays("msg/gradient", ((key, x.grad) for key, x in net.named_parameters()))
    found |= arrays("msg/after", net.named_buffers())

    points = 0.15 * torch.randn(2, 60, 3)
    sampled = utils.farthest_point_sample(points, 20)
    grouped = utils.query_ball_point(0.2, 6, points, utils.index_points(points, sampled))
    for name, x in (("sampled", sampled), ("grouped", grouped)):
        found[f"indices/{name}"] = x.numpy().astype("int32")
    found["indices/points"] = points.numpy()
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **found)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
