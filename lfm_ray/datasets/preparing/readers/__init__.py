"""Readers of raw datasets: one module each, named like its card in data/, with `read(root)`.

`read` returns a manifest as a table: a column for each modality of the card (absolute paths, or the
text itself), `id`, `label`, and, if the dataset has them, `split`, `start` and `end`.
"""
