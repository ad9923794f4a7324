"""Named recipes of DeepCluster and of its comparisons with other pretexts."""

from dataclasses import replace

from raylabel import datasets
from raylabel.compute.resources import Resources
from raylabel.corpus import Corpus
from raylabel.features.kmeans import KMeans
from raylabel.media.view import View
from raylabel.models import Model
from raylabel.recipes.deep_cluster import DeepCluster
from raylabel.recipes.images import IMAGENET
from raylabel.recipes.memorized import CIFAR10, DIGITS, MOVING_DIGITS
from raylabel.recipes.pretexts import Pretexts
from raylabel.training.config import Train
from raylabel.training.media import Materialize
from raylabel.training.schedule import Schedule


def cluster_digits() -> DeepCluster:
    """The unlabeled part of scikit-learn's digits: a network learns the clusters of its own features.

    `raylabel deep-cluster`, on 2 CPU cores (AMD EPYC, 2026-12-01): 2 min 01 s.
    """
    return DeepCluster(
        name="cluster-digits",
        corpus=Corpus(uri=("embedded://digits/unlabeled",)),
        rounds=10,
        kmeans=KMeans(k=100),
        components=32,
        model=Model(arch="resnet8x1"),
        view=replace(DIGITS, crop="padded"),
        train=Train(
            images=4_000,
            batch=50,
            schedule=Schedule(lr=0.05, warmup=0.0, drops=0),
            weight_decay=1e-5,
            head_momentum=0.0,
        ),
        materialize=Materialize(lanes=8),
        resources=Resources(workers=1),  # one core is enough for a batch of 50 tiny images
    )


def cluster_moving_digits() -> DeepCluster:
    """The unlabeled part of the embedded moving digits: a network of clips learns the clusters of its own features.

    `raylabel deep-cluster cluster-moving-digits`, on 2 CPU cores (AMD EPYC, 2026-12-01): 3 min 37 s.
    """
    recipe = cluster_digits()
    return replace(
        recipe,
        name="cluster-moving-digits",
        corpus=Corpus(uri=("embedded://moving-digits/unlabeled",), kind="video"),
        model=Model(arch="r2plus1d8x1"),
        view=replace(MOVING_DIGITS, crop="random_resized"),
        train=replace(recipe.train, images=2_000),
    )


def cluster_cifar10(data: str) -> DeepCluster:
    """CIFAR-10 without labels: a narrow AlexNet on gradients learns the clusters of its own features.

    `raylabel deep-cluster cluster-cifar10 --data DIR`; `data` contains unlabeled-[0-9]*.parquet. k is 10 times the
    number of classes, and the features are those of fc7 before its ReLU, as in the paper: not yet run.
    """
    return DeepCluster(
        name="cluster-cifar10",
        corpus=Corpus(uri=(f"{data}/unlabeled-[0-9]*.parquet",)),
        rounds=6,
        kmeans=KMeans(k=100),
        components=256,
        layer="fc7",
        model=Model(arch="alexnetx2", input="sobel"),
        view=replace(CIFAR10, crop="random_resized", min_scale=0.3, flip=True),
        train=Train(
            images=50_000,
            batch=128,
            schedule=Schedule(lr=0.05, warmup=0.0, drops=0),
            weight_decay=1e-5,
            head_momentum=0.0,
        ),
    )


def cluster_imagenet_alexnet(data: str) -> DeepCluster:
    """DeepCluster's AlexNet on ImageNet without labels (Caron et al. 2018: 72.0 mAP on VOC07): not yet run.

    `raylabel deep-cluster cluster-imagenet-alexnet --data DIR`, on GPUs; `data` is the folder of ImageNet. 500 rounds
    of one epoch, k of 10,000, and a constant learning rate, as in the paper and its official code.
    """
    return DeepCluster(
        name="cluster-imagenet-alexnet",
        corpus=datasets.imagenet(data, "train"),
        labeled=True,
        rounds=500,
        kmeans=KMeans(k=10_000),
        layer="fc7",
        model=Model(arch="alexnet_bn", input="sobel"),
        view=View(),
        train=Train(
            images=IMAGENET,
            batch=256,
            schedule=Schedule(lr=0.05, warmup=0.0, drops=0),
            weight_decay=1e-5,
            head_momentum=0.0,
        ),
    )


def cluster_imagenet_vgg16(data: str) -> DeepCluster:
    """The same with VGG16, whose features before the ReLU of its second linear layer are clustered: not yet run."""
    recipe = cluster_imagenet_alexnet(data)
    model = Model(arch="vgg16_bn", input="sobel")
    return replace(recipe, name="cluster-imagenet-vgg16", model=model, layer="classifier.3")


def cluster_yfcc_alexnet(data: str) -> DeepCluster:
    """The same AlexNet on a million pictures of YFCC100M, which nobody curated (paper: 67.3 mAP on VOC07 by the fully
    connected layers, 69.3 by all): not yet run.

    `raylabel deep-cluster cluster-yfcc-alexnet --data DIR`; `data` contains yfcc100m (WebDataset shards).
    """
    recipe = cluster_imagenet_alexnet(data)
    return replace(
        recipe,
        name="cluster-yfcc-alexnet",
        corpus=Corpus(uri=(f"{data}/yfcc100m",), share=0.01),
        labeled=False,
        train=replace(recipe.train, images=1_000_000),
    )


def pretexts_digits() -> Pretexts:
    """The unlabeled part of scikit-learn's digits: clusters and other pretexts, judged with 50 labels.

    `raylabel pretexts`, on 2 CPU cores: not yet run to the end. With `--starts none clusters layer_kmeans layer_pca
    layer_rbm layer_autoencoder completion denoising`, beside much other work (2026-12-01): about 37 min in two parts.
    """
    return Pretexts(
        name="pretexts-digits",
        clusters=cluster_digits(),
        labeled=Corpus(uri=("embedded://digits/labeled",)),
        test=Corpus(uri=("embedded://digits/test",)),
        layers=("conv1:4", "layer1:4", "layer2:4", "layer3:2"),
        resources=Resources(workers=1),
    )


def pretexts_cifar10(data: str) -> Pretexts:
    """CIFAR-10 without labels: clusters and other pretexts for a narrow AlexNet, judged with 4,000 labels.

    `raylabel pretexts pretexts-cifar10 --data DIR`; `data` contains unlabeled-[0-9]*.parquet, labeled-4k.parquet,
    test.parquet and classes.txt. Features of all layers have about as many numbers, as in the paper: not yet run.
    """
    classes = f"{data}/classes.txt"
    return Pretexts(
        name="pretexts-cifar10",
        clusters=cluster_cifar10(data),
        labeled=Corpus(uri=(f"{data}/labeled-4k.parquet",), classes=classes),
        test=Corpus(uri=(f"{data}/test.parquet",), classes=classes),
        layers=("conv1:8", "conv2:5", "conv3:4", "conv4:4", "conv5:5"),
    )
