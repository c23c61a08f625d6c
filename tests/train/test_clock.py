"""Tests of the clocks of training."""

from __future__ import annotations

import os
import time

import pytest
import torch

from euhedral.train.clock import seconds_by


def test_waiting_takes_time_of_the_wall_and_none_of_the_processor() -> None:
    begun = seconds_by("wall"), seconds_by("processor")
    time.sleep(0.3)
    wall, processor = seconds_by("wall") - begun[0], seconds_by("processor") - begun[1]
    assert wall >= 0.3
    assert processor < 0.1


def test_work_takes_both() -> None:
    begun = time.process_time(), seconds_by("processor")
    wall = seconds_by("wall")
    while time.process_time() - begun[0] < 0.2:
        sum(range(1000))
    counted, spent = seconds_by("processor") - begun[1], time.process_time() - begun[0]
    assert counted == pytest.approx(spent / torch.get_num_threads(), rel=0.02)
    assert seconds_by("wall") - wall > 0.19 / (os.cpu_count() or 1)
