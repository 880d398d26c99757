"""`trainer encode`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from histoprep import console
from histoprep.errors import ExitCode
from histoprep.schemas.workspace import check_outside
from trainer.choices import Fit, OnUnreadable, ScalingMethod

if TYPE_CHECKING:
    from trainer.encode import EncodeResult
    from trainer.models.codec import Codec


def encode(
    manifest: Annotated[
        str,
        typer.Option("--manifest", help="A manifest, or the index of shards.", show_default=False),
    ],
    codec: Annotated[
        str,
        typer.Option(
            "--codec",
            help="Folder of a codec, a run of the recipe codec, or hub:OWNER/NAME.",
            show_default=False,
        ),
    ],
    *,
    root: Annotated[
        Path | None,
        typer.Option(help="Folder of the data set.", show_default="as in the manifest"),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="Folder of the latent set.", show_default="latents beside the manifest"
        ),
    ] = None,
    views: Annotated[
        int,
        typer.Option(
            help=(
                "Symmetries of each tile to encode: 1, 2 (mirror), 4 (flips) or 8 (with quarter"
                " turns)."
            ),
            metavar="1|2|4|8",
        ),
    ] = 1,
    image_size: Annotated[
        int | None,
        typer.Option(help="Side of the crops in pixels.", show_default="the side of the tiles"),
    ] = None,
    fit: Annotated[
        Fit,
        typer.Option(
            help="Tiles of other sizes: refuse them, crop the centre, or encode all windows."
        ),
    ] = "refuse",
    scaling: Annotated[
        ScalingMethod,
        typer.Option(
            help="Scaling of latents: measured over the training split, or the one of the codec."
        ),
    ] = "measured",
    batch_size: Annotated[int, typer.Option(help="Crops encoded at once.")] = 8,
    num_workers: Annotated[int, typer.Option(help="Processes that read tiles.")] = 2,
    device: Annotated[
        str, typer.Option(help="cpu, cuda or cuda:N.", show_default="a GPU if there is one")
    ] = "auto",
    on_unreadable: Annotated[
        OnUnreadable, typer.Option(help="Tiles that cannot be read: stop, or skip and list them.")
    ] = "stop",
    report: Annotated[
        int, typer.Option(help="Tiles in the reconstruction report; 0 for none.")
    ] = 64,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify",
            help="Verify all inputs first: manifest or shards, and the run of the codec.",
        ),
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Start over, even with other options.")
    ] = False,
) -> None:
    """Encode the tiles of a manifest once, so that training reads latents instead of images.

    Writes latents (mean and standard deviation, float16) of every tile and view, their masks, the
    scaling measured over the training split, and a report of what the codec keeps: PSNR, SSIM, a
    sheet of images, the distance of reconstructions to real tiles, and whether a segmenter still
    tells the classes apart in them. Interrupted runs resume.

    Exit codes: 0 done; 2 wrong usage; 3 some tiles were skipped (listed in the output); 6 a damaged
    file.

    Examples:
        trainer encode --manifest manifest.parquet --codec runs/codec-512 --out latents
        trainer encode --manifest shards --codec runs/codec-512 --views 8 --fit crop
    """
    from histoprep.manifest.check import check_manifest
    from histoprep.shards import open_tiles
    from histoprep.storage import beside
    from trainer.data.source import check_root
    from trainer.device import choose_device
    from trainer.encode import EncodeOptions, encode_tiles
    from trainer.encode_report import report_codec
    from trainer.evaluation.ceiling import unfinished_codec
    from trainer.recipes.codecs import load_codec
    from trainer.verify import require_whole

    tiles, place = open_tiles(manifest, root=root), out or beside(manifest, "latents")
    check_root(tiles, root, f"trainer encode --manifest {shlex.quote(manifest)}")
    check_outside(place, tiles.manifest.data_folders, "latents")
    if tiles.manifest.moved:
        console.note(tiles.manifest.moved)
    check_manifest(tiles.manifest)
    if verify:
        require_whole(manifest, codec)
    where = str(choose_device(device))
    loaded = load_codec(codec)
    options = EncodeOptions(
        image_size,
        views,
        fit,
        scaling,
        batch_size=batch_size,
        num_workers=num_workers,
        on_unreadable=on_unreadable,
        device=where,
    )
    with console.progress("encoding", None) as meter:
        result = encode_tiles(tiles, loaded, place, options, force=force, advance=meter.advance)
    numbers = (
        report_codec(result.latents, tiles, loaded, num_tiles=report, device=where)
        if report > 0
        else None
    )
    _print(result, numbers)
    if report > 0:
        print_ceiling(find_ceiling(result.latents.folder, manifest, loaded, report, where))
    if warning := unfinished_codec(codec):
        console.warn(warning)
    words = ("--manifest", manifest, "--latents", place, "--codec", codec)
    settings = [f"data.image_size={result.latents.image_size}"]
    # The preset flips.
    settings += ["data.flips=false"] if views == 1 else []
    sets = [word for setting in settings for word in ("--set", setting)]
    console.next_steps(("trainer", "fit", *words, "--preset", "mask-unet-tiny", *sets))
    raise typer.Exit(ExitCode.INCOMPLETE if result.skipped else ExitCode.OK)


def _print(result: EncodeResult, numbers: dict[str, Any] | None) -> None:
    latents = result.latents
    skipped = [f"not encoded: {tile_id} cannot be read" for tile_id in result.skipped]
    rest = f"all are under skipped in {latents.folder / 'latents.json'}"
    console.warn_each(skipped, total=len(skipped), rest=rest)
    if not result.num_encoded:
        console.note("all tiles were encoded before")
    statistics, scaling = latents.statistics, latents.scaling
    rows = [
        (str(channel), *(f"{value:.4f}" for value in values))
        for channel, values in enumerate(
            zip(statistics["mean"], statistics["std"], scaling.shift, scaling.scale, strict=True)
        )
    ]
    console.table(
        ("channel", "mean", "std", "shift", "scale"),
        rows,
        title=f"Raw latents over {statistics['num_entries']:,} training crops",
    )
    if numbers:
        lines = [
            (
                name,
                *(
                    f"{numbers[key][statistic]:.{digits}f}"
                    for statistic in ("mean", "median", "min")
                ),
            )
            for name, key, digits in _QUALITIES
            if numbers[key]
        ]
        console.table(
            ("reconstruction", "mean", "median", "worst"),
            lines,
            title=f"What the codec costs, on {numbers['num_tiles']} tiles",
        )
        if not numbers["ssim"]:
            console.note(
                f"SSIM is left out: crops of {latents.image_size} px are smaller than its window"
            )
        console.note(
            f"originals, reconstructions, differences x 4: {latents.folder / 'reconstruction.png'}"
        )
    from trainer.data.latent_correlation import advise_flow_shift

    if advice := advise_flow_shift(latents):
        console.note(
            f"neighbouring latents correlate by {advice.correlation:.2f}: for flow,"
            f" --set diffusion.flow_shift={advice.shift:.1f} fits"
        )
    shape = " x ".join(str(length) for length in latents.shape)
    console.out(
        f"{result.num_entries:,} crops as {shape} latents, {latents.num_views} views |"
        f" {latents.folder}"
    )


def find_ceiling(
    folder: Path, manifest: str, codec: Codec, num_tiles: int, device: str
) -> dict[str, Any] | None:
    """Return what the codec keeps, as JSON values, measured unless a latent set has it already;
    None, with a note, where it cannot be measured.
    """
    from histoprep import checksums
    from trainer.evaluation.ceiling import NAME

    wanted = {"codec": codec.digest, "manifest": open_digest(manifest), "num_tiles": num_tiles}
    if (folder / NAME).is_file():
        known: dict[str, Any] = checksums.read_json(folder / NAME)
        if all(known.get(name) == value for name, value in wanted.items()):
            return known
    found = measure_codec(manifest, codec, num_tiles, device)
    if found is not None:
        found |= wanted
        checksums.publish_json(folder, NAME, found)
    return found


def open_digest(manifest: str) -> str:
    """Return the digest of a manifest, or of that which shards were made from."""
    from histoprep.shards import open_tiles

    return open_tiles(manifest).digest


def measure_codec(
    manifest: str, codec: Codec, num_tiles: int, device: str, root: str | None = None
) -> dict[str, Any] | None:
    """Return what a codec keeps of a data set, as JSON values; None, with a note, where it cannot
    be measured.
    """
    from histoprep.errors import UsageError
    from trainer.evaluation.ceiling import measure_ceiling
    from trainer.evaluation.sides import real_side
    from trainer.models.trunks import packaged_weights

    try:
        packaged_weights()
    except UsageError as error:
        console.note(f"what the codec keeps of classes is not measured: {error.what}")
        return None
    side = real_side(manifest, root=root)
    with console.progress("ceiling of the codec", None):
        return measure_ceiling(side, codec, num_tiles=num_tiles, device=device).to_json()


def print_ceiling(found: dict[str, Any] | None) -> None:
    """Print what a codec keeps of classes; a verdict against it is a warning."""
    from trainer.evaluation.ceiling import ceiling_lines

    if found is None:
        return
    if lines := ceiling_lines(found):
        title = f"What a generator with this codec can reach, on {found['tiles']} tiles"
        console.table(("measure", "value", "real tiles"), lines, title=title)
    (console.warn if found["lost"] else console.out)(found["verdict"])


_QUALITIES = (("PSNR, dB", "psnr_db", 2), ("SSIM", "ssim", 4))
