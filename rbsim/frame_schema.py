"""Columns of the frames, part of `rbsim.schema`: their noise condition and what is known of their PSF."""

from rbsim.truth_schema import ArraySpec

CONDITION_COLUMNS = (
    ArraySpec(
        "white_noise_adu", "float32", "ADU", "noise of the sky that is independent from pixel to pixel"
    ),
    ArraySpec("white_noise_predicted_adu", "float32", "ADU", "the same as the condition predicts it"),
    ArraySpec("fwhm_predicted_pix", "float32", "pixel", "fwhm_pix as the condition predicts it"),
    ArraySpec("limit_mag", "float32", "mag", "magnitude of S/N 5 against that noise with the frame's PSF"),
    ArraySpec("limit_predicted_mag", "float32", "mag", "the same as the condition predicts it"),
    ArraySpec("jitter_angle_deg", "float32", "deg", "of the line of the jitter, from +x towards +y"),
)
"""Of frames that were degraded to a noise condition; NaN for frames as observed."""

PSF_COLUMNS = (
    ArraySpec("n_psf_stars", "int32", "", "stars behind the PSF"),
    ArraySpec("psf_order", "int8", "", "degree of the PSF's polynomial in position"),
    ArraySpec("psf_is_moffat", "bool", "", "too little starlight for more than a Moffat profile"),
    ArraySpec("psf_fwhm_err_pix", "float32", "pixel", "standard error of fwhm_pix; NaN if stars are few"),
    ArraySpec("psf_e1", "float32", "", "ellipticity of the PSF at the centre: (Ixx - Iyy) / (Ixx + Iyy)"),
    ArraySpec("psf_e2", "float32", "", "the same along the diagonal: 2 Ixy / (Ixx + Iyy)"),
    ArraySpec("psf_chi2", "float32", "", "reduced chi-square of the PSF's stars within 2 FWHM, median"),
    *(
        ArraySpec(f"psf_scatter_{name}_pix2", "float32", "pixel2", f"{text}, std of stars beyond noise")
        for name, text in (
            ("width", "coefficient of Pxx + Pyy"),
            ("e1", "coefficient of Pxx - Pyy"),
            ("e2", "coefficient of 2 Pxy"),
        )
    ),
    ArraySpec("psf_aperture_ratio", "float32", "", "flux of the stars within 2.5 FWHM over the PSF's there"),
    ArraySpec("psf_aperture_ratio_err", "float32", "", "its standard error"),
)
"""What is known of a frame's PSF, see `rbsim.psf.PsfQuality`."""
