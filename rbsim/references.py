"""Several references, one per field and sensor: which of them a frame needs, and those in memory."""

import re
import warnings
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS

from rbsim.errors import InputError
from rbsim.frame import Frame, dither_of, field_of, read_wcs, sensor_of, split_extension
from rbsim.locations import place
from rbsim.reference import Reference, load_reference
from rbsim.remote import open_input
from rbsim.tomoe.standard import standard_header

MIN_OVERLAP = 0.1
"""Share of the frame that a reference must cover to be used."""
SAME_PLACE = 0.9
"""Two references of a field and sensor that overlap more than this are of the same dither."""


_NAMED = re.compile(r"([^=/:]*)=(.*)")
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,32}")
MAX_NAMED = 8
"""Bits of the column ``found_with``."""


def parse_references(texts: Sequence[str]) -> dict[str, Path]:
    """References of the command line: ``PATH`` alone, or ``NAME=PATH`` for each of several.

    Parameters
    ----------
    texts : sequence of str
        A path with ``=`` in its first part is given as ``./PATH``.

    Returns
    -------
    dict of str to Path
        By name, in the order given; the name of one that has none is empty.

    Raises
    ------
    InputError
        If a name or path is missing or comes twice, or a name has other characters.
    """
    found: dict[str, Path] = {}
    for text in texts:
        match = _NAMED.fullmatch(text)
        name, path = (match[1], match[2]) if match else ("", text)
        if match and not _NAME.fullmatch(name):
            raise InputError(
                f"--reference {text}: the name is {name!r};"
                " give NAME=PATH, NAME of 1 to 32 letters, digits, - _ ."
            )
        if not path:
            raise InputError(f"--reference {text}: has no path; give {name or 'NAME'}=PATH")
        if name in found:
            other = f"{name}={found[name]}" if name else str(found[name])
            raise InputError(f"--reference {text}: {other} is given too; name each differently: NAME=PATH")
        found[name] = place(path)
    if "" in found and len(found) > 1:
        raise InputError(f"--reference {found['']}: has no name and others have; give NAME={found['']}")
    if len(found) > MAX_NAMED:
        raise InputError(f"{len(found)} references are given; at most {MAX_NAMED} go into one store")
    return found


def by_name(reference: Path | Mapping[str, Path]) -> dict[str, Path]:
    """References by name; the name of a single path is empty."""
    return dict(reference) if isinstance(reference, Mapping) else {"": reference}


@dataclass(frozen=True, eq=False)
class ReferenceCard:
    """What the header of a reference says, without its pixels.

    Attributes
    ----------
    path : str
        FITS file, perhaps with ``[EXT]``.
    field : str
        Name of the field, empty if unknown.
    dither : str
        ``_dith1`` and the like, empty if unknown.
    sensor : int
        0 if unknown.
    wcs : astropy.wcs.WCS or None
    shape : (ny, nx)
    """

    path: str
    field: str
    dither: str
    sensor: int
    wcs: WCS | None
    shape: tuple[int, int]


def open_references(paths: Sequence[str | Path]) -> "ReferenceCache":
    """The cache of some reference files; a single one is read at once, of several only its frames may fail.

    Raises
    ------
    InputError
        If a file is unusable.
    """
    cache = ReferenceCache(read_cards(paths))
    if len(paths) == 1:
        cache.get(0)
    return cache


def read_cards(paths: Sequence[str | Path]) -> tuple[ReferenceCard, ...]:
    """Cards of reference files, in the order given.

    Dithers of a field on one sensor may each have one: they are told apart by name, or by their places.

    Raises
    ------
    InputError
        If a file cannot be read, or two are of the same piece of sky on the same sensor.
    """
    cards = tuple(_read_card(str(path)) for path in paths)
    seen: dict[tuple[str, int], list[ReferenceCard]] = {}
    for card in cards:
        others = seen.setdefault((card.field, card.sensor), [])
        same = next((other for other in others if not _differ(card, other)), None)
        if card.field and card.sensor and same is not None:
            raise InputError(
                f"{card.path}: is of field {card.field}, sensor {card.sensor} like {same.path};"
                " give one reference per field and sensor"
            )
        others.append(card)
    return cards


def _differ(card: ReferenceCard, other: ReferenceCard) -> bool:
    """Whether two references of one field and sensor are of different dithers."""
    if card.dither and other.dither:
        return card.dither != other.dither
    return _overlap(card, other.wcs, other.shape) < SAME_PLACE


def _read_card(text: str) -> ReferenceCard:
    path, extension = split_extension(text)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", AstropyWarning)
            with open_input(path) as file, fits.open(file, memmap=False) as hdus:
                wanted = hdus if extension is None else [hdus[extension]]
                header = next(hdu.header for hdu in wanted if hdu.is_image and hdu.header.get("NAXIS") == 2)
                header = standard_header(header, path, quiet=True)
    except FileNotFoundError as error:
        raise InputError(f"{text}: no such file") from error
    except (OSError, KeyError, IndexError, StopIteration) as error:
        raise InputError(f"{text}: is no FITS file with a 2-D image; give reference images") from error
    shape = (int(header["NAXIS2"]), int(header["NAXIS1"]))
    return ReferenceCard(
        text, field_of(header), dither_of(header), sensor_of(header), read_wcs(header, path), shape
    )


def find_reference(cards: Sequence[ReferenceCard], frame: Frame) -> int:
    """Index of the reference for a frame: of its field and sensor, else the one that overlaps most.

    A single reference is taken as it is. Of several dithers of a field the one that overlaps most is taken;
    without WCS the one of the frame's dither. A reference that covers less than a tenth of the frame, where
    both have a WCS, is not taken whatever its name: dithers of a field may not overlap.

    Raises
    ------
    InputError
        If none fits; with a list of what there is.
    """
    if len(cards) == 1:
        return 0
    overlaps = [_overlap(card, frame.wcs, frame.shape) for card in cards]  # NaN: unknown
    named = [
        index
        for index, card in enumerate(cards)
        if (card.field, card.sensor) == (frame.field, frame.sensor)
        and (frame.field or frame.sensor)
        and not overlaps[index] < MIN_OVERLAP
    ]
    if len(named) == 1:
        return named[0]
    same_dither = [index for index in named if frame.dither and cards[index].dither == frame.dither]
    if len(same_dither) == 1 and np.isnan([overlaps[index] for index in named]).any():
        return same_dither[0]
    among = named or range(len(cards))
    best = max(among, key=lambda index: np.nan_to_num(overlaps[index]))
    if overlaps[best] >= MIN_OVERLAP:
        return best
    known = "; ".join(f"{Path(card.path).name} ({_describe(card.field, card.sensor)})" for card in cards[:8])
    more = f" and {len(cards) - 8} more" if len(cards) > 8 else ""
    raise InputError(
        f"no reference for {_describe(frame.field, frame.sensor)}; there are {known}{more};"
        " give one with its OBJECT and DET_ID, or with a WCS that overlaps"
    )


def _describe(field: str, sensor: int) -> str:
    return f"field {field or 'unknown'}, sensor {sensor or 'unknown'}"


def _overlap(card: ReferenceCard, wcs: WCS | None, shape: tuple[int, int]) -> float:
    """Share of an image that the reference covers; NaN where a WCS lacks."""
    if card.wcs is None or wcs is None:
        return float("nan")
    ny, nx = shape
    y, x = (a.ravel() for a in np.meshgrid(np.linspace(0, ny - 1, 11), np.linspace(0, nx - 1, 11)))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # far away a projection diverges: NaN, outside
        ref_x, ref_y = card.wcs.world_to_pixel_values(*wcs.pixel_to_world_values(x, y))
    inside = (ref_x > -0.5) & (ref_x < card.shape[1] - 0.5) & (ref_y > -0.5) & (ref_y < card.shape[0] - 0.5)
    return float(np.mean(inside))


class ReferenceCache:
    """References of some cards, measured when first asked for; the least recently used is dropped.

    It belongs to whoever makes it, one per process. A reference of 2000x1128 pixels takes about 50 MB.

    Parameters
    ----------
    cards : sequence of ReferenceCard
    capacity : int
        References kept in memory.
    """

    def __init__(self, cards: Sequence[ReferenceCard], *, capacity: int = 4) -> None:
        if capacity < 1:
            raise InputError(f"capacity is {capacity}; a cache of references keeps at least 1")
        self.cards = tuple(cards)
        self.capacity = capacity
        self._loaded: OrderedDict[int, Reference] = OrderedDict()

    def get(self, index: int) -> Reference:
        """The reference of card `index`.

        Raises
        ------
        InputError
            If it cannot be used, as `rbsim.reference.load_reference`.
        """
        if index not in self._loaded:
            while len(self._loaded) >= self.capacity:
                self._loaded.popitem(last=False)
            self._loaded[index] = load_reference(self.cards[index].path)
        self._loaded.move_to_end(index)
        return self._loaded[index]
