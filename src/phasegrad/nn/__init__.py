"""Layers made of tiles."""

from phasegrad.nn.attention import AnalogMultiheadAttention
from phasegrad.nn.bypasses import BypassWarning, bypasses
from phasegrad.nn.composite import AnalogComposite
from phasegrad.nn.conv import AnalogConv1d, AnalogConv2d, AnalogConv3d
from phasegrad.nn.convert import analog_layers, convert, left_digital, to_digital
from phasegrad.nn.embedding import AnalogEmbedding
from phasegrad.nn.in_memory import InMemoryWeight
from phasegrad.nn.layer import AnalogLayer
from phasegrad.nn.linear import AnalogLinear, AnalogTransposedLinear
from phasegrad.nn.processes import ignore_in_ddp
from phasegrad.nn.recurrent import AnalogGRU, AnalogLSTM, AnalogRNN
from phasegrad.nn.recurrent_cells import AnalogGRUCell, AnalogLSTMCell, AnalogRNNCell
from phasegrad.nn.summary import Summary, summary
from phasegrad.nn.transposed import AnalogConvTranspose1d, AnalogConvTranspose2d, AnalogConvTranspose3d
from phasegrad.nn.twins import register_twin

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
    "BypassWarning",
    "InMemoryWeight",
    "Summary",
    "analog_layers",
    "bypasses",
    "convert",
    "ignore_in_ddp",
    "left_digital",
    "register_twin",
    "summary",
    "to_digital",
]
