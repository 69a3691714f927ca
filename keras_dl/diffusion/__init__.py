"""Diffusion: processes that turn data into noise, and samplers that walk back.

A process is a frozen dataclass with `marginal`. A sampler is a pure function of a net, noise and a process.
"""

from keras_dl.diffusion.betas import Betas, CosineBetas, LinearBetas, RespacedBetas
from keras_dl.diffusion.process import ContinuousProcess, DiscreteProcess, Process, along, convert
from keras_dl.diffusion.walking import seeded_noise, walk

__all__ = [
    "Betas",
    "ContinuousProcess",
    "CosineBetas",
    "DiscreteProcess",
    "LinearBetas",
    "Process",
    "RespacedBetas",
    "along",
    "convert",
    "seeded_noise",
    "walk",
]
