"""Makes pointnet.npz: the networks of Pointnet_Pointnet2_pytorch at tiny widths.

    python tests/oracles/pointnet.py FOLDER

FOLDER has the four files `models/pointnet_*.py` of yanx27/Pointnet_Pointnet2_pytorch at its commit eb64fe0b4c24 (MIT).
Their widths are numbers in the code, which this script replaces by small ones. All else is theirs. Weights and
statistics of batch normalization are random, so that no term drops out.

    keys                     what
    {net}/weight/...         the state dict; net is cls, part or sem
    {net}/points             float32, (batch, points, channels); of cls with normals
    {net}/log_probabilities  in inference
    part/category            int32, (batch,)
    cls/labels, cls/loss     mean cross-entropy of one training step without dropout and without regularizer
    cls/gradient/...         its gradient by each parameter
    cls/after/...            the buffers after that step

Made with torch 2.13.0 on CPU, in an environment of its own.
"""

import pathlib
import re
import sys
import types

import numpy as np
import torch

WIDTHS = {64: 4, 128: 6, 256: 8, 512: 10, 1024: 12, 2048: 14}
WIDTHS[1088] = WIDTHS[1024] + WIDTHS[64]
WIDTHS[4944] = 2 * WIDTHS[2048] + 16 + WIDTHS[64] + 2 * WIDTHS[128] + WIDTHS[512]
CLASSES, PARTS, CATEGORIES = 5, 7, 16


def shrunk(folder, name):
    """The module `name` with other widths."""
    source = (folder / f"{name}.py").read_text()
    source = re.sub(r"\b\d+\b", lambda number: str(WIDTHS.get(int(number[0]), number[0])), source)
    module = types.ModuleType(name)
    sys.modules[name] = module
    exec(compile(source, name, "exec"), vars(module))
    return module


def randomized(model):
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm1d):
            for tensor in (module.weight.data, module.running_var):
                tensor.uniform_(0.5, 1.5)
            for tensor in (module.bias.data, module.running_mean):
                tensor.normal_(0.0, 0.3)
    return model.eval()


def arrays(prefix, tensors):
    return {f"{prefix}/{name}": x.detach().numpy().copy() for name, x in tensors if "num_batches" not in name}


def main(folder):
    torch.manual_seed(0)
    shrunk(folder, "pointnet_utils")
    nets = {
        "cls": (randomized(shrunk(folder, "pointnet_cls").get_model(CLASSES, normal_channel=True)), 6),
        "part": (randomized(shrunk(folder, "pointnet_part_seg").get_model(PARTS, normal_channel=False)), 3),
        "sem": (randomized(shrunk(folder, "pointnet_sem_seg").get_model(CLASSES)), 9),
    }
    category = torch.tensor([3, 0, 15])
    one_hot = torch.nn.functional.one_hot(category, CATEGORIES).float()[:, None]
    found = {"part/category": category.numpy().astype("int32")}
    for name, (net, channels) in nets.items():
        points = torch.randn(3, 20, channels)
        found |= arrays(f"{name}/weight", net.state_dict().items())
        with torch.inference_mode():
            outputs, _ = net(points.mT, one_hot) if name == "part" else net(points.mT)
        found |= {f"{name}/points": points.numpy(), f"{name}/log_probabilities": outputs.numpy()}

    net, _ = nets["cls"]
    net.train()
    net.dropout.p = 0.0
    labels = torch.tensor([4, 1, 2])
    loss = torch.nn.functional.nll_loss(net(torch.tensor(found["cls/points"]).mT)[0], labels)
    loss.backward()
    found |= {"cls/labels": labels.numpy(), "cls/loss": loss.detach().numpy()}
    found |= arrays("cls/gradient", ((key, x.grad) for key, x in net.named_parameters()))
    found |= arrays("cls/after", net.named_buffers())
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **found)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
