"""The house: an import only goes down, and each heavy library stays in its room."""

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]

# Lowest first. A module may import from floors below and from its own.
FLOORS = [
    {
        "rbsim",
        "rbsim.errors",
        "rbsim.folder",
        "rbsim.locations",
        "rbsim.lock",
        "rbsim.batch",
        "rbsim.jobs",
        "rbsim.parallel",
        "rbsim.manifest",
        "rbsim.zarr_arrays",
        "rbsim.shards",
        "rbsim.remote",
        "rbsim.schema",
        "rbsim.truth_schema",
        "rbsim.frame_schema",
        "rbsim.artefact_schema",
        "rbsim.pair_schema",
        "rbsim.seeding",
        "rbsim.options",
        "rbsim.lights",
        "rbsim.asked",
        "rbsim.robust",
        "rbsim.spatial",
        "rbsim.convolve",
        "rbsim.added",
        "rbsim.profile",
        "rbsim.ps1",
        "rbsim.ps1.mask_bits",
        "rbsim.ps1.tessellation",
    },
    {"rbsim.photon_noise", "rbsim.sources", "rbsim.hdus", "rbsim.psf_stars", "rbsim.psf", "catalogs"}
    | {"rbsim.moffat", "rbsim.psf_quality", "rbsim.psf_fit"}
    | {"rbsim.condition", "rbsim.config", "rbsim.blur", "rbsim.sharp", "rbsim.sky_noise"}
    | {"rbsim.aperture", "rbsim.population_settings"}
    | {"rbsim.tomoe", "rbsim.tomoe.sensors", "rbsim.tomoe.header", "rbsim.tomoe.standard"},
    {
        "rbsim.detector",
        "rbsim.stack",
        "rbsim.cube",
        "rbsim.frame",
        "rbsim.gain",
        "rbsim.transform",
        "rbsim.register",
        "rbsim.resample",
        "rbsim.kernel_basis",
        "rbsim.kernel",
        "rbsim.difference",
        "rbsim.subtract",
        "rbsim.reference",
        "rbsim.external",
        "rbsim.external.hotpants",
        "rbsim.external.sfft",
        "rbsim.references",
        "rbsim.tomoe.read",
        "rbsim.tomoe.calibrate",
    }
    | {"rbsim.ps1.deposit", "rbsim.ps1.skycell", "rbsim.ps1.warp"}
    | {"rbsim.ps1.reference_file", "rbsim.ps1.reference"}
    | {
        "rbsim.significance",
        "rbsim.quality",
        "rbsim.degrade",
        "rbsim.chain",
        "rbsim.place",
        "rbsim.inject",
        "rbsim.shine",
        "rbsim.flash",
        "rbsim.linearity",
        "rbsim.draw",
        "rbsim.electrons",
        "rbsim.lights",
        "rbsim.sites",
        "rbsim.catalogue",
        "rbsim.population",
        "rbsim.on_frame",
        "rbsim.catalogue_stars",
    },
    {"rbsim.detect", "rbsim.match", "rbsim.stamps", "rbsim.label_noise", "rbsim.lost"}
    | {"rbsim.label_mechanisms", "rbsim.score_rates"}
    | {"rbsim.features", "rbsim.known", "rbsim.cause"},
    {"rbsim.store", "rbsim.partition", "rbsim.build", "rbsim.pack", "rbsim.verify", "rbsim.repair"}
    | {"rbsim.describe", "rbsim.croissant", "rbsim.card", "rbsim.label_sets", "rbsim.relabel"}
    | {"rbsim.one_reference", "rbsim.pairing"},
    {"rbsim.convert", "rbsim.convert.rows", "rbsim.convert.authors", "rbsim.convert.authors_out"}
    | {"rbsim.convert.cutouts", "rbsim.convert.packets", "rbsim.convert.alerts"}
    | {"rbsim.convert.fits_sample", "rbsim.convert.parquet", "rbsim.convert.run"},
    {"rbsim.efficiency", "rbsim.store_groups", "rbsim.false_positives", "rbsim.completeness"}
    | {"rbsim.completeness_plot", "rbsim.completeness_report"},
    {
        "rbsim.tables",
        "rbsim.judge",
        "rbsim.checksums",
        "rbsim.inputs",
        "rbsim.observe",
        "rbsim.pipeline",
        "rbsim.paired",
        "rbsim.realisation",
        "rbsim.cluster",
        "rbsim.run",
    }
    | {"rbsim.difference_files", "rbsim.difference_run", "rbsim.injected_files"}
    | {"rbsim.tomoe.run"},
    {"rbsim.fidelity_stamps", "rbsim.fidelity_sample", "rbsim.fidelity_photometry", "rbsim.fidelity_gather"}
    | {"rbsim.fidelity_facts", "rbsim.fidelity_figures", "rbsim.fidelity_page", "rbsim.fidelity"},
]
RBMODEL_MAY_IMPORT = {"rbsim.schema", "rbsim.store", "rbsim.label_noise", "rbsim.seeding", "rbsim.errors"}
RBMODEL_MAY_IMPORT |= {"rbsim.label_sets", "rbsim.locations"}


@cache
def modules():
    """Name and imports of every module of ours."""
    return [(_name_of(path), imports(path)) for path in _paths()]


def _paths():
    return sorted(
        [
            ROOT / "cli.py",
            *(ROOT / "catalogs").rglob("*.py"),
            *(ROOT / "rbsim").rglob("*.py"),
            *(ROOT / "rbmodel").rglob("*.py"),
        ]
    )


def _name_of(path):
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def imports(path):
    """Modules that a file imports at run time; names imported from a package count if they are modules."""
    found = set()
    tree = ast.parse(path.read_text())
    typing_only = {
        id(node)
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and isinstance(block.test, ast.Name) and block.test.id == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            children = {f"{node.module}.{alias.name}" for alias in node.names}
            real = {c for c in children if _exists(c)}
            found |= real or {node.module}
    return found


def _exists(module):
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def floor_of(module):
    return next((i for i, floor in enumerate(FLOORS) if module in floor), None)


def test_every_module_of_rbsim_has_a_floor_and_imports_only_go_down():
    for name, found in modules():
        if not name.startswith("rbsim") or name.startswith("rbsim.emulate"):
            continue
        floor = floor_of(name)
        assert floor is not None, f"{name} has no floor: add it to FLOORS"
        for other in found:
            if other.split(".")[0] in ("rbsim", "catalogs"):
                below = floor_of(other)
                assert below is not None, f"{name} imports {other}"
                assert below <= floor, f"{name} (floor {floor}) imports {other} (floor {below})"


def test_rbsim_knows_no_torch_and_no_rbmodel():
    for name, found in modules():
        if name.startswith(("rbsim", "catalogs")):
            assert not {f for f in found if f.split(".")[0] in ("torch", "rbmodel")}, name


def test_rbmodel_knows_only_the_data_of_rbsim_and_no_galsim():
    for name, found in modules():
        if name.startswith("rbmodel"):
            ours = {f for f in found if f.split(".")[0] == "rbsim"} - {"rbsim"}
            assert ours <= RBMODEL_MAY_IMPORT, f"{name} imports {ours - RBMODEL_MAY_IMPORT}"
            assert not {f for f in found if f.split(".")[0] in ("galsim", "dask", "distributed", "sep")}, name


def test_the_emulator_shares_no_psf_and_no_injection_with_what_it_tests():
    allowed = {"rbsim", "rbsim.schema", "rbsim.seeding", "rbsim.errors", "rbsim.tomoe.sensors", "catalogs"}
    allowed |= {"rbsim.folder", "rbsim.parallel"}
    allowed |= {"rbsim.ps1.mask_bits", "rbsim.ps1.tessellation"}  # what PS1 has published
    for name, found in modules():
        if name.startswith("rbsim.emulate"):
            ours = {f for f in found if f.split(".")[0] == "rbsim" and not f.startswith("rbsim.emulate")}
            assert ours <= allowed, f"{name} imports {ours - allowed}"


def test_dask_is_in_one_file_and_the_report_knows_no_torch():
    for name, found in modules():
        if name != "rbsim.cluster":
            assert not {f for f in found if f.split(".")[0] in ("dask", "distributed", "dask_jobqueue")}, name
        if name in (
            "rbmodel.report",
            "rbmodel.figures",
            "rbmodel.gallery",
            "rbmodel.verdict",
            "rbmodel.sheet",
            "rbmodel.triplets",
            "rbmodel.evaluate",
        ):
            assert "torch" not in {f.split(".")[0] for f in found}, name


def test_external_programs_are_in_their_own_files():
    for name, found in modules():
        if name != "rbsim.external.sfft":
            assert not {f for f in found if f.split(".")[0] in ("sfft", "numba", "pyfftw")}, name
        if name.startswith("rbsim.") and name != "rbsim.external.hotpants":
            assert "subprocess" not in found, name


def test_nothing_prints_but_the_command_line_and_files_are_short():
    for path in [*(ROOT / "rbsim").rglob("*.py"), *(ROOT / "rbmodel").rglob("*.py")]:
        calls = {
            n.func.id
            for n in ast.walk(ast.parse(path.read_text()))
            if isinstance(n, ast.Call) and isinstance(n.func, ast.Name)
        }
        assert "print" not in calls, path
        assert len(path.read_text().splitlines()) <= 400, f"{path} is over 400 lines"


def test_files_of_tests_are_short():
    for path in (ROOT / "tests").rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 400, f"{path} is over 400 lines"
