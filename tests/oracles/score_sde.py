"""What the authors' code computes: scores, losses and samples of NCSN++ (VE) and DDPM++ (VP) of a tiny size.

    git clone https://github.com/yang-song/score_sde_pytorch; cd score_sde_pytorch; git checkout cb1f359
    PYTHONPATH=. python .../tests/oracles/score_sde.py

Run with torch 2.13, ml_collections 1.1 and scipy. Its filters are a CUDA extension: its own slow version of the same
file is taken in place of it. Weights are random and the same in float16, so that no term drops out. Random numbers are
replaced by given ones.
"""

import pathlib
import sys
import types

import ml_collections
import numpy as np
import torch

SIDE, CHANNELS, BATCH, STEPS = 8, 2, 3, 4
FIRST = 0.3  # where likelihoods begin: a net of random weights makes the flow stiff before


def load_native_filter():
    """The module `op` without its CUDA extension."""
    source = pathlib.Path("op/upfirdn2d.py").read_text()
    native = source[source.index("def upfirdn2d_native") :]
    module = types.ModuleType("op")
    names = {"torch": torch, "F": torch.nn.functional}
    exec(native, names)

    def upfirdn2d(x, kernel, up=1, down=1, pad=(0, 0)):
        return names["upfirdn2d_native"](x, kernel, up, up, down, down, pad[0], pad[1], pad[0], pad[1])

    module.upfirdn2d = upfirdn2d
    sys.modules["op"] = module


def config(ve):
    found = ml_collections.ConfigDict()
    found.training = dict(continuous=True, sde="vesde" if ve else "vpsde", reduce_mean=not ve)
    found.data = dict(image_size=SIDE, num_channels=CHANNELS, centered=not ve)
    found.model = dict(
        name="ncsnpp", scale_by_sigma=ve, normalization="GroupNorm", nonlinearity="swish", nf=4, ch_mult=(1, 2),
        num_res_blocks=1, attn_resolutions=(4,), resamp_with_conv=True, conditional=True, fir=ve,
        fir_kernel=[1, 3, 3, 1], skip_rescale=True, resblock_type="biggan", progressive="none",
        progressive_input="residual" if ve else "none", progressive_combine="sum", attention_type="ddpm",
        init_scale=0.0, embedding_type="fourier" if ve else "positional", fourier_scale=16, conv_size=3,
        dropout=0.1, sigma_min=0.01, sigma_max=20.0, num_scales=1000, beta_min=0.1, beta_max=3.0,
    )  # fmt: skip
    found.device = "cpu"
    return found


class Given:
    """Numbers in the place of random ones, in order; and what was taken."""

    def __init__(self, seed):
        self.generator, self.taken = torch.Generator().manual_seed(seed), []

    def normal(self, x, **_):
        self.taken.append(torch.empty(x.shape).normal_(generator=self.generator))
        return self.taken[-1].clone()

    def shape(self, *shape, **_):
        return self.normal(torch.empty(shape))

    def uniform(self, *shape, **_):
        self.taken.append(torch.empty(shape).uniform_(generator=self.generator))
        return self.taken[-1].clone()

    def signs(self, x, **_):
        self.taken.append(torch.empty(x.shape).uniform_(generator=self.generator).round())
        return self.taken[-1].clone()

    def __enter__(self):
        self.kept = torch.randn_like, torch.randn, torch.rand, torch.randint_like
        torch.randn_like, torch.randn = self.normal, self.shape
        torch.rand, torch.randint_like = self.uniform, self.signs
        return self

    def __exit__(self, *_):
        torch.randn_like, torch.randn, torch.rand, torch.randint_like = self.kept


def main():
    load_native_filter()
    import likelihood
    import losses
    import sampling
    import sde_lib
    from models import ncsnpp
    from models import utils as mutils

    torch.manual_seed(0)
    found = {}
    for name in ("ve", "vp"):
        ve, settings = name == "ve", config(name == "ve")
        net = ncsnpp.NCSNpp(settings).eval()
        last = f"all_modules.{len(net.all_modules) - 1}."
        for key, x in net.state_dict().items():
            if key == "sigmas":
                continue
            # A small last layer and slow features of the time, or the flow would take a solver thousands of steps.
            scale = 1.0 if key.endswith("all_modules.0.W") and ve else 0.01 if key.startswith(last) else 0.2
            value = scale * torch.randn_like(x) + (1.0 if ".GroupNorm" in key and key.endswith("weight") else 0.0)
            x.copy_(value.half())
            found[f"{name}/weights/{key}"] = x.numpy().astype("float16")
        m = settings.model
        sde = sde_lib.VESDE(m.sigma_min, m.sigma_max, STEPS) if ve else sde_lib.VPSDE(m.beta_min, m.beta_max, STEPS)
        x = torch.rand(BATCH, CHANNELS, SIDE, SIDE) * (1 if ve else 2) - (0 if ve else 1)
        t = torch.tensor([0.02, 0.4, 0.9])
        with torch.no_grad():
            found |= {f"{name}/x": x.numpy(), f"{name}/t": t.numpy()}
            found[f"{name}/score"] = mutils.get_score_fn(sde, net, continuous=True)(x, t).numpy()
            for weighting in (False, True):
                loss = losses.get_sde_loss_fn(sde, False, not ve, True, weighting)
                with Given(1) as given:
                    found[f"{name}/loss/{'likelihood' if weighting else 'simple'}"] = loss(net, x).numpy()
            found |= {f"{name}/loss/u": given.taken[0].numpy(), f"{name}/loss/z": given.taken[1].numpy()}
            for kind, predictor, corrector in (
                ("reverse_diffusion", sampling.ReverseDiffusionPredictor, sampling.LangevinCorrector),
                ("ancestral", sampling.AncestralSamplingPredictor, sampling.NoneCorrector),
                ("euler_maruyama", sampling.EulerMaruyamaPredictor, sampling.NoneCorrector),
            ):
                run = sampling.get_pc_sampler(
                    sde, x.shape, predictor, corrector, lambda x: x, 0.16, 1, False, True, True, 1e-3, "cpu"
                )
                with Given(2) as given:
                    found[f"{name}/sample/{kind}"] = run(net)[0].numpy()
            # Of the last; the others took the first of these, or the same and more.
            with Given(2) as given:
                for _ in range(1 + 2 * STEPS):
                    given.normal(x)
            found[f"{name}/noise"] = torch.stack(given.taken).numpy()
        to_unit = (lambda x: x) if ve else (lambda x: (x + 1) / 2)  # the inverse of the scaler of pixels
        likelihood_of = likelihood.get_likelihood_fn(sde, to_unit, rtol=1e-5, atol=1e-5, eps=FIRST)
        with Given(3) as given:
            bits, latents, evaluations = likelihood_of(net, x)
        print(name, evaluations)
        found |= {f"{name}/bits": bits.numpy(), f"{name}/latents": latents.numpy()}
        found[f"{name}/signs"] = 2 * given.taken[0].numpy() - 1
    path = pathlib.Path(__file__).with_suffix(".npz")
    np.savez_compressed(path, **found)
    print(path, path.stat().st_size, {k: v.shape for k, v in found.items() if "weights" not in k})


if __name__ == "__main__":
    main()
