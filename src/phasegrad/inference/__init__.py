"""Programming, ageing, compensation, accuracy over time and over chips."""

from phasegrad.inference.batchnorm import reestimate_batchnorm
from phasegrad.inference.noiseless import export_graph, export_onnx, noiseless
from phasegrad.inference.over_time import Report, accuracy_over_time, format_time
from phasegrad.inference.program import age, compensate, now, program

__all__ = [
    "Report",
    "accuracy_over_time",
    "age",
    "compensate",
    "export_graph",
    "export_onnx",
    "format_time",
    "noiseless",
    "now",
    "program",
    "reestimate_batchnorm",
]
