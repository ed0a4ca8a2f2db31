"""Compensations: what a chip can do about drift, with noisy reads only."""
