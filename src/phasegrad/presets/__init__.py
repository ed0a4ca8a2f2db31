"""Named Hardware, each a function that cites its source."""

from phasegrad.presets.inference import hermes_inference, ideal_inference, pcm_inference

__all__ = ["hermes_inference", "ideal_inference", "pcm_inference"]
