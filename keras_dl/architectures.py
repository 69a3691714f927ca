"""The table of architectures: every list of them in the recipes, the documents and the tests comes from here.

It imports nothing of the package, so that it can be read without TensorFlow. A planned architecture has no classes yet.
"""

from typing import NamedTuple

# What goes in and comes out; a room with models is a folder of `keras_dl/models`.
ROOMS = {
    "tabular": "Tables",
    "vision": "Image classification",
    "sequence": "Sequences",
    "graphs": "Graphs",
    "continuous": "Continuous time",
    "detection": "Object detection",
    "segmentation": "Segmentation",
    "generative": "Generation",
    "scenes": "3-D reconstruction",
    "points": "Point clouds",
}


class Architecture(NamedTuple):
    """One row of the table.

    Attributes:
        name: str. The name of its case, its test, its recipe and on the command line.
        title: str. Its usual name.
        room: str. A key of `ROOMS`.
        authors: str. Of the paper that introduced it.
        year: int. Of the paper's first version.
        paper: str. The paper's title.
        arxiv: str. The paper's number on arXiv; empty for a paper that is not there.
        classes: tuple of str. Its public classes in `keras_dl`, the main one first. Empty while it is planned.
        preset: tuple of two str, the class and the name of its best-known preset. Empty where there is none.
        parameters: int. Trainable parameters of that preset.
    """

    name: str
    title: str
    room: str
    authors: str
    year: int
    paper: str
    arxiv: str = ""
    classes: tuple[str, ...] = ()
    preset: tuple[str, ...] = ()
    parameters: int = 0

    @property
    def recipe(self) -> str | None:
        """The name of its recipe; None while it is planned."""
        return self.name if self.classes else None

    @property
    def citation(self) -> str:
        """Authors, year and title in one line, with the number on arXiv."""
        number = f", arXiv:{self.arxiv}" if self.arxiv else ""
        return f'{self.authors} {self.year}, "{self.paper}"{number}'


ARCHITECTURES = (
    Architecture(
        name="mlp",
        title="Multilayer perceptron",
        room="tabular",
        authors="Rumelhart, Hinton, Williams",
        year=1986,
        paper="Learning representations by back-propagating errors",
        classes=("MLP",),
    ),
    Architecture(
        name="cnn",
        title="Convolutional networks: LeNet-5, AlexNet, VGG",
        room="vision",
        authors="LeCun, Bottou, Bengio, Haffner",
        year=1998,
        paper="Gradient-Based Learning Applied to Document Recognition",
        classes=("LeNet5", "AlexNet", "VGG"),
        preset=("VGG", "vgg16"),
        parameters=138_357_544,
    ),
    Architecture(
        name="rnn",
        title="Recurrent network",
        room="sequence",
        authors="Elman",
        year=1990,
        paper="Finding structure in time",
        classes=("SimpleRNN", "SimpleRNNCell", "RecurrentNetwork"),
    ),
    Architecture(
        name="lstm",
        title="LSTM",
        room="sequence",
        authors="Hochreiter, Schmidhuber",
        year=1997,
        paper="Long short-term memory",
        classes=("LSTM", "LSTMCell", "RecurrentNetwork", "RecurrentLM"),
        preset=("RecurrentLM", "zaremba_large"),
        parameters=66_022_000,
    ),
    Architecture(
        name="gru",
        title="GRU",
        room="sequence",
        authors="Cho et al.",
        year=2014,
        paper="Learning Phrase Representations using RNN Encoder-Decoder for Statistical Machine Translation",
        arxiv="1406.1078",
        classes=("GRU", "GRUCell", "RecurrentNetwork"),
    ),
    Architecture(
        name="tcn",
        title="Temporal convolutional network",
        room="sequence",
        authors="Bai, Kolter, Koltun",
        year=2018,
        paper="An Empirical Evaluation of Generic Convolutional and Recurrent Networks for Sequence Modeling",
        arxiv="1803.01271",
        classes=("TCN",),
        preset=("TCN", "adding_600"),
        parameters=70_369,
    ),
    Architecture(
        name="attention",
        title="Attention",
        room="sequence",
        authors="Bahdanau, Cho, Bengio",
        year=2014,
        paper="Neural Machine Translation by Jointly Learning to Align and Translate",
        arxiv="1409.0473",
        classes=("MultiHeadAttention", "AdditiveAttention", "LuongAttention"),
    ),
    Architecture(
        name="seq2seq",
        title="Sequence to sequence",
        room="sequence",
        authors="Sutskever, Vinyals, Le",
        year=2014,
        paper="Sequence to Sequence Learning with Neural Networks",
        arxiv="1409.3215",
        classes=("Seq2Seq",),
        preset=("Seq2Seq", "sutskever2014"),
        parameters=384_112_000,
    ),
    Architecture(
        name="transformer",
        title="Transformer",
        room="sequence",
        authors="Vaswani et al.",
        year=2017,
        paper="Attention Is All You Need",
        arxiv="1706.03762",
        classes=("Transformer", "TransformerEncoder", "TransformerLM"),
        preset=("Transformer", "base"),
        parameters=63_045_632,
    ),
    Architecture(
        name="gnn",
        title="Graph networks: GCN, GAT, GIN, MPNN",
        room="graphs",
        authors="Kipf, Welling",
        year=2016,
        paper="Semi-Supervised Classification with Graph Convolutional Networks",
        arxiv="1609.02907",
        classes=("NodeClassifier", "GraphPredictor"),
        preset=("NodeClassifier", "gcn_cora"),
        parameters=23_040,
    ),
    Architecture(
        name="neural_ode",
        title="Neural ODE",
        room="continuous",
        authors="Chen, Rubanova, Bettencourt, Duvenaud",
        year=2018,
        paper="Neural Ordinary Differential Equations",
        arxiv="1806.07366",
        classes=("ODEClassifier", "LatentODE", "ContinuousFlow"),
        preset=("ODEClassifier", "odenet_mnist"),
        parameters=208_266,
    ),
    Architecture(
        name="resnet",
        title="ResNet",
        room="vision",
        authors="He, Zhang, Ren, Sun",
        year=2015,
        paper="Deep Residual Learning for Image Recognition",
        arxiv="1512.03385",
        classes=("ResNet", "ResidualMLP"),
        preset=("ResNet", "resnet50"),
        parameters=25_557_032,
    ),
    Architecture(
        name="autoencoder",
        title="Variational autoencoder",
        room="generative",
        authors="Kingma, Welling",
        year=2013,
        paper="Auto-Encoding Variational Bayes",
        arxiv="1312.6114",
        classes=("VAE", "Autoencoder"),
        preset=("VAE", "kingma2013_mnist"),
        parameters=815_824,
    ),
    Architecture(
        name="yolo",
        title="YOLO",
        room="detection",
        authors="Redmon, Divvala, Girshick, Farhadi",
        year=2015,
        paper="You Only Look Once: Unified, Real-Time Object Detection",
        arxiv="1506.02640",
        classes=("YOLO", "YOLOv1"),
        preset=("YOLO", "n"),
        parameters=3_157_184,
    ),
    Architecture(
        name="faster_rcnn",
        title="Faster R-CNN",
        room="detection",
        authors="Ren, He, Girshick, Sun",
        year=2015,
        paper="Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks",
        arxiv="1506.01497",
        classes=("FasterRCNN",),
        preset=("FasterRCNN", "fasterrcnn_resnet50_fpn"),
        parameters=41_755_286,
    ),
    Architecture(
        name="detr",
        title="DETR",
        room="detection",
        authors="Carion et al.",
        year=2020,
        paper="End-to-End Object Detection with Transformers",
        arxiv="2005.12872",
        classes=("DETR",),
        preset=("DETR", "detr_resnet50"),
        parameters=41_524_768,
    ),
    Architecture(
        name="fcn",
        title="Fully convolutional network",
        room="segmentation",
        authors="Long, Shelhamer, Darrell",
        year=2014,
        paper="Fully Convolutional Networks for Semantic Segmentation",
        arxiv="1411.4038",
        classes=("FCN", "FCNResNet"),
        preset=("FCN", "fcn8s_vgg16"),
        parameters=134_362_751,
    ),
    Architecture(
        name="mask_rcnn",
        title="Mask R-CNN",
        room="segmentation",
        authors="He, Gkioxari, Dollár, Girshick",
        year=2017,
        paper="Mask R-CNN",
        arxiv="1703.06870",
        classes=("MaskRCNN",),
        preset=("MaskRCNN", "maskrcnn_resnet50_fpn"),
        parameters=44_401_393,
    ),
    Architecture(
        name="gan",
        title="GAN",
        room="generative",
        authors="Goodfellow et al.",
        year=2014,
        paper="Generative Adversarial Networks",
        arxiv="1406.2661",
        classes=("DCGAN", "GAN"),
        preset=("DCGAN", "dcgan64"),
        parameters=6_342_272,
    ),
    Architecture(
        name="stylegan",
        title="StyleGAN",
        room="generative",
        authors="Karras, Laine, Aila",
        year=2018,
        paper="A Style-Based Generator Architecture for Generative Adversarial Networks",
        arxiv="1812.04948",
        classes=("StyleGAN2", "StyleGAN"),
        preset=("StyleGAN2", "config_f_256"),
        parameters=58_898_467,
    ),
    Architecture(
        name="cyclegan",
        title="CycleGAN",
        room="generative",
        authors="Zhu, Park, Isola, Efros",
        year=2017,
        paper="Unpaired Image-to-Image Translation using Cycle-Consistent Adversarial Networks",
        arxiv="1703.10593",
        classes=("CycleGAN",),
        preset=("CycleGAN", "zhu2017_256"),
        parameters=28_285_832,
    ),
    Architecture(
        name="ncsn",
        title="NCSN",
        room="generative",
        authors="Song, Ermon",
        year=2019,
        paper="Generative Modeling by Estimating Gradients of the Data Distribution",
        arxiv="1907.05600",
        classes=("NCSN", "DenseNCSN"),
        preset=("NCSN", "song2019_cifar10"),
        parameters=30_117_635,
    ),
    Architecture(
        name="score_sde",
        title="Score SDE",
        room="generative",
        authors="Song et al.",
        year=2020,
        paper="Score-Based Generative Modeling through Stochastic Differential Equations",
        arxiv="2011.13456",
        classes=("ScoreSDE",),
        preset=("ScoreSDE", "ncsnpp_cifar10"),
        parameters=62_758_787,
    ),
    Architecture(
        name="ddpm",
        title="DDPM",
        room="generative",
        authors="Ho, Jain, Abbeel",
        year=2020,
        paper="Denoising Diffusion Probabilistic Models",
        arxiv="2006.11239",
        classes=("DDPM",),
        preset=("DDPM", "ho2020_cifar10"),
        parameters=35_746_307,
    ),
    Architecture(
        name="nerf",
        title="NeRF",
        room="scenes",
        authors="Mildenhall et al.",
        year=2020,
        paper="NeRF: Representing Scenes as Neural Radiance Fields for View Synthesis",
        arxiv="2003.08934",
        classes=("NeRF",),
        preset=("NeRF", "blender"),
        parameters=1_191_688,
    ),
    Architecture(
        name="occupancy_network",
        title="Occupancy network",
        room="scenes",
        authors="Mescheder et al.",
        year=2018,
        paper="Occupancy Networks: Learning 3D Reconstruction in Function Space",
        arxiv="1812.03828",
        classes=("OccupancyNetwork",),
        preset=("OccupancyNetwork", "points"),
        parameters=10_373_889,
    ),
    Architecture(
        name="gcnn",
        title="Group-equivariant CNN",
        room="vision",
        authors="Cohen, Welling",
        year=2016,
        paper="Group Equivariant Convolutional Networks",
        arxiv="1602.07576",
        classes=("GCNN", "GroupResNet"),
        preset=("GCNN", "p4cnn"),
        parameters=24_620,
    ),
    Architecture(
        name="pointnet",
        title="PointNet",
        room="points",
        authors="Qi, Su, Mo, Guibas",
        year=2016,
        paper="PointNet: Deep Learning on Point Sets for 3D Classification and Segmentation",
        arxiv="1612.00593",
        classes=("PointNet", "PointNetSegmentation"),
        preset=("PointNet", "modelnet40"),
        parameters=3_480_049,
    ),
    Architecture(
        name="pointnet2",
        title="PointNet++",
        room="points",
        authors="Qi, Yi, Su, Guibas",
        year=2017,
        paper="PointNet++: Deep Hierarchical Feature Learning on Point Sets in a Metric Space",
        arxiv="1706.02413",
        classes=("PointNet2", "PointNet2Segmentation"),
        preset=("PointNet2", "modelnet40"),
        parameters=1_475_688,
    ),
    Architecture(
        name="vit",
        title="Vision Transformer",
        room="vision",
        authors="Dosovitskiy et al.",
        year=2020,
        paper="An Image is Worth 16x16 Words: Transformers for Image Recognition at Scale",
        arxiv="2010.11929",
        classes=("ViT",),
        preset=("ViT", "vit_b16"),
        parameters=86_567_656,
    ),
    Architecture(
        name="convnext",
        title="ConvNeXt",
        room="vision",
        authors="Liu et al.",
        year=2022,
        paper="A ConvNet for the 2020s",
        arxiv="2201.03545",
        classes=("ConvNeXt",),
        preset=("ConvNeXt", "convnext_tiny"),
        parameters=28_589_128,
    ),
)
