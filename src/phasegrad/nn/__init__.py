"""Layers whose matrix products are computed in crossbar tiles."""

from phasegrad.deprecation import moved_attributes
from phasegrad.nn.attention import AnalogMultiheadAttention
from phasegrad.nn.composite import AnalogComposite
from phasegrad.nn.conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from phasegrad.nn.ddp import ignore_in_ddp
from phasegrad.nn.embedding import AnalogEmbedding
from phasegrad.nn.layer import AnalogLayer, analog_layers
from phasegrad.nn.linear import AnalogLinear, AnalogTransposedLinear
from phasegrad.nn.recurrent import AnalogGRU, AnalogLSTM, AnalogRNN
from phasegrad.nn.recurrent_cells import AnalogGRUCell, AnalogLSTMCell, AnalogRNNCell
from phasegrad.nn.start_ranges import UncalibratedWarning
from phasegrad.nn.transposed import AnalogConvTranspose1d, AnalogConvTranspose2d, AnalogConvTranspose3d
from phasegrad.stores import InMemoryWeight

__all__ = [
    "AnalogComposite",
    "AnalogConv1d",
    "AnalogConv2d",
    "AnalogConv3d",
    "AnalogConvTranspose1d",
    "AnalogConvTranspose2d",
    "AnalogConvTranspose3d",
    "AnalogEmbedding",
    "AnalogGRU",
    "AnalogGRUCell",
    "AnalogLSTM",
    "AnalogLSTMCell",
    "AnalogLayer",
    "AnalogLinear",
    "AnalogMultiheadAttention",
    "AnalogRNN",
    "AnalogRNNCell",
    "AnalogTransposedLinear",
    "InMemoryWeight",
    "UncalibratedWarning",
    "analog_layers",
    "ignore_in_ddp",
]


def __dir__() -> list[str]:
    return sorted(__all__)


# Until 0.3.0 these are found where release 0.1.0 had them; otherwise nn knows nothing of conversion.
__getattr__ = moved_attributes(
    __name__,
    "phasegrad.conversion",
    BypassWarning="BypassWarning",
    Summary="Summary",
    bypasses="bypasses",
    convert="convert",
    left_digital="left_digital",
    register_twin="register_counterpart",
    summary="summary",
    to_digital="to_digital",
)
