"""Inference on simulated chips: programming, ageing, drift compensation, and accuracy over time and over chips."""

from phasegrad.inference.accuracy import Report, accuracy_over_time, format_time
from phasegrad.inference.batchnorm import reestimate_batchnorm
from phasegrad.inference.compensation import compensate
from phasegrad.inference.export import export_graph, export_onnx, noiseless
from phasegrad.inference.programming import age, now, program
from phasegrad.inference.splits import OptimisedSplit, optimise_split, optimise_splits
from phasegrad.inference.weight_error import weight_error
from phasegrad.stores.single_rows import sampled_reads

__all__ = [
    "OptimisedSplit",
    "Report",
    "accuracy_over_time",
    "age",
    "compensate",
    "export_graph",
    "export_onnx",
    "format_time",
    "noiseless",
    "now",
    "optimise_split",
    "optimise_splits",
    "program",
    "reestimate_batchnorm",
    "sampled_reads",
    "weight_error",
]


def __dir__() -> list[str]:
    return sorted(__all__)
