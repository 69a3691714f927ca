"""Makes occupancy_network.npz: the networks of the authors' code at tiny widths.

    python tests/oracles/occupancy_network.py FOLDER

FOLDER is autonomousvision/occupancy_networks at its commit 406f79468fb8 (MIT). The widths of its encoders of voxels and
latents are numbers in the code, which this script replaces by small ones. All else is theirs. Weights and statistics of
batch normalization are random, so that no term drops out.

    keys                     what
    {net}/weight/...         the state dict; net is points, additive, voxels, unconditional or both
    {net}/cloud, .../voxels  the observation
    {net}/points             float32, (batch, points, 3)
    {net}/occupancies        float32, (batch, points)
    {net}/code               in inference
    {net}/mean, .../log_std  of the latents
    {net}/kl                 float32, (batch,)
    {net}/logits             in inference, with the mean of the latents
    points/loss              of a training step: summed over points, averaged over shapes
    points/gradient/...      its gradient by each parameter
    points/after/...         the buffers after that step

Made with torch 2.13.0 on CPU, in an environment of its own.
"""

import pathlib
import re
import sys
import types

import numpy as np
import torch

WIDTHS = {32: 2, 64: 3, 128: 4, 256: 8, 512: 5}  # 256 is twice 128
CODE, LATENTS, HIDDEN = 6, 5, 8


def module(folder, name, shrink=False):
    """The module `name` of the folder, with other widths if it is to shrink."""
    source = (folder / f"{name.replace('.', '/')}.py").read_text()
    if shrink:
        source = re.sub(r"\b\d+\b", lambda number: str(WIDTHS.get(int(number[0]), number[0])), source)
    for i in range(1, name.count(".") + 1):
        sys.modules.setdefault(".".join(name.split(".")[:i]), types.ModuleType("package"))
    found = types.ModuleType(name)
    sys.modules[name] = found
    exec(compile(source, name, "exec"), vars(found))
    return found


def randomized(net):
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            tensor.uniform_(0.5, 1.5)
        elif "num_batches" not in name:
            tensor.normal_(0.0, 0.4 if tensor.ndim < 2 else tensor[0].numel() ** -0.5)
    return net.eval()


def arrays(prefix, tensors):
    return {f"{prefix}/{name}": x.detach().numpy().copy() for name, x in tensors if "num_batches" not in name}


def main(folder):
    torch.manual_seed(0)
    module(folder, "im2mesh.layers")
    decoders = module(folder, "im2mesh.onet.models.decoder")
    clouds = module(folder, "im2mesh.encoder.pointnet")
    voxels = module(folder, "im2mesh.encoder.voxels", shrink=True)
    latents = module(folder, "im2mesh.onet.models.encoder_latent", shrink=True)

    def net(decoder, encoder=None, z_dim=0):
        parts = {"decoder": decoder(dim=3, z_dim=z_dim, c_dim=CODE if encoder else 0, hidden_size=HIDDEN)}
        if encoder:
            parts["encoder"] = encoder
        if z_dim:
            parts["encoder_latent"] = latents.Encoder(z_dim=z_dim, c_dim=CODE if encoder else 0)
        return randomized(torch.nn.ModuleDict(parts))

    nets = {
        "points": net(decoders.DecoderCBatchNorm, clouds.ResnetPointnet(CODE, hidden_dim=7)),
        "additive": net(decoders.Decoder, clouds.ResnetPointnet(CODE, hidden_dim=7)),
        "voxels": net(decoders.DecoderCBatchNorm, voxels.VoxelEncoder(c_dim=CODE)),
        "unconditional": net(decoders.Decoder, z_dim=LATENTS),
        "both": net(decoders.DecoderCBatchNorm, clouds.ResnetPointnet(CODE, hidden_dim=7), z_dim=LATENTS),
    }
    found = {}
    for name, model in nets.items():
        points, occupied = torch.rand(2, 20, 3) - 0.5, (torch.rand(2, 20) < 0.3).float()
        found |= arrays(f"{name}/weight", model.state_dict().items())
        found |= {f"{name}/points": points.numpy(), f"{name}/occupancies": occupied.numpy()}
        with torch.inference_mode():
            c = torch.empty(2, 0)
            if name == "voxels":
                grid = torch.rand(2, 32, 32, 32) < 0.2
                found[f"{name}/voxels"] = grid.numpy()
                c = model.encoder(grid.float())
            elif name != "unconditional":
                cloud = torch.rand(2, 30, 3) - 0.5
                found[f"{name}/cloud"] = cloud.numpy()
                c = model.encoder(cloud)
            found[f"{name}/code"] = c.numpy()
            z = torch.empty(2, 0)
            if "encoder_latent" in model:
                z, log_std = model.encoder_latent(points, occupied, c)
                prior = torch.distributions.Normal(torch.zeros(LATENTS), torch.ones(LATENTS))
                posterior = torch.distributions.Normal(z, torch.exp(log_std))
                kl = torch.distributions.kl_divergence(posterior, prior).sum(-1)
                found |= {f"{name}/mean": z.numpy(), f"{name}/log_std": log_std.numpy(), f"{name}/kl": kl.numpy()}
            found[f"{name}/logits"] = model.decoder(points, z, c).numpy()

    model = nets["points"].train()
    points, occupied, cloud = (torch.tensor(found[f"points/{key}"]) for key in ("points", "occupancies", "cloud"))
    logits = model.decoder(points, torch.empty(2, 0), model.encoder(cloud))
    entropy = torch.nn.functional.binary_cross_entropy_with_logits(logits, occupied, reduction="none")
    loss = entropy.sum(-1).mean()
    loss.backward()
    found["points/loss"] = loss.detach().numpy()
    found |= arrays("points/gradient", ((key, x.grad) for key, x in model.named_parameters()))
    found |= arrays("points/after", model.named_buffers())
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **found)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
