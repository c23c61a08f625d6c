from __future__ import annotations

import importlib.metadata
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from euhedral.crystal.batch import CrystalBatch
from euhedral.data.worker_process import reason_of
from euhedral.errors import ConfigError, EuhedralError
from euhedral.evaluate import embedding
from euhedral.evaluate.comparison import plain_crystals
from euhedral.evaluate.embedding import FEATURES, chgnet_crew, chgnet_predictions, describe_model, predict_crystals
from euhedral.testing.crystals import diamond, perovskite, prototypes, rock_salt, rock_salt_conventional
from evaluate import hesitant

pytest.importorskip("chgnet", reason="needs the extra 'evaluate'")


def sound() -> CrystalBatch:
    return CrystalBatch.concat(list(prototypes(torch.float64).values()))


def lonely() -> CrystalBatch:
    """One atom that has no neighbour within 6 Å."""
    cell = 9 * torch.eye(3, dtype=torch.float64)
    return CrystalBatch.from_crystals([(cell, torch.zeros(1, 3, dtype=torch.float64), torch.tensor([11]))])


def predicted(batch: CrystalBatch) -> list[Any]:
    """What a worker process gives, here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return predict_crystals(plain_crystals(batch))


def energies(batch: CrystalBatch) -> list[float]:
    return [energy for energy, _ in predicted(batch)]


def test_equal_to_the_package_one_crystal_at_a_time() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from chgnet.model.model import CHGNet

        model = CHGNet.load(model_name="0.3.0", use_device="cpu", verbose=False)
        singly: list[Any] = [
            model.predict_structure(one, task="e", return_crystal_feas=True) for one in sound().to_pymatgen()
        ]
    found = predicted(sound())
    assert [energy for energy, _ in found] == pytest.approx([float(one["e"]) for one in singly], abs=1e-5)
    means = np.stack([one["crystal_fea"] / n for one, n in zip(singly, sound().num_atoms.tolist(), strict=True)])
    assert np.abs(np.stack([embedding for _, embedding in found]) - means).max() < 1e-5


def test_cell_rotation_and_order_do_not_matter() -> None:
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0)))[0]
    turn = turn * turn.det()
    plain = rock_salt(dtype=torch.float64)
    turned = CrystalBatch.from_crystals([(plain.cell[0] @ turn, plain.frac + 0.3, plain.species)])
    found = predicted(CrystalBatch.concat([plain, rock_salt_conventional(dtype=torch.float64), turned]))
    first = found[0][0]
    assert [energy for energy, _ in found] == pytest.approx([first] * 3, abs=2e-5)
    assert np.ptp(np.stack([embedding for _, embedding in found]), axis=0).max() < 2e-4
    # Halite in the Materials Project: about -3.39 eV/atom, and -0.31 by the correction of chlorides.
    assert first == pytest.approx(-3.7, abs=0.1)


def test_failures_have_reasons_and_leave_the_others_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    broken, close = diamond(dtype=torch.float64), diamond(dtype=torch.float64)
    broken.frac[0, 0], close.frac[1] = math.nan, close.frac[0] + 0.01
    radium = rock_salt(88, 8, dtype=torch.float64)
    dense = CrystalBatch.from_crystals(
        [(0.6 * torch.eye(3, dtype=torch.float64), torch.zeros(1, 3, dtype=torch.float64), torch.tensor([1]))]
    )
    crowded = CrystalBatch.concat([dense])
    batch = CrystalBatch.concat([diamond(dtype=torch.float64), broken, lonely(), close, radium, crowded, sound()[:1]])
    monkeypatch.setattr(embedding, "MAX_ANGLES", 100_000)
    seen: list[tuple[int, int]] = []
    found = chgnet_predictions(batch, progress=lambda done, total: seen.append((done, total)))
    assert [reason is None for reason in found.reasons] == [True, False, False, False, False, False, True]
    words = ["coordinate is not finite", "isolated atom", "apart", "not trained on Ra", "angles between bonds"]
    for reason, part in zip(found.reasons[1:6], words, strict=True):
        assert reason is not None and part in reason
    assert np.isnan(found.energies).tolist() == [reason is not None for reason in found.reasons]
    assert np.isnan(found.embeddings).all(1).tolist() == [reason is not None for reason in found.reasons]
    assert seen == [(4, 7), (7, 7)]
    assert list(tmp_path.iterdir()) == [] and capsys.readouterr().out == ""
    assert found.embeddings.shape == (7, FEATURES)
    assert found.energies[[0]] == pytest.approx(energies(diamond(dtype=torch.float64)), abs=1e-5)


def test_angles_are_counted_in_the_graph_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "MAX_ANGLES", 10)
    (outcome,) = predicted(perovskite(dtype=torch.float64))
    assert "at most 10 are tried" in outcome


def test_small_batches_and_a_batch_that_fails_together(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = np.array(energies(sound()))
    monkeypatch.setattr(embedding, "ANGLES_PER_BATCH", 1)
    assert energies(sound()) == pytest.approx(plain, abs=1e-5)
    monkeypatch.undo()
    network = embedding._Model.load().network

    class Fragile:
        graph_converter = network.graph_converter

        def __call__(self, graphs: list[Any], **options: Any) -> Any:
            if len(graphs) > 1 or len(graphs[0].atomic_number) == 5:
                raise RuntimeError("out of memory")
            return network(graphs, **options)

    monkeypatch.setattr(embedding._Model, "_loaded", embedding._Model(Fragile()))
    found = predicted(sound())
    perovskites = (sound().num_atoms == 5).tolist()
    assert [outcome == reason_of(RuntimeError("out of memory")) for outcome in found] == perovskites
    for outcome, energy, is_one in zip(found, plain, perovskites, strict=True):
        assert is_one or outcome[0] == pytest.approx(energy, abs=1e-5)


def test_a_prediction_that_is_not_finite_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    network = embedding._Model.load().network

    class Odd:
        graph_converter = network.graph_converter

        def __call__(self, graphs: list[Any], **options: Any) -> Any:
            found = network(graphs, **options)
            found["e"] = found["e"] * math.nan
            return found

    monkeypatch.setattr(embedding._Model, "_loaded", embedding._Model(Odd()))
    assert predicted(diamond()) == ["the prediction is not finite"]


def test_several_processes_give_the_same_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "CRYSTALS_PER_CHUNK", 3)
    seen: list[int] = []
    found = chgnet_predictions(sound(), workers=2, progress=lambda done, _: seen.append(done))
    assert found.reasons == (None,) * len(sound()) and seen == [3, 6]
    assert found.energies == pytest.approx(energies(sound()), abs=1e-5)


def test_a_crystal_that_hangs_or_ends_its_process_is_a_record(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "predict_crystals", hesitant.predict_crystals)
    monkeypatch.setattr(embedding._Model, "load", hesitant.prepare)
    batch = CrystalBatch.concat([perovskite(), rock_salt(hesitant.HANGS, 9), diamond(), rock_salt(hesitant.DIES, 9)])
    found = chgnet_predictions(batch, seconds_per_crystal=1.0)
    assert found.reasons == (None, "not decided within 1 s", None, "the worker process ended (memory?)")
    assert found.energies[[0, 2]].tolist() == [5.0, 2.0] and np.isnan(found.energies[[1, 3]]).all()
    assert (found.embeddings[0] == 1.0).all() and np.isnan(found.embeddings[1]).all()


def test_processes_may_serve_several_calls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "predict_crystals", hesitant.predict_crystals)
    monkeypatch.setattr(embedding._Model, "load", hesitant.prepare)
    with chgnet_crew(1) as crew:
        assert chgnet_predictions(diamond(), crew=crew).energies.tolist() == [2.0]
        (member,) = crew._members
        before = member.running()
        assert chgnet_predictions(perovskite(), crew=crew).energies.tolist() == [5.0]
        assert member.running() is before
    assert before.poll() is not None


def test_empty_single_and_refused() -> None:
    nothing = chgnet_predictions(CrystalBatch.empty())
    assert nothing.energies.shape == (0,) and nothing.embeddings.shape == (0, FEATURES) and nothing.reasons == ()
    with pytest.raises(ConfigError, match="workers"):
        chgnet_predictions(diamond(), workers=0)
    with pytest.raises(ConfigError, match="seconds_per_crystal"):
        chgnet_predictions(diamond(), seconds_per_crystal=0)


def test_the_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert describe_model().endswith("checkpoint 0.3.0 (MPtrj)")

    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    with pytest.raises(EuhedralError, match=r"pip install 'euhedral\[evaluate\]'"):
        chgnet_predictions(diamond())


def test_a_checkpoint_that_is_missing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "CHECKPOINT", "9.9")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(EuhedralError, match="expected one CHGNet checkpoint"):
            embedding._load_network()
