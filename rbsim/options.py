"""Arguments and options that several commands share, with their units."""

from pathlib import Path
from typing import Annotated

import typer

from rbsim.locations import place

Frames = Annotated[
    list[str],
    typer.Argument(
        metavar="FRAME...", help="FITS files, globs or folders, also as URLs; file.fits\\[EXT] works."
    ),
]
StorePath = Annotated[
    Path,
    typer.Argument(parser=place, metavar="STORE", help="Store made by rbsim inject or convert; path or URL."),
]
TestStore = Annotated[
    Path | None,
    typer.Option(
        "--test",
        parser=place,
        metavar="STORE",
        help="Test on this store of other nights; all of the first one is then training and validation.",
    ),
]
Seed = Annotated[
    int, typer.Option(min=0, help="Seed of all random numbers; the same seed gives the same bits.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
Resume = Annotated[
    bool, typer.Option("--resume", help="Continue an interrupted run; finished parts are kept.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the summary as JSON on stdout.")]
Gain = Annotated[
    float | None, typer.Option(help="Gain in electrons per ADU; default: header, else estimated.")
]
ReadNoise = Annotated[float | None, typer.Option(help="Read noise in electrons; default: header.")]
Saturation = Annotated[
    float | None, typer.Option(help="Saturation level in raw ADU; default: header, else histogram.")
]
ZeroPoint = Annotated[
    float | None, typer.Option(help="Magnitude of 1 ADU per exposure; default: header, else 25.0.")
]
Nonlinearity = Annotated[
    float | None,
    typer.Option(help="Share by which the response falls short at saturation, 0 to 0.2. (default 0)"),
]
Bias = Annotated[
    float | None, typer.Option(help="Level without light in raw ADU, for the response. (default 0)")
]
ReferencePath = Annotated[
    Path,
    typer.Option(
        parser=place,
        metavar="PATH|URL",
        help="Reference image, e.g. from rbsim reference stack, or folder: one per field and sensor.",
    ),
]
Dark = Annotated[
    list[str] | None,
    typer.Option(help="Dark of Tomo-e; of several, a glob or folder the one that fits each RAW file."),
]
Flat = Annotated[list[str] | None, typer.Option(help="The same of flats.")]
DarkId = Annotated[
    str | None, typer.Option(help="FRAME_ID, exposure number or name of the dark to take among them.")
]
FlatId = Annotated[str | None, typer.Option(help="The same of the flat.")]
FirstPixel = Annotated[
    str | None,
    typer.Option(
        metavar="X,Y",
        help="First pixel of RAW frames, from 0, that dark and flat have; default: header, else the light.",
    ),
]
Cubes = Annotated[
    bool, typer.Option("--cubes", help="Write the calibrated frames of RAW files too: OUT/cubes/r....fits.")
]
ReferencePaths = Annotated[
    list[str],
    typer.Option(
        metavar="PATH|URL|NAME=PATH",
        help="Reference image, e.g. from rbsim reference stack, or folder: one per field and sensor. Several "
        "times with names: a paired store, with the same frames and stars through each.",
    ),
]
ThresholdSnr = Annotated[float | None, typer.Option(help="Detection threshold in sigma. (default 5)")]
Convolve = Annotated[
    str | None, typer.Option(help="Image to convolve: auto, reference, science. (default auto)")
]
Basis = Annotated[
    str | None, typer.Option(help="Kernel functions: gauss-hermite or delta. (default gauss-hermite)")
]
KernelOrder = Annotated[
    int | None, typer.Option(help="Highest degree of the kernel in position, 0 to 4. (default 2)")
]
BackgroundOrder = Annotated[
    int | None, typer.Option(help="The same of the background beside the kernel. (default 0)")
]
Backend = Annotated[
    str | None, typer.Option(help="Subtraction engine: rbsim, hotpants, sfft. (default rbsim)")
]
Known = Annotated[
    Path | None,
    typer.Option(
        help="Table of known variables, asteroids, transients, which are no bogus: ra, dec in deg "
        "or x, y in px; radius (default 2 arcsec or 2 px), name, frame."
    ),
]
Truth = Annotated[
    Path | None,
    typer.Option(help="Truth table of rbsim emulate; artefacts.ecsv beside it tells causes of bogus."),
]
ConfigFile = Annotated[Path | None, typer.Option(help="TOML file with the same settings; options win.")]
Workers = Annotated[int, typer.Option(min=0, help="Worker processes; 0 works in this one.")]
Scheduler = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Work on a dask scheduler that runs already: tcp://...")
]
Cluster = Annotated[
    str | None, typer.Option(metavar="slurm|pbs|sge|lsf", help="Work in jobs of this batch system.")
]
ClusterConfig = Annotated[
    Path | None, typer.Option(help="TOML file with what the jobs need: jobs, cores, memory, walltime, queue.")
]
StoreOut = Annotated[Path, typer.Option(parser=place, metavar="PATH|URL", help="Store to write (Zarr v3).")]
Partition = Annotated[
    str | None,
    typer.Option(
        metavar="j/N",
        help="Do the j-th of N parts, as one job of an array; rbsim finalise then makes the store.",
    ),
]
StarsPerFrame = Annotated[int | None, typer.Option(help="Stars per frame and realisation. (default 150)")]
Realisations = Annotated[int | None, typer.Option(help="Independent sets of stars per frame. (default 4)")]
NearGalaxy = Annotated[
    float | None,
    typer.Option(help="Fraction of new fixed stars near extended sources. (default: the population's, 0.5)"),
]
SnrMin = Annotated[float | None, typer.Option(help="Lowest matched-filter S/N. (default 5)")]
SnrMax = Annotated[float | None, typer.Option(help="Highest matched-filter S/N. (default 100)")]
BlindShare = Annotated[
    float | None,
    typer.Option(
        help="Share of the random stars placed anywhere, also on masks and in saturated cores. (default 0)"
    ),
]
BlindSnrMin = Annotated[float | None, typer.Option(help="Lowest S/N of those. (default 1)")]
Catalog = Annotated[
    Path | None,
    typer.Option(help="Table of stars (ra, dec in deg or x, y in px; mag) instead of random ones."),
]
CatalogFormat = Annotated[
    str | None,
    typer.Option(help="astropy's name of the format of --catalog, if its extension does not tell."),
]
PopulationName = Annotated[
    str | None,
    typer.Option(
        "--population",
        help="Kinds of stars: name in catalogs/populations.toml, or FILE.toml:NAME. (default stars)",
    ),
]
InjectedImages = Annotated[
    Path | None,
    typer.Option(
        help="Folder to write too: every frame with its stars as FITS, and a catalogue of them (ECSV)."
    ),
]
PixelScale = Annotated[
    float | None, typer.Option(help="Pixel scale in arcsec, for trails; default: WCS of the frame.")
]
Exposure = Annotated[
    float | None, typer.Option(help="Exposure time in seconds, for trails; default: header.")
]
ZeroPointAperture = Annotated[
    float | None,
    typer.Option(help="Radius in px of the aperture that the zero point is for; default: all light."),
]
Negatives = Annotated[bool | None, typer.Option("--negatives", help="Store stamps of negative sources too.")]
MatchRadiusSigma = Annotated[
    float | None,
    typer.Option(help="Detections this many position errors from a star are it. (default 5)"),
]
ReferenceName = Annotated[str | None, typer.Option(help="Label of the reference in results.")]
Condition = Annotated[
    str | None,
    typer.Option(
        help="Noise condition to degrade the frames to before they are subtracted: a name of "
        "catalogs/conditions.toml, or FILE.toml:NAME. (default as observed)"
    ),
]
LabelName = Annotated[
    str | None, typer.Option("--name", help="Name of the label setting: letters, digits, - _ .")
]
Mechanism = Annotated[
    str | None, typer.Option(help="class-conditional, score-binned, mechanism, or mixed (with --mix).")
]
MislabelBogus = Annotated[
    float | None,
    typer.Option(help="Fraction of given bogus that are real, from 0 to below 0.5. (default 0.006)"),
]
MislabelReal = Annotated[
    float | None,
    typer.Option(help="Fraction of given real that are bogus, from 0 to below 0.5. (default 0.010)"),
]
Scores = Annotated[
    Path | None,
    typer.Option(
        help="Scores of the stamps: table of row and score, .npy with one per stamp, or .npz of a run of "
        "rbsim benchmark."
    ),
]
Rates = Annotated[
    Path | None,
    typer.Option(help="Table of score_low, score_high, rate_bogus, rate_real: contaminations by score."),
]
Multiple = Annotated[float | None, typer.Option(help="Multiple of the rates. (default 1)")]
Left = Annotated[
    str | None,
    typer.Option(
        help="Real light left among the bogus: comma list of transient, known, variable, moving, flare. "
        "(default all but flare)"
    ),
]
Lost = Annotated[
    str | None,
    typer.Option(help="Lost stars that are called real: comma list of mask, core, noise. (default all)"),
]
Mix = Annotated[
    Path | None, typer.Option(help="TOML file with a table for each mechanism of a mixed setting.")
]
MeasureRates = Annotated[
    Path | None,
    typer.Option(help="Table to write instead: rates by score, measured on a store of an emulated night."),
]
BinWidth = Annotated[float, typer.Option(help="Width of the bins of score of --measure-rates.")]
ListSettings = Annotated[bool, typer.Option("--list", help="Only say which label settings there are.")]
TrainReference = Annotated[
    str | None,
    typer.Option(help="Train on the stamps of this reference of a paired store. (default all)"),
]
TestReference = Annotated[str | None, typer.Option(help="Test on those of this one. (default all)")]
LabelSetting = Annotated[
    str | None, typer.Option("--labels", help="Label setting to train on, see rbsim relabel.")
]
NetworkName = Annotated[str, typer.Option(help="Name of the network: simple, complex, ...")]
SplitSeed = Annotated[int, typer.Option(min=0, help="Seed of the split into training and test.")]
MinSteps = Annotated[int, typer.Option(min=0, help="Training steps that a small set gets at least.")]
ModelPath = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder made by rbsim train.")]
RunSeed = Annotated[int | None, typer.Option(help="Seed of all random numbers. (default 1)")]
TomoeConditionName = Annotated[
    str | None,
    typer.Option(
        "--condition", help="Tomo-e night: table tomoe.NAME in catalogs/conditions.toml. (default dark)"
    ),
]
TomoeSensors = Annotated[
    str | None,
    typer.Option("--sensors", help="Tomo-e night: all, or a comma list such as 111,112. (default all)"),
]
TomoeExposures = Annotated[
    int | None,
    typer.Option("--exposures", min=1, help="Tomo-e night: exposures of every sensor. (default 1)"),
]
TomoeEpochs = Annotated[
    int | None,
    typer.Option(
        "--epochs", min=0, help="Tomo-e night: exposures of earlier nights, for a reference. (default 8)"
    ),
]
TomoePs1 = Annotated[
    str | None,
    typer.Option(
        "--ps1",
        help="Tomo-e night: images of PS1 on the pixels of the sensors (warped), as skycells, or none. "
        "(default warped)",
    ),
]
TomoeCubes = Annotated[bool, typer.Option("--cubes", help="Tomo-e night: write the single frames too.")]
