"""Frames with their injected stars as FITS files, and a catalogue of the stars beside each.

The folder has, per frame and realisation, ``NAME.rN.fits`` (raw ADU as in the input, sky included) and
``NAME.rN.catalog.ecsv`` with the columns of LSST source_injection, which can be injected again.
"""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.table import Table

from rbsim import __version__, hdus, schema, tables
from rbsim.asked import AskedStars
from rbsim.chain import Subtracted
from rbsim.config import InjectConfig
from rbsim.difference_files import write_table
from rbsim.errors import InputError
from rbsim.folder import check_folder, new_folder
from rbsim.frame import Frame, split_extension
from rbsim.inject import Injected
from rbsim.inputs import FrameTask, refuse_equal_names, stem_of
from rbsim.locations import written_whole
from rbsim.store import partial_path
from rbsim.tables import FrameContext

PROOF = "injected.ecsv"
COMMAND = "rbsim inject --images"
OPTION = "--images"
STALE_CARDS = ("CHECKSUM", "DATASUM")


@dataclass(frozen=True)
class ImageFolder:
    """The folder to write to, while it is unfinished."""

    path: Path


def check_images(images: Path | None, store: Path, tasks: Sequence[FrameTask], *, overwrite: bool) -> None:
    """Refuse a folder that exists or meets the store, and frames of one file name; nothing is touched.

    Raises
    ------
    InputError
    """
    if images is not None:
        folder, other = images.resolve(), store.resolve()
        if folder == other or folder in other.parents or other in folder.parents:
            raise InputError(
                f"{images}: may not hold the store {store} or lie in it; choose another {OPTION}"
            )
        check_folder(images, overwrite=overwrite, proof=PROOF, command=COMMAND, option=OPTION)
        refuse_equal_names(tasks)


@contextmanager
def image_folder(
    images: Path | None, store: Path, *, resume: bool, overwrite: bool, n_finished: int
) -> Iterator[ImageFolder | None]:
    """The folder for the images of a run, which gets its name when the block ends well.

    It stays unfinished as long as the build of the store does, and goes with it.

    Parameters
    ----------
    images : Path or None
        None: none are wanted.
    store : Path
        Name of the run's store.
    resume, overwrite : bool
    n_finished : int
        Frames that an earlier run has finished: their images must be there.

    Raises
    ------
    InputError
        If it may not be written, or an interrupted run had no images.
    """
    if images is None:
        yield None
        return
    work = check_folder(images, overwrite=overwrite, proof=PROOF, command=COMMAND, option=OPTION)
    if n_finished and not work.exists():
        raise InputError(
            f"{images}: {n_finished} frames were finished without images; give --overwrite, or no --images"
        )
    try:
        with new_folder(
            images, overwrite=overwrite, proof=PROOF, command=COMMAND, option=OPTION, resume=resume
        ) as path:
            yield ImageFolder(path)
            write_table(path / PROOF, _index(path))
    except BaseException:
        if not partial_path(store).exists():
            shutil.rmtree(work, ignore_errors=True)
        raise


def _index(folder: Path) -> Table:
    catalogues = sorted(path.name for path in folder.glob("*.catalog.ecsv"))
    images = [name.removesuffix(".catalog.ecsv") + ".fits" for name in catalogues]
    return Table([np.array(images, str), np.array(catalogues, str)], names=("image", "catalog"))


def write_injected(
    folder: ImageFolder,
    task: FrameTask,
    frame: Subtracted,
    context: FrameContext,
    asked: AskedStars,
    stars: Injected,
    config: InjectConfig,
    *,
    realisation: int,
) -> None:
    """Write a frame with the stars of one realisation, and their catalogue; each is there only when whole.

    Pixels that no star touched are those of the input file, bit for bit, in its data type. Of a cube the mean
    is written.

    Parameters
    ----------
    folder : ImageFolder
    task : FrameTask
    frame : Subtracted
        Without stars.
    context : FrameContext
    asked : AskedStars
    stars : Injected
    config : InjectConfig
    realisation : int
    """
    name = f"{stem_of(task.path)}.r{realisation}"
    path, extension = split_extension(task.path)
    raw, header, planes = hdus.read_image(path, extension)
    for card in STALE_CARDS:
        header.remove(card, ignore_missing=True)
    detector, science = frame.science.detector, stars.science
    if raw.ndim == 3:  # a cube: its mean is written, and has other electronics than a single frame
        raw = frame.science.image + frame.science.sky_adu
        header["GAIN"] = (detector.gain_e_per_adu, "[electron/ADU] of the mean")
        if np.isfinite(detector.read_noise_e):
            header["RDNOISE"] = (detector.read_noise_e, "[electron] of the mean")
    for card, value, comment in (
        ("INJECTED", bool(stars.drawn.any()), "has injected stars"),
        ("INJSEED", config.seed, "seed of the run"),
        ("INJREALN", realisation, "realisation"),
        ("INJNSTAR", int(stars.drawn.sum()), "stars drawn"),
        ("INJVERS", f"rbsim {__version__}", "what drew them"),
        ("INJGAIN", detector.gain_e_per_adu, "[electron/ADU] of their noise"),
        ("INJMAGZP", science.zero_point_mag, "[mag] of 1 ADU, of their flux"),
        ("INJFWHM", round(frame.psf.fwhm_pix, 4), "[pix] of their PSF"),
    ):
        header[card] = (value, comment)
    parts: list[fits.PrimaryHDU | fits.ImageHDU] = [
        fits.PrimaryHDU(_raw_with(raw, frame.science, science), header)
    ]
    if planes["VARIANCE"] is not None:
        known = np.isfinite(science.variance)
        variance = np.where(known, science.variance, planes["VARIANCE"])
        parts.append(fits.ImageHDU(variance.astype(planes["VARIANCE"].dtype), name="VARIANCE"))
    if planes["MASK"] is not None:
        parts.append(fits.ImageHDU(planes["MASK"], name="MASK"))
    target = folder.path / f"{name}.fits"
    with written_whole(target) as temporary:
        fits.HDUList(parts).writeto(temporary, overwrite=True)
    table = catalogue_table(
        context,
        asked,
        stars,
        first_id=tables.injection_id(task.index, realisation, 0),
        draw_size_pix=2 * frame.psf.half_pix + 1,
    )
    table.meta |= {"frame": frame.science.name, "realisation": realisation, "seed": config.seed}
    write_table(folder.path / f"{name}.catalog.ecsv", table)


def _raw_with(raw: np.ndarray, before: Frame, after: Frame) -> np.ndarray:
    """Raw pixels of a frame with stars, in the data type of the file, shape (ny, nx).

    Parameters
    ----------
    raw : ndarray, shape (ny, nx)
        Of the file.
    before, after : Frame
        Without and with the stars; a degraded frame has other pixels than the file, and those count.
    """
    whole = raw.dtype.kind in "iu"
    base = before.image.astype(float) + before.sky_adu
    base = np.rint(base) if whole else base
    # Taking the sky out and adding it again costs the last digits of a float32.
    tolerance = 4 * np.finfo(np.float32).eps * (np.abs(before.image) + np.abs(before.sky_adu))
    same = ~np.isfinite(base) | (np.abs(base - raw) <= tolerance)
    light = after.image.astype(float) - before.image
    light = np.where(np.isfinite(light) & ((after.mask & schema.MASK["INJECTED"]) != 0), light, 0)
    out = np.where(same, raw, base) + (np.rint(light) if whole else light)
    if whole:
        limits = np.iinfo(raw.dtype)
        out = np.clip(out, limits.min, limits.max)
    return np.where(same & (light == 0), raw, out).astype(raw.dtype)


def catalogue_table(
    context: FrameContext, asked: AskedStars, stars: Injected, *, first_id: int, draw_size_pix: int
) -> Table:
    """Catalogue of the stars asked for, with what became of them; `rbsim.catalogue.read_catalogue` reads it.

    Parameters
    ----------
    context : FrameContext
    asked : AskedStars
    stars : Injected
    first_id : int
        ``injection_id`` of the first star in the store's truth.
    draw_size_pix : int
        Side of the square in which a point is drawn.

    Returns
    -------
    Table
        Magnitudes as a catalogue has them: of one pixel of a trail, of a variable star before its change.
    """
    n = len(asked)
    truth_id = first_id + np.arange(n)
    is_trail = asked.trail_length_pix > 0
    light = np.where(
        asked.injected_in == schema.INJECTED_IN["reference"], asked.reference_flux_adu, asked.flux_adu
    )
    light = np.where(np.isfinite(asked.star_flux_adu), asked.star_flux_adu, light)
    light = light / np.where(is_trail, asked.trail_length_pix, 1)
    ra, dec = tables.sky_of(context.science, asked.x_pix, asked.y_pix)
    near = asked.kind == schema.KIND_CODES["injected_near_galaxy"]
    kinds = {kind.code: kind.name for kind in schema.KINDS}
    images = {code: name for name, code in schema.INJECTED_IN.items()}
    size = np.where(stars.drawn, draw_size_pix + np.ceil(asked.trail_length_pix), 0)
    columns = {
        "injection_id": (np.where(asked.catalogue_id >= 0, asked.catalogue_id, truth_id), None),
        "injection_flag": (stars.flag.astype(np.int32), None),
        "injection_draw_size": (size.astype(np.int32), "pix"),
        "ra": (ra, "deg"),
        "dec": (dec, "deg"),
        "x": (asked.x_pix, "pix"),
        "y": (asked.y_pix, "pix"),
        "mag": (context.magnitude(light, asked.x_pix, asked.y_pix), "mag"),
        "source_type": (np.where(is_trail, "Trail", "Star"), None),
        "kind": (np.array([kinds[int(code)] for code in asked.kind], "U32"), None),
        "injected_in": (np.array([images[int(code)] for code in asked.injected_in], "U9"), None),
        "trail_length": (np.where(is_trail, asked.trail_length_pix, np.nan), "pix"),
        "beta": (np.where(is_trail, asked.trail_angle_deg, np.nan), "deg"),
        "n_cube_frames": (asked.n_cube_frames, None),
        "delta_mag": (np.where(near, np.nan, asked.delta_mag), "mag"),
        "flux_adu": (asked.flux_adu, "adu"),
        "reference_flux_adu": (asked.reference_flux_adu, "adu"),
        "snr": (asked.snr, None),
        "host_offset_pix": (asked.host_offset_pix, "pix"),
        "host_pa_deg": (asked.host_pa_deg, "deg"),
        "host_radius_pix": (asked.host_radius_pix, "pix"),
        "host_delta_mag": (np.where(near, asked.delta_mag, np.nan), "mag"),
        "truth_id": (truth_id, None),
    }
    table = Table(
        {name: values for name, (values, _) in columns.items()},
        units={name: unit for name, (_, unit) in columns.items() if unit},
    )
    table.meta |= {flag.name: flag.bit for flag in schema.INJECTION_FLAGS}
    table.meta["CREATOR"] = f"rbsim {__version__}"
    return table
