"""What a minute of training or sampling is: of the wall's clock, or of the processor where other work shares it."""

from __future__ import annotations

import time
from typing import Literal

import torch

Clock = Literal["wall", "processor"]


def seconds_by(clock: Clock) -> float:
    """Seconds since a moment of no meaning; differences count.

    Args:
        clock: `wall`; or `processor`: time of the processor in this process over the number of threads that torch
            computes with, exact for one thread. Other work on the machine then takes nothing from a budget. What
            devices other than the processor do is not counted.
    """
    if clock == "wall":
        return time.monotonic()
    return time.process_time() / torch.get_num_threads()
