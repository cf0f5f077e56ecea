"""Foreign formats to stores and stores to foreign formats: the authors' arrays, ZTF alerts, FITS, parquet."""
