"""Inference on simulated chips: programming, ageing, drift compensation, and accuracy over time and over chips."""

from phasegrad.inference.accuracy import accuracy_over_time
from phasegrad.inference.batchnorm import reestimate_batchnorm
from phasegrad.inference.compensation import compensate
from phasegrad.inference.device_map import DesignMap, design_map
from phasegrad.inference.export import export_graph, export_onnx, noiseless
from phasegrad.inference.layer_sensitivity import sensitivity
from phasegrad.inference.moment_estimate import OutputMoments, estimate_moments
from phasegrad.inference.programming import age, now, program
from phasegrad.inference.report import Report
from phasegrad.inference.sensitivity_report import Sensitivity
from phasegrad.inference.times import format_time
from phasegrad.stores.single_rows import sampled_reads

__all__ = [
    "DesignMap",
    "OutputMoments",
    "Report",
    "Sensitivity",
    "accuracy_over_time",
    "age",
    "compensate",
    "design_map",
    "estimate_moments",
    "export_graph",
    "export_onnx",
    "format_time",
    "noiseless",
    "now",
    "program",
    "reestimate_batchnorm",
    "sampled_reads",
    "sensitivity",
]


def __dir__() -> list[str]:
    return sorted(__all__)
