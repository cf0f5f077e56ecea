"""Bits of PS1 mask images, as published by STScI («PS1 Pixel flags in Image Table Data»).

DETECTOR and MARK are from the headers of mask files. `BAD` is the set that the PS1 pipeline itself takes as
bad (card MASK.VALUE, 8575): pixels with SUSPECT, SPIKE, GHOST, STREAK, STARCORE or CONV.POOR keep a value.
"""

BITS = {
    "DETECTOR": 0x0001,
    "FLAT": 0x0002,
    "DARK": 0x0004,
    "BLANK": 0x0008,
    "CTE": 0x0010,
    "SAT": 0x0020,
    "LOW": 0x0040,
    "SUSPECT": 0x0080,
    "CR": 0x0100,
    "SPIKE": 0x0200,
    "GHOST": 0x0400,
    "STREAK": 0x0800,
    "STARCORE": 0x1000,
    "CONV.BAD": 0x2000,
    "CONV.POOR": 0x4000,
    "MARK": 0x8000,
}
BAD = 0x217F
