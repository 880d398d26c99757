"""Exporting a run by its recipe."""

from __future__ import annotations

from pathlib import Path

from trainer.engine.checkpoints import load_run_config
from trainer.errors import UsageError
from trainer.recipes.diffmic_config import Config as ClassifierConfig
from trainer.recipes.ldm_config import Config as LdmConfig
from trainer.recipes.segmenter import Config as SegmenterConfig


def export_run(run: Path, out: Path, *, codec: str | None = None) -> list[Path]:
    """Write the network of a run for other programs, and return what to look at first.

    Args:
        run: Run folder or checkpoint.
        out: New folder.
        codec: Where the codec of an image generator is now, if not where it was.

    Raises:
        UsageError: When `out` holds files, or for a recipe without an export.
        CheckpointError: When there is no whole checkpoint.
    """
    config = load_run_config(run)
    if out.exists() and any(out.iterdir()):
        raise UsageError("the folder of an export must be new", path=out, hint="name another --out")
    if isinstance(config, LdmConfig):
        if config.diffusion.prediction_type == "mean_flow":
            raise UsageError(
                "models of the prediction type mean_flow have no export yet",
                path=run,
                expected="epsilon, v or flow",
            )
        from trainer.export.diffusers_folder import export_generator

        export_generator(run, out, config, codec=codec)
        return [out / "README.md", out / "model_index.json"]
    if isinstance(config, SegmenterConfig):
        from trainer.export.program import export_segmenter

        return [out / "README.md", export_segmenter(run, out, config)]
    if isinstance(config, ClassifierConfig):
        from trainer.export.program import export_classifier

        return [out / "README.md", export_classifier(run, out, config)]
    raise UsageError(
        "runs of this recipe have no export",
        path=run,
        seen=config.recipe,
        expected="ldm, segmenter or diffmic",
    )
