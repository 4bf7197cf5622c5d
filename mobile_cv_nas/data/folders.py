"""Folders of images, one folder a class: one's own, ImageNet's, and CIFAR-10's archive."""

from __future__ import annotations

import logging
import os
import random
import re
from collections import Counter
from pathlib import Path

from ..errors import did_you_mean, listed
from .data_set import Data, DataError, Source, Split
from .images import endings
from .options import DataOptions

_LOG = logging.getLogger(__name__)
# Names of folders that are a split, as `_split_of` leaves them; folders and files that systems and tools leave everywhere.
SPLIT_NAMES = {
    "train": ("train", "training", "tr", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing", "tst", "ts", "eval", "evaluation"),
}
_KNOWN = {text: split for split, names in SPLIT_NAMES.items() for text in names}
_AFFIXES = ("dataset", "set", "data", "images", "image", "imgs", "img", "seg", "split")  # a word beside it, or joined to its end
SKIPPED = ("@eadir", "__macosx", "__pycache__", "$recycle.bin", "#recycle", "lost+found", "system volume information")
_NOTES = (".txt", ".json", ".csv", ".xml", ".md", ".yaml", ".yml", ".db", ".ini", ".py", ".ipynb")  # never meant as images


def image_folder(options: DataOptions, root: Path) -> Data:
    """ROOT/train, val and test (or their other names) with a folder a class, or ROOT with these alone.

    Without val, and of a folder that is not split at all without test, a share of the training images is split off.
    With train and val only there is no test. Raises DataError.
    """
    folders = split_folders(root)
    if folders and "train" not in folders:
        raise DataError(f"{root}: has {' and '.join(path.name for path in folders.values())} but no train folder; add it")
    train_root = folders.get("train", root)
    names = _class_names(train_root)
    if not folders:
        _check_level(root, names)
        _remark_alike(root, names)
    classes = choose_classes(names, options)
    train = _scan(train_root, classes, root)
    others = {name: _scan(folders[name], classes, root, names) for name in ("val", "test") if name in folders}
    test = others.get("test")
    if "val" in others:
        return Data(train, others["val"], test, classes)
    share = options.val_fraction
    if test is None:
        train, test = train.halves(options.test_fraction, options.split_seed, "DATA.TEST_FRACTION")
        share /= 1 - options.test_fraction  # it is a share of the whole folder
    train, val = train.halves(share, options.split_seed, "DATA.VAL_FRACTION")
    return Data(train, val, test, classes)


def split_folders(root: Path) -> dict[str, Path]:
    """{"train" | "val" | "test": its folder}, empty where ROOT holds classes. Raises DataError where that is not clear."""
    named: dict[str, list[tuple[int, str]]] = {}
    rest: list[str] = []
    for name in _folders(root):
        split, doubt = _split_of(name)
        if split is None:
            rest.append(name)
        else:
            named.setdefault(split, []).append((doubt, name))
    found: dict[str, Path] = {}
    sure = False
    for split, ranked in named.items():
        least = min(doubt for doubt, _ in ranked)
        names = [name for doubt, name in ranked if doubt == least]
        rest += [name for doubt, name in ranked if doubt > least]
        if least == 2 and ("train" not in named or not any(_folders(root / name) for name in names)):
            rest += names  # test1, test2 and test3 are classes
            continue
        if len(names) > 1:
            raise DataError(f"{root}: {names[0]} and {names[1]} both name the {split} split; merge or rename one")
        found[split] = root / names[0]
        sure = sure or least < 2
    if found and rest:
        if not any(_folders(path) for path in found.values()):
            return {}  # images right inside: a class that happens to be called "train"
        holding = [name for name in sorted(rest) if _holds_images(root / name)]
        if holding and len(found) == 1 and not sure:
            return {}  # bus1 and train1
        if holding:
            raise DataError(
                f"{root}: has split folders ({listed(path.name for path in found.values())}) beside folders of images "
                f"({listed(holding)}); move these into the splits or away"
            )
        _LOG.warning("%s: not read, beside the splits: %s", root, listed(rest))
    # some archives hold seg_train/seg_train
    return {split: path / path.name if _folders(path) == [path.name] else path for split, path in found.items()}


def _split_of(name: str) -> tuple[str | None, int]:
    """The split that a folder's name stands for, and how doubtful that is: 0 its plain name, 1 with other words or a year, 2 with a number.

    train2017, Test-Set and seg_val are splits: case, signs, blanks and words such as "set" do not count. What has another word
    (test_tube, dev board) is none.
    """
    words = re.findall(r"[^\W\d_]+|\d+", name.casefold())
    numbers = [word for word in words if word.isdigit()]
    words = [word for word in words if not word.isdigit() and word not in _AFFIXES]
    if len(words) != 1:
        return None, 0
    texts = [words[0], *(words[0].removesuffix(affix) for affix in _AFFIXES)]
    split = next((_KNOWN[text] for text in texts if text in _KNOWN), None)
    doubt = 2 if any(not re.fullmatch(r"(19|20)\d\d", number) for number in numbers) else int(name.casefold() not in _KNOWN)
    return split, doubt


def _check_level(root: Path, names: list[str]) -> None:
    """Raises DataError where ROOT is one level too high: its folders hold splits, not images."""
    for name in names:
        inside = {_split_of(inner): inner for inner in _folders(root / name)}
        several = len({split for split, _ in inside if split}) > 1
        if inner := inside.get(("train", 0)) or (several and inside.get(("train", 1))):
            raise DataError(f"{root}: a level too high: {name} holds {inner}, a split; set DATA.ROOT to {root / name}")


def _remark_alike(root: Path, names: list[str]) -> None:
    """Warns where the classes look like splits or folds that hold the classes. They may be none: cat and dog, by day and by night."""
    inside = _folders(root / names[0])
    if len(inside) < 2 or any(_folders(root / name) != inside for name in names):
        return
    if any(is_image(file) for name in names for file in os.listdir(root / name)):
        return
    _LOG.warning(
        "%s: %s are taken for the classes, though all hold the same folders (%s) and no image beside them; if they are splits or folds, "
        "name them train, val and test, or set DATA.ROOT to one of them",
        root,
        listed(names),
        listed(inside),
    )


def _folders(folder: Path) -> list[str]:
    """The names of the folders in a folder, sorted, without hidden ones and those of tools."""
    try:
        names = [entry.name for entry in os.scandir(folder) if entry.is_dir()]
    except OSError as error:
        raise DataError(f"{folder}: cannot be read: {error.strerror}") from None
    return sorted(name for name in names if not _is_skipped(name))


def is_image(path: str | os.PathLike) -> bool:
    """Whether a file is read as an image, by its name; hidden ones are not."""
    name = os.path.basename(path)
    return name.lower().endswith(endings()) and not name.startswith(".")


def _is_skipped(name: str) -> bool:
    return name.startswith(".") or name.casefold() in SKIPPED


def image_files(folder: Path) -> list[Path]:
    """The image files in a folder and in those inside it, sorted, as training finds them. Raises DataError for an unreadable folder."""
    return sorted(Path(path) for path in _Walk(folder).images(folder) if os.path.isfile(path))


def _holds_images(folder: Path) -> bool:
    for _, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not _is_skipped(name)]
        if any(map(is_image, files)):
            return True
    return False


def _class_names(folder: Path, least: int = 2) -> list[str]:
    names = _folders(folder)
    if len(names) < least:
        if len(names) == 1:
            _check_level(folder, names)
        found = f"one class folder ({names[0]})" if names else "no class folders"
        raise DataError(f"{folder}: {found}; it needs one folder for each class, {least} at least")
    return names


def choose_classes(names: list[str], options: DataOptions) -> tuple[str, ...]:
    """The share `class_fraction` of the names, two at least, chosen by `split_seed`."""
    if options.class_fraction == 1:
        return tuple(names)
    count = max(2, round(len(names) * options.class_fraction))
    return tuple(sorted(random.Random(options.split_seed).sample(names, min(count, len(names)))))


def _scan(folder: Path, classes: tuple[str, ...], root: Path, known: list[str] | None = None) -> Split:
    """The image files of the named classes. With `known`, all classes there are, one may have no folder; none may have an empty one."""
    if known is not None:
        unknown = sorted(set(_class_names(folder, 1)) - set(known))
        if unknown:
            hint = did_you_mean(unknown[0], known)
            raise DataError(f"{folder / unknown[0]}: a class that the train folder does not have{hint}; rename it")
    walk = _Walk(root)
    paths: list[str] = []
    labels: list[int] = []
    for label, name in enumerate(classes):
        if known is not None and not (folder / name).is_dir():
            continue
        found = walk.images(folder / name)
        if not found:
            raise DataError(f"{folder / name}: no images ({', '.join(endings())}); add some or remove the folder")
        paths += found
        labels += [label] * len(found)
    walk.report(folder)
    return Split.whole(Source(paths, labels))


class _Walk:
    """Finds images in folders. Each real folder is visited once, so that links cannot lead round or into another class."""

    def __init__(self, root: Path):
        self.root = os.path.realpath(root)
        self.seen: dict[str, str] = {}
        self.links: list[str] = []
        self.left: Counter[str] = Counter()
        self.endings = endings()

    def images(self, folder: Path) -> list[str]:
        """The image files in a folder of a class and in those inside it, sorted. Raises DataError if it was visited before."""
        real = os.path.realpath(folder)
        if real in self.seen:
            raise DataError(f"{folder}: is the same folder as {self.seen[real]}; an image can have one class only")
        found: list[str] = []
        for base, folders, files in os.walk(folder, followlinks=True, onerror=_unreadable):
            self.seen.setdefault(os.path.realpath(base), base)
            folders[:] = [name for name in folders if not _is_skipped(name) and self._may_enter(os.path.join(base, name))]
            for file in files:
                if file.startswith(".") or file.casefold() in ("thumbs.db", "desktop.ini"):
                    continue
                if file.lower().endswith(self.endings):
                    found.append(os.path.join(base, file))
                else:
                    self.left[os.path.splitext(file)[1].lower() or file] += 1
        return sorted(found)

    def _may_enter(self, path: str) -> bool:
        real = os.path.realpath(path)
        if os.path.islink(path):
            inside = os.path.commonpath([real, self.root]) in (real, self.root)  # within the data set, or around it
            if inside or real in self.seen:
                self.links.append(path)
                return False
            self.seen[real] = path  # a second link beside it leads nowhere new
            return True
        return real not in self.seen

    def report(self, folder: Path) -> None:
        """Says once what was left out."""
        if self.links:
            _LOG.warning(
                "%s: %d links lead to folders that are read anyway and are left out (%s)", folder, len(self.links), listed(self.links)
            )
        images = {ending: count for ending, count in self.left.items() if ending not in _NOTES}
        if images:
            names = listed(f"{count} {ending}" for ending, count in sorted(images.items()))
            _LOG.warning("%s: %d files are left out (%s); convert images to JPEG or PNG", folder, sum(images.values()), names)


def _unreadable(error: OSError) -> None:
    raise DataError(f"{error.filename}: cannot be read ({error.strerror}); correct its permissions, or remove it") from None


# -- published data sets ------------------------------------------------------------------------------


def imagenet(options: DataOptions, root: Path) -> Data:
    """ImageNet-1k from folders, ROOT/train and val with a folder a class, or from its archives by torchvision. No test image has a label.

    ROOT/val alone does for tests: the training images are none then. Raises DataError.
    """
    from torchvision.datasets import ImageNet

    if not (root / "meta.bin").is_file() and not any(root.glob("ILSVRC2012_devkit*")) and "val" in (folders := split_folders(root)):
        names = _class_names(folders.get("train", folders["val"]))
        classes = choose_classes(names, options)
        train = _scan(folders["train"], classes, root) if "train" in folders else Split.whole(Source([], []))
        return Data(train, _scan(folders["val"], classes, root, names), None, classes)
    try:
        parts = {split: ImageNet(str(root), split=split) for split in ("train", "val")}
    except (RuntimeError, OSError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(f"{root}: neither train and val with a folder a class, nor ImageNet as torchvision reads it ({reason})") from None
    names = parts["train"].wnids
    classes = choose_classes(list(names), options)
    new_label = {names.index(name): label for label, name in enumerate(classes)}
    splits = []
    for part in parts.values():
        samples = [(path, new_label[label]) for path, label in part.samples if label in new_label]
        splits.append(Split.whole(Source([p for p, _ in samples], [y for _, y in samples])))
    return Data(splits[0], splits[1], None, classes)


def cifar10(options: DataOptions, root: Path) -> Data:
    """CIFAR-10 by torchvision, which compares the files' MD5 sums before it unpickles them."""
    from torchvision.datasets import CIFAR10

    try:
        train, test = CIFAR10(str(root), train=True), CIFAR10(str(root), train=False)
    except (RuntimeError, OSError) as error:
        raise DataError(f"{root}: no complete CIFAR-10 ({' '.join(str(error).split())[:120]}); put cifar-10-batches-py there") from None
    rest, val = Split.whole(Source(train.data, train.targets)).halves(options.val_fraction, options.split_seed)
    return Data(rest, val, Split.whole(Source(test.data, test.targets)), tuple(train.classes))
