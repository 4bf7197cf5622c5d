"""The images that decide on a child are never those that it is tested on."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from helpers import StopAfter, image_folder
from searches import build_searcher, search_and_train, search_of, tiny_cfg

from mobile_cv_nas.data import DataOptions, build_data
from mobile_cv_nas.engine.checkpoint import CheckpointError
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.report.tables import result_table, search_table
from mobile_cv_nas.search.judge import Stopped
from mobile_cv_nas.search.measure import Measure

COUNTS = {"train/cat": 20, "train/owl": 20, "val/cat": 3, "val/owl": 3}


def config(tmp_path, counts, *opts):
    images = image_folder(tmp_path / "images", counts, size=8)
    return tiny_cfg(tmp_path, "DATA.DATASET", "imagefolder", "DATA.ROOT", images, "DATA.WORKERS", 0, "SEARCH.BATCH_SIZE", 4, *opts)


def parts_of(split, root):
    return {Path(split.source.images[index]).relative_to(root / "images").parts[0] for index in split.indices}


def test_candidates_are_compared_on_training_images_where_there_is_no_test(tmp_path):
    cfg = config(tmp_path, COUNTS)
    judges, weights = search_of(cfg).judges(), build_searcher(cfg).phases[0].loader.split
    assert parts_of(judges, tmp_path) == {"train"}
    assert len(judges) == 6  # as many as there are in val
    assert judges.counts(2) == [3, 3]
    assert not set(judges.indices) & set(weights.indices)


def test_they_are_validation_images_where_there_is_a_test(tmp_path):
    cfg = config(tmp_path, {**COUNTS, "test/cat": 2, "test/owl": 2})
    assert parts_of(search_of(cfg).judges(), tmp_path) == {"val"}


def test_a_search_compares_on_these_and_reports_each_set_once(tmp_path, monkeypatch):
    seen = []

    def spy(supernet, arch, task, train, images):
        seen.append(parts_of(images.loader.split, tmp_path))
        return float(len(seen)), 0.0

    monkeypatch.setattr("mobile_cv_nas.search.measure.measure_arch", spy)
    monkeypatch.setattr("mobile_cv_nas.networks.supernet.Supernet.derive", lambda supernet: supernet.space.largest())
    options = ["SEARCH.EPOCHS", 2, "SEARCH.TARGET", 14000, "SEARCH.TOLERANCE", 0.1, "SEARCH.RECALIBRATION_IMAGES", 4, "TRAIN.BATCH_SIZE", 8]
    result = search_and_train(config(tmp_path, COUNTS, *options))
    assert seen
    assert all(parts == {"train"} for parts in seen)
    assert {"val_top1", "top1"} & set(result) == {"val_top1"}
    for table in (search_table(result, "", result["seconds"]), result_table({**result, "skipped_images": 0}, "")):
        assert "validation top-1" in table
        assert "test top-1" not in table


@pytest.mark.parametrize(("requested", "due", "saves", "ends"), [(0, 0, 0, False), (0, 1, 1, False), (1, 0, 1, True), (1, 1, 1, True)])
def test_between_two_measurements_a_run_may_save_or_stop(tmp_path, requested, due, saves, ends):
    cfg = config(tmp_path, {**COUNTS, "test/cat": 2, "test/owl": 2})
    run, saved = search_of(cfg), []
    (goal,) = run.goals.values()
    measure = Measure(build_searcher(cfg).supernet, run.task, goal, run.options, run.data, run.recipe, run.task, run.runtime)
    loop = SimpleNamespace(results={}, folder=tmp_path, save=lambda: saved.append("run"))
    stop = SimpleNamespace(requested=requested, due=lambda: due, saved=lambda: saved.append("told"))
    judge = measure.judge(loop, stop)
    with pytest.raises(Stopped) if ends else nullcontext():
        judge.pause()
    assert saved == ["run", "told"] * saves


@pytest.mark.parametrize(("asked", "sizes"), [(6, [6]), (100, [40]), (39, [39])])
def test_norms_are_renewed_on_so_many_training_images(tmp_path, asked, sizes):
    cfg = config(tmp_path, {**COUNTS, "test/cat": 2, "test/owl": 2}, "SEARCH.RECALIBRATION_IMAGES", asked)
    run = search_of(cfg)
    (goal,) = run.goals.values()
    measure = Measure(build_searcher(cfg).supernet, run.task, goal, run.options, run.data, run.recipe, run.task, run.runtime)
    assert [len(images) for images in measure._calibration()] == sizes
    judge = measure.judge(SimpleNamespace(results={}, folder=tmp_path), StopRequest())
    assert judge.images == (sum(sizes) + len(run.data.val), 40)


@pytest.mark.parametrize("tested", [True, False])
def test_finalists_are_judged_on_images_that_none_of_them_learnt_from(tmp_path, monkeypatch, tested):
    """Without test images the validation images are what is reported: some training images are kept for the judgement."""
    cfg = config(tmp_path, {**COUNTS, "test/cat": 2, "test/owl": 2} if tested else COUNTS)
    run, seen = search_of(cfg), []
    (goal,) = run.goals.values()

    def trainer(network, arch, data, *rest):
        seen.append(data)
        return SimpleNamespace(run=lambda *_: SimpleNamespace(finished=True), validation={"top1": 0.5, "loss": 1.0})

    monkeypatch.setattr("mobile_cv_nas.search.measure.Trainer", trainer)
    measure = Measure(build_searcher(cfg).supernet, run.task, goal, run.options, run.data, run.recipe, run.task, run.runtime)
    measure._train(run.space.sample(0), 2, tmp_path / "finalist", None, None)
    (data,) = seen
    assert data.test is None
    if not tested:
        assert data.val.source is data.train.source
        assert not set(data.train.indices) & set(data.val.indices)
    kept = run.data.train.halves(run.options.alpha_fraction, run.recipe.seed)[0].indices
    assert data.train.indices == (run.data.train.indices if tested else kept)


@pytest.mark.parametrize(("asked", "used"), [(0, 6), (1, 1), (4, 4), (6, 6), (100, 6)])
def test_archs_are_compared_on_so_many_validation_images(tmp_path, asked, used):
    cfg = config(tmp_path, {**COUNTS, "test/cat": 2, "test/owl": 2}, "SEARCH.RANKING_IMAGES", asked)
    run = search_of(cfg)
    (goal,) = run.goals.values()
    measure = Measure(build_searcher(cfg).supernet, run.task, goal, run.options, run.data, run.recipe, run.task, run.runtime)
    assert sum(len(images) for images, _ in measure._ranking()) == used


@pytest.mark.parametrize("count", [1, 5, 40, 100])
def test_a_spread_takes_from_all_over_the_split(tmp_path, count):
    image_folder(tmp_path / "images", COUNTS)
    split = build_data(DataOptions(root=str(tmp_path / "images"))).train
    found = split.spread(count).indices
    assert len(found) == min(count, 40)
    gaps = [b - a for a, b in zip((*found, 40), (*found[1:], 40))][: len(found) - 1]
    assert not gaps or max(gaps) - min(gaps) <= 1


def test_a_run_goes_on_with_the_images_that_it_began_with(tmp_path):
    """Where one is gone they are split anew: what was trained on may be tested on."""
    counts = {"cat": 30, "owl": 30}
    options = ["SEARCH.EPOCHS", 2, "SEARCH.TARGET", 14000, "SEARCH.TOLERANCE", 0.2, "SEARCH.CANDIDATES", 1, "TRAIN.BATCH_SIZE", 8]
    cfg = config(tmp_path, counts, *options)
    assert not search_and_train(cfg, stop=StopAfter(3))["finished"]
    gone = tmp_path / "images" / "cat" / "007.png"
    whole = gone.read_bytes()
    gone.unlink()
    with pytest.raises(CheckpointError, match=r"of another run: images of train was '48 \(\w+\)' and is '47 "):
        search_and_train(cfg, resume=True)
    gone.write_bytes(whole)
    (tmp_path / "images").rename(tmp_path / "moved")
    cfg.DATA.ROOT, cfg.DATA.MAX_SKIPPED_SHARE = str(tmp_path / "moved"), 0.5
    assert search_and_train(cfg, resume=True)["finished"]


def test_what_a_finalist_is_trained_with(tmp_path, monkeypatch):
    """The recipe of a child for as many epochs, without a warm-up, validated at its end, on images that the judges are not of."""
    run = search_of(tiny_cfg(tmp_path, "TRAIN.WARMUP_EPOCHS", 1.0, "TRAIN.EPOCHS", 9))
    made, reached = [], {"top1": 0.25, "loss": 1.0}

    class Fake:
        def __init__(self, model, arch, data, recipe, runtime, weights):
            made.append((data, recipe, weights))
            self.validation = reached

        def run(self, folder, goes_on, stop):
            return SimpleNamespace(finished=True)

    monkeypatch.setattr("mobile_cv_nas.search.measure.Trainer", Fake)
    measure = run.measure(build_searcher(tiny_cfg(tmp_path)).supernet)
    score = measure._train(run.space.smallest(10), 3, tmp_path / "deep" / "finalist", None, StopRequest())
    assert score == run.child_task.rank(reached)
    ((data, recipe, weights),) = made
    train = recipe.train
    assert (train.epochs, train.eval_every, train.warmup_epochs, weights) == (3, 3, 0.0, None)
    assert replace(train, epochs=9, eval_every=run.recipe.train.eval_every, warmup_epochs=1.0) == run.recipe.train
    assert not set(data.val.indices) & set(data.train.indices)
    assert data.test is None
    measure._train(run.space.smallest(10), 3, tmp_path / "deep" / "finalist", None, StopRequest())  # the folder may be there
