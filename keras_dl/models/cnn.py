"""Convolutional networks before residual connections: LeNet-5 (1998), AlexNet (2012) and VGG (2014)."""

from keras_dl.models.alexnet import AlexNet
from keras_dl.models.lenet import LeNet5
from keras_dl.models.vgg import VGG

__all__ = ["VGG", "AlexNet", "LeNet5"]
