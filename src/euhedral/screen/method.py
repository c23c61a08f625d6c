"""What an energy is an energy of: model, functional and corrections, and whether two may be put on one scale.

Energies of different functionals, corrections or models differ by tenths of an eV/atom and more, so a crystal's energy above
a hull of other energies is a number without meaning, and one that looks like any other. Nothing here guesses: what is
not known is asked for, and what differs is refused with the names of both sides.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache

from euhedral.errors import ConfigError, EuhedralError, MismatchError

PBE = "PBE"
"""The functional of Perdew, Burke and Ernzerhof (GGA)."""
PBE_U = "PBE/PBE+U"
"""PBE, with a Hubbard U for the transition metals of oxides and fluorides, as in the Materials Project."""
MP2020 = "MaterialsProject2020Compatibility"
"""Corrections of anions, and between GGA and GGA+U (Wang et al., Scientific Reports 2021); the name is pymatgen's."""
NO_CORRECTIONS = "none"
CHGNET_ENERGIES = {"0.3.0": (PBE_U, MP2020), "r2scan": ("r2SCAN", NO_CORRECTIONS)}
"""Functional and corrections of the energies that CHGNet's weights were trained on."""


@dataclass(frozen=True, kw_only=True)
class EnergyMethod:
    """Where energies come from.

    Attributes:
        model: DFT, or the interatomic potential, e.g. CHGNet.
        functional: of the calculation, or of the data that the potential was trained on.
        corrections: scheme of the empirical corrections in the energies; "none" where there are none.
        version: of the model; decides only where the weights of one side are not known.
        weights: SHA-256 of a potential's weights.

    Raises:
        ConfigError: where model, functional or corrections are not given.
    """

    model: str
    functional: str
    corrections: str
    version: str = ""
    weights: str = ""

    def __post_init__(self) -> None:
        for name in ("model", "functional", "corrections"):
            if not getattr(self, name).strip():
                raise ConfigError(
                    f"an energy method needs its {name}; for example model=DFT, functional=PBE, corrections=none"
                )

    def __str__(self) -> str:
        details = ", ".join(part for part in (self.version, self.weights[:12]) if part)
        return f"{self.model}{f' ({details})' if details else ''}, {self.functional}, corrections {self.corrections}"

    def as_dict(self) -> dict[str, str]:
        """Its fields, for files and provenance."""
        return asdict(self)

    def differences(self, other: EnergyMethod) -> tuple[str, ...]:
        """Names of the fields that keep the energies of the two from being comparable."""
        names = [name for name in ("model", "functional", "corrections") if not self._agrees(other, name)]
        by_weights = bool(self.weights and other.weights)
        decisive = "weights" if by_weights else "version"
        if (
            "model" not in names
            and not self._agrees(other, decisive)
            and (by_weights or (self.version and other.version))
        ):
            names.insert(0, decisive)
        return tuple(names)

    def _agrees(self, other: EnergyMethod, name: str) -> bool:
        return getattr(self, name).strip().casefold() == getattr(other, name).strip().casefold()


def parse_method(text: str) -> EnergyMethod:
    """The method written as 'model=DFT, functional=PBE, corrections=none', or 'chgnet' for the default potential.

    Raises:
        ConfigError: on another key, a part without '=', or a missing field.
    """
    if text.strip().casefold() == "chgnet":
        return chgnet_method()
    fields: dict[str, str] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, equals, value = (piece.strip() for piece in part.partition("="))
        if not equals or name not in EnergyMethod.__dataclass_fields__ or name in fields:
            raise ConfigError(
                f"energy method '{text}': cannot read '{part}'; expected each of "
                f"{', '.join(EnergyMethod.__dataclass_fields__)} at most once, as in model=DFT, functional=PBE, "
                "corrections=none"
            )
        fields[name] = value
    return EnergyMethod(**{"model": "", "functional": "", "corrections": ""} | fields)


@lru_cache(maxsize=4)
def chgnet_method(checkpoint: str = "0.3.0") -> EnergyMethod:
    """The method of CHGNet's energies with the weights that its package carries.

    Those of the default were trained on MPtrj, which holds GGA and GGA+U energies of the Materials Project with its
    corrections of 2020 (Deng et al., Nature Machine Intelligence 2023), so these are what it predicts; those called
    r2scan were moved from there to uncorrected r2SCAN energies.

    Args:
        checkpoint: a name of CHGNET_ENERGIES.

    Raises:
        ConfigError: on another name.
        EuhedralError: if chgnet is not installed.
    """
    import hashlib
    from importlib.metadata import PackageNotFoundError, distribution

    if checkpoint not in CHGNET_ENERGIES:
        raise ConfigError(f"no CHGNet weights are called '{checkpoint}'; there are {', '.join(CHGNET_ENERGIES)}")
    try:
        package = distribution("chgnet")
    except PackageNotFoundError as error:
        raise EuhedralError("energies by CHGNet need it: pip install 'euhedral[evaluate]'") from error
    # Found by the list of installed files: importing chgnet costs seconds.
    folder = f"pretrained/{checkpoint}/"
    files = [file for file in package.files or () if folder in file.as_posix() and file.suffix == ".tar"]
    if len(files) != 1:
        raise EuhedralError(f"expected one CHGNet checkpoint {checkpoint}, found {len(files)}; reinstall chgnet")
    with open(str(files[0].locate()), "rb") as stream:
        weights = hashlib.file_digest(stream, "sha256").hexdigest()
    functional, corrections = CHGNET_ENERGIES[checkpoint]
    return EnergyMethod(
        model="CHGNet",
        functional=functional,
        corrections=corrections,
        version=f"{package.version}, checkpoint {checkpoint}",
        weights=weights,
    )


def check_same_method(
    candidates: EnergyMethod, reference: EnergyMethod, *, allow_other_model: bool = False
) -> tuple[str, ...]:
    """Refuse to put energies on a hull that they do not belong to.

    Args:
        candidates: method of the energies in question.
        reference: method of the hull's.
        allow_other_model: let the energies of one potential stand on the hull of another, or of DFT, as published
            protocols do; never those of another functional or correction.

    Returns:
        What differs and was allowed, for the record; empty where nothing does.

    Raises:
        MismatchError: where the two differ.
    """
    names = candidates.differences(reference)
    allowed = ("model", "version", "weights") if allow_other_model else ()
    if not [name for name in names if name not in allowed]:
        return tuple(f"{name}: {getattr(candidates, name)} on a hull of {getattr(reference, name)}" for name in names)
    told = "; ".join(f"{name} '{getattr(candidates, name)}' against '{getattr(reference, name)}'" for name in names)
    only_model = all(name in ("model", "version", "weights") for name in names)
    hint = (
        "; or allow another model (--set hull.allow_other_model=true), which the result records" if only_model else ""
    )
    raise MismatchError(
        f"these energies do not belong on this hull, they differ in {', '.join(names)} (candidates against reference: "
        f"{told}): the difference would be read as stability. Compute both with one method, or choose a reference made "
        f"with {candidates}{hint}"
    )
