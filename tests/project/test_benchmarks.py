"""Every benchmark of memory and of steps runs end to end at a tiny size; what is measured agrees with figures worked out by hand."""

from __future__ import annotations

import csv
import importlib
import json
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.checkpoint import checkpoint

import mobile_cv_nas as nas
from mobile_cv_nas.engine import about

ROOT = Path(__file__).parents[2]
BENCHMARKS = ROOT / "benchmarks"
SIZES = nas.SearchSpace.load(ROOT / "configs" / "spaces" / "digits_resolution.yaml").input_sizes


@pytest.fixture(autouse=True)
def _threads():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def load(monkeypatch):
    """Imports a module of benchmarks/, where the processor has a long name: some have, and what a test prints must not hang on it."""
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(about, "processor", lambda: "Name(R) of a Processor 9999X with 128-Core Graphics @ 2.90GHz")
    yield importlib.import_module
    for name in [name for name, module in sys.modules.items() if str(BENCHMARKS) in str(getattr(module, "__file__", ""))]:
        del sys.modules[name]


def read(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_headlines_fit(load):
    module = load("_measure")
    lines = module.headline(module.machine(torch.device("cpu")), "a space, batch 8 at 224x224").splitlines()
    assert max(map(len, lines)) <= 80
    assert " ".join(lines).endswith(f"{torch.get_num_threads()} threads, torch {torch.__version__}; a space, batch 8 at 224x224")
    assert lines[0].startswith("Name(R) of a Processor")


def test_saved_bytes_of_a_layer(load):
    x, w = torch.randn(5, 3, requires_grad=True), torch.randn(3, 7, requires_grad=True)
    # The product keeps its factors, the relu its result; the weights are there anyway, and the squares keep what the relu kept.
    assert load("_measure").saved_bytes(lambda: (x @ w).relu().square().sum(), [w]) == 4 * (5 * 3 + 5 * 7)
    assert load("_measure").saved_bytes(lambda: (x @ w).relu().square().sum(), []) == 4 * (5 * 3 + 5 * 7 + 3 * 7)


def test_saved_bytes_sees_what_a_checkpoint_holds(load):
    x, w = torch.randn(5, 3), torch.randn(3, 7, requires_grad=True)

    def forward() -> torch.Tensor:
        held = w * 2  # read by the closure alone
        return checkpoint(lambda x: (x @ held).relu().exp(), x, use_reentrant=False).sum()

    assert load("_measure").saved_bytes(forward, [w]) == 4 * (5 * 3 + 3 * 7)


def test_saved_bytes_frees_what_it_saw(load):
    from torch.multiprocessing.reductions import StorageWeakRef

    w, seen = torch.randn(3, requires_grad=True), []

    def forward() -> torch.Tensor:
        y = w.relu()
        seen.append(StorageWeakRef(y.untyped_storage()))
        return y.square().sum()

    assert load("_measure").saved_bytes(forward, [w]) == 4 * 3
    assert seen[0].expired()


def test_peak_bytes_is_what_exists_at_once(load):
    def one_after_the_other() -> None:
        for _ in range(3):
            torch.empty(2**18)

    def together() -> None:
        tensors = [torch.empty(2**18) for _ in range(3)]
        tensors[0].view(512, 512).add_(1)  # makes nothing new

    peak_bytes = load("_measure").peak_bytes
    assert peak_bytes(one_after_the_other, torch.device("cpu")) == 2**20
    assert peak_bytes(together, torch.device("cpu")) == 3 * 2**20


def test_state_bytes(load):
    layer = torch.nn.Linear(3, 7)
    optimizer = torch.optim.SGD(layer.parameters(), 0.1, momentum=0.9)
    state_bytes, numbers = load("_measure").state_bytes, 3 * 7 + 7
    assert state_bytes(layer.parameters(), layer.buffers(), [optimizer]) == 4 * numbers
    layer(torch.randn(2, 3)).sum().backward()
    optimizer.step()
    assert state_bytes(layer.parameters(), layer.buffers(), [optimizer]) == 3 * 4 * numbers


def test_take_turns_runs_all_in_every_round(load):
    ran: list[str] = []
    times = load("_measure").take_turns([lambda: ran.append("a"), lambda: ran.append("b")], 3, warmup=1)
    assert "".join(ran) == "ab" + "abbaab"
    assert [len(of) for of in times] == [3, 3]


def test_dnas_with_shared_weights_is_masking(load):
    """Eq. 1 equals Eq. 3 through the whole network, so both methods train the same thing."""
    module = load("channel_memory")
    torch.manual_seed(0)
    supernet, dnas = module.masking(4, 32).double(), module.Dnas(4).double()
    blocks = list(supernet.blocks.values())
    pairs = [(dnas.stem, blocks[0].units["conv_k3"]), (dnas.last, blocks[-1].units["conv_k1"]), (dnas.classifier, supernet.head)]
    alphas = supernet.alphas()
    with torch.no_grad():
        for i, ((pw, dw, pwl), block) in enumerate(zip(dnas.blocks, blocks[1:-1], strict=True)):
            unit = block.units["ir_k3"]
            pairs += [(option, source) for sums, source in ((pw, unit.pw), (dw, unit.dw), (pwl, unit.pwl)) for option in sums.units]
            for row, kind in ((2 * i, "hidden"), (2 * i + 1, "channels")):
                alphas[f"{block.layer.key}.{kind}"].normal_()
                dnas.alpha[row] = alphas[f"{block.layer.key}.{kind}"]
        for target, source in pairs:
            for name, tensor in target.state_dict().items():
                tensor.copy_(source.state_dict()[name][tuple(slice(n) for n in tensor.shape)])
    supernet.reset()
    x = torch.randn(6, 3, 32, 32, dtype=torch.float64)
    torch.testing.assert_close(dnas(x), supernet(x), rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_channel_memory(load, tmp_path, capsys):
    arguments = ["--options", "1", "2", "4", "8", "--image-size", "32", "--batch", "2", "--rounds", "1", "--threads", "1"]
    module = load("channel_memory")
    assert module.main([*arguments, "--device", "cpu", "--output", str(tmp_path / "cpu")]) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    rows = read(tmp_path / "cpu" / "channel_memory.csv")
    saved = {(row["method"], int(row["options"])): int(row["saved"]) for row in rows}
    assert saved["masking", 1] == pytest.approx(saved["DNAS", 1], rel=1e-3)
    assert saved["masking", 8] < 1.002 * saved["masking", 2]
    assert saved["DNAS", 8] - saved["DNAS", 4] >= 1.95 * (saved["DNAS", 4] - saved["DNAS", 2])
    assert all(float(row["seconds"]) > 0 for row in rows)
    assert (tmp_path / "cpu" / "channel_memory.png").read_bytes().startswith(b"\x89PNG")

    # Without the tensors, the same bytes.
    assert module.main([*arguments, "--device", "meta", "--output", str(tmp_path / "meta")]) == 0
    keys = ("method", "options", "saved", "total")
    for row, same in zip(rows, read(tmp_path / "meta" / "channel_memory.csv"), strict=True):
        assert [row[key] for key in keys] == [same[key] for key in keys]
        assert same["seconds"] == ""


def test_channel_memory_refuses_fractions_of_a_channel(load, capsys):
    with pytest.raises(SystemExit) as stop:
        load("channel_memory").main(["--options", "3"])
    assert stop.value.code == 2
    assert "--options 3" in capsys.readouterr().err


@pytest.mark.slow
def test_resolution_memory(load, tmp_path, capsys):
    module = load("resolution_memory")
    arguments = ["--space", "digits_resolution", "--sizes", "2", "13", "--image-size", "24", "--batch", "8", "--rounds", "1"]
    assert module.main([*arguments, "--threads", "1", "--device", "cpu", "--output", str(tmp_path)]) == 0
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 80
    rows = read(tmp_path / "resolution_memory.csv")
    for sharing in ("none", "full"):
        alone, recomputed, *several = [row for row in rows if row["sharing"] == sharing]
        assert [int(row["sizes"]) for row in several] == [2, 13]
        assert (alone["recompute"], recomputed["recompute"]) == ("False", "True")
        saved = [int(row["saved"]) for row in several]
        assert saved[-1] <= 0.5 * int(alone["saved"])
        assert saved[-1] <= 1.02 * saved[0]
        assert float(several[0]["pixels"]) == 1.25


def test_even_sizes(load, capsys):
    even_sizes = load("resolution_memory").even_sizes
    assert even_sizes(256, 5) == [128, 160, 192, 224, 256]
    assert even_sizes(96, 1) == [96]
    sizes = even_sizes(96, 16)
    assert (len(set(sizes)), sizes[0], sizes[-1]) == (16, 48, 96)
    assert len(set(even_sizes(25, 13))) == 13
    with pytest.raises(SystemExit) as stop:
        load("resolution_memory").main(["--image-size", "24", "--sizes", "14"])
    assert stop.value.code == 2
    assert "must be from 2 to 13" in capsys.readouterr().err


@pytest.mark.slow
def test_full_size_step(load, capsys):
    module = load("full_size_step")
    assert module.main(["--space", "digits_resolution", "--variants", "full-recompute", "--threads", "1"]) == 0
    out = capsys.readouterr().out
    assert f"batch 2, input sizes {', '.join(map(str, SIZES))}" in out
    sharing, recompute, seconds, peak, before, loss = out.splitlines()[-1].split()
    assert (sharing, recompute) == ("full", "yes")
    assert 0.05 < float(before) <= float(peak) < 24
    assert float(seconds) > 0
    assert float(loss) > 0


def test_supernet_step(load, tmp_path, monkeypatch, capsys):
    space, out = str(ROOT / "configs" / "spaces" / "digits.yaml"), tmp_path / "rows.json"
    arguments = ["--size", "8", "--batch", "2", "--rounds", "1", "--modes", "child,full", "--phases", "weights,alphas", "--channels-last"]
    monkeypatch.setattr(sys, "argv", ["supernet_step.py", space, *arguments, "--json", str(out)])
    load("supernet_step").main()
    assert "full alphas channels_last" in capsys.readouterr().out
    rows = json.loads(out.read_text(encoding="utf-8"))["rows"]
    found = [(row["mode"], row["phase"], row["channels_last"]) for row in rows]
    phases = (("child", "both"), ("full", "weights"), ("full", "alphas"))
    assert found == [(mode, phase, last) for mode, phase in phases for last in (False, True)]
    assert all(row["seconds"] > 0 and row["saved_bytes"] > 0 for row in rows)


def test_a_phase_trains_its_own(load):
    module = load("supernet_step")
    space = nas.SearchSpace.load(ROOT / "configs" / "spaces" / "digits.yaml")
    for phase in ("both", "weights", "alphas"):
        net = nas.build_supernet(space, module.CLASSES, sharing="full")
        before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
        step = module.Step(net, torch.randn(2, 3, 16, 16), phase=phase)
        step()
        step()
        alphas = {id(alpha) for alpha in net.alpha_parameters()}
        changed = {id(p) in alphas for name, p in net.named_parameters() if not torch.equal(p, before[name])}
        assert changed == {"both": {True, False}, "weights": {False}, "alphas": {True}}[phase]


def test_sharing_quality_tells_archs_from_trainings(load):
    module = load("sharing_quality")
    assert module.score(0.9) == pytest.approx(2.302585)
    scores = {"random": [[1.0, 1.2], [1.4, 1.6]], "none": [[2.0, 2.0], [2.2, 2.2]], "full": [[1.9, 2.1], [1.7, 1.9]]}
    rows = [{"kind": kind, "scores": of, "score": sum(of) / 2} for kind, both in scores.items() for of in both]
    # Means 1.1 and 1.5 vary by 0.08, two trainings by 0.02, of which half is in the mean of two.
    assert module.spread(rows[:2]) == pytest.approx({"archs": 0.08**0.5, "trainings": 0.02**0.5, "archs_alone": 0.07**0.5})
    assert [name for name, *_ in module.compare(rows)] == ["full - none", "none - random", "full - random"]
    full_none, none_random, full_random = (rest for _, *rest in module.compare(rows))
    assert full_none == pytest.approx([-0.2, (0.02 / 2 + 0.02 / 2) ** 0.5])
    assert none_random == pytest.approx([0.8, (0.02 / 2 + 0.08 / 2) ** 0.5])
    assert full_random == pytest.approx([0.6, (0.02 / 2 + 0.08 / 2) ** 0.5])


def test_decode_speed_prints_both(load, capsys):
    assert load("decode_speed").main(["--space", "digits", "--archs", "2", "--rounds", "1"]) == 0
    printed = capsys.readouterr().out
    assert "decoding" in printed
    assert "counting" in printed


def test_latency_step(load, monkeypatch, capsys):
    table = str(ROOT / "configs" / "latency" / "digits_onnxruntime_fp32.json")
    space = str(ROOT / "configs" / "spaces" / "digits.yaml")
    monkeypatch.setattr(sys, "argv", ["latency_step.py", space, "--table", table, "--num-classes", "10", "--batch", "4", "--rounds", "1"])
    load("latency_step").main()
    assert "expected latency and its gradient" in capsys.readouterr().out
