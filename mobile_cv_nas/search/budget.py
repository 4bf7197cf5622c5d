"""How many images a search passes forward and backward, before it runs; and how many epochs spend a given number of them."""

from __future__ import annotations

from dataclasses import replace

from ..data.data_set import Data
from .measure import learning_images
from .options import SearchOptions
from .strategies import find_strategy

MOST_EPOCHS = 100_000


def planned_images(options: SearchOptions, data: Data, seed: int) -> int:
    """Images that a search passes forward and backward, each as often as it is passed; of one that trains archs alone, EPOCHS times all.

    Several targets share the weights, and each has steps of the alphas, or archs that are trained alone, of its own.
    """
    passes, targets = find_strategy(options.strategy).passes(options), max(1, len(options.targets))
    if not passes:
        return options.epochs * len(learning_images(data, options, seed)) * targets
    halves = data.train.halves(options.alpha_fraction, seed)
    splits = halves if len(passes) > 1 or data.test is None else (data.train,)
    warmup = round(options.warmup_fraction * options.epochs)
    total = 0
    for (name, times), split in zip(passes.items(), splits):
        epochs = options.epochs - (warmup if name == "alphas" else 0)
        times *= targets if name == "alphas" else 1
        total += epochs * (len(split) // options.batch_size) * options.batch_size * times
    return total


def epochs_for(images: float, options: SearchOptions, data: Data, seed: int) -> int:
    """The number of epochs, one at least, whose images come nearest to a budget."""

    def off(epochs: int) -> float:
        return abs(planned_images(replace(options, epochs=epochs), data, seed) - images)

    epochs = 1
    while epochs < MOST_EPOCHS and off(epochs + 1) < off(epochs):
        epochs += 1
    return epochs
