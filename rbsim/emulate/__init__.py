"""A small telescope that makes nights of known truth; shares no PSF estimate with `rbsim.inject`."""
