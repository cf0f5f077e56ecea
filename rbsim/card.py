"""The dataset card of a store: ``README.md`` with a YAML header for Hugging Face, and ``croissant.json``."""

import html
import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from rbsim import schema
from rbsim.croissant import describe_as_croissant
from rbsim.manifest import sha256_of
from rbsim.partition import TABLES
from rbsim.store import Store

DESCRIBED_FILES = ("zarr.json", "plan.json")
"""Single files with a checksum in the Croissant description; ``manifest.json`` has those of all others."""

MAX_LISTED = 20
SIZE_LIMITS = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
_LARGER = ((10_000_000, "1M<n<10M"), (100_000_000, "10M<n<100M"))


def card_files(store: Store, facts: Mapping[str, Any]) -> dict[str, str]:
    """Names and contents of the files of the card; the same for the same store, bit for bit.

    Parameters
    ----------
    store : Store
    facts : mapping
        What the store does not say itself, all optional: ``name`` of the data set (default: that of the
        store's folder), ``checksums`` of single files (default: SHA-256 of `DESCRIBED_FILES`),
        ``publication`` (``url``, ``license``, ``creator``, ``datePublished``) if it is to be published.

    Returns
    -------
    dict of str to str
        ``README.md`` and ``croissant.json``. Whatever comes from files (names, reasons, settings) is
        escaped.
    """
    name = str(facts.get("name") or store.path.name)
    checksums = facts.get("checksums")
    if checksums is None:
        checksums = {n: sha256_of(store.path / n) for n in DESCRIBED_FILES if (store.path / n).exists()}
    counts = _counts(store)
    n_rows = {"candidates": store.n_stamps, "frames": len(store.frame_names)}
    truth: Any = store.root["truth/injection_id"]
    n_rows["truth"] = int(truth.shape[0])
    description = (
        f"{store.n_stamps} stamps of 29 x 29 px with the channels {', '.join(schema.CHANNELS)}, for"
        f" real/bogus classification: {counts['real']} real, {counts['bogus']} bogus,"
        f" {counts['excluded']} without label."
    )
    croissant = describe_as_croissant(
        name, description, n_rows=n_rows, checksums=checksums, publication=facts.get("publication", {})
    )
    return {
        "README.md": _header(store, name, facts) + _body(store, name, description),
        "croissant.json": json.dumps(croissant, indent=1, ensure_ascii=True) + "\n",
    }


def _counts(store: Store) -> dict[str, int]:
    label = store.column("label_true")
    values = {"real": schema.LABEL_REAL, "bogus": schema.LABEL_BOGUS, "excluded": schema.LABEL_EXCLUDED}
    return {name: int(np.count_nonzero(label == value)) for name, value in values.items()}


def _header(store: Store, name: str, facts: Mapping[str, Any]) -> str:
    """The YAML header. Strings are JSON strings, which YAML reads as they are."""
    limits = (*SIZE_LIMITS, *_LARGER)
    size = next((text for limit, text in limits if store.n_stamps < limit), "100M<n<1B")
    license_name = facts.get("publication", {}).get("license")
    lines = [
        "---",
        f"pretty_name: {json.dumps(name)}",
        # The hub knows no "unknown" beside its list of licences but "other" with a name.
        "license: other",
        f"license_name: {json.dumps(str(license_name or 'unknown'))}",
        "task_categories:",
        "- image-classification",
        "size_categories:",
        f"- {size}",
        "tags:",
        *(f"- {tag}" for tag in ("astronomy", "transients", "real-bogus", "label-noise", "zarr", "rbsim")),
        "configs:",
        "- config_name: default",
        '  data_files: "stamps/c/**"',
        "---",
        "",
    ]
    return "\n".join(lines)


def _body(store: Store, name: str, description: str) -> str:
    attributes = store.attributes
    config = attributes.get("config", {})
    reasons = [(n, r) for n, r in zip(store.frame_names, store.frame_reasons, strict=True) if r]
    lines = [
        f"# {plain_text(name)}",
        "",
        description,
        "",
        f"A store of rbsim, format version {attributes['version']}, Zarr v3.",
        "",
        "## Labels",
        "",
        "| kind | true label | source of the label | stamps | what it is |",
        "|---|---|---|---|---|",
        *_kind_lines(store),
        "",
        "`label_true` is for evaluation only; `label_given` is what a survey would train on. Injected stars",
        "and emulated transients are known to be real. **A detection on a real frame is only assumed to be**",
        "**bogus:** nobody has inspected it, and real transients, variable stars and asteroids may be among",
        "them.",
        "",
        "## Frames",
        "",
        f"{len(store.frame_names)}, of which {len(reasons)} failed" + (":" if reasons else "."),
        "",
        *(f"- {plain_text(n)}: {plain_text(r)}" for n, r in reasons[:MAX_LISTED]),
        *([f"- and {len(reasons) - MAX_LISTED} more"] if len(reasons) > MAX_LISTED else []),
        *([""] if reasons else []),
        "## How to open it",
        "",
        "```python",
        "import zarr, xarray",
        "root = zarr.open_group('night.zarr', mode='r')   # root['stamps'][:256], root['snr'][:]",
        "candidates = xarray.open_zarr('night.zarr')",
        "from pathlib import Path",
        "from rbsim.store import open_store",
        "store = open_store(Path('night.zarr'))           # checks that it is whole",
        "```",
        "",
        "`rbsim verify` reads every byte against `manifest.json`; `rbsim info` sums up.",
        "",
        "## How it was made",
        "",
        "| setting | value |",
        "|---|---|",
        *(
            f"| {plain_text(str(key))} | {plain_text(_short(value))} |"
            for key, value in sorted(config.items())
        ),
        "",
        "| package | version |",
        "|---|---|",
        *(
            f"| {plain_text(str(k))} | {plain_text(str(v))} |"
            for k, v in sorted(attributes.get("versions", {}).items())
        ),
        "",
        *_column_lines(),
        "Method: Takahashi et al. (2022), PASJ 74, 946.",
    ]
    return "\n".join(lines) + "\n"


def _kind_lines(store: Store) -> list[str]:
    kind, label = store.column("kind"), store.column("label_true")
    names = {code: text for text, code in schema.LABEL_SOURCES.items()}
    source = store.column("label_true_source")
    words = {schema.LABEL_REAL: "real", schema.LABEL_BOGUS: "bogus", schema.LABEL_EXCLUDED: "none"}
    lines = []
    for k in schema.KINDS:
        here = kind == k.code
        for value, word in words.items():
            rows = here & (label == value)
            if rows.any():
                origin = names.get(int(source[rows][0]), "") if value != schema.LABEL_EXCLUDED else ""
                n = int(np.count_nonzero(rows))
                lines.append(f"| {k.name} | {word} | {origin} | {n} | {plain_text(k.description)} |")
    return lines


def _column_lines() -> list[str]:
    lines = []
    for table, specs in TABLES.items():
        lines += [f"## Columns of the {table}", "", "| column | type | unit | meaning |", "|---|---|---|---|"]
        lines += [f"| `{s.name}` | {s.dtype} | {s.unit} | {plain_text(s.description)} |" for s in specs]
        lines.append("")
    return lines


def _short(value: Any) -> str:
    if value is None:
        return "not given"
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True)
    return text if len(text) <= 300 else text[:297] + "..."


def plain_text(text: str) -> str:
    """Text that neither Markdown nor HTML reads as anything else, on one line."""
    one_line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return re.sub(r"([\\`*_{}\[\]()#+!|~$@:-])", r"\\\1", html.escape(one_line, quote=False))
