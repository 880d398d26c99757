"""`trainer sample`."""

from __future__ import annotations

import math
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histoprep import console
from histoprep.digests import file_digest
from histoprep.errors import UsageError
from histoprep.labels import find_label_map, load_label_map
from trainer.choices import Precision, SolverKind, Spacing, Split
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from histoprep.labels import LabelMap
    from trainer.recipes.ldm import Config
    from trainer.sampling.generator import Generator, SamplingOptions
    from trainer.sampling.masks import MaskList
    from trainer.sampling.tiling import Crop

_NUM_ROWS = 6
GENERATE = "generate:"
"""What --masks begins with for masks that a model makes."""


def _input(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="What is read", **more)


_OF_RUN = "as in the run"


def _made(text: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=text, rich_help_panel="Sampling", **more)


def sample(
    checkpoint: Annotated[
        Path,
        _input(
            "A run folder of trainer fit or import, or one of its checkpoints.",
            "--checkpoint",
            show_default=False,
        ),
    ],
    masks: Annotated[
        str,
        _input(
            "A folder of label images, a manifest, or the index of shards; generate:N makes N masks"
            " with --mask-model.",
            "--masks",
            show_default=False,
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            help="Data set to write; its manifest goes to OUT.histoprep.",
            show_default=False,
        ),
    ],
    *,
    root: Annotated[
        Path | None,
        _input("Folder of the data set of --masks.", show_default="as in the manifest"),
    ] = None,
    split: Annotated[
        Split | None,
        _input(
            "Use masks of this split only; for a folder, the split of its images.",
            show_default="all",
        ),
    ] = None,
    map_name: Annotated[
        str | None,
        _input("Label map of a folder's masks.", "--map", show_default="masks hold class ids"),
    ] = None,
    images: Annotated[
        Path | None,
        _input("Folder of real images with the names of the masks.", show_default=False),
    ] = None,
    mask_model: Annotated[
        Path | None,
        _input("A run of the recipe masks, for --masks generate:N.", show_default=False),
    ] = None,
    class_shares: Annotated[
        str | None,
        _input(
            "Shares of the classes in each generated mask, such as Tumour=0.6,Stroma=0.4.",
            metavar="CLASS=SHARE",
            show_default="those of random training masks",
        ),
    ] = None,
    codec: Annotated[
        str | None, _input("The codec of the run, if it has moved.", show_default=False)
    ] = None,
    raw_weights: Annotated[
        bool, _input("Use the weights as trained, not their average.", "--raw-weights")
    ] = False,
    guidance_scale: Annotated[
        float | None,
        _made(
            "Classifier-free guidance: 0 is unconditional, 1 conditional, more exaggerates the"
            " condition.",
            show_default=_OF_RUN,
        ),
    ] = None,
    guidance_interval: Annotated[
        str | None,
        _made(
            "Guidance at noise levels sigma / signal between these two only, such as 0.2,5;"
            " elsewhere the scale is 1.",
            metavar="LOW,HIGH",
            show_default=_OF_RUN,
        ),
    ] = None,
    solver: Annotated[
        SolverKind | None,
        _made(
            "Solver of the sampling: dpm++ (second order) or ddim; flow models also have euler and"
            " heun.",
            show_default=_OF_RUN,
        ),
    ] = None,
    steps: Annotated[
        int | None,
        _made(
            "Number of solver steps.",
            min=1,
            show_default="as in the run; 25 with another solver",
        ),
    ] = None,
    spacing: Annotated[
        Spacing | None,
        _made(
            "Steps of equal time, or of equal log-SNR with dpm++: better with ten steps or so.",
            show_default="as in the run; time with another solver",
        ),
    ] = None,
    eta: Annotated[
        float | None,
        _made(
            "Noise that ddim adds at each step: 0 none, 1 ancestral.",
            show_default="as in the run; 0 with another solver",
        ),
    ] = None,
    seed: Annotated[
        int, _made("An image depends on the seed, its tile id and its mask.", min=0)
    ] = 0,
    keep: Annotated[
        Path | None,
        _made(
            "Label image, or folder of them: pixels other than 0 are kept from the real image.",
            show_default=False,
        ),
    ] = None,
    size: Annotated[
        int | None,
        _made(
            "Longer side of the images, in pixels: masks are enlarged or reduced to it, and"
            " generated ones made at it.",
            min=1,
            show_default="that of the masks",
        ),
    ] = None,
    tile_size: Annotated[
        int | None,
        _made(
            "Compute images larger than this in tiles of this size, with the same result.",
            min=1,
            show_default="one pass where memory allows",
        ),
    ] = None,
    crop: Annotated[
        str | None,
        _made(
            "Make only this part of each image, in pixels: what the whole image has there.",
            metavar="TOP,LEFT,HEIGHT,WIDTH",
            show_default=False,
        ),
    ] = None,
    batch_size: Annotated[int, _made("Images sampled at once.", min=1)] = 8,
    precision: Annotated[Precision, _made("fp32, or bf16 or fp16 for speed.")] = "fp32",
    compile_: Annotated[
        bool, _made("Compile the network first: minutes once, then faster on a GPU.", "--compile")
    ] = False,
    device: Annotated[
        str, _made("cpu, cuda or cuda:N.", show_default="a GPU if there is one")
    ] = "auto",
    limit: Annotated[
        int | None,
        typer.Option(help="Generate only this many images; the others can follow later.", min=1),
    ] = None,
    sweep: Annotated[
        str | None,
        typer.Option(
            help="Only draw a sheet of the first masks at these guidance scales, such as 0,1,2,4.",
            metavar="SCALES",
        ),
    ] = None,
    real: Annotated[
        bool,
        typer.Option("--real", help="Also draw a sheet of generated images beside the real ones."),
    ] = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Replace images in OUT that were made with other options, or changed since.",
        ),
    ] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help=(
                "Verify all inputs first: run, manifest or shards of the masks, and images that"
                " exist already."
            ),
        ),
    ] = False,
) -> None:
    """Generate one image for each mask: a data set with images, masks, label map and manifest,
    every file marked as synthetic.

    Interrupted runs resume. For a given seed, a tile's image does not depend on the other tiles
    sampled. Sheets go to OUT.histoprep.

    Exit codes: 0 done; 1 the model produced NaN or infinite values; 2 wrong usage; 3 a mask cannot
    be read; 6 a damaged checkpoint.

    Examples:
        trainer sample --checkpoint runs/ldm --masks my_masks --map label_map_5 --out out --steps 50
        trainer sample --checkpoint runs/mask-unet-512 --masks layouts --out large --size 2048
        trainer sample --checkpoint runs/ldm --masks generate:500 --mask-model runs/masks --out new
    """
    from trainer.device import choose_device, free_memory_bytes
    from trainer.import_checkpoint import NO_MANIFEST
    from trainer.recipes.ldm import load_generator, read_facts
    from trainer.sample import check_masks, sample_dataset
    from trainer.sampling.dataset import SyntheticDataset
    from trainer.sampling.keep import keep_regions
    from trainer.sampling.masks import resize_masks
    from trainer.sampling.sheets import comparison_sheet
    from trainer.sampling.tile_size import check_tile_px, choose_tile_px
    from trainer.verify import require_whole

    place = choose_device(device)
    if verify:
        require_whole(checkpoint, masks if mask_model is None else mask_model)
    config = _check_run(checkpoint)
    scales = () if sweep is None else _scales(sweep)
    requested = _requested_masks(masks, mask_model, class_shares, map_name or images)
    classes = read_facts(checkpoint).label_map
    made_from: dict[str, Any] = {}
    if requested is None or mask_model is None:
        listed = _mask_list(masks, classes, split, map_name, images, out, root)
        listed = listed if size is None else resize_masks(listed, size)
    else:
        listed, made_from = _generated_masks(
            mask_model,
            requested,
            classes,
            class_shares,
            size,
            seed,
            split or "train",
            str(place),
        )
    if real and listed.read_image is None:
        raise UsageError(
            "--real needs the real images",
            hint="give a manifest as --masks, or their folder with --images",
        )
    options = sampling_options(
        config,
        seed,
        guidance_scale=guidance_scale,
        guidance_interval=guidance_interval,
        solver=solver,
        steps=steps,
        spacing=spacing,
        eta=eta,
    )
    generator = load_generator(
        checkpoint, ema=not raw_weights, codec=codec, device=str(place), precision=precision
    )
    check_masks(generator, listed, options, keep=keep is not None)
    tile_px = (
        choose_tile_px(generator, listed.largest_px, batch_size, free_memory_bytes(place))
        if tile_size is None
        else check_tile_px(generator, tile_size)
    )
    if tile_px is not None and max(listed.largest_px) > tile_px:
        console.note(f"large images are computed in tiles of {tile_px:,} px")
        if generator.codec.halo is None:
            console.warn(
                "this codec normalises over the whole image, so tiles that are decoded one by one"
                " may differ in tone, and fade into each other; a larger --tile-size has fewer"
            )
    generator = _made_fast(replace(generator, tile_px=tile_px), compiled=compile_)
    if scales:
        SyntheticDataset(out.resolve(), {}).refuse_foreign_files()
        _draw_sweep(generator, listed, out, scales, options)
        return
    origin = {
        "checkpoint": _weights_digest(checkpoint, ema=not raw_weights),
        "codec": generator.codec.digest,
        **made_from,
    }
    regions = keep_regions(keep, listed) if keep else None
    with console.progress("sampling", min(len(listed), limit or len(listed)), "images") as meter:
        result = sample_dataset(
            generator,
            listed,
            out,
            options,
            batch_size=batch_size,
            keep=regions,
            crop=None if crop is None else _crop(crop),
            origin=origin,
            trained_on=None if config.manifest == NO_MANIFEST else config.manifest,
            limit=limit,
            force=force,
            verify=verify,
            advance=meter.advance,
        )
    if real:
        _write(out, "real.png", comparison_sheet(generator, listed, _first_alike(listed), options))
    if result.num_there:
        console.note(f"{result.num_there:,} images existed already")
    console.out(f"{result.num_made:,} images | {out} | {result.manifest}")


def sampling_options(
    config: Config,
    seed: int,
    *,
    guidance_scale: float | None = None,
    guidance_interval: str | None = None,
    solver: SolverKind | None = None,
    steps: int | None = None,
    spacing: Spacing | None = None,
    eta: float | None = None,
) -> SamplingOptions:
    """Return how to sample: what is not asked for is as in the run."""
    from trainer.diffusion.samplers import Solver
    from trainer.sampling.generator import SamplingOptions

    own = config.sampling
    # Steps and noise of one solver say nothing of another.
    default = (
        Solver(own.solver, own.num_inference_steps, own.eta, own.spacing)
        if solver in (None, own.solver)
        else Solver(solver)
    )
    return SamplingOptions(
        own.guidance_scale if guidance_scale is None else guidance_scale,
        Solver(
            default.kind,
            default.num_inference_steps if steps is None else steps,
            default.eta if eta is None else eta,
            default.spacing if spacing is None else spacing,
        ),
        seed,
        own.guidance_interval if guidance_interval is None else _interval(guidance_interval),
    )


def _crop(text: str) -> Crop:
    from trainer.sampling.tiling import Crop

    try:
        top, left, height, width = (int(number) for number in text.split(","))
    except ValueError:
        raise UsageError(
            "--crop is not four whole numbers", seen=text, expected="such as 0,1024,512,512"
        ) from None
    return Crop(top, left, height, width)


def _interval(text: str) -> tuple[float, float]:
    try:
        least, largest = (float(number) for number in text.split(","))
    except ValueError:
        raise UsageError(
            "--guidance-interval is not two numbers", seen=text, expected="such as 0.2,5"
        ) from None
    return least, largest


def _check_run(checkpoint: Path) -> Config:
    """Return the configuration of a run; raises ConfigError for one that has no images to give: of
    another recipe, or imported without its codec.
    """
    from trainer.engine.checkpoints import load_run_config
    from trainer.import_checkpoint import NO_MANIFEST
    from trainer.recipes.ldm import Config

    config = load_run_config(checkpoint)
    if not isinstance(config, Config):
        hint = (
            "name it as --mask-model beside an image model; trainer test draws its masks alone"
            if config.recipe == "masks"
            else None
        )
        raise ConfigError(
            "this run is not of the recipe ldm",
            path=checkpoint,
            seen=config.recipe,
            expected="ldm",
            hint=hint,
        )
    if config.manifest == NO_MANIFEST and config.codec is None:
        raise ConfigError(
            "this run was imported without --codec",
            path=checkpoint,
            hint="import the checkpoint again with --codec, into another folder",
        )
    return config


def _requested_masks(
    masks: str, mask_model: Path | None, class_shares: str | None, of_folder: object
) -> int | None:
    """Return how many masks are to be generated, or None where they are read.

    Raises:
        UsageError: For options that do not go together.
    """
    if not masks.startswith(GENERATE):
        stray = "--mask-model" if mask_model else "--class-shares" if class_shares else None
        if stray:
            raise UsageError(
                f"{stray} belongs to generated masks",
                seen=f"--masks {masks}",
                expected=f"--masks {GENERATE}N, such as {GENERATE}500",
            )
        return None
    text = masks.removeprefix(GENERATE)
    if not (text.isascii() and text.isdigit() and int(text)):
        raise UsageError(
            "the number of masks to generate is not a whole number, at least 1",
            seen=masks,
            expected=f"such as {GENERATE}500",
        )
    if of_folder:
        raise UsageError(
            "--map and --images belong to a folder of masks; generated ones have none", seen=masks
        )
    if mask_model is None:
        raise UsageError(
            "generated masks need a model of masks",
            seen=f"--masks {masks} without --mask-model",
            hint="trainer fit --recipe masks --manifest MANIFEST trains one",
        )
    return int(text)


def _generated_masks(
    mask_model: Path,
    count: int,
    classes: LabelMap,
    class_shares: str | None,
    size: int | None,
    seed: int,
    split: Split,
    device: str,
) -> tuple[MaskList, dict[str, Any]]:
    """Return masks that a model makes when they are read, and what they depend on."""
    from trainer.recipes.masks import load_mask_generator
    from trainer.sampling.layouts import list_generated, parse_shares, request_of

    generator = load_mask_generator(mask_model, device=device, seed=seed)
    own = [(cls.id, cls.name) for cls in generator.label_map.classes]
    if own != [(cls.id, cls.name) for cls in classes.classes]:
        raise UsageError(
            "the model of masks has other classes than the model of images",
            path=mask_model,
            seen=", ".join(f"{number} {name}" for number, name in own),
            expected=", ".join(f"{cls.id} {cls.name}" for cls in classes.classes),
            hint="train both on manifests with the same label map",
        )
    shares = (
        None
        if class_shares is None
        else parse_shares(class_shares, generator.label_map, generator.num_classes)
    )
    listed = list_generated(generator, count, size_px=size, shares=shares, split=split)
    return listed, request_of(shares, _weights_digest(mask_model, ema=True), seed)


def _mask_list(
    masks: str,
    classes: LabelMap,
    split: Split | None,
    map_name: str | None,
    images: Path | None,
    out: Path,
    root: Path | None,
) -> MaskList:
    from histoprep.manifest.check import check_manifest
    from histoprep.shards import open_tiles
    from trainer.data.source import check_root
    from trainer.sampling.masks import masks_in_folder, masks_of_tiles

    folder = Path(masks)
    # A folder of shards has an index and no label images.
    if folder.is_dir() and not any(folder.glob("*.parquet")):
        if root is not None:
            raise UsageError("--root belongs to a manifest, and these are label images", path=masks)
        for source in filter(None, (folder, images)):
            _check_apart(out, source)
        source_map = load_label_map(find_label_map(map_name)) if map_name else None
        return masks_in_folder(
            folder,
            classes,
            source_map=source_map,
            images=images,
            split=split,
        )
    if map_name or images:
        raise UsageError(
            "--map and --images belong to a folder of masks; a manifest has its own", path=masks
        )
    tiles = open_tiles(masks, root=root)
    check_root(tiles, root, f"trainer sample --masks {shlex.quote(masks)}")
    if tiles.manifest.moved:
        console.note(tiles.manifest.moved)
    check_manifest(tiles.manifest)
    for folder in tiles.manifest.data_folders:
        _check_apart(out, folder)
    if [(cls.id, cls.name) for cls in tiles.label_map.classes] != [
        (cls.id, cls.name) for cls in classes.classes
    ]:
        console.warn(
            f"the classes of {tiles.label_map.name} are not those the network was trained with"
            f" ({classes.name}); class ids are used unchanged"
        )
    return masks_of_tiles(tiles, split)


def _check_apart(out: Path, source: Path) -> None:
    """Raise UsageError when one of the two folders lies in the other: images would be taken for
    data, or data be replaced.
    """
    target, data = out.resolve(), source.resolve()
    if target.is_relative_to(data) or data.is_relative_to(target):
        raise UsageError(
            "images must not mix with the data they are made from",
            path=out.absolute(),
            seen=f"data in {source}",
            hint="name another --out",
        )


def _scales(text: str) -> tuple[float, ...]:
    try:
        scales = tuple(float(number) for number in text.split(","))
    except ValueError:
        scales = (math.nan,)
    if not all(map(math.isfinite, scales)):
        raise UsageError("--sweep is not a list of numbers", seen=text, expected="such as 0,1,2,4")
    return scales


def _draw_sweep(
    generator: Generator,
    masks: MaskList,
    out: Path,
    scales: tuple[float, ...],
    options: SamplingOptions,
) -> None:
    from trainer.sampling.sheets import guidance_sheet

    with console.progress("sampling", None, "sheets"):
        image = guidance_sheet(generator, masks, _first_alike(masks), scales, options)
    _write(out, "guidance.png", image)


def _write(out: Path, name: str, image: Any) -> None:
    from histoprep import checksums, durable, imageio

    folder = out.resolve().with_name(f"{out.resolve().name}.histoprep")
    with durable.locked(folder):
        checksums.publish_file(folder, name, imageio.encode_rgb_png(image, imageio.SYNTHETIC_MARK))
    console.out(str(folder / name))


def _first_alike(masks: MaskList) -> list[int]:
    """Return the first masks of the size of the very first: a sheet has one size."""
    return [index for index in range(len(masks)) if (masks.sizes[index] == masks.sizes[0]).all()][
        :_NUM_ROWS
    ]


def _weights_digest(checkpoint: Path, *, ema: bool) -> str:
    from trainer.engine.checkpoints import find_checkpoint

    folder = find_checkpoint(checkpoint.absolute())
    averaged = folder / "ema.safetensors"
    return file_digest(averaged if ema and averaged.is_file() else folder / "weights.safetensors")


def _made_fast(generator: Generator, *, compiled: bool) -> Generator:
    import torch

    if generator.device.type == "cuda":
        for network in (generator.denoiser, generator.codec):
            network.to(memory_format=torch.channels_last)
    return replace(generator, denoiser=torch.compile(generator.denoiser)) if compiled else generator
