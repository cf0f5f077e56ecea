"""Do stores of a million stamps cost per stamp what small ones do? Workers, memory, storage, packing.

    python benchmarks/scale.py [--json FILE] [--max-stamps N] [--quick] [--part workers|size|stream ...]

``size`` builds stores of ten thousand to `--max-stamps` stamps in one process each, through the function
of `rbsim inject`, of frames that are all different; nothing is extrapolated. Its frames are small and full
of stars, so that a stamp costs little and storage weighs much; ``default`` builds one store of frames of
2000 x 1128 px with the default settings. ``workers`` builds one store with one and with two workers.
``stream`` packs partitions that repeat real stamps, ten thousand to `--max-stamps`, and reads the largest
store on one core as training does, from the disk and from memory. Needs about 25 kB of disk per stamp.
``--quick`` only shows that all of it runs.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from astropy.io import fits
from scipy.ndimage import gaussian_filter

from rbmodel.stream import open_stream
from rbsim import build, run, schema
from rbsim.cluster import Parallel
from rbsim.config import InjectConfig
from rbsim.pack import finalise
from rbsim.store import open_store

PARTS = ("workers", "default", "size", "stream")
SHAPE, DEFAULT_SHAPE = (1024, 1024), (1128, 2000)
STARS_PER_MPIX = 500
N_DEFAULT_FRAMES = 24
SKY_ADU, GAIN = 400.0, 2.0
CONFIG = InjectConfig(stars_per_frame=250, realisations=8, gain_e_per_adu=GAIN, tile_pix=256)
STAMPS_PER_FRAME = 1900
"""About, of which the number of frames follows; rates count what was really stored."""


DEFAULT_CONFIG = InjectConfig(gain_e_per_adu=GAIN)


def scene(shape, rng):
    """Noiseless stars, FWHM 3 px, in ADU above the sky."""
    image = np.zeros(shape)
    n_stars = round(STARS_PER_MPIX * image.size / 2**20)
    y, x = (rng.integers(20, size - 20, n_stars) for size in shape)
    image[y, x] = 10 ** rng.uniform(3.5, 5.5, n_stars)
    return gaussian_filter(image, 3 / 2.355)


def write_night(folder, n_frames, shape=SHAPE):
    """So many frames of one field, each with its own noise, and a deep reference."""
    rng = np.random.default_rng(1)
    stars = scene(shape, rng) + SKY_ADU
    (folder / "science").mkdir(parents=True)
    for number in range(n_frames):
        electrons = rng.poisson(stars * GAIN) + rng.normal(0, 4, stars.shape)
        header = fits.Header(
            {"DATE-OBS": f"2026-01-{1 + number // 1000:02d}T00:{number % 1000 // 60:02d}:{number % 60:02d}"}
        )
        fits.writeto(
            folder / "science" / f"f{number:05d}.fits", (electrons / GAIN).astype(np.float32), header
        )
    deep = rng.poisson(stars * GAIN * 50) / (GAIN * 50)
    fits.writeto(folder / "reference.fits", deep.astype(np.float32))


def build_store(folder, n_frames, out, workers, config):
    """One run, with the time that goes into storage; in a process of its own for its peak memory."""
    spent = {"write": 0.0, "finalise": 0.0}

    def timed(name, function):
        def call(*args, **kwargs):
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[name] += time.perf_counter() - start

        return call

    if not workers:
        build.write_partition = timed("write", build.write_partition)
    run.finalise = timed("finalise", run.finalise)
    frames = sorted(str(path) for path in (folder / "science").glob("*.fits"))[:n_frames]
    start = time.perf_counter()
    run.run_injection(frames, folder / "reference.fits", out, config, parallel=Parallel(workers))
    seconds = time.perf_counter() - start
    n_stamps = open_store(out).n_stamps
    bytes_stored = sum(path.stat().st_size for path in out.rglob("*") if path.is_file())
    return {
        "frames": n_frames,
        "workers": workers,
        "stamps": n_stamps,
        "seconds": seconds,
        "stamps_per_s": n_stamps / seconds,
        "stamps_per_s_without_packing": n_stamps / (seconds - spent["finalise"]),
        "write_s": spent["write"],
        "finalise_s": spent["finalise"],
        "storage_share": (spent["write"] + spent["finalise"]) / seconds,
        "finalise_us_per_stamp": 1e6 * spent["finalise"] / n_stamps,
        "bytes_per_stamp": bytes_stored / n_stamps,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "peak_memory_of_workers_gb": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6,
    }


def in_own_process(folder, n_frames, workers=0, kind="dense"):
    """`build_store` in a child; the store is removed."""
    out = folder / f"s{n_frames}-{workers}.zarr"
    arguments = [
        sys.executable,
        __file__,
        "--child",
        str(folder),
        str(n_frames),
        str(out),
        str(workers),
        kind,
    ]
    result = json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout)  # noqa: S603
    shutil.rmtree(out)
    print(
        f"  {result['stamps']:>9,} stamps, {n_frames:>4} frames, {workers or 'no'} workers:"
        f" {result['seconds']:8.1f} s,"
        f" {result['stamps_per_s']:7.0f} stamps/s, finalise {result['finalise_s']:6.1f} s, storage"
        f" {100 * result['storage_share']:4.1f} %, memory {result['peak_memory_gb']:.2f} GB"
        f" (workers {result['peak_memory_of_workers_gb']:.2f})",
        flush=True,
    )
    return result


def pack_copies(source, out, n_stamps):
    """Seconds to pack a store of so many stamps, partitions of real ones again and again."""
    rows = min(source.n_stamps, 4096)
    columns = {s.name: source.column(s.name)[:rows] for s in schema.CANDIDATE_COLUMNS if s.name != "frame"}
    part = build.Partition(
        name="copy.fits",
        reason="",
        frame={s.name: source.column(f"frames/{s.name}")[0] for s in schema.FRAME_COLUMNS},
        stamps=source.read_stamps(slice(0, rows)),
        candidates=columns,
        truth={s.name: np.zeros(0, s.dtype) for s in schema.TRUTH_COLUMNS if s.name != "frame"},
    )
    n_parts = -(-n_stamps // rows)
    build.init(out, config={}, inputs=[f"copy{i}.fits" for i in range(n_parts)], summary={})
    for index in range(n_parts):
        build.write_partition(out, index, part)
    start = time.perf_counter()
    n_packed = finalise(out).n_stamps
    seconds = time.perf_counter() - start
    print(f"  {n_packed:>9,} stamps packed in {seconds:.1f} s", flush=True)
    return {"stamps": n_packed, "finalise_s": seconds, "finalise_us_per_stamp": 1e6 * seconds / n_packed}


def read_store(path):
    """Rates of one core from the disk, then from memory; in a process of its own for its peak memory."""
    os.sched_setaffinity(0, [max(os.sched_getaffinity(0))])
    torch.set_num_threads(1)
    store = open_store(path)
    stamps = open_stream(store)
    run_of = np.empty((schema.CHUNK_STAMPS, len(schema.CHANNELS), 29, 29), np.float32)

    def runs():
        for first in range(0, store.n_stamps, schema.CHUNK_STAMPS):
            store.read_run(first, run_of[: store.n_stamps - first])

    def batches():
        for _ in stamps.epoch(0):
            pass

    rates = {}
    for name, read in (("pixels", runs), ("batches", batches)):
        forget(path)
        for state in ("disk", "memory"):
            start, used = time.perf_counter(), time.process_time()
            read()
            rates[f"{name}_from_{state}_per_s"] = store.n_stamps / (time.perf_counter() - start)
            rates[f"{name}_from_{state}_per_cpu_s"] = store.n_stamps / (time.process_time() - used)
    return rates | {
        "stamps": store.n_stamps,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


def forget(folder):
    """Drop a folder's files from the page cache."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def stream_part(folder, sizes):
    """Pack stores of these sizes, read the largest, and say what came out."""
    source = folder / "source.zarr"
    frames = sorted(str(path) for path in (folder / "science").glob("*.fits"))[:5]
    run.run_injection(frames, folder / "reference.fits", source, CONFIG)
    packed = []
    for n_stamps in sizes:
        out = folder / f"copies{n_stamps}.zarr"
        packed.append(pack_copies(open_store(source), out, n_stamps))
        if n_stamps != sizes[-1]:
            shutil.rmtree(out)
    arguments = [sys.executable, __file__, "--read", str(out)]
    result = json.loads(subprocess.run(arguments, check=True, stdout=subprocess.PIPE, text=True).stdout)  # noqa: S603
    shutil.rmtree(out)
    say_linear("packing copies", packed)
    for what, name in (("pixels", "read"), ("batches", "read, normalised and shuffled into batches")):
        for state in ("memory", "disk"):
            rate, used = (result[f"{what}_from_{state}_per_{unit}"] for unit in ("s", "cpu_s"))
            say(
                f"stamps/s {name}, one core, from {state}",
                f"{rate:,.0f} ({used:,.0f} per second of the core)",
                "at least 50,000",
                rate >= 50_000,
            )
    memory = result["peak_memory_gb"]
    say(
        f"peak memory while streaming {result['stamps']:,} stamps",
        f"{memory:.2f} GB",
        "below 2 GB",
        memory < 2,
    )
    return {"packed": packed, "read": result}


def say_memory(runs):
    """Peak memory against the number of frames: below the limit, and no more of it for more frames."""
    told = ", ".join(f"{one['peak_memory_gb']:.2f} GB at {one['frames']} frames" for one in runs)
    most = max(one["peak_memory_gb"] for one in runs)
    say("peak memory", told, "below 1.5 GB", most < 1.5)
    if len(runs) > 1:
        growth = runs[-1]["peak_memory_gb"] / runs[-2]["peak_memory_gb"]
        say("peak memory, most frames over the next", f"{growth:.2f}", "at most 1.1", growth <= 1.1)


def say_shares(what, runs):
    told = ", ".join(f"{100 * one['storage_share']:.1f} % of {one['stamps']:,} stamps" for one in runs)
    say(what, told, "below 5 %", max(one["storage_share"] for one in runs) < 0.05)


def say_linear(what, runs):
    """A fixed time and a time per stamp, fitted to relative deviations; says how far off the worst is."""
    if len(runs) < 3:
        return
    n, seconds = (np.array([one[key] for one in runs], float) for key in ("stamps", "finalise_s"))
    terms = np.stack([np.ones_like(n), n], axis=1) / seconds[:, None]
    (fixed_s, per_stamp_s), *_ = np.linalg.lstsq(terms, np.ones_like(n))
    worst = np.abs((fixed_s + per_stamp_s * n) / seconds - 1).max()
    say(
        f"{what}, {len(runs)} sizes: {fixed_s:.2f} s and {1e6 * per_stamp_s:.0f} us per stamp, worst off by",
        f"{100 * worst:.1f} %",
        "at most 10 %",
        worst <= 0.10,
    )


def say(what, value, target, met):
    print(f"{what}: {value} (target {target}): {'met' if met else 'MISSED'}")


def most_stamps(parts, sizes, n_workers):
    """Of all parts, to know how many frames are needed; 5 frames are enough for ``stream``."""
    needed = {"workers": n_workers, "default": 0, "size": max(sizes), "stream": 5 * STAMPS_PER_FRAME}
    return max(needed[part] for part in parts)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path)
    parser.add_argument("--max-stamps", type=int, default=1_000_000)
    parser.add_argument("--part", nargs="*", default=list(PARTS), choices=PARTS)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; the figures mean nothing")
    parser.add_argument("--folder", type=Path, help="Where to work (default: a temporary folder).")
    parser.add_argument("--child", nargs=5, help=argparse.SUPPRESS)
    parser.add_argument("--read", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.read:
        print(json.dumps(read_store(options.read)))
        return
    if options.child:
        folder, n_frames, out, workers, kind = options.child
        config = DEFAULT_CONFIG if kind == "default" else CONFIG
        print(json.dumps(build_store(Path(folder), int(n_frames), Path(out), int(workers), config)))
        return
    sizes = sorted({min(n, options.max_stamps) for n in (10_000, 100_000, options.max_stamps)})
    packed_sizes = sorted({*sizes, *(min(n, options.max_stamps) for n in (30_000, 300_000))})
    n_workers, n_default_frames = 100_000, N_DEFAULT_FRAMES
    if options.quick:
        sizes, n_workers, n_default_frames = [2_000, 4_000, 6_000], 4_000, 2
        packed_sizes = sizes
    results = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        n_most = -(-most_stamps(options.part, sizes, n_workers) // STAMPS_PER_FRAME)
        print(f"writing {n_most} frames of {SHAPE[1]} x {SHAPE[0]} px", flush=True)
        write_night(folder, n_most)
        if "workers" in options.part:
            n_frames = -(-min(n_workers, options.max_stamps) // STAMPS_PER_FRAME)
            one, two = (in_own_process(folder, n_frames, workers) for workers in (1, 2))
            ratio = two["stamps_per_s"] / one["stamps_per_s"]
            results["workers"] = {"one": one, "two": two, "ratio": ratio}
            say("2 workers over 1", f"{ratio:.2f}", "at least 1.85", ratio >= 1.85)
        if "default" in options.part:
            write_night(folder / "default", n_default_frames, DEFAULT_SHAPE)
            results["default"] = in_own_process(folder / "default", n_default_frames, kind="default")
            say_shares("storage, share of a run with the default settings", [results["default"]])
        if "size" in options.part:
            runs = [in_own_process(folder, -(-n // STAMPS_PER_FRAME)) for n in sizes]
            results["size"] = runs
            rates = [one["stamps_per_s"] for one in runs]
            spread = max(rates) / min(rates) - 1
            say(
                "rate per core, largest over smallest",
                f"{100 * spread:.1f} % more",
                "within 10 %",
                spread <= 0.10,
            )
            say_memory(runs)
            say_shares("storage, share of every run", runs)
            say_linear("finalise", runs)
        if "stream" in options.part:
            results["stream"] = stream_part(folder, packed_sizes)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
