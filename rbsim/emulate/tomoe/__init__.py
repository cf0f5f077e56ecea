"""A Tomo-e Gozen night with known truth: sky, telescope, detectors, artefacts, products, PS1 images."""
