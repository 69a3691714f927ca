"""Diffusion: processes that turn data into noise, and samplers that walk back.

A process is a frozen dataclass with `marginal`. A sampler is a pure function of a net, noise and a process.
"""

from keras_dl.diffusion.ancestral import ancestral, ddim
from keras_dl.diffusion.betas import Betas, CosineBetas, LinearBetas, RespacedBetas
from keras_dl.diffusion.langevin import annealed_langevin
from keras_dl.diffusion.noise_levels import (
    GeometricLevels,
    Levels,
    NoiseLevels,
    choose_levels,
    choose_step_size,
    largest_distance,
    level_ratio,
)
from keras_dl.diffusion.predictor_corrector import guided, predictor_corrector
from keras_dl.diffusion.probability_flow import bits_per_dimension, decode, encode, log_likelihood
from keras_dl.diffusion.process import ContinuousProcess, DiscreteProcess, Process, along, convert
from keras_dl.diffusion.sdes import SDE, VE, VP, SubVP
from keras_dl.diffusion.walking import seeded_noise, walk

__all__ = [
    "SDE",
    "VE",
    "VP",
    "Betas",
    "ContinuousProcess",
    "CosineBetas",
    "DiscreteProcess",
    "GeometricLevels",
    "Levels",
    "LinearBetas",
    "NoiseLevels",
    "Process",
    "RespacedBetas",
    "SubVP",
    "along",
    "ancestral",
    "annealed_langevin",
    "bits_per_dimension",
    "choose_levels",
    "choose_step_size",
    "convert",
    "ddim",
    "decode",
    "encode",
    "guided",
    "largest_distance",
    "level_ratio",
    "log_likelihood",
    "predictor_corrector",
    "seeded_noise",
    "walk",
]
