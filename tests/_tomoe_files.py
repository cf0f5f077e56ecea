"""Files of Tomo-e, byte by byte: headers typed from the published ones (version 0.730), and pixels."""

import numpy as np

OBSERVATION = """\
COMMENT = '---------- OBSERVATION SECTION'
OBJECT  = '{object}'
EXPTIME = {exptime} / [s] total exposure time
TELAPSE = {telapse} / [s] elapsed time
EXPTIME1= {exptime1} / [s] exposure time of a frame
TFRAME  = {tframe} / [s] frame interval
TRLSTEP = 0.001659 / [s] rolling shutter step per 4 lines
TRLSTEP1= 0.00041475 / [s] per line
DATA-FPS= {fps} / [Hz]
DATA-TYP= '{datatyp}'
OBS-MOD = '{mode}'
FILTER  = 'BLANK   '
PROJECT = '{project}'
OBSERVER= '{observer}'
PIPELINE= '{pipeline}'
DATE    = '{date}' / time of file creation
DATE-OBS= '{day}'
TIME-OBS= '{time}'
UTC     = '{day}T{time}'
UTC-EXP = '{utc_exp}'
GPS-UP  = '{day}T{time}'
GPS-DOWN= '{gps_down}'
TIMESYS = 'UTC     '
RA      = '{ra}'
DEC     = '{dec}'
RADESYS = 'ICRS    '
EQUINOX = 2000.0
COMMENT = '---------- DATA SECTION'
EXP_ID  = {exp_id}
{detector}FRAME_ID= '{frame_id}'
FMTTYPE = '{fmttype}'
"""

STACK = {
    "object": "J0322+5925_dith1",
    "exptime": "8.498368000000001",
    "telapse": "9.50002",
    "exptime1": "0.499904",
    "tframe": "0.5",
    "fps": "2.0",
    "datatyp": "OBJECT",
    "mode": "Imaging",
    "project": "All-Sky Survey",
    "observer": "T. Morokuma",
    "pipeline": "wcs,stack,neo",
    "date": "2023-01-02T09:48:24",
    "day": "2023-01-02",
    "time": "09:48:14.665023",
    "utc_exp": "2023-01-02T09:48:09.900698",
    "gps_down": "2023-01-02T09:09:19.287105",
    "ra": "03:22:10.5",
    "dec": "+59:25:07.0",
    "exp_id": "860262",
    "detector": "",
    "frame_id": "TMQ1202301020086026211",
    "fmttype": "TOMOE-IMAGE-STACK",
}
CUBE = STACK | {
    "object": "J0305+2216_dith1",
    "exptime": "5.998848",
    "telapse": "6.50002",
    "project": "High-Cadence Survey",
    "observer": "Morokuma",
    "pipeline": "wcs,stack,neo,cube",
    "date": "2022-01-04T11:51:28",
    "day": "2022-01-04",
    "time": "11:51:21.738679",
    "utc_exp": "2022-01-04T11:51:16.927529",
    "gps_down": "2022-01-04T11:51:08.013227",
    "ra": "03:05:16.1",
    "dec": "+22:12:50.0",
    "exp_id": "652282",
    "frame_id": "TMQ1202201040065228212",
    "fmttype": "TOMOE-IMAGE-CUBE",
}
DARK = STACK | {
    "object": "DARK",
    "exptime": "179.465536",
    "telapse": "180.50002",
    "datatyp": "DARK",
    "mode": "DARK-Imaging",
    "project": "Kiso Observatory",
    "observer": "Kiso Observatory",
    "pipeline": "dark",
    "date": "2023-10-02T04:22:11",
    "day": "2023-10-02",
    "time": "04:19:10.313272",
    "utc_exp": "2023-10-02T04:19:05.230965",
    "gps_down": "2023-10-02T04:18:16.667016",
    "ra": "14:09:50.7",
    "dec": "+119:07:53.0",
    "exp_id": "1020103",
    "frame_id": "TMQ1202310020102010311",
    "fmttype": "TOMOE-IMAGE-DARK",
}
FLAT = DARK | {
    "object": "FLAT",
    "exptime": "178.982816",
    "exptime1": "0.999904",
    "tframe": "1.0",
    "fps": "1.0",
    "datatyp": "FLAT",
    "mode": "FLAT-Imaging",
    "project": "Sample Recipe",
    "observer": "Kiso Staff",
    "pipeline": "flat",
    "date": "2023-10-02T05:06:49",
    "time": "05:03:48.686329",
    "utc_exp": "2023-10-02T05:03:43.297466",
    "gps_down": "2023-10-02T04:48:50.557809",
    "ra": "14:54:24.6",
    "dec": "+116:20:04.0",
    "exp_id": "1020107",
    "detector": "QUAD_ID = 1\nDET_ID  = 111\nCMOS_ID = 'FK1000123'\n",
    "frame_id": "TMQ1202310020102010711",
    "fmttype": "TOMOE-IMAGE-FLAT",
}


def cards_of(values, *, more="", without=()):
    """The text of an observation block; `more` is appended, cards named in `without` are left out."""
    lines = (OBSERVATION.format(**values) + more).splitlines()
    return "\n".join(line for line in lines if line[:8].strip() not in without)


def write_file(path, text, data):
    """A FITS file of these cards and pixels: float32 or int16, big-endian, in blocks of 2880 bytes."""
    data = np.asarray(data)
    bitpix, kind = (16, ">i2") if data.dtype.kind == "i" else (-32, ">f4")
    sizes = {f"NAXIS{i + 1}": n for i, n in enumerate(reversed(data.shape))}
    fixed = {"SIMPLE": "T", "BITPIX": bitpix, "NAXIS": data.ndim, **sizes}
    lines = [f"{name:8}= {value:>20}" for name, value in fixed.items()] + [*text.splitlines(), "END"]
    block = b"".join(line.ljust(80).encode("ascii") for line in lines)
    assert len(block) == 80 * len(lines)
    pixels = data.astype(kind).tobytes()
    path.write_bytes(
        block.ljust(-(-len(block) // 2880) * 2880) + pixels.ljust(-(-len(pixels) // 2880) * 2880, b"\0")
    )
    return path
