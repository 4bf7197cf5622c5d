"""How far alphas can move: the rate that is chosen, and what is said of one that is too low or too high."""

import pytest
import torch
from searches import build_searcher, search_and_train, search_of, short, tiny_cfg
from torch import nn

from mobile_cv_nas.config import load_config
from mobile_cv_nas.data.data_set import Source, Split
from mobile_cv_nas.report.tables import search_table
from mobile_cv_nas.search.options import SearchOptions
from mobile_cv_nas.search.pace import AIM, FAST, SLOW, Pace, pace_remark, paced


def images(count, classes=2):
    return Split.whole(Source([""] * count, [i % classes for i in range(count)]))


def chosen(options, count):
    """The rate, and what is said of it."""
    return paced(options, images(count), 0).alpha_lr, pace_remark(options, images(count), 0)


def test_adam_moves_an_alpha_by_up_to_the_rate_in_a_step():
    alpha = nn.Parameter(torch.zeros(1))
    adam = torch.optim.Adam([alpha], lr=0.05)
    for _ in range(100):
        alpha.grad = torch.ones(1)
        adam.step()
    assert float(alpha.detach()) == pytest.approx(-0.05 * 100, rel=1e-3)


def test_the_recipe_on_600_images_was_too_slow():
    options = SearchOptions(epochs=60, alpha_lr=0.05, batch_size=64)  # 120 images for alpha: one step in each of 48 epochs
    rate, said = chosen(options, 600)
    assert rate == 0.05
    assert "SEARCH.ALPHA_LR: 0.05 times the 48 steps of alpha is 2.4: under 12" in said
    assert "set SEARCH.ALPHA_LR 0.5 or raise SEARCH.EPOCHS" in said


def test_what_settled_at_half_of_a_short_search_was_too_fast():
    # 16 epochs, three of them warm-up, 56 steps in each of the others: 0.1 times 728 is 73; it settled by epoch 9
    options = SearchOptions(epochs=16, alpha_lr=0.1, batch_size=64)
    _, said = chosen(options, 56 * 64 * 5)
    assert "0.1 times the 728 steps of alpha is 73: over 60 the alphas settle early, about epoch 9" in said
    assert chosen(SearchOptions(epochs=90, alpha_lr=0.01, batch_size=192), 135 * 192 * 5)[1] == ""  # the paper's


@pytest.mark.parametrize("count", [600, 3000, 30_000, 300_000])
@pytest.mark.parametrize("epochs", [5, 30, 90])
def test_the_chosen_rate_is_between_both_ends(count, epochs):
    options = SearchOptions(epochs=epochs, batch_size=64)
    rate, said = chosen(options, count)
    steps = (count // 5 // 64) * (epochs - round(0.2 * epochs))
    if 0.5 * steps < AIM:  # so few that no sane rate gets there
        assert rate == 0.5
    else:
        assert rate * steps == pytest.approx(AIM)
        assert SLOW < rate * steps < FAST
    assert bool(said) == (0.5 * steps < SLOW)
    assert "raise SEARCH.EPOCHS" in said or not said


def test_a_run_says_once_what_is_to_be_said_of_its_pace(tmp_path, caplog):
    for rate, number in ((1e-4, 1), (0.5, 0)):
        search_and_train(tiny_cfg(tmp_path, "OUTPUT_DIR", tmp_path / str(rate), "SEARCH.ALPHA_LR", rate, "SEARCH.BATCH_SIZE", 16))
        assert sum("SEARCH.ALPHA_LR" in record.getMessage() for record in caplog.records) == number
        caplog.clear()
    assert [bool(search_of(short(tmp_path, name, "SEARCH.EPOCHS", 2)).remark) for name in ("darts", "random")] == [True, False]  # no alphas


def test_without_steps_nothing_is_said():
    assert Pace(0, 30, 0.1).remark(0) == Pace(5, 0, 0.1).remark(30) == ""


def test_a_search_takes_the_chosen_rate(tmp_path):
    searcher = build_searcher(tiny_cfg(tmp_path, "SEARCH.EPOCHS", 40, "SEARCH.BATCH_SIZE", 32))
    steps = searcher.phases[1].steps * 32
    assert searcher.strategy.rate("alphas", 0.0) == searcher.options.alpha_lr == pytest.approx(AIM / steps)
    assert searcher.strategy.steppers["alphas"].optimizer.param_groups[0]["lr"] == pytest.approx(AIM / steps)


@pytest.mark.parametrize("name", ["imagefolder", "imagefolder_small"])
def test_recipes_of_ones_own_images_leave_the_choice(name):
    assert load_config(f"configs/search/{name}.yaml", ["DATA.ROOT", "x"]).SEARCH.ALPHA_LR == 0


def test_an_undecided_search_says_so(tmp_path):
    result = search_and_train(tiny_cfg(tmp_path, "SEARCH.ALPHA_LR", 1e-4, "SEARCH.EPOCHS", 2))
    assert result["entropy"] > 0.99
    assert "close to chance; raise SEARCH.EPOCHS or SEARCH.ALPHA_LR" in search_table(result, "", (1, 1))
    table = search_table({**result, "entropy": 0.31}, "", (1, 1))
    assert "0.31" in table
    assert "chance" not in table


def test_what_is_said_of_a_pace_has_its_remedy():
    assert "under 12 the alphas stay undecided" in (slow := Pace(24, 10, 0.01).remark(2))
    assert slow.endswith("set SEARCH.ALPHA_LR 0.1 or raise SEARCH.EPOCHS")
    assert Pace(2, 3, 0.4).remark(2).endswith("set SEARCH.ALPHA_LR 0.5 or raise SEARCH.EPOCHS")  # never faster
    assert Pace(2, 3, 0.5).remark(2).endswith("close to chance; raise SEARCH.EPOCHS")
    fast = Pace(19, 40, 0.1).remark(0)  # 35 / 1.9 epochs
    assert "0.1 times the 760 steps of alpha is 76: over 60 the alphas settle early, about epoch 18" in fast
    assert Pace(19, 40, 0.1).remark(3) == ""  # the weights are 21 epochs old then
    assert Pace(50, 13, 0.1).remark(13) == ""  # at epoch 20, when they are old enough
    assert Pace(24, 10, 0.1).remark(2) == ""
