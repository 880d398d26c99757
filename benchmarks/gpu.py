"""Speed of the latent diffusion model on this device: `python -m benchmarks.gpu [--lease]
[--small] [--batch-sizes 32 64 ...] [--write FILE]`.

Training of the reference network and of mask-unet in bf16, with and without torch.compile, against
the lineage's loop (float32, explicit softmax, VAE in the step) in the same run; then encoding and
sampling.
TFLOP/s count the operations that are executed (2 for a multiply-add, backward included). `--small`
takes a small network on small images, to see on a CPU that everything runs: its figures mean
nothing. `--lease` is for a device that is there for a few minutes: it compares losses with those of
the CPU first, looks for the best batch size, measures the most telling rows, and leaves out what
does not fit into `--seconds`. The table, and the same as JSON beside it, are written after each
row.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.gpu_checks import loss_differences
from benchmarks.gpu_steps import LineageStep, OurStep, made_plain
from trainer.data.latent_scaling import LatentScaling
from trainer.data.loader import loader
from trainer.data.randomness import keyed_normals, keyed_uniforms
from trainer.diffusion.objectives import Objective
from trainer.diffusion.samplers import Solver
from trainer.models.codec import Codec
from trainer.models.denoisers.footprint import count_flops
from trainer.models.denoisers.interface import Denoiser, DenoiserConfig
from trainer.models.denoisers.mask_unet import Config as MaskUNetConfig
from trainer.models.denoisers.reference_unet import Config as ReferenceUNetConfig
from trainer.sampling.generator import Generator, SamplingOptions

NUM_CLASSES = 5
# Of --lease, in seconds.
BUDGET_S = 480.0
# A larger batch is better by at least this factor, or the search ends.
_BETTER = 1.03
# Dense bf16 matrix rate in TFLOP/s, from the data sheets.
PEAKS = {"H100": 989.0, "H200": 989.0, "A100": 312.0}


@dataclass(frozen=True)
class Scale:
    """What is measured: network, images, steps."""

    dim: int = 256
    image_px: int = 512
    num_steps: int = 20
    num_warm: int = 5
    batch_sizes: tuple[int, ...] = (32, 64, 128, 256)
    lineage_batches: tuple[int, ...] = (4, 32)
    encode_batch: int = 32
    sample_batch: int = 32
    sample_steps: int = 25
    num_tiles: int = 512
    num_workers: int = 8
    vae_widths: tuple[int, ...] = (128, 256, 512, 512)
    compiler: str = "inductor"

    @property
    def side(self) -> int:
        """Return the side of the latents."""
        return self.image_px // 8


SMALL = Scale(16, 64, 2, 1, (2,), (2,), 2, 2, 2, 8, 0, (8, 8, 8, 8), "eager")


@dataclass
class Row:
    """One line of the table."""

    what: str
    batch: int
    images_per_s: float | None = None
    tflops: float | None = None
    waiting: float | None = None
    memory_gib: float | None = None
    note: str = ""


@dataclass
class CachedTiles:
    """Latents, masks and images in memory-mapped files, as training reads them; noise keyed by
    position.
    """

    folder: Path
    scale: Scale
    kind: str = "latents"

    def write(self) -> CachedTiles:
        """Fill the files and return the dataset."""
        item, rng = self.scale, np.random.default_rng(0)
        for name, shape, kind in self._files():
            made = np.lib.format.open_memmap(self.folder / f"{name}.npy", "w+", kind, shape)
            for index in range(item.num_tiles):
                made[index] = (
                    rng.standard_normal(shape[1:])
                    if kind == np.float16
                    else rng.integers(0, NUM_CLASSES if name == "mask" else 256, shape[1:])
                )
        return self

    def batch(self, positions: np.ndarray) -> dict[str, Tensor]:
        """Return the batch of training positions."""
        rows, opened = (
            positions % self.scale.num_tiles,
            {
                name: np.load(self.folder / f"{name}.npy", mmap_mode="r")
                for name, *_ in self._files()
            },
        )
        mask = torch.from_numpy(np.ascontiguousarray(opened["mask"][rows]))
        if self.kind == "images":
            return {
                "image": torch.from_numpy(np.ascontiguousarray(opened["image"][rows])),
                "mask": mask,
            }
        return {
            "latents": torch.from_numpy(opened["latents"][rows].astype(np.float32)),
            "mask": mask,
            "noise": torch.from_numpy(
                keyed_normals(0, positions, "noise", (4, self.scale.side, self.scale.side))
            ),
            "u": torch.from_numpy(
                keyed_uniforms(0, positions, "timestep")[:, 0].astype(np.float32)
            ),
        }

    def _files(self) -> list[tuple[str, tuple[int, ...], type]]:
        item = self.scale
        return [
            ("latents", (item.num_tiles, 4, item.side, item.side), np.float16),
            ("mask", (item.num_tiles, 1, item.image_px, item.image_px), np.uint8),
            ("image", (item.num_tiles, 3, item.image_px, item.image_px), np.uint8),
        ]


class Bench:
    """Measures on one device; rows that do not fit into its memory, or into the time, say so.

    Args:
        device: Where.
        scale: What.
        folder: For the cached tiles.
        seconds: How long all of it may take; None for as long as it takes.
        keep: Called with the rows after each.
    """

    def __init__(
        self,
        device: torch.device,
        scale: Scale,
        folder: Path,
        seconds: float | None = None,
        keep: Callable[[list[Row]], None] = lambda _: None,
    ) -> None:
        self.device, self.scale, self._keep = device, scale, keep
        self._end = None if seconds is None else time.perf_counter() + seconds
        self._longest_s = 0.0
        self.tiles = CachedTiles(folder, scale).write()
        self.rows: list[Row] = []

    def run(self) -> list[Row]:
        """Return all rows, printing each as it is measured."""
        self._add("matrix product, bf16", 0, self._matmul)
        for size in self.scale.lineage_batches:
            self._add("lineage: float32, softmax matrix, VAE in the step", size, self._lineage)
        for size in self.scale.batch_sizes:
            for name, compiled in (("reference", False), ("reference", True), ("mask-unet", True)):
                self._add_training(name, size, compiled=compiled)
        self._add_training("reference-class", self.scale.batch_sizes[0], compiled=True)
        self._add("encode, bf16", self.scale.encode_batch, self._encode)
        self._add_samplings()
        return self.rows

    def run_lease(self) -> list[Row]:
        """Return the most telling rows that fit into the time: first whether the device computes
        what the CPU does, then training at the best batch size, encoding and sampling.
        """
        for name in ("reference", "reference-class", "mask-unet"):
            self._add(
                f"20 steps of {name} in bf16 against the CPU in float32",
                2,
                lambda row, kind=name: self._compare(row, kind),
            )
        self._add("matrix product, bf16", 0, self._matmul)
        best = self._best_batch()
        for name in ("reference-class", "mask-unet", "reference"):
            self._add_training(name, best, compiled=True)
        self._add("encode, bf16", self.scale.encode_batch, self._encode)
        self._add_samplings()
        self._add(
            "lineage: float32, softmax matrix, VAE in the step",
            self.scale.lineage_batches[0],
            self._lineage,
        )
        return self.rows

    def _best_batch(self) -> int:
        """Measure batch sizes, ascending, while they are worth it, and return the best."""
        best, most = self.scale.batch_sizes[0], 0.0
        for size in self.scale.batch_sizes:
            speed = self._add_training("reference-class", size, compiled=False).images_per_s or 0.0
            if speed < _BETTER * most:
                break
            best, most = size, speed
        return best

    def _add_training(self, name: str, batch: int, *, compiled: bool) -> Row:
        return self._add(
            f"train {name}, bf16{', compiled' if compiled else ''}",
            batch,
            lambda row: self._train(row, compiled, name),
        )

    def _compare(self, row: Row, name: str) -> None:
        config = self._configs(dim=16)[name]
        found = loss_differences(config.build(NUM_CLASSES, 4), self.device, NUM_CLASSES)
        row.note = (
            f"losses differ by at most {found.largest:.1e} ({'as' if found.is_alike else 'NOT as'}"
            f" expected), resumed ones by {found.resumed:.1e}"
        )

    def _add_samplings(self) -> None:
        steps, batch, image_px = (
            self.scale.sample_steps,
            self.scale.sample_batch,
            self.scale.image_px,
        )
        large_px = 4 * image_px
        for name, compiled, num_steps, size, side_px in (
            ("reference", False, steps, batch, image_px),
            ("reference", True, steps, batch, image_px),
            ("mask-unet", True, steps, batch, image_px),
            ("mask-unet", True, 4, batch, image_px),
            ("mask-unet", True, steps, 1, large_px),
        ):
            self._add(
                f"sample {name}, {side_px} px, {num_steps} steps, guidance,"
                f" decode{', compiled' if compiled else ''}",
                size,
                lambda row, kind=name, on=compiled, count=num_steps, side=side_px: self._sample(
                    row, kind, compiled=on, num_steps=count, side_px=side
                ),
            )

    def _add(self, what: str, batch: int, measure: Callable[[Row], None]) -> Row:
        row, began = Row(what, batch), time.perf_counter()
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        if self._end is not None and began + self._longest_s > self._end:
            row.note = "no time was left"
        else:
            try:
                measure(row)
            except torch.OutOfMemoryError:
                row.note = "does not fit"
            if self.device.type == "cuda":
                row.memory_gib = torch.cuda.max_memory_allocated() / 2**30
            self._longest_s = max(self._longest_s, time.perf_counter() - began)
        self.rows.append(row)
        self._keep(self.rows)
        print(table([row], self.device).rpartition("\n")[2], file=sys.stderr, flush=True)
        return row

    def _matmul(self, row: Row) -> None:
        size = 8192 if self.device.type == "cuda" else 512
        a = torch.randn(size, size, device=self.device, dtype=torch.bfloat16)
        seconds = self._seconds(lambda: a @ a, 20)
        row.tflops = 20 * 2 * size**3 / seconds / 1e12

    def _network(self, name: str = "reference") -> Denoiser:
        torch.manual_seed(0)
        return self._configs(self.scale.dim)[name].build(NUM_CLASSES, 4).to(self.device)

    @staticmethod
    def _configs(dim: int) -> dict[str, DenoiserConfig]:
        return {
            "reference": ReferenceUNetConfig(dim=dim, mask_query="binary"),
            "reference-class": ReferenceUNetConfig(dim=dim, mask_query="class"),
            "mask-unet": MaskUNetConfig(dim=dim),
        }

    def _train(self, row: Row, compiled: bool, name: str) -> None:
        network = self._network(name).train().to(memory_format=torch.channels_last)
        flops = count_flops(network, self.scale.image_px, 8, training=True)
        step = OurStep(
            (
                torch.compile(network, dynamic=False, backend=self.scale.compiler)
                if compiled
                else network
            ),
            self.device,
        )
        self._measure_steps(row, self._batches("latents", row.batch), step, flops)

    def _lineage(self, row: Row) -> None:
        torch.set_float32_matmul_precision("high")
        network = made_plain(self._network()).train()
        flops = count_flops(network, self.scale.image_px, 8, training=True)
        step = LineageStep(
            network, self._codec().autoencoder, Objective().schedule.alpha_bars(self.device)
        )
        self._measure_steps(
            row,
            self._batches("images", row.batch),
            lambda batch: step(batch["image"], batch["mask"]),
            flops,
        )

    def _batches(self, kind: str, size: int) -> Iterator[dict[str, Tensor]]:
        count = size * (self.scale.num_warm + self.scale.num_steps)
        dataset = CachedTiles(self.tiles.folder, self.scale, kind)
        return loader(
            dataset,
            range(count),
            size,
            self.scale.num_workers,
            pin_memory=self.device.type == "cuda",
        )

    def _measure_steps(
        self,
        row: Row,
        batches: Iterator[dict[str, Tensor]],
        step: Callable[[dict[str, Tensor]], Tensor],
        flops: int,
    ) -> None:
        waited = started = 0.0
        for index in range(self.scale.num_warm + self.scale.num_steps):
            if index == self.scale.num_warm:
                self._synchronise()
                waited, started = 0.0, time.perf_counter()
            requested_at = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - requested_at
            step({name: value.to(self.device, non_blocking=True) for name, value in batch.items()})
        self._synchronise()
        seconds = time.perf_counter() - started
        row.images_per_s = self.scale.num_steps * row.batch / seconds
        row.tflops, row.waiting = row.images_per_s * flops / 1e12, waited / seconds

    def _codec(self) -> Codec:
        from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

        torch.manual_seed(0)
        kinds = {
            "down_block_types": ("DownEncoderBlock2D",) * 4,
            "up_block_types": ("UpDecoderBlock2D",) * 4,
        }
        groups = min(32, *self.scale.vae_widths)
        made = AutoencoderKL(
            block_out_channels=self.scale.vae_widths,
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=groups,
            **kinds,
        )
        return Codec(made, "untrained").to(self.device)

    def _encode(self, row: Row) -> None:
        codec = self._codec().to(memory_format=torch.channels_last)
        images = torch.rand(
            row.batch, 3, self.scale.image_px, self.scale.image_px, device=self.device
        ).to(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16):
            seconds = self._seconds(lambda: codec.encode(images), self.scale.num_steps)
        row.images_per_s = self.scale.num_steps * row.batch / seconds

    def _sample(self, row: Row, name: str, *, compiled: bool, num_steps: int, side_px: int) -> None:
        network = self._network(name).eval().to(memory_format=torch.channels_last)
        codec = self._codec().to(memory_format=torch.channels_last)
        scaling = LatentScaling("codec", (0.0,) * 4, (1.0,) * 4)
        denoiser = (
            torch.compile(network, dynamic=False, backend=self.scale.compiler)
            if compiled
            else network
        )
        generator = Generator(
            denoiser,
            Objective("flow" if name == "mask-unet" else "epsilon"),
            codec,
            scaling,
            NUM_CLASSES,
            network.stride,
            self.device,
            "bf16",
        )
        masks = (
            np.random.default_rng(0)
            .integers(0, NUM_CLASSES, (row.batch, side_px, side_px))
            .astype(np.uint8)
        )
        names = [str(index) for index in range(row.batch)]
        options = SamplingOptions(2.0, Solver("dpm++", num_steps))
        seconds = self._seconds(lambda: generator.generate(masks, names, options), 3)
        row.images_per_s = 3 * row.batch / seconds

    def _seconds(self, work: Callable[[], object], repeats: int) -> float:
        for _ in range(2):
            work()
        self._synchronise()
        started = time.perf_counter()
        for _ in range(repeats):
            work()
        self._synchronise()
        return time.perf_counter() - started

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def device_name(device: torch.device) -> str:
    """Return the name of the device, with versions."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    return f"{name}, torch {torch.__version__}, CUDA {torch.version.cuda}"


def table(rows: list[Row], device: torch.device) -> str:
    """Return the rows as Markdown; the share of peak is against the data sheet's dense bf16
    rate.
    """
    name = device_name(device)
    peak = next((rate for key, rate in PEAKS.items() if key in name), None)
    lines = [
        "| what | batch | images/s | TFLOP/s | of peak | waiting for data | memory, GiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        share = row.tflops / peak if row.tflops is not None and peak else None
        cells = [
            _cell(row.images_per_s, ".1f"),
            _cell(row.tflops, ".1f"),
            _cell(share, ".1%"),
            _cell(row.waiting, ".1%"),
            _cell(row.memory_gib, ".1f"),
        ]
        lines.append(
            f"| {row.what}{f': {row.note}' if row.note else ''} | {row.batch or ''} |"
            f" {' | '.join(cells)} |"
        )
    return "\n".join(lines)


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


def main() -> int:
    """Measure, print the table, and write it to a file when one is named."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument(
        "--small", action="store_true", help="a small network, to see that everything runs"
    )
    parser.add_argument(
        "--lease", action="store_true", help="what is most telling, within --seconds"
    )
    parser.add_argument("--seconds", type=float, default=BUDGET_S, help="of --lease")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[])
    parser.add_argument("--write", type=Path, help="write the table to this file")
    chosen = parser.parse_args()
    device = torch.device(chosen.device)
    if device.type != "cuda" and not chosen.small:
        parser.error("without a GPU only --small is of use")
    scale = (
        SMALL if chosen.small else Scale(batch_sizes=tuple(chosen.batch_sizes) or Scale.batch_sizes)
    )

    def keep(rows: list[Row]) -> None:
        if chosen.write:
            chosen.write.write_text(f"{device_name(device)}\n\n{table(rows, device)}\n")
            facts = {"device": device_name(device), "rows": [asdict(row) for row in rows]}
            chosen.write.with_suffix(".json").write_text(json.dumps(facts, indent=1) + "\n")

    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(device, scale, Path(folder), chosen.seconds if chosen.lease else None, keep)
        rows = bench.run_lease() if chosen.lease else bench.run()
    print(f"{device_name(device)}\n\n{table(rows, device)}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
