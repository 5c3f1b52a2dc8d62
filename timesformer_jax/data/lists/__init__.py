"""Lists of videos as people have them: text, JSON and Parquet, with columns that are known by their names.

A list goes through delimited (columns and cutting) or records to rows, and from there through entries (templates and
row_spans) to the Entry of entry.py. The lists that published has rules for are read there; listing tells all apart.
"""
