"""Tiles on a GPU: what does not change stays there; inputs are made, totals closed, maps drawn, areas summed there.

`runner` takes the steps of `inference.py`, in the same order, with what is `kept` there. Coarse cells go through
`closing` in `batches` of many tiles, `sums` tallies the fields, `fields` holds them until they are asked for, and what
comes or goes does so by `pinned` memory.
Has not yet run on a GPU: tests run every line on torch's CPU device.
"""
