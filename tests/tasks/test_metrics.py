import sys

import numpy as np
import pytest
import torch

from mobile_cv_nas.data import DataError
from mobile_cv_nas.data.targets import Boxes
from mobile_cv_nas.tasks.metrics import Confusion, average_precision

NAMES = ("cat", "dog")


def truth(boxes, labels, crowd=None, number=0):
    crowd = [False] * len(labels) if crowd is None else crowd
    return Boxes(number, (100, 80), np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64), np.array(crowd, bool))


def guess(boxes, labels, scores):
    return {
        "boxes": torch.tensor(boxes, dtype=torch.float32).view(-1, 4),
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores, dtype=torch.float32),
    }


BOX, FAR = [10, 10, 30, 30], [60, 40, 90, 70]
NOTHING = guess([], [], [])


def ap(targets, predictions):
    found = average_precision(targets, predictions, NAMES)
    assert list(found) == ["ap", "ap50", "ap75"]
    return pytest.approx(tuple(found.values()), abs=1e-9)


def test_perfect_predictions(capsys):
    rng = np.random.default_rng(0)
    targets = []
    for number in range(6):
        corner, size = rng.uniform(0, 40, (number, 2)), rng.uniform(5, 40, (number, 2))
        targets.append(truth(np.hstack([corner, corner + size]), rng.integers(1, 3, number), number=number))
    predictions = [guess(t.boxes.tolist(), t.labels.tolist(), rng.random(len(t)).tolist()) for t in targets]
    assert ap(targets, predictions) == (1, 1, 1)
    arrays = [{key: value.numpy() for key, value in prediction.items()} for prediction in predictions]
    assert ap(targets, arrays) == (1, 1, 1)
    other = [prediction | {"labels": 3 - prediction["labels"]} for prediction in predictions]
    assert average_precision(targets, other, NAMES)["ap50"] < 0.1
    assert capsys.readouterr() == ("", "")


def test_nothing_found_or_nothing_there():
    assert ap([truth([BOX], [1])], [NOTHING]) == (0, 0, 0)
    assert ap([truth([], [])], [guess([BOX], [1], [0.9])]) == (0, 0, 0)
    assert ap([truth([BOX], [1], [True])], [guess([BOX], [1], [0.9])]) == (0, 0, 0)
    assert ap([], []) == (0, 0, 0)
    assert ap([truth([BOX], [1])], [guess([BOX], [7], [0.9])]) == (0, 0, 0)  # no such category


def test_by_hand():
    # one of two found: precision 1 up to recall 0.5, that is at 51 of the 101 recalls, then 0
    assert ap([truth([BOX, FAR], [1, 1])], [guess([BOX], [1], [0.9])]) == (51 / 101,) * 3
    # a false one above the true one: precision 1/2 at every recall
    assert ap([truth([BOX], [1])], [guess([FAR, BOX], [1, 1], [0.9, 0.8])]) == (0.5, 0.5, 0.5)
    # a false one below it does no harm
    assert ap([truth([BOX], [1])], [guess([FAR, BOX], [1, 1], [0.7, 0.8])]) == (1, 1, 1)
    # the same object twice: the second is false
    assert ap([truth([BOX, FAR], [1, 1])], [guess([BOX, BOX, FAR], [1, 1, 1], [0.9, 0.8, 0.7])]) == ((51 + 50 * 2 / 3) / 101,) * 3
    # the mean over the categories that occur
    assert ap([truth([BOX, FAR], [1, 2])], [guess([BOX], [1], [0.9])]) == (0.5, 0.5, 0.5)
    # IoU 20 * 14 / 20 * 20 = 0.7 counts at 0.50, 0.55, 0.60, 0.65 and 0.70 (of which float32 meets the last)
    found = average_precision([truth([[0, 0, 20, 20]], [1])], [guess([[0, 0, 20, 14.1]], [1], [0.9])], NAMES)
    assert found == pytest.approx({"ap": 0.5, "ap50": 1, "ap75": 0})


def test_images_are_kept_apart():
    targets = [truth([BOX], [1], number=5), truth([], [], number=5)]  # even if their numbers are equal
    assert ap(targets, [NOTHING, guess([BOX], [1], [0.9])]) == (0, 0, 0)
    assert ap(targets, [guess([BOX], [1], [0.9]), NOTHING]) == (1, 1, 1)


def test_crowds_are_neither_missed_nor_false():
    target = truth([BOX, [40, 20, 100, 80]], [1, 1], [False, True])
    assert ap([target], [guess([BOX], [1], [0.5])]) == (1, 1, 1)
    inside = [[45, 25, 60, 40], [70, 50, 90, 70]]
    assert ap([target], [guess([*inside, BOX], [1, 1, 1], [0.9, 0.8, 0.5])]) == (1, 1, 1)


def test_predictions_that_are_not_finite_are_left_out():
    bad = [[float("nan"), 0, 5, 5], [0, 0, float("inf"), 5], BOX]
    assert ap([truth([BOX], [1])], [guess([*bad, BOX], [1] * 4, [0.9, 0.9, float("nan"), 0.5])]) == (1, 1, 1)


def test_what_does_not_fit_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="1 targets and 0 predictions"):
        average_precision([truth([BOX], [1])], [], NAMES)
    with pytest.raises(ValueError, match="prediction 0: 1 boxes, 2 labels and 1 scores"):
        average_precision([truth([BOX], [1])], [guess([BOX], [1, 2], [0.9])], NAMES)
    monkeypatch.setitem(sys.modules, "pycocotools.cocoeval", None)
    with pytest.raises(DataError, match=r"mobile_cv_nas\[coco\]"):
        average_precision([truth([BOX], [1])], [guess([BOX], [1], [0.9])], NAMES)


# -- pixels -------------------------------------------------------------------------------------------


def test_iou_by_counting():
    generator = torch.Generator().manual_seed(0)
    pred = torch.randint(0, 4, (3, 9, 7), generator=generator)
    target = torch.randint(0, 5, (3, 9, 7), generator=generator)
    target[target == 4] = 255
    confusion = Confusion(6)
    confusion.update(pred[:1], target[:1])
    confusion.update(pred[1:], target[1:].byte())
    pairs = [(int(t), int(p)) for t, p in zip(target.flatten(), pred.flatten()) if t != 255]
    expected = []
    for label in range(4):
        union = [pair for pair in pairs if label in pair]
        expected.append(sum(t == p for t, p in union) / len(union))
    iou = confusion.iou()
    assert iou[:4].tolist() == pytest.approx(expected, abs=1e-12)
    assert iou[4:].isnan().all()
    assert confusion.miou() == pytest.approx(np.mean(expected), abs=1e-12)
    assert confusion.pixel_accuracy() == pytest.approx(np.mean([t == p for t, p in pairs]), abs=1e-12)
    assert (confusion.matrix.dtype, int(confusion.matrix.sum())) == (torch.int64, len(pairs))
    assert int(confusion.matrix[1, 2]) == pairs.count((1, 2))


def test_matrices_add_up():
    generator = torch.Generator().manual_seed(1)
    pred, target = torch.randint(0, 3, (2, 4, 5, 5), generator=generator)
    whole, first, second = Confusion(3), Confusion(3), Confusion(3)
    whole.update(pred, target)
    first.update(pred[:1], target[:1])
    second.update(pred[1:], target[1:])
    first.matrix = first.matrix + second.matrix
    assert torch.equal(first.matrix, whole.matrix)
    assert first.miou() == whole.miou()


def test_pixels_at_the_limits():
    confusion = Confusion(3)
    assert (confusion.miou(), confusion.pixel_accuracy()) == (0, 0)
    confusion.update(torch.zeros(1, 2, 2).long(), torch.full((1, 2, 2), 255))
    assert (confusion.miou(), confusion.pixel_accuracy()) == (0, 0)
    confusion.update(torch.tensor([[[1, 1]]]), torch.tensor([[[1, 1]]]))
    assert (confusion.miou(), confusion.pixel_accuracy()) == (1, 1)
    confusion.update(torch.tensor([[[2]]]), torch.tensor([[[1]]]))  # a class that is predicted only counts, with 0
    assert confusion.miou() == pytest.approx((2 / 3 + 0) / 2)
    for pred, target, match in ((3, 1, "a prediction of 3 to 3 for 3 classes"), (1, 3, "a target of 3"), (-1, 0, "a prediction of -1")):
        with pytest.raises(ValueError, match=match):
            confusion.update(torch.tensor([[[pred]]]), torch.tensor([[[target]]]))
    with pytest.raises(ValueError, match="make them equal"):
        confusion.update(torch.zeros(1, 2, 2).long(), torch.zeros(1, 1, 2).long())
