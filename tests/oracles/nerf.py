"""Makes nerf.npz: what nerf-pytorch renders with small networks.

    python tests/oracles/nerf.py FOLDER

FOLDER has `run_nerf.py` and `run_nerf_helpers.py` of yenchenlin/nerf-pytorch at its commit 63a5a630c9ab (MIT). What the
first imports besides torch and NumPy is not needed here, and replaced by empty modules. The functions draw their random
numbers by NumPy's `RandomState(0)` where they are asked for it (`pytest=True`).

    keys                       what
    {net}/weight/...           the state dict; net is coarse, fine (with view directions), or plain (without)
    keras/...                  the arrays of coarse in the order of the authors' code, as that repository reads them
    camera/...                 a camera, its focal length and size; the rays of its pixels, and those in NDC
    pdf/...                    bins, weights, u, samples: random, and without perturbation
    render/rays                float32, (rays, 6): origins and directions
    render/{case}/...          rgb, depth, opacity, and coarse_rgb: white, black (with NDC), plain (one network)
    step/...                   the loss of both networks on random colors, and its gradients by the parameters

Made with torch 2.13.0 on CPU, in an environment of its own.
"""

import pathlib
import sys
import types

import numpy as np
import torch

SIZES = dict(D=4, W=8, input_ch=3 + 3 * 2 * 3, input_ch_views=3 + 3 * 2 * 2, output_ch=5, skips=[1])
SAMPLES, FURTHER = 6, 5
RAYS = ("origins", "directions")
LOADERS = ["load_llff", "load_deepvoxels", "load_blender", "load_LINEMOD"]
STUBS = ["imageio", "tqdm", "matplotlib", "matplotlib.pyplot", *LOADERS]
NAMES = ["tqdm", "trange", "load_llff_data", "load_dv_data", "load_blender_data", "load_LINEMOD_data"]


def load(folder):
    for name in STUBS:
        sys.modules[name] = types.ModuleType(name)
        for attribute in NAMES:
            setattr(sys.modules[name], attribute, None)
    sys.path.insert(0, str(folder))
    import run_nerf
    import run_nerf_helpers

    return run_nerf, run_nerf_helpers


def network(helpers, views):
    net = helpers.NeRF(**(SIZES if views else SIZES | dict(input_ch_views=0)), use_viewdirs=views)
    for parameter in net.parameters():
        parameter.data.normal_(0.0, 0.5)
    return net


def arrays(prefix, tensors):
    return {f"{prefix}/{name}": np.array(x.detach().numpy()) for name, x in tensors}


def main(folder):
    torch.manual_seed(0)
    run_nerf, helpers = load(folder)
    nets = {"coarse": network(helpers, True), "fine": network(helpers, True), "plain": network(helpers, False)}
    found = {}
    for name, net in nets.items():
        found |= arrays(f"{name}/weight", net.state_dict().items())

    # The inverse of how that repository reads the authors' weights: each array is its own place in the list.
    places = [torch.full((1,), float(i)) for i in range(2 * SIZES["D"] + 8)]
    reader = helpers.NeRF(**SIZES, use_viewdirs=True)
    reader.load_weights_from_keras([x.numpy() for x in places])
    order = {name: int(x[0]) for name, x in reader.state_dict().items()}
    for name, x in nets["coarse"].state_dict().items():
        found[f"keras/{order[name]:02d}"] = np.array(x.numpy().T)

    height, width, focal = 3, 5, 4.0
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    turn = turn * torch.linalg.det(turn)
    camera = torch.cat([turn, torch.randn(3, 1)], 1)
    intrinsics = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    origins, directions = helpers.get_rays(height, width, intrinsics, camera)
    found |= {"camera/pose": camera.numpy(), "camera/focal": focal, "camera/size": np.array([height, width])}
    found |= arrays("camera", [("origins", origins.contiguous()), ("directions", directions)])
    forward = torch.eye(3, 4) + 0.1 * torch.randn(3, 4)
    front = helpers.get_rays(height, width, intrinsics, forward)
    found |= arrays("camera/forward", zip(RAYS, (x.contiguous() for x in front), strict=True))
    found |= arrays("camera/ndc", zip(RAYS, helpers.ndc_rays(height, width, focal, 1.0, *front), strict=True))

    bins, weights = torch.sort(torch.rand(4, 8), -1)[0], torch.rand(4, 7)
    weights[1, 2:5] = 0.0
    found |= {"pdf/u": np.random.RandomState(0).rand(4, 11).astype("float32")}
    found |= arrays("pdf", [("bins", bins), ("weights", weights)])
    found |= arrays("pdf", [("samples", helpers.sample_pdf(bins, weights, 11, pytest=True))])
    found |= arrays("pdf", [("evenly", helpers.sample_pdf(bins, weights, 11, det=True, pytest=True))])

    embed, _ = helpers.get_embedder(3)
    embed_views, _ = helpers.get_embedder(2)

    def query(points, views, net):
        return run_nerf.run_network(points, views, net, embed, embed_views)

    rays = torch.cat([front[0].reshape(-1, 3), front[1].reshape(-1, 3)], -1)
    found |= {"render/rays": rays.numpy()}
    options = dict(network_query_fn=query, N_samples=SAMPLES, perturb=0.0)
    both = dict(network_fn=nets["coarse"], network_fine=nets["fine"], N_importance=FURTHER, use_viewdirs=True)
    cases = {
        "white": dict(near=0.5, far=3.0, ndc=False, white_bkgd=True, **both),
        "black": dict(near=0.0, far=1.0, ndc=True, white_bkgd=False, **both),
        "plain": dict(near=0.5, far=3.0, ndc=False, white_bkgd=True, network_fn=nets["plain"], N_importance=0),
    }
    kept = {}
    original = run_nerf.raw2outputs

    def keeping(*args, **kwargs):
        outputs = original(*args, **kwargs)
        kept["depth"] = outputs[-1]
        return outputs

    run_nerf.raw2outputs = keeping
    for name, case in cases.items():
        rgb, _, opacity, further = run_nerf.render(
            height, width, intrinsics, rays=(rays[:, :3], rays[:, 3:]), **options, **case
        )
        found |= arrays(f"render/{name}", [("rgb", rgb), ("opacity", opacity), ("depth", kept["depth"])])
        if name == "white":
            target = torch.rand(len(rays), 3)
            loss = helpers.img2mse(rgb, target) + helpers.img2mse(further["rgb0"], target)
            loss.backward()
            found |= {"step/target": target.numpy(), "step/loss": loss.detach().numpy()}
            for net in ("coarse", "fine"):
                found |= arrays(f"step/{net}", ((key, x.grad) for key, x in nets[net].named_parameters()))
        if name != "plain":
            found |= arrays(f"render/{name}", [("coarse_rgb", further["rgb0"])])
    np.savez_compressed(pathlib.Path(__file__).with_suffix(".npz"), **found)


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
