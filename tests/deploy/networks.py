"""Small networks of every kind that can be exported."""

import torch
from dense_runs import dense_arch
from helpers import tiny_arch
from torch import nn

import mobile_cv_nas as nas
from mobile_cv_nas.data.transforms import Preprocess
from mobile_cv_nas.tasks.classification import Classification
from mobile_cv_nas.tasks.detection import Detection
from mobile_cv_nas.tasks.load import default_transform
from mobile_cv_nas.tasks.model import Model
from mobile_cv_nas.tasks.options import HeadOptions
from mobile_cv_nas.tasks.segmentation import Segmentation

DIGITS = tuple("0123456789")


def renewed(network: nn.Module, seed: int = 0) -> nn.Module:
    """With norm statistics and affine parts that do something, in eval mode."""
    generator = torch.Generator().manual_seed(seed)
    for name, tensor in [*network.named_parameters(), *network.named_buffers()]:
        if ("norm" in name or "running" in name or name.endswith("bias")) and tensor.is_floating_point():
            noise = torch.rand(tensor.shape, generator=generator)
            tensor.data = 0.5 + noise if name.endswith(("weight", "running_var")) else noise - 0.5
    return network.eval()


# name: how it is built, and the side of its images
NETWORKS = {
    "classifier": (lambda: nas.build_model(tiny_arch(), 10), 8),
    "features": (lambda: nas.fbnet_builder(dense_arch(), features_only=True), 64),
    "lraspp": (lambda: nas.build_segmenter("lraspp", dense_arch(), 3, channels=16), 64),
    "deeplabv3": (lambda: nas.build_segmenter("deeplabv3", dense_arch(), 3, channels=16), 64),
    "ssdlite": (lambda: nas.build_detector("ssdlite", dense_arch(), 3, 64, channels=16, score_thresh=0.01), 64),
    "retinanet": (lambda: nas.build_detector("retinanet", dense_arch(), 3, 64, (8, 16), channels=8, score_thresh=0.01), 64),
    "frozen": (lambda: nas.build_segmenter("lraspp", dense_arch(), 3, channels=16, frozen_norm=True), 64),
}


def network_of(name: str) -> nn.Module:
    """One of NETWORKS, at random."""
    torch.manual_seed(0)
    return renewed(NETWORKS[name][0]())


def model_of(name: str) -> Model:
    """A Model with random weights: classifier, lraspp or ssdlite."""
    torch.manual_seed(0)
    if name == "classifier":
        task, arch = Classification(DIGITS, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25)), tiny_arch()
        transform = Preprocess(8, 10, True, "bicubic", task.mean, task.std)
        return Model(renewed(task.network(arch)), arch, task, transform, {"licence": "CC0"})
    head = HeadOptions(name=name, input_size=64, channels=16)
    task = (Segmentation if name == "lraspp" else Detection)(("a", "b", "c"), head)
    arch = dense_arch()
    return Model(renewed(task.network(arch)), arch, task, default_transform(task, arch))
