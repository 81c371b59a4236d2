"""Topics in files: `topic export` and `topic import`.

form.py      the file: a line, then frames, each with its CRC        batches.py   batches made fit for any partition
export.py    the commands                                            wire.py      fetching and producing whole batches
restore.py
"""
