"""Trained runs in Python: load a run, sample an image for a mask, classify an image.

import trainer

model = trainer.load_run("runs/ldm")
image = model.sample(mask, seed=3)

classifier = trainer.load_run("runs/diffmic")
print(classifier.classify(image))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import torch

from histoprep.errors import UsageError
from histoprep.labels import IGNORED_ID, LabelMap
from histoprep.notebook import html_result
from histoprep.visible import visible
from trainer.classification.network import RunClassifier, open_classifier
from trainer.classification.table import gather_predictions, prediction_table
from trainer.data.transforms import to_float
from trainer.device import choose_device
from trainer.diffusion.samplers import Solver
from trainer.engine.checkpoints import load_run_config
from trainer.errors import ConfigError
from trainer.recipes import diffmic_config, ldm
from trainer.recipes.diffmic_data import square_image
from trainer.sampling.generator import Generator, SamplingOptions

if TYPE_CHECKING:
    from pandas import DataFrame


@dataclass(frozen=True, eq=False, repr=False)
class ImageModel:
    """A trained latent diffusion model: masks to images.

    Attributes:
        path: The run folder or checkpoint.
        label_map: The classes that masks hold.
        options: How the run samples, unless other values are named.
    """

    path: Path
    label_map: LabelMap
    options: SamplingOptions
    _generator: Generator

    def __repr__(self) -> str:
        """Return what it is in one line."""
        classes = f"{self.label_map.num_classes} classes of {self.label_map.name}"
        return (
            f"<ImageModel: {classes}, sides of {self.multiple_px} px | {visible(str(self.path))}>"
        )

    def _repr_html_(self) -> str:
        """Return the classes, for notebooks."""
        rows = [(cls.id, cls.name) for cls in self.label_map.classes]
        return html_result(repr(self), ("class", "name"), rows)

    @property
    def multiple_px(self) -> int:
        """Return what height and width of a mask are multiples of, in pixels."""
        return self._generator.multiple_px

    def sample(
        self,
        mask: np.ndarray,
        *,
        seed: int = 0,
        tile_id: str = "tile",
        guidance_scale: float | None = None,
        steps: int | None = None,
    ) -> np.ndarray:
        """Return an image for a mask: what `trainer sample` makes of it under the same tile id.

        Args:
            mask: Class ids, integers [height, width]; sides are multiples of `multiple_px`. 255 is
                unlabelled.
            seed: Of the noise.
            tile_id: Which noise of that seed; another id gives another image.
            guidance_scale: 0 is unconditional, 1 conditional, more exaggerates the condition; None
                for that of the run.
            steps: Number of solver steps; None for those of the run.

        Returns:
            The image, uint8 RGB [height, width, 3].

        Raises:
            UsageError: The mask has other classes, another size or another type, or an option makes
                no sense.
            DivergedError: The model produced NaN or infinite values.
        """
        options = replace(self.options, seed=seed)
        if guidance_scale is not None:
            options = replace(options, guidance_scale=float(guidance_scale))
        if steps is not None:
            options = replace(options, solver=replace(options.solver, num_inference_steps=steps))
        if not np.isfinite(options.guidance_scale):
            raise UsageError("the guidance scale is not a finite number", seen=guidance_scale)
        if problem := options.solver.problem(self._generator.objective):
            raise UsageError("the solver does not fit the network", seen=problem)
        chosen = self._checked(np.asarray(mask))
        images: np.ndarray = self._generator.generate(
            chosen[None], [tile_id], options, finite_only=True
        )
        image: np.ndarray = images[0]
        return image

    def _checked(self, mask: np.ndarray) -> np.ndarray:
        """Return the mask as uint8; raises UsageError."""
        if mask.ndim != 2 or mask.dtype.kind not in "ui" or not mask.size:
            raise UsageError(
                "this is no mask",
                seen=f"{mask.dtype} {list(mask.shape)}",
                expected="class ids, integers [height, width]",
            )
        present = np.unique(mask)
        most = self._generator.num_classes
        unknown = present[(present < 0) | ((present >= most) & (present != IGNORED_ID))]
        if len(unknown):
            raise UsageError(
                "the mask has classes that the network does not know",
                seen=", ".join(map(str, unknown[:5].tolist())),
                expected=f"classes 0 to {most - 1}, and {IGNORED_ID} for unlabelled pixels",
            )
        if any(side % self.multiple_px for side in mask.shape):
            raise UsageError(
                "the sides of the mask do not fit the network",
                seen=f"{mask.shape[1]} x {mask.shape[0]} px",
                expected=f"multiples of {self.multiple_px} px",
            )
        return mask.astype(np.uint8)


@dataclass(frozen=True, eq=False, repr=False)
class Classification:
    """Classes of images: a row an image, with the columns of predictions.parquet."""

    table: pa.Table

    @property
    def predicted(self) -> list[str]:
        """Return the class of each image."""
        names: list[str] = self.table["predicted"].to_pylist()
        return names

    def __repr__(self) -> str:
        """Return the classes, of more than three images the first."""
        named = ", ".join(map(visible, self.predicted[:3]))
        return f"<Classification: {named}{', ...' if len(self.predicted) > 3 else ''}>"

    def _repr_html_(self) -> str:
        """Return the table, for notebooks."""
        rows = [list(row.values()) for row in self.table.to_pylist()]
        return html_result(repr(self), self.table.column_names, rows)

    def to_pandas(self) -> DataFrame:
        """Return a row an image: class, uncertainty, probabilities and scores of each class."""
        frame: DataFrame = self.table.to_pandas()
        return frame


@dataclass(frozen=True, eq=False, repr=False)
class ImageClassifier:
    """A trained diffusion classifier: images to classes.

    Attributes:
        path: The run folder.
        names: The classes.
    """

    path: Path
    names: tuple[str, ...]
    _model: RunClassifier

    def __repr__(self) -> str:
        """Return what it is in one line."""
        names = ", ".join(map(visible, self.names))
        return f"<ImageClassifier: {names} | {visible(str(self.path))}>"

    def classify(self, images: np.ndarray | Sequence[np.ndarray]) -> Classification:
        """Return the class of an image, or of several: what `trainer predict` says of them alone.

        Args:
            images: uint8 RGB [height, width, 3], or several; each is cut to its central square.

        Raises:
            UsageError: Something else was passed.
        """
        listed = [images] if isinstance(images, np.ndarray) and images.ndim == 3 else [*images]
        size = self._model.config.data.image_size
        pixels = [to_float(square_image(_checked_image(image), size)) for image in listed]
        if not pixels:
            raise UsageError("there is no image to classify")
        found = self._model.classify(torch.from_numpy(np.stack(pixels)), 0)
        return Classification(prediction_table(gather_predictions([found]), self.names, {}))


def _checked_image(image: np.ndarray) -> np.ndarray:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise UsageError(
            "this is no image",
            seen=f"{image.dtype} {list(image.shape)}",
            expected="uint8 RGB [height, width, 3]",
        )
    return image


def load_run(
    path: str | Path, *, device: str = "auto", codec: str | None = None
) -> ImageModel | ImageClassifier:
    """Return the model of a run, ready to be used: averaged weights where there are any.

    Args:
        path: A run folder of `trainer fit` or `trainer import`; of a latent diffusion model one of
            its checkpoints, too.
        device: cpu, cuda or cuda:N; auto for a GPU if there is one.
        codec: The codec of a latent diffusion model, if it has moved.

    Raises:
        UsageError: There is no such run, device or codec.
        ConfigError: The run trained something else.
        CheckpointError: There is no valid checkpoint.
        IntegrityError: The codec is damaged.
    """
    place = Path(path)
    config = load_run_config(place)
    if isinstance(config, diffmic_config.Config):
        model = open_classifier(place, device=device)
        return ImageClassifier(place, model.names, model)
    if not isinstance(config, ldm.Config):
        raise ConfigError(
            "this run neither makes nor classifies images",
            path=place,
            seen=f"recipe {config.recipe}",
            expected="recipe ldm or diffmic",
        )
    generator = ldm.load_generator(place, codec=codec, device=str(choose_device(device)))
    own = config.sampling
    solver = Solver(own.solver, own.num_inference_steps, own.eta, own.spacing)
    options = SamplingOptions(own.guidance_scale, solver, 0, own.guidance_interval)
    return ImageModel(place, ldm.read_facts(place).label_map, options, generator)
