"""Compares strategies on one space: equal budget, one recipe for all children, the noise floor first.

    python benchmarks/compare_strategies.py --config configs/search/digits.yaml --strategies random,dmasking,one_shot [--seeds 3]
        [--processes 2] [--output output/comparison] [KEY VALUE ...]
    python benchmarks/compare_strategies.py --hard --strategies random,dmasking,one_shot SEARCH.SHARING full

`--hard` stands for data, space and recipe of `sharing_quality.py`: digits that do not saturate. A strategy may change keys of the config:
`dmasking:SEARCH.SHARING=full`. Every search passes as many images forward and backward as the first one with the epochs of the config (or
`--images`); seconds, MACs and memory are told beside. Every child is trained `--trainings` times by the config's TRAIN recipe, with other
seeds than the searches.

The noise floor are `--floor` random archs at the target and as many sane ones (widths that do not fall with depth). They also tell how a
supernet ranks: Kendall's tau between their scores with inherited weights and trained by themselves. Scores are -ln(1 - top-1 on the test
images). What is done stays in the output folder and is not done again; what was interrupted goes on. Strategies, seeds, trainings and archs
of the floor may be added; other settings need another folder: those of this one are in its settings.json.

Under torchrun the processes share each job: `torchrun --standalone --nproc-per-node 8 benchmarks/compare_strategies.py ...`.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import os
import random
import re
import resource
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import sharing_quality as hard
import torch
from _comparison import FLOOR, draw, kendall, rows_of, score, table, write_csv

import mobile_cv_nas as nas
from mobile_cv_nas.cli import guarded
from mobile_cv_nas.commands.options import recipe_of, search_options
from mobile_cv_nas.config import get_cfg, load_config
from mobile_cv_nas.config.files import merge_file, merge_options
from mobile_cv_nas.config.validate import DISABLED
from mobile_cv_nas.data.build import build_data
from mobile_cv_nas.data.digest import data_digest
from mobile_cv_nas.engine.run_folder import CHECKPOINTS, fingerprint
from mobile_cv_nas.engine.runtime import start_runtime
from mobile_cv_nas.engine.stop import StopRequest
from mobile_cv_nas.errors import shown
from mobile_cv_nas.files import atomic_write
from mobile_cv_nas.search.budget import epochs_for, planned_images
from mobile_cv_nas.search.goal import check_target
from mobile_cv_nas.search.run import SearchRun
from mobile_cv_nas.search.sampling import random_archs
from mobile_cv_nas.search.strategies import NO_SUPERNET
from mobile_cv_nas.tasks.build import task_class
from mobile_cv_nas.training.losses import training_task
from mobile_cv_nas.training.trainer import Trainer

SEEDS_OF_CHILDREN = 100  # from here on
DONE = "compared.json"  # of a job
SETTINGS = "settings.json"  # of all jobs
NO_STOP = 1e6  # minutes between saves that are not those of an epoch


def slug(label: str) -> str:
    return re.sub(r"[^\w.=-]+", "_", label)


def pairs_of(options: argparse.Namespace) -> list[str]:
    """The KEY VALUE pairs of all jobs."""
    return [*(f"{key}={value}" for key, value in hard.recipe().items() if options.hard), *options.opts]


def config(options: argparse.Namespace, label: str = "", seed: int = 0) -> Any:
    """The config of a search, with the keys that its label changes.

    Keys of the command line that its strategy does not read are left out.
    """
    name, *changes = label.split(":") if label else ["dmasking"]
    if any("=" not in change for change in changes):
        raise SystemExit(f"error: --strategies: {label!r}: a change is KEY=VALUE")
    opts = pairs_of(options)
    own = load_config(options.config, ["SEARCH.STRATEGY", name])
    rules = [rule for rule in DISABLED if rule.by == "SEARCH.STRATEGY" and rule.when(own, "search")]
    words = iter(opts)
    pairs = [word if "=" in word else f"{word}={next(words)}" for word in words]
    read = [pair for pair in pairs if not any(rule.covers(pair.partition("=")[0]) for rule in rules)]
    cfg = load_config(options.config, [*read, f"SEARCH.STRATEGY={name}", *changes])
    cfg.SEED = seed
    return cfg


class Study:
    """Everything the jobs share: data, space, goal, and where results lie."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.output = options, Path(options.output)
        self.cfg = config(options)
        self.recipe = recipe_of(self.cfg)
        self.data = hard.hard_digits() if options.hard else build_data(self.recipe.data, task_class(self.recipe.head.name).labels)
        if self.data.test is None:
            raise SystemExit("error: the data set has no test images; children cannot be compared")
        self.space = hard.space() if options.hard else nas.SearchSpace.load(self.cfg.SEARCH.SPACE)
        self.task = training_task(self.data, self.recipe)
        self.goal = check_target(search_options(self.cfg), self.space, self.task.head_def(self.space), self.task.in_channels)

    def images(self) -> float:
        """That every search passes."""
        first = search_options(config(self.options, self.options.strategies[0]))
        return self.options.images or planned_images(first, self.data, 0)

    def epochs(self, label: str) -> int:
        """Of a search, so that all pass the same number of images."""
        return epochs_for(self.images(), search_options(config(self.options, label)), self.data, 0)

    def settings(self) -> dict[str, Any]:
        """What the results of one folder have in common: images, space and every key that some strategy or child reads."""
        cfg, options = get_cfg(), self.options
        if options.config:
            merge_file(cfg, get_cfg(), options.config, {})
        merge_options(cfg, get_cfg(), pairs_of(options), {})
        recipe, digest = recipe_of(cfg), data_digest(self.data)
        parts = {"--hard": options.hard, "--images": self.images(), "space": json.dumps(self.space.to_dict())}
        parts |= {f"images of {name}": digits for name, digits in digest.items()}
        sections = {"data": recipe.data, "search": search_options(cfg), "train": recipe.train, "head": recipe.head}
        return fingerprint(parts, **sections, runtime=recipe.runtime)

    def check_settings(self) -> None:
        """Keeps the settings in the folder. Raises SystemExit where it holds results of others: these would be mixed."""
        path, now = self.output / SETTINGS, json.loads(json.dumps(self.settings()))
        kept = json.loads(path.read_text()) if path.exists() else now
        for key in [*now, *(key for key in kept if key not in now)]:
            if kept.get(key) != now.get(key):
                was = f"{key} was {shown(kept.get(key))} and is {shown(now.get(key))}"
                raise SystemExit(f"error: {path}: the results in this folder are of other settings: {was}; give another --output")
        if start_runtime(self.recipe.runtime).main:
            atomic_write(path, json.dumps(now, indent=1) + "\n")

    def floor(self) -> dict[str, list[nas.ArchDef]]:
        """The archs of the noise floor."""
        count = self.options.floor
        return {
            name: random_archs(self.space, self.goal, count, random.Random(1), sane) for name, sane in zip(FLOOR, (False, True)) if count
        }

    def child_folder(self, arch: nas.ArchDef, training: int) -> Path:
        text = json.dumps({**arch.to_dict(), "name": ""}, sort_keys=True)
        return self.output / "children" / hashlib.sha256(text.encode()).hexdigest()[:16] / str(training)

    def search_folder(self, label: str, seed: int) -> Path:
        return self.output / "searches" / slug(label) / str(seed)

    # -- the jobs ----------------------------------------------------------------------------------------------------

    def search(self, label: str, seed: int) -> None:
        """A search without its child; then how its supernet ranks the noise floor."""
        folder = self.search_folder(label, seed)
        if (folder / DONE).exists():
            return
        cfg = config(self.options, label, seed)
        cfg.SEARCH.EPOCHS = self.epochs(label)
        recipe, begin = recipe_of(cfg), time.monotonic()
        run = SearchRun(self.space, self.data, search_options(cfg), recipe)
        again = (folder / CHECKPOINTS).is_dir()
        result = run.run(folder, again, train_child=False)
        if not result.finished or result.arch is None or result.supernet is None:
            raise SystemExit(1)
        seconds = time.monotonic() - begin
        ranks: list[float] = []
        if cfg.SEARCH.STRATEGY not in NO_SUPERNET:
            ranks = [found[0] for found in run.measured(result.supernet, [arch for of in self.floor().values() for arch in of])]
        peak = torch.cuda.max_memory_allocated() / 2**20 if torch.cuda.is_available() else _resident()
        found = {"label": label, "seed": seed, "arch": result.arch.to_dict(), "seconds": seconds, "interrupted": again, "memory": peak}
        found |= {**result.spent, "epochs": cfg.SEARCH.EPOCHS, "derived": result.to_dict()["derived"], "ranks": ranks}
        if run.runtime.main:
            atomic_write(folder / DONE, json.dumps(found, indent=1) + "\n")

    def train(self, arch: nas.ArchDef, training: int) -> None:
        """One training of an arch."""
        folder = self.child_folder(arch, training)
        if (folder / "result.json").exists():
            return
        cfg = config(self.options, seed=SEEDS_OF_CHILDREN + training)
        recipe = recipe_of(cfg)
        folder.mkdir(parents=True, exist_ok=True)
        trainer = Trainer(self.task.child(arch), arch, self.data, recipe, start_runtime(recipe.runtime))
        again = (folder / CHECKPOINTS).is_dir() and any((folder / CHECKPOINTS).iterdir())
        with StopRequest(NO_STOP) as stop:
            if not trainer.run(folder, again, stop).finished:
                raise SystemExit(1)

    # -- what they found ---------------------------------------------------------------------------------------------

    def trained(self, arch: nas.ArchDef) -> dict[str, Any]:
        accuracies = []
        for training in range(self.options.trainings):
            accuracies.append(json.loads((self.child_folder(arch, training) / "result.json").read_text())[self.task.main])
        images = len(self.data.test)  # type: ignore[arg-type]
        macs = self.space.cost(arch, in_channels=self.goal.in_channels, head=self.goal.head).macs
        child = 3 * macs * len(self.data.train) * self.cfg.TRAIN.EPOCHS  # a backward pass is twice a forward pass
        about = {"macs": self.goal.cost(self.space, arch), "target": self.goal.target, "child_macs": child}
        return {**about, "accuracies": accuracies, "scores": [score(accuracy, images) for accuracy in accuracies]}

    def results(self) -> dict[str, list[dict[str, Any]]]:
        found = {name: [self.trained(arch) for arch in archs] for name, archs in self.floor().items()}
        truth = [sum(arch["scores"]) for archs in found.values() for arch in archs]
        for label in self.options.strategies:
            found[label] = []
            for seed in range(self.options.seeds):
                one = json.loads((self.search_folder(label, seed) / DONE).read_text())
                spent = {"images": one["search_images"], "search_macs": 3 * one["search_macs"] + one["judged_macs"]}
                tau = kendall(one["ranks"], truth) if one["ranks"] else float("nan")
                times = {"seconds": None if one["interrupted"] else one["seconds"], "memory": one["memory"], "tau": tau}
                found[label].append({"seed": seed, **self.trained(nas.ArchDef.parse(one["arch"])), **spent, **times})
        return found

    def report(self) -> None:
        rows = rows_of(self.results())
        atomic_write(self.output / "comparison.json", json.dumps({"rows": rows, "archs": self.results()}, indent=1) + "\n")
        write_csv(self.output / "comparison.csv", rows)
        draw(self.output / "comparison.png", rows)
        atomic_write(self.output / "comparison.md", table(rows) + "\n")
        print(table(rows))


def _resident() -> float:
    """Most MiB that this process had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10


def jobs(study: Study, archs: Mapping[str, Sequence[nas.ArchDef]]) -> list[list[str]]:
    """A job for each training of some archs, as the words of a command line."""
    found = []
    for arch in dict.fromkeys(arch for of in archs.values() for arch in of):
        path = study.child_folder(arch, 0).parent / "arch.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            arch.save(path)
        todo = (n for n in range(study.options.trainings) if not (study.child_folder(arch, n) / "result.json").exists())
        found += [["train", str(path), str(number)] for number in todo]
    return found


def run_job(study: Study, job: Sequence[str]) -> None:
    if job[0] == "search":
        study.search(job[1], int(job[2]))
    else:
        study.train(nas.ArchDef.load(job[1]), int(job[2]))


# Processes of their own are forked from one that has done the imports, and nothing else.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["mobile_cv_nas.search.run", "torch.utils.tensorboard", "sklearn.datasets"])


def _forked(options: argparse.Namespace, job: Sequence[str], log: Path) -> None:
    with log.open("a", encoding="utf-8") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    torch.set_num_threads(max(1, min(torch.get_num_threads(), (os.cpu_count() or 1) // options.processes)))  # OMP_NUM_THREADS at most
    sys.exit(guarded(lambda: run_job(Study(options), job)))


def run_jobs(study: Study, todo: Sequence[Sequence[str]]) -> None:
    """Each in a process of its own, `--processes` at a time; under torchrun in these processes, one after the other."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        for job in todo:
            run_job(study, job)
        return

    def start(job: Sequence[str]) -> int:
        begin = time.monotonic()
        log = study.output / "logs" / (slug("_".join(job))[-150:] + ".log")
        log.parent.mkdir(parents=True, exist_ok=True)
        process = _FORKS.Process(target=_forked, args=(study.options, list(job), log))
        process.start()
        process.join()
        ended = "done" if process.exitcode == 0 else f"failed or stopped, see {log}"
        print(f"{' '.join(job)}: {ended}, {time.monotonic() - begin:.0f} s", flush=True)
        return process.exitcode or 0

    with ThreadPoolExecutor(study.options.processes) as pool:
        if any(list(pool.map(start, todo))):
            raise SystemExit("error: not all jobs ended well; the same command goes on")


def main() -> None:
    options = parse()
    study = Study(options)
    study.output.mkdir(parents=True, exist_ok=True)
    study.check_settings()
    searches = [(label, seed) for seed in range(options.seeds) for label in options.strategies]
    todo = [["search", label, str(seed)] for label, seed in searches if not (study.search_folder(label, seed) / DONE).exists()]
    run_jobs(study, [*jobs(study, study.floor()), *todo])
    found = [json.loads((study.search_folder(label, seed) / DONE).read_text())["arch"] for label, seed in searches]
    run_jobs(study, jobs(study, {"found": [nas.ArchDef.parse(arch) for arch in found]}))
    if start_runtime(study.recipe.runtime).main:
        study.report()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--config", help="of a search: data, space, target, recipes")
    what.add_argument("--hard", action="store_true", help="in place of a config, the harder digits of sharing_quality.py")
    parser.add_argument("--strategies", required=True, type=lambda text: text.split(","), help="names, each with :KEY=VALUE changes")
    parser.add_argument("--seeds", type=int, default=3, help="searches by each strategy")
    parser.add_argument("--trainings", type=int, default=2, help="of each child")
    parser.add_argument("--floor", type=int, default=12, help="random archs, and as many sane ones; 0 leaves them out")
    parser.add_argument("--images", type=float, default=0, help="that a search passes; 0: as the first strategy with the config's epochs")
    parser.add_argument("--processes", type=int, default=1, help="jobs at a time")
    parser.add_argument("--output", default="output/comparison", help="folder of all results")
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="keys set after the file")
    options = parser.parse_intermixed_args()
    if min(options.seeds, options.trainings, options.processes) < 1:
        parser.error("--seeds, --trainings, --processes: 1 or more")
    return options


if __name__ == "__main__":
    main()
