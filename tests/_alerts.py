"""Alert packets like those of ZTF, made up: the fields that are read, with a star of known flux."""

import gzip
import io

import fastavro
import numpy as np
from astropy.io import fits

CUTOUT = {
    "type": "record",
    "name": "cutout",
    "namespace": "ztf.alert",
    "fields": [{"name": "fileName", "type": "string"}, {"name": "stampData", "type": "bytes"}],
}
NUMBERS = (
    *("jd", "ra", "dec", "xpos", "ypos", "magpsf", "sigmapsf", "fwhm", "seeratio", "scorr", "magzpsci"),
    *("rb", "mindtoedge", "magnr", "distnr", "elong"),
)
WHOLE = ("fid", "pid", "rcid", "nid", "candid", "nbad", "field")
SCHEMA = {
    "type": "record",
    "name": "alert",
    "namespace": "ztf",
    "fields": [
        {"name": "objectId", "type": "string"},
        {"name": "candid", "type": "long"},
        {
            "name": "candidate",
            "type": {
                "type": "record",
                "name": "candidate",
                "fields": [
                    *({"name": name, "type": ["double", "null"]} for name in NUMBERS),
                    *({"name": name, "type": ["long", "null"]} for name in WHOLE),
                    {"name": "isdiffpos", "type": "string"},
                ],
            },
        },
        {"name": "cutoutScience", "type": ["null", CUTOUT]},
        {"name": "cutoutTemplate", "type": ["null", "ztf.alert.cutout"]},
        {"name": "cutoutDifference", "type": ["null", "ztf.alert.cutout"]},
    ],
}
ZERO_POINT_MAG = 26.0


def star(flux, *, fwhm_pix=2.5):
    """Gaussian of a flux in the centre of 63 x 63 px."""
    y, x = np.mgrid[:63, :63] - 31.0
    sigma = fwhm_pix / 2.355
    return flux * np.exp(-(x**2 + y**2) / (2 * sigma**2)) / (2 * np.pi * sigma**2)


def pack(image):
    buffer = io.BytesIO()
    fits.PrimaryHDU(image.astype(np.float32)).writeto(buffer)
    return gzip.compress(buffer.getvalue())


def packet(candid=1, *, flux=1000.0, seed=0, window=(slice(None), slice(None)), **candidate):
    """A packet; negative flux is one of a star that has faded. `window` cuts the cut-outs."""
    rng = np.random.default_rng([seed, candid])
    noise = rng.normal(0, 3, (2, 63, 63))
    template = 200 + star(5000) + noise[0] / 10
    difference = star(flux) + noise[1]
    science = template + difference
    positive = flux > 0
    fields = dict.fromkeys((*NUMBERS, *WHOLE), None) | {
        "jd": 2458500.7 + candid % 2,
        "pid": 700 + candid % 2,
        "rcid": 12,
        "nid": 746 + candid % 2,
        "candid": candid,
        "ra": 100.0 + candid,
        "dec": 20.0,
        "xpos": 501.0,
        "ypos": 1001.0,
        "magzpsci": ZERO_POINT_MAG,
        "magpsf": ZERO_POINT_MAG - 2.5 * np.log10(abs(flux)),
        "sigmapsf": 0.1,
        "fwhm": 2.5,
        "seeratio": 1.0,
        "scorr": 20.0,
        "isdiffpos": "t" if positive else "f",
        "rb": -999.0,
    }
    cutouts = {
        "cutoutScience": science,
        "cutoutTemplate": template,
        # As ZTF does it: the reference minus science image for negative candidates.
        "cutoutDifference": difference if positive else -difference,
    }
    return {
        "objectId": f"ZTF{candid}",
        "candid": candid,
        "candidate": fields | candidate,
        **{name: {"fileName": name, "stampData": pack(image[window])} for name, image in cutouts.items()},
    }


def write(path, packets, *, schema=None, codec="null"):
    with path.open("wb") as file:
        fastavro.writer(file, fastavro.parse_schema(schema or SCHEMA), packets, codec=codec)
    return path
