"""Makes the mini checkpoint: synthesize speech with a teacher, train the codec, encode, train the Dual-AR model, export.

Run as `python -m engine.train all --out DIR`; README.md beside this holds the figures of the run that made engine/mini.
"""
