"""What the emulated PS1 stacks are like; r band, where no source is named a guess."""

from dataclasses import dataclass

from rbsim.errors import InputError


@dataclass(frozen=True)
class Ps1Settings:
    """Stacks of PS1, and how a reference is made of them.

    Attributes
    ----------
    fwhm_arcsec, fwhm_scatter : float
        Median seeing of a stack, and its logarithmic scatter from skycell to skycell. The published 75th
        percentile of single exposures is 1.39" (Waters et al. 2020).
    depth_mag : float
        Of a point source at 5 sigma with that seeing: 23.2 (Chambers et al. 2016).
    epoch_yr, epoch_scatter_yr : float
        Mean time of the exposures of a stack; PS1 observed from 2010 to 2014.
    exposure_s, n_inputs : float, int
        12 exposures of 40 s.
    gain_e_per_count : float
        Of a stack's counts, for the photon noise of sources.
    noise_correlation : float
        Weight of each neighbour in the noise of a pixel, along each axis: the warping of the exposures.
    saturation_mag : float
        A star of this magnitude and median seeing just saturates.
    spike_mag, ghost_mag : float
        Brighter stars have diffraction spikes, and may have a ghost.
    gaps_per_deg2, holes_per_deg2, cosmic_rays_per_deg2 : float
        Rectangles without data (BLANK); clusters of CONV.BAD; left-over cosmic rays (CR).
    oversubtraction : float
        Share of a galaxy's light that the sky model takes away, for galaxies far larger than its cells.
    smoothing_fwhm_pix, max_bad_share, min_kernel_share : float
        Of `rbsim.ps1.warp.WarpConfig`, for the mode that draws the warped reference at once.
    """

    fwhm_arcsec: float = 1.19
    fwhm_scatter: float = 0.10
    depth_mag: float = 23.2
    epoch_yr: float = 2012.3
    epoch_scatter_yr: float = 0.8
    exposure_s: float = 480.0
    n_inputs: int = 12
    gain_e_per_count: float = 0.7
    noise_correlation: float = 0.1
    saturation_mag: float = 13.8
    spike_mag: float = 11.5
    ghost_mag: float = 9.5
    gaps_per_deg2: float = 12.0
    holes_per_deg2: float = 150.0
    cosmic_rays_per_deg2: float = 400.0
    oversubtraction: float = 0.3
    smoothing_fwhm_pix: float = 1.6
    max_bad_share: float = 0.25
    min_kernel_share: float = 0.8

    def __post_init__(self) -> None:
        for name in ("fwhm_arcsec", "exposure_s", "gain_e_per_count", "n_inputs"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is {getattr(self, name)}; give a positive number")
        if not 0 <= self.noise_correlation <= 0.25:
            raise InputError(f"noise_correlation is {self.noise_correlation}; give 0 to 0.25")
        if not 0 <= self.oversubtraction <= 1:
            raise InputError(f"oversubtraction is {self.oversubtraction}; give a share from 0 to 1")
