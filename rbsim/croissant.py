"""The machine-readable description of a store: Croissant 1.1 (docs.mlcommons.org/croissant), JSON-LD."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from rbsim import schema
from rbsim.partition import TABLES
from rbsim.truth_schema import ArraySpec

CONFORMS_TO = "http://mlcommons.org/croissant/1.1"
ZARR_FORMAT = "https://zarr-specs.readthedocs.io/en/latest/v3/core/index.html"
"""Zarr has no registered media type; the specification then takes the address of the format."""

_OURS = (
    *("annotation", "arrayShape", "citeAs", "column", "containedIn", "equivalentProperty", "excludes"),
    *("extract", "field", "fileProperty", "fileObject", "fileSet", "format", "includes", "isArray"),
    *("isLiveDataset", "jsonPath", "key", "md5", "parentField", "recordSet", "references", "regex"),
    *("readLines", "sdVersion", "separator", "source", "subField", "transform", "unArchive", "value"),
)
CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "http://schema.org/",
    "sc": "http://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _OURS},
}

_DATA_TYPES = {"b": "sc:Boolean", "i": "cr:Int64", "u": "cr:UInt64", "f": "cr:Float64"}
_SIZED = {
    "int8": "cr:Int8",
    "int16": "cr:Int16",
    "int32": "cr:Int32",
    "uint32": "cr:UInt32",
    "float32": "cr:Float32",
}


def describe_as_croissant(
    name: str,
    description: str,
    *,
    n_rows: Mapping[str, int],
    checksums: Mapping[str, str],
    publication: Mapping[str, Any],
) -> dict[str, Any]:
    """A store as a Croissant data set.

    Parameters
    ----------
    name, description : str
    n_rows : mapping of str to int
        Rows of ``candidates``, ``truth`` and ``frames``.
    checksums : mapping of str to str
        SHA-256 of the single files of the store that are described one by one.
    publication : mapping
        ``url``, ``license``, ``creator``, ``datePublished`` if they are known: whoever publishes the store
        says them. Without a date there is none, and the description does not conform yet.

    Returns
    -------
    dict
        JSON.
    """
    files = [
        {
            "@type": "cr:FileObject",
            "@id": file,
            "name": file,
            "contentUrl": file,
            "encodingFormat": "application/json",
            "sha256": checksum,
        }
        for file, checksum in sorted(checksums.items())
    ]
    sets = [_file_set("stamps", "stamps/c/**", "shards of the array of stamps")]
    sets += [
        _file_set(table, [f"{_prefix(table)}{spec.name}/c/**" for spec in specs], f"columns of the {table}")
        for table, specs in TABLES.items()
    ]
    records = [_record_set(table, specs, n_rows[table]) for table, specs in TABLES.items()]
    stamp = {
        "@type": "cr:Field",
        "@id": "candidates/stamps",
        "name": "stamps",
        "description": f"{schema.STAMPS.description}; {schema.STAMPS.unit}; "
        f"channels {', '.join(schema.CHANNELS)}",
        "dataType": "cr:Float32",
        "isArray": True,
        "arrayShape": f"{len(schema.CHANNELS)},{schema.STAMP_SIZE_PIX},{schema.STAMP_SIZE_PIX}",
        "source": {"fileSet": {"@id": "stamps-files"}, "extract": {"fileProperty": "content"}},
    }
    records[0]["field"].append(stamp)
    return {
        "@context": CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": CONFORMS_TO,
        "name": name,
        "description": description,
        "url": publication.get("url", "./"),
        "license": publication.get("license", "unknown"),
        "creator": publication.get("creator", {"@type": "sc:Organization", "name": "unknown"}),
        **({"datePublished": publication["datePublished"]} if "datePublished" in publication else {}),
        "citeAs": "Takahashi et al. (2022), PASJ 74, 946",
        "keywords": ["astronomy", "transients", "real/bogus", "image classification", "label noise"],
        "distribution": [*files, *sets],
        "recordSet": records,
    }


def _prefix(table: str) -> str:
    return "" if table == "candidates" else f"{table}/"


def _file_set(name: str, includes: str | list[str], description: str) -> dict[str, Any]:
    return {
        "@type": "cr:FileSet",
        "@id": f"{name}-files",
        "name": f"{name}-files",
        "description": description,
        "encodingFormat": ZARR_FORMAT,
        "includes": includes,
    }


def _record_set(table: str, specs: tuple[ArraySpec, ...], n_rows: int) -> dict[str, Any]:
    return {
        "@type": "cr:RecordSet",
        "@id": table,
        "name": table,
        "description": f"{n_rows} rows; the n-th values of all columns belong to each other",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{table}/{spec.name}",
                "name": spec.name,
                "description": f"{spec.description}; {spec.unit}" if spec.unit else spec.description,
                "dataType": _data_type(spec.dtype),
                "source": {
                    "fileSet": {"@id": f"{table}-files"},
                    "extract": {"fileProperty": "content"},
                    "transform": {"regex": f"{_prefix(table)}{spec.name}/c/.*"},
                },
            }
            for spec in specs
        ],
    }


def _data_type(dtype: str) -> str:
    return _SIZED.get(dtype, _DATA_TYPES[np.dtype(dtype).kind])
