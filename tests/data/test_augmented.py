"""Augmentation: another one for each image and each epoch, the same whenever it is read."""

import pytest
import torch
from helpers import image_folder

from mobile_cv_nas.data import DataOptions, build_data, build_loader


def batches(loader, epoch):
    return torch.cat([images for images, _ in loader.epoch(epoch)])


def in_order(loader, epoch):
    """The images of an epoch in the order of the split, whatever the epoch's own order."""
    places = [position for key in loader._epoch_keys(epoch) for position in key.positions]
    images = batches(loader, epoch)
    return {place: images[i] for i, place in enumerate(places)}


@pytest.mark.parametrize("dataset", ["digits", "imagefolder"])
def test_each_epoch_has_its_own_augmentation(tmp_path, dataset):
    options = DataOptions(dataset="digits", augment="affine", mean=(0.3,) * 3, std=(0.4,) * 3)
    if dataset == "imagefolder":
        root = image_folder(tmp_path, {"train/a": 8, "train/b": 8, "val/a": 1, "val/b": 1}, size=20)
        options = DataOptions(root=str(root), augment="crop", workers=0)
    loader = build_loader(options, build_data(options).train, 16, 8, True, seed=5)
    first, again, second = in_order(loader, 0), in_order(loader, 0), in_order(loader, 1)
    assert all(torch.equal(first[place], again[place]) for place in first)
    both = [place for place in first if place in second]
    changed = sum(not torch.equal(first[place], second[place]) for place in both)
    assert changed > 0.9 * len(both) > 0
    plain = build_loader(DataOptions(**{**vars(options), "augment": "none"}), build_data(options).train, 16, 8, True, seed=5)
    here, there = in_order(plain, 0), in_order(plain, 1)
    assert all(torch.equal(here[place], there[place]) for place in here if place in there)


def test_epochs_of_the_same_order_differ_too():
    options = DataOptions(dataset="digits", augment="affine", mean=(0.3,) * 3, std=(0.4,) * 3)
    loader = build_loader(options, build_data(options).train.head(2), 16, 2, True)
    found = [in_order(loader, epoch)[0] for epoch in range(8)]
    assert not any(torch.equal(a, b) for i, a in enumerate(found) for b in found[:i])
