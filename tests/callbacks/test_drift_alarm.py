"""The alarm for likelihood displacement: when it rings, when it does not, and what it says."""

from __future__ import annotations

import random

import pytest

from lit_align.callbacks import DriftAlarm
from lit_align.core.errors import ConfigError
from tests.callbacks.toy import Kill, ToyModule, assert_same_run, rows, train
from tests.launch import RankError, launch

WARNING = "likelihood displacement"


def feed(alarm: DriftAlarm, chosen: list[float], margins: list[float]) -> list[bool]:
    """Runs the alarm over metrics; returns whether it is in an episode after each step."""
    state = []
    for step, (logp, margin) in enumerate(zip(chosen, margins, strict=True), start=1):
        alarm._chosen.append(logp)
        alarm._margins.append(margin)
        alarm._judge(step)
        state.append(alarm.alarmed)
    return state


def noisy(start: float, slope: float, noise: float, steps: int = 60, seed: int = 0) -> list[float]:
    generator = random.Random(seed)
    return [start + slope * step + generator.gauss(0, noise) for step in range(steps)]


@pytest.mark.filterwarnings("ignore:.*likelihood displacement")
@pytest.mark.parametrize(
    ("chosen", "margin", "rings"),
    [
        (-1.0, 0.1, True),
        (1.0, 0.1, False),
        (0.0, 0.1, False),
        (-1.0, 0.0, False),
        (-1.0, -0.1, False),
    ],
)
@pytest.mark.parametrize("noise", [0.0, 3.0])
def test_it_rings_where_chosen_falls_and_margins_rise(chosen, margin, rings, noise):
    alarm = DriftAlarm(window=40)
    states = feed(alarm, noisy(-100, chosen, noise), noisy(1, margin, noise / 10, seed=1))
    assert any(states) == rings
    assert not any(states[:39]), "not before the window is full"


def test_noise_alone_does_not_ring():
    rings = 0
    for seed in range(200):
        alarm = DriftAlarm(window=40)
        rings += any(feed(alarm, noisy(-100, 0, 10, 40, seed), noisy(1, 0.05, 0.3, 40, seed + 1000)))
    assert rings <= 2, "three standard errors: about one in a thousand"


def test_one_warning_per_episode(recwarn):
    falling = [-100.0 - step for step in range(60)]
    rising = [-160.0 + step for step in range(60)]
    alarm = DriftAlarm(window=20)
    states = feed(alarm, falling + rising + falling, [0.1 * step for step in range(180)])
    warnings = [str(w.message) for w in recwarn if WARNING in str(w.message)]
    assert len(warnings) == 2
    assert states[59]
    assert not states[110], "the episode ends when the fall has"
    assert states[-1]


def test_it_says_what_and_what_to_try():
    with pytest.warns(UserWarning, match=WARNING) as caught:
        feed(DriftAlarm(window=4), [-100.0, -101.0, -110.0, -111.0], [1.0, 1.1, 3.0, 3.1])
    (message,) = [str(w.message) for w in caught]
    assert message.startswith("Step 4: likelihood displacement. Over the last 4 optimiser steps")
    assert "logps/chosen -100.5 -> -110.5 nats" in message
    assert "rewards/margins 1.05 -> 3.05" in message
    for advice in ("learning_rate", "beta", "label_smoothing", "ORPO", "nll_weight"):
        assert advice in message


class Displaced(ToyModule):
    """Reports a falling log-probability and a rising margin, as a function of the step."""

    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        step = self.global_step
        metrics = {"logps/chosen": -10.0 - step - 0.1 * (step % 3), "rewards/margins": 0.1 * step}
        self.last_step = self.last_step._replace(metrics=metrics)
        return loss


@pytest.mark.filterwarnings("ignore:.*likelihood displacement")
@pytest.mark.parametrize("accumulate", [1, 2])
def test_the_metric_is_logged_once_per_optimiser_step(tmp_path, accumulate):
    train(tmp_path, DriftAlarm(window=6), module=Displaced(), accumulate_grad_batches=accumulate, limit_val_batches=0)
    steps = {1: 26, 2: 14}[accumulate]
    logged = [row["alarms/displacement"] for row in rows(tmp_path)]
    assert logged == [0.0] * 5 + [1.0] * (steps - 5)


def test_a_killed_run_warns_as_often(tmp_path, recwarn):
    whole = train(tmp_path / "whole", DriftAlarm(window=6), module=Displaced())
    assert len([w for w in recwarn if WARNING in str(w.message)]) == 1
    folder = tmp_path / "killed"
    with pytest.raises(RankError, match="died"):
        launch(train, folder, DriftAlarm(window=6), Kill("on_train_batch_end", 16), module=Displaced(), world=1)
    recwarn.clear()
    resumed = train(folder, DriftAlarm(window=6), module=Displaced(), ckpt_path="last")
    assert_same_run(whole, resumed, tmp_path / "whole", folder)
    assert not [w for w in recwarn if WARNING in str(w.message)], "the episode was known"


class Silent(ToyModule):
    def training_step(self, batch, batch_idx):
        loss = super().training_step(batch, batch_idx)
        metrics = {"loss": 1.0} if batch_idx % 2 else {"logps/chosen": float("nan"), "rewards/margins": 1.0}
        self.last_step = self.last_step._replace(metrics=metrics)
        return loss


def test_methods_without_pairs_are_left_in_peace(tmp_path):
    alarm = DriftAlarm(window=4)
    train(tmp_path, alarm, module=Silent())
    assert not alarm._chosen
    assert not any("alarms/displacement" in row for row in rows(tmp_path))


@pytest.mark.parametrize("setting", [{"window": 3}, {"threshold": 0}])
def test_bad_settings_are_refused(setting):
    with pytest.raises(ConfigError, match=f"{next(iter(setting))}: {next(iter(setting.values()))}"):
        DriftAlarm(**setting)
