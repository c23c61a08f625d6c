"""Figures that need a machine-learned potential: the distribution of energies, and of embeddings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from euhedral.errors import EuhedralError
from euhedral.evaluate.context import Context, Measured, NotMeasurable, make_figure
from euhedral.evaluate.distribution import frechet, mmd
from euhedral.evaluate.embedding import FEATURES, ChgnetPredictions, chgnet_crew, chgnet_predictions, describe_model
from euhedral.evaluate.histograms import histogram
from euhedral.evaluate.measures_crystal import unbuildable
from euhedral.evaluate.measures_distribution import first_reasons, stage_failures, thinned, wasserstein_figures

if TYPE_CHECKING:
    from euhedral.crystal.batch import CrystalBatch
    from euhedral.data.samples import Samples
    from euhedral.data.worker import Worker
    from euhedral.data.workers import Crew

_PREDICTION_VERSION = 1
_NO_INTERVAL = "no interval: a resample of few crystals is biased"


def measure_energy(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Wasserstein distances of the energies per atom of the crystals as they are, of all and of valid samples."""
    own, other = _own_and_other(context)
    return Measured(
        figures=wasserstein_figures(
            context, "energy", "eV/atom", own.energies, other.energies, rule=settings["rule"], note=own.model
        ),
        failures=stage_failures(context, first_reasons(context, context.samples, own.reasons), "energy"),
        distributions=(
            histogram("energy", "Energy of the crystals as they are", own.energies, other.energies, unit="eV/atom"),
        ),
        columns={"energy_per_atom": [float(e) if np.isfinite(e) else None for e in own.energies]},
        tools={"potential": own.model},
    )


def measure_embedding(context: Context, settings: Mapping[str, Any]) -> Measured:
    """Frechet distance and maximum mean discrepancy of embeddings."""
    own, other = _own_and_other(context)
    distance = frechet(own.embeddings, other.embeddings)
    discrepancy = mmd(thinned(own.embeddings), thinned(other.embeddings), kernel="polynomial")
    left = f"{distance.samples_left_out} without an embedding"
    return Measured(
        figures=(
            make_figure(
                "frechet.embedding",
                distance.value,
                None,
                samples=len(context.samples),
                note=f"squared; {own.model}; {left}; {_NO_INTERVAL}",
                better="lower",
            ),
            make_figure(
                "mmd.embedding",
                discrepancy.value,
                None,
                samples=len(context.samples),
                note=f"squared, unbiased (may fall below 0), {discrepancy.setting}; {own.model}; {left}; {_NO_INTERVAL}",
                better="lower",
            ),
        ),
        failures=stage_failures(context, first_reasons(context, context.samples, own.reasons), "energy"),
        tools={"potential": own.model},
    )


def _own_and_other(context: Context) -> tuple[ChgnetPredictions, ChgnetPredictions]:
    """Predictions of the samples and of the reference, by the same processes."""
    reference = context.references()  # first: without one nothing is predicted
    with chgnet_crew(context.workers) as crew:
        return predictions_of(context, context.samples, crew), predictions_of(context, reference, crew)


def predictions_of(context: Context, samples: Samples, crew: Crew[Worker]) -> ChgnetPredictions:
    """Energy and embedding of each crystal, from the cache where they are known.

    Raises:
        NotMeasurable: without the potential.
    """
    if not context.potential:
        raise NotMeasurable("needs a potential, which was not wanted (--no-potential)")

    def find() -> ChgnetPredictions:
        try:
            model = describe_model()
        except EuhedralError as error:
            raise NotMeasurable(str(error)) from None

        def compute(part: CrystalBatch, progress: Callable[[int, int], None]) -> list[bytes]:
            found = chgnet_predictions(
                part, seconds_per_crystal=context.seconds_per_crystal, progress=progress, crew=crew
            )
            return [
                np.concatenate([[energy], embedding]).tobytes() + (reason or "").encode()
                for energy, embedding, reason in zip(found.energies, found.embeddings, found.reasons, strict=True)
            ]

        batch = samples.crystals
        packed = context.for_each("potential", _PREDICTION_VERSION, {"model": model}, batch, compute, stage="potential")
        numbers = np.array([np.frombuffer(content, count=FEATURES + 1) for content in packed]).reshape(-1, FEATURES + 1)
        reasons = [content[8 * (FEATURES + 1) :].decode() or None for content in packed]
        broken = unbuildable(context, samples)
        return ChgnetPredictions(
            energies=numbers[:, 0],
            embeddings=numbers[:, 1:],
            reasons=tuple(first or reason for first, reason in zip(broken, reasons, strict=True)),
            model=model,
        )

    return context.once(("predictions", id(samples)), find)
