"""Simulation of real/bogus training sets: injection, subtraction, detection, stamps, stores."""

__version__ = "0.1.0"
