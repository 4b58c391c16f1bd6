"""What a checkpoint says, measured: `python -m engine.evaluate CHECKPOINT`."""
