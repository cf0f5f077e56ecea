"""Tomo-e Gozen: its sensors, its files as the archive gives them, their calibration."""
