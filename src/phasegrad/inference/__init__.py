"""Inference on simulated chips: programming, ageing, drift compensation, and accuracy over time and over chips."""

from phasegrad.inference.accuracy import Report, accuracy_over_time, format_time
from phasegrad.inference.batchnorm import reestimate_batchnorm
from phasegrad.inference.compensation import compensate
from phasegrad.inference.export import export_graph, export_onnx, noiseless
from phasegrad.inference.programming import age, now, program, programming_record
from phasegrad.inference.stuck_devices import (
    FaultReport,
    LayerFaults,
    draw_faults,
    fault_maps,
    faults,
    load_fault_maps,
    save_fault_maps,
)
from phasegrad.stores.programming.base import ProgrammingMethod, Statistical
from phasegrad.stores.programming.diagonals import Diagonals
from phasegrad.stores.programming.record import ProgrammingRecord
from phasegrad.stores.programming.row_strategies import PulseLengthByRow
from phasegrad.stores.programming.schedule import Rows, Schedule
from phasegrad.stores.programming.selection import DeviceSelection
from phasegrad.stores.programming.strategies import AmplitudeSteps, SetCounts, Strategy
from phasegrad.stores.programming.write_verify import WriteVerify
from phasegrad.stores.single_rows import sampled_reads

__all__ = [
    "AmplitudeSteps",
    "DeviceSelection",
    "Diagonals",
    "FaultReport",
    "ProgrammingMethod",
    "ProgrammingRecord",
    "PulseLengthByRow",
    "LayerFaults",
    "Report",
    "Rows",
    "Schedule",
    "SetCounts",
    "Statistical",
    "Strategy",
    "WriteVerify",
    "accuracy_over_time",
    "age",
    "compensate",
    "draw_faults",
    "export_graph",
    "export_onnx",
    "fault_maps",
    "faults",
    "format_time",
    "load_fault_maps",
    "noiseless",
    "now",
    "program",
    "programming_record",
    "reestimate_batchnorm",
    "sampled_reads",
    "save_fault_maps",
]


def __dir__() -> list[str]:
    return sorted(__all__)
