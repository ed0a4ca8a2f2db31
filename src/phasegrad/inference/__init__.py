"""Inference on simulated chips: programming, ageing, drift compensation, and accuracy over time and over chips."""

from phasegrad.inference.accuracy import accuracy_over_time
from phasegrad.inference.batchnorm import reestimate_batchnorm
from phasegrad.inference.compensation import compensate
from phasegrad.inference.compensations.adabs import AdaBS
from phasegrad.inference.compensations.base import Compensation
from phasegrad.inference.compensations.column_ranges import ColumnRanges
from phasegrad.inference.compensations.global_drift import GlobalDrift
from phasegrad.inference.compensations.percentile_ranges import PercentileRanges
from phasegrad.inference.compensations.reference_columns import ReferenceColumns
from phasegrad.inference.compensations.slope_correction import SlopeCorrection
from phasegrad.inference.device_map import DesignMap, design_map
from phasegrad.inference.export import export_graph, export_onnx, noiseless
from phasegrad.inference.layer_sensitivity import sensitivity
from phasegrad.inference.moment_estimate import OutputMoments, estimate_moments
from phasegrad.inference.programming import age, now, program, programming_record
from phasegrad.inference.refreshing import Refreshed, WriteCosts, refresh
from phasegrad.inference.report import Report
from phasegrad.inference.sensitivity_report import Sensitivity
from phasegrad.inference.splits import OptimisedSplit, optimise_split, optimise_splits
from phasegrad.inference.stuck_devices import (
    FaultReport,
    LayerFaults,
    draw_faults,
    fault_maps,
    faults,
    load_fault_maps,
    save_fault_maps,
)
from phasegrad.inference.times import format_time
from phasegrad.inference.weight_errors import weight_error
from phasegrad.stores.programming.base import ProgrammingMethod, Statistical
from phasegrad.stores.programming.diagonals import Diagonals
from phasegrad.stores.programming.gradient_descent import GradientDescent
from phasegrad.stores.programming.record import ProgrammingRecord
from phasegrad.stores.programming.row_strategies import PulseLengthByRow
from phasegrad.stores.programming.schedule import Rows, Schedule
from phasegrad.stores.programming.selection import DeviceSelection
from phasegrad.stores.programming.strategies import AmplitudeSteps, SetCounts, Strategy
from phasegrad.stores.programming.write_verify import WriteVerify
from phasegrad.stores.single_rows import sampled_reads

__all__ = [
    "AdaBS",
    "AmplitudeSteps",
    "ColumnRanges",
    "Compensation",
    "DesignMap",
    "DeviceSelection",
    "Diagonals",
    "FaultReport",
    "GlobalDrift",
    "GradientDescent",
    "LayerFaults",
    "OptimisedSplit",
    "OutputMoments",
    "PercentileRanges",
    "ProgrammingMethod",
    "ProgrammingRecord",
    "PulseLengthByRow",
    "ReferenceColumns",
    "Refreshed",
    "Report",
    "Rows",
    "Schedule",
    "Sensitivity",
    "SetCounts",
    "SlopeCorrection",
    "Statistical",
    "Strategy",
    "WriteCosts",
    "WriteVerify",
    "accuracy_over_time",
    "age",
    "compensate",
    "design_map",
    "draw_faults",
    "estimate_moments",
    "export_graph",
    "export_onnx",
    "fault_maps",
    "faults",
    "format_time",
    "load_fault_maps",
    "noiseless",
    "now",
    "optimise_split",
    "optimise_splits",
    "program",
    "programming_record",
    "reestimate_batchnorm",
    "refresh",
    "sampled_reads",
    "save_fault_maps",
    "sensitivity",
    "weight_error",
]


def __dir__() -> list[str]:
    return sorted(__all__)
