"""What all feature targets of a store have in common."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scene_completion_ros.errors import SequenceError
from scene_completion_training.foundation.backbone import ModelIdentity
from scene_completion_training.foundation.model_files import Normalisation

SCHEMA = 1


@dataclass(frozen=True)
class FeatureManifest:
    """What all feature targets of a store have in common.

    Attributes:
        model: Whose features they are.
        cell: Edge of the square of pixels that a token covers.
        image_size: Height and width of the images.
        variants: Number of variants of an image.
        seed: Seed of the variants.
    """

    model: ModelIdentity
    cell: int
    image_size: tuple[int, int]
    variants: int
    seed: int

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of tokens."""
        height, width = self.image_size
        return -(-height // self.cell), -(-width // self.cell)

    def facts(self) -> dict[str, Any]:
        """What the features depend on, as name -> value for people; a model's name does not matter."""
        model = dataclasses.asdict(self.model)
        del model["name"]
        return {f"model {name}": value for name, value in model.items()} | {
            "cell": self.cell,
            "image size": self.image_size,
            "variants": self.variants,
            "seed": self.seed,
        }

    def write(self, file: Path) -> None:
        """Writes it as JSON."""
        content = {"schema": SCHEMA, **dataclasses.asdict(self)}
        file.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")

    @staticmethod
    def read(file: Path) -> FeatureManifest:
        """Reads what `write` wrote.

        Raises:
            SequenceError: There is none, it is damaged, or of another version.
        """
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise SequenceError(
                    f"schema {content['schema']!r}, this version reads {SCHEMA}",
                    where=str(file),
                    cure="Make the features once more, in another folder",
                )
            return _parsed(content)
        except FileNotFoundError as error:
            raise SequenceError(
                "no feature targets here", where=str(file.parent), cure="Make them with `scene-completion features`"
            ) from error
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise SequenceError(
                f"damaged ({type(error).__name__}: {error})",
                where=str(file),
                cure="Make the features once more, in another folder",
            ) from error


def _parsed(content: dict[str, Any]) -> FeatureManifest:
    model = content["model"]
    (mr, mg, mb), (dr, dg, db) = (map(float, model["normalisation"][name]) for name in ("mean", "deviation"))
    height, width = (_counted(size) for size in content["image_size"])
    return FeatureManifest(
        model=ModelIdentity(
            name=str(model["name"]),
            type=str(model["type"]),
            weights={str(name): str(digest) for name, digest in model["weights"].items()},
            layer=_counted(model["layer"], least=0),
            dim=_counted(model["dim"]),
            normalisation=Normalisation((mr, mg, mb), (dr, dg, db)),
        ),
        cell=_counted(content["cell"]),
        image_size=(height, width),
        variants=_counted(content["variants"]),
        seed=_counted(content["seed"], least=0),
    )


def _counted(value: object, least: int = 1) -> int:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{value!r} is no whole number from {least}")
    return value
