"""`trainer fit`: train a model on a manifest or shards; rerun the same command to resume."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histoprep import console
from trainer.config_layers import dump_config, load_config, presets
from trainer.reporter import Reporter
from trainer.stage import DEFAULT_RECIPE, recipe_of

_NUM_CEILING = 32

if TYPE_CHECKING:
    from trainer.config import RunConfig


def _presets() -> list[str]:

    return presets()


def fit(
    manifest: Annotated[
        str | None,
        typer.Option(
            help="Manifest, or index of shards: a path or an address.", show_default=False
        ),
    ] = None,
    *,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the data set.", show_default="as in the manifest"),
    ] = None,
    recipe: Annotated[
        str | None,
        typer.Option(
            help="What to train.",
            metavar="ldm|codec|diffmic|segmenter|masks",
            autocompletion=lambda: ["ldm", "codec", "diffmic", "segmenter", "masks"],
            show_default="ldm",
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            help="A packed configuration.",
            autocompletion=_presets,
            show_default="the full-size one of the recipe",
        ),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option(
            "--config",
            help="YAML file whose values replace those of the preset.",
            show_default=False,
        ),
    ] = None,
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Value that replaces those of both, such as optimiser.lr=2e-4; repeatable.",
        ),
    ] = None,
    fold: Annotated[
        int | None,
        typer.Option(
            min=0,
            help=(
                "Cross-validation fold of the manifest that is test; the next is val, the others"
                " are train."
            ),
            show_default=False,
        ),
    ] = None,
    inner_fold: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Another fold that is val instead of the next: with each in turn, nested folds.",
            show_default=False,
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder.", show_default="runs/PRESET")
    ] = None,
    latents: Annotated[
        Path | None,
        typer.Option(help="Latent set of `trainer encode`.", show_default="encoded first"),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help=(
                "Run or checkpoint whose weights this run begins with; without --recipe, --preset"
                " or --config its configuration, too."
            ),
            show_default=False,
        ),
    ] = None,
    codec: Annotated[
        str | None, typer.Option(help="Folder of the codec, or hub:OWNER/NAME.", show_default=False)
    ] = None,
    force: Annotated[
        bool,
        typer.Option("--force", help="Train although the codec cannot keep the classes apart."),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Verify all inputs first: latent set, manifest or shards, and the run so far.",
        ),
    ] = False,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run", help="Print configuration, parameters, streams and memory; train nothing."
        ),
    ] = False,
) -> None:
    """Train a model; rerun the same command to resume, with the same result as without the
    interruption.

    Training starts after re-checking that no slide or duplicate image is shared between splits. A
    diffusion model is refused where its codec cannot keep the classes apart, unless --force is set.
    Results: RUN/metrics.csv, RUN/logs (TensorBoard), RUN/checkpoints, RUN/samples.

    Examples:
        trainer fit --manifest manifest.parquet --preset mask-unet-tiny --out runs/mask-unet
        trainer fit --manifest shards --preset reference-512-class --set optimiser.lr=1e-4 --dry-run
        trainer fit --init runs/ldm --manifest other/manifest.parquet --out runs/ldm-other
    """
    flags: dict[str, Any] = {
        "manifest": manifest,
        "root": None if root is None else str(root.absolute()),
        "fold": fold,
        "inner_fold": inner_fold,
        "out": None if out is None else str(out),
        "latents": None if latents is None else str(latents),
        "codec": codec,
        "init": None if init is None else str(init),
    }
    wanted = recipe or (None if preset or config_file or init else DEFAULT_RECIPE)
    base = None if init is None else _config_of(init)
    config = load_config(
        recipe=wanted, preset=preset, file=config_file, base=base, sets=sets or (), **flags
    )
    if verify:
        from trainer.verify import require_whole

        require_whole(config.out, config.manifest, getattr(config, "latents", None))
    if dry_run:
        _print_plan(config)
    else:
        _train(config, force=force)


def _config_of(run: Path) -> RunConfig:
    from trainer.engine.checkpoints import load_run_config

    return load_run_config(run)


def _train(config: RunConfig, *, force: bool) -> None:
    from trainer.cli import is_first_process
    from trainer.engine.fit import fit as fit_run

    if config.recipe == "ldm" and is_first_process():
        _check_codec(config, force=force)
    result = fit_run(config, reporter=Reporter(console.note, console.warn, console.progress))
    if not is_first_process():
        return
    for name, ended in result.stages.items():
        metrics = ", ".join(f"{key} {value:.4g}" for key, value in ended["metrics"].items())
        best = (
            f"; best {ended['best']['metric']} {ended['best']['value']:.4g} at step"
            f" {ended['best']['step']:,}"
            if ended["best"]
            else ""
        )
        console.out(
            f"{name or config.recipe}:"
            f" {ended['step']:,} steps{f'; {metrics}' if metrics else ''}{best}"
        )
    console.out(str(result.run))
    console.next_steps(*_next_steps(config, result.run))


def _check_codec(config: RunConfig, *, force: bool) -> None:
    """Print what the codec of a diffusion model that is not begun yet keeps of the classes.

    Raises:
        UsageError: When it keeps too little, unless `force`.
    """
    from histoprep import checksums
    from histoprep.errors import UsageError
    from trainer.cli.encode import measure_codec, print_ceiling
    from trainer.device import choose_device
    from trainer.engine.fit import check_data
    from trainer.evaluation.ceiling import NAME, unfinished_codec
    from trainer.recipes.codecs import load_codec
    from trainer.recipes.ldm_config import Config
    from trainer.recipes.ldm_data import latents_folder

    assert isinstance(config, Config)
    if (Path(config.out) / "config.yml").is_file():
        return
    check_data(config)
    stored = latents_folder(config) / NAME
    if config.codec is not None and (warning := unfinished_codec(config.codec)):
        console.warn(warning)
    if stored.is_file():
        found: dict[str, Any] | None = checksums.read_json(stored)
    elif config.latents is None and config.codec is not None:
        device = "cpu" if config.accelerator == "cpu" else str(choose_device("auto"))
        codec = load_codec(config.codec)
        found = measure_codec(config.manifest, codec, _NUM_CEILING, device, config.root)
    else:
        console.note("what the codec keeps of the classes is not known: trainer encode measures it")
        return
    print_ceiling(found)
    if found and found["lost"] and not force:
        raise UsageError(
            "the codec cannot keep the classes apart, so no model trained on its latents can",
            path=config.codec,
            seen=", ".join(found["lost"]),
            expected="at least 60 % of the recognition of real tiles, for every class",
            hint="train the codec longer or with more latent channels; --force trains all the same",
        )


def _next_steps(config: RunConfig, run: Path) -> list[tuple[object, ...]]:
    """Return what follows a training, by its recipe."""
    data = config.manifest
    root = () if config.root is None else ("--root", config.root)
    steps: dict[str, list[tuple[object, ...]]] = {
        "codec": [
            (
                "trainer",
                "fit",
                "--manifest",
                data,
                *root,
                "--codec",
                run,
                "--preset",
                "mask-unet-tiny",
            )
        ],
        "ldm": [
            ("trainer", "sample", "--checkpoint", run, "--masks", data, *root, "--out", "synthetic")
        ],
        "diffmic": [("trainer", "test", run)],
        "segmenter": [("trainer", "test", run)],
        "masks": [("trainer", "test", run)],
    }
    return steps.get(config.recipe, [])


def _print_plan(config: RunConfig) -> None:
    """Print what a run would be; reads the manifest, writes nothing."""
    from trainer.engine.fit import check_data

    check_data(config)
    described = recipe_of(config.recipe).describe(config)
    console.raw(dump_config(config))
    for name, value in described.items():
        if name == "streams":
            _print_streams(value)
        else:
            _print_facts(name, value)


def _print_streams(streams: Sequence[Mapping[str, Any]]) -> None:
    rows = [(stream["name"], f"{stream['probability']:.4f}", stream["tiles"]) for stream in streams]
    console.table(("stream", "probability", "tiles"), rows, title="Class streams")


def _print_facts(name: str, value: Any) -> None:
    facts = value if isinstance(value, Mapping) else {"": value}
    for key, entry in facts.items():
        text = (
            f"{entry / 2**20:,.0f} MiB"
            if name.endswith("_bytes")
            else f"{entry:,}"
            if isinstance(entry, int)
            else str(entry)
        )
        console.out(f"{name.removesuffix('_bytes')}{f' {key}' if key else ''}: {text}")
