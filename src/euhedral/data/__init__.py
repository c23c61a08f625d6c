"""Data: readers for the field's file formats, a memory-mapped store, and batches of one atom count.

`readers.read` walks any source row by row, `convert.convert` turns it into a store, `store.CrystalStore` opens that in
milliseconds, `batches.EqualSizeBatches` shuffles it for training and `download.download` fetches the benchmarks.
"""
