"""Tiles, products, drives and conversions of each kind of layer, counted by hand."""

from __future__ import annotations

import torch
from tests.cost.technologies import converted, drive, small, technology, traced
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

import phasegrad as pg
from phasegrad.cells import DifferentialSlices, OffsetSlices, SignificancePairs
from phasegrad.crossbar import Adc, BitSerialDac, Dac, FixedRange, Integrator

DEVICE = pg.presets.pcm_inference().cell.device


def test_a_linear_layer_of_one_tile() -> None:
    found = traced(converted(nn.Sequential(nn.Linear(20, 30))), torch.empty(5, 20))
    assert found.vectors == found.products == found.tile_reads == 5
    assert found.multiplications == 5 * 20 * 30
    assert found.operations == 2 * 5 * 20 * 30
    assert found.drives == 5 * 20
    assert found.conversions == found.results == 5 * 30
    assert found.additions == 5 * 30  # biases alone
    assert (found.bytes_in, found.bytes_out) == (5 * 20, 5 * 30)


def test_a_matrix_that_is_split_into_row_and_column_tiles() -> None:
    net = converted(nn.Sequential(nn.Linear(150, 70, bias=False)))  # 3 x 3 tiles of 64 x 32
    found = pg.cost.estimate(net, torch.empty(2, 7, 150)).layers[0]
    assert (found.tiles, found.devices) == (9, 2 * 150 * 70)
    assert found.utilisation == 150 * 70 / (9 * 64 * 32)
    counts = found.counts
    assert counts.vectors == 14
    assert counts.products == 14 * 9
    assert counts.drives == 14 * 150 * 3  # every column tile has its own drivers
    assert counts.conversions == 14 * 70 * 3  # every row tile converts all outputs
    assert counts.additions == 14 * 70 * 2
    assert (counts.bytes_in, counts.bytes_out) == (14 * 150 * 3, 14 * 70 * 3)


def test_a_convolution_multiplies_once_per_position() -> None:
    found = traced(converted(nn.Sequential(nn.Conv2d(3, 8, 3, stride=2))), torch.empty(2, 3, 9, 11))
    assert found.vectors == found.products == 2 * 4 * 5
    assert found.multiplications == 40 * 27 * 8
    assert found.drives == 40 * 27
    assert found.conversions == 40 * 8


def test_groups_have_tiles_of_their_own() -> None:
    net = converted(nn.Sequential(nn.Conv1d(8, 12, 5, groups=4, bias=False)))  # four matrices of 3 x 10
    found = pg.cost.estimate(net, torch.empty(1, 8, 20)).layers[0]
    assert found.tiles == 4
    counts = found.counts
    assert counts.vectors == 16
    assert counts.products == 16 * 4
    assert counts.multiplications == 16 * 12 * 10
    assert counts.drives == 16 * 4 * 10
    assert counts.conversions == 16 * 12


def test_a_transposed_convolution_drives_the_channels_of_a_position() -> None:
    found = traced(converted(nn.Sequential(nn.ConvTranspose2d(8, 3, 4, stride=2))), torch.empty(2, 8, 5, 5))
    assert found.vectors == 50
    assert found.drives == 50 * 8 * 2  # 48 columns are two tiles of 32
    assert found.conversions == 50 * 3 * 16


def test_slices_have_converters_of_their_own() -> None:
    cell = DifferentialSlices(device=DEVICE, bits=8, slices=3)
    net = converted(nn.Sequential(nn.Linear(100, 30, bias=False)), cell=cell)
    layer = pg.cost.estimate(net, torch.empty(1, 100)).layers[0]
    assert layer.devices == 100 * 30 * 6
    assert layer.counts.products == 2
    assert layer.counts.conversions == 30 * 2 * 3
    assert layer.counts.additions == 30  # of row tiles; slices are added in the local unit


def test_a_reference_column_is_subtracted_before_the_converter() -> None:
    cell = OffsetSlices(device=DEVICE, bits=4, slices=2)
    net = converted(nn.Sequential(nn.Linear(10, 40, bias=False)), cell=cell)
    layer = pg.cost.estimate(net, torch.empty(1, 10)).layers[0]
    assert layer.devices == 10 * (40 + 2) * 2
    assert layer.counts.conversions == 40 * 2


def test_bits_of_inputs_are_read_one_after_another() -> None:
    model = nn.Sequential(nn.Linear(20, 30, bias=False))
    digital = traced(converted(model, dac=BitSerialDac(bits=8)), torch.empty(1, 20))
    assert (digital.products, digital.tile_reads, digital.drives) == (1, 7, 7 * 20)
    assert digital.conversions == digital.results == 7 * 30
    analog = traced(converted(model, dac=BitSerialDac(bits=8, accumulation="analog")), torch.empty(1, 20))
    assert (analog.tile_reads, analog.drives, analog.conversions) == (7, 7 * 20, 30)


def test_phases_multiply_reads_drives_and_conversions_and_not_results() -> None:
    net = converted(nn.Sequential(nn.Linear(20, 30)))
    found = traced(net, torch.empty(1, 20), technology=technology(phases=4))
    assert (found.products, found.tile_reads, found.drives, found.conversions) == (1, 4, 80, 120)
    assert found.results == 30


def test_an_integrator_that_splits_polarities_reads_twice() -> None:
    fields = {"dac": Dac(range=FixedRange(value=1.0)), "integrator": Integrator(split=True)}
    net = converted(nn.Sequential(nn.Linear(20, 30)), **fields)
    assert traced(net, torch.empty(1, 20)).tile_reads == 2
    assert traced(net, torch.empty(1, 20), technology=technology(phases=4)).tile_reads == 4
    found = pg.cost.estimate(
        net, torch.empty(1, 20), technology=technology(input_coding="amplitude"), activity=drive(0.3)
    )
    assert found.layers[0].energies["array"] > 0


def test_several_devices_per_weight_change_devices_alone() -> None:
    cell = SignificancePairs(device=DEVICE, significances=(2.0, 1.0))
    layer = pg.cost.estimate(converted(nn.Sequential(nn.Linear(20, 30)), cell=cell), torch.empty(1, 20)).layers[0]
    assert layer.devices == 4 * 20 * 30
    assert layer.counts.conversions == 30


def test_without_an_adc_nothing_is_converted_and_whole_values_are_moved() -> None:
    found = traced(converted(nn.Sequential(nn.Linear(20, 30)), adc=None, dac=None), torch.empty(1, 20))
    assert found.conversions == 0
    assert (found.bytes_in, found.bytes_out) == (80, 120)


def test_converters_of_four_bits_move_half_a_byte() -> None:
    found = traced(converted(nn.Sequential(nn.Linear(20, 30)), adc=Adc(bits=4)), torch.empty(1, 20))
    assert found.bytes_out == 15


def test_a_layer_that_is_called_twice_counts_twice() -> None:
    layer = nn.Linear(16, 16)
    net = converted(nn.Sequential(layer, nn.ReLU(), layer))
    found = pg.cost.estimate(net, torch.empty(3, 16)).layers
    assert len(found) == 1
    assert found[0].counts.products == 6
    assert len(found[0].calls) == 2


def test_the_columns_of_a_projection_are_read_with_their_own_input() -> None:
    class Cross(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attend = nn.MultiheadAttention(32, 4, batch_first=True)

        def forward(self, x: Tensor, memory: Tensor) -> Tensor:
            return self.attend(x, memory, memory)[0]

    net = converted(Cross())  # 96 columns are three tiles of 32: queries, keys, values
    found = {
        layer.name: layer for layer in pg.cost.estimate(net, (torch.empty(1, 5, 32), torch.empty(1, 7, 32))).layers
    }
    counts = found["attend.in_proj"].counts
    assert counts.vectors == 5 + 7
    assert counts.products == 5 * 1 + 7 * 2
    assert counts.conversions == 5 * 32 + 7 * 64
    assert counts.multiplications == 32 * counts.conversions


def test_every_step_of_a_recurrent_layer_is_a_call() -> None:
    net = converted(nn.LSTM(4, 6, batch_first=True))
    found = {layer.name: layer for layer in pg.cost.estimate(net, torch.empty(2, 5, 4)).layers}
    assert found["ih_l0"].counts.vectors == 10
    assert len(found["ih_l0"].calls) == 1
    assert found["hh_l0"].counts.vectors == 10
    assert len(found["hh_l0"].calls) == 5


def test_a_packed_sequence_counts_its_own_steps() -> None:
    packed = pack_padded_sequence(torch.randn(5, 2, 4), torch.tensor([5, 3]))
    found = {layer.name: layer for layer in pg.cost.estimate(converted(nn.LSTM(4, 6)), packed).layers}
    assert found["hh_l0"].counts.vectors == 8
    assert [call.vectors for call in found["hh_l0"].calls] == [2, 2, 2, 1, 1]


def test_an_embedding_drives_one_column_and_converts_rows() -> None:
    net = nn.Sequential(pg.nn.AnalogEmbedding(100, 80, hardware=small()))
    found = traced(net, torch.zeros(2, 3, dtype=torch.int64))
    assert found.vectors == 6
    assert found.products == found.drives == 6 * 2  # 80 rows are two tiles of 64
    assert found.conversions == 6 * 80
    assert found.multiplications == found.additions == 0


def test_weights_in_the_memory_count_both_arrays() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(20, 30)), pg.presets.pcm_capacitor_training())
    layer = pg.cost.estimate(net, torch.empty(4, 20)).layers[0]
    assert layer.devices == 3 * 20 * 30
    assert layer.counts.products == 4


def test_a_layer_that_is_not_called_costs_its_area_alone() -> None:
    class Spare(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.spare = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    found = pg.cost.estimate(converted(Spare()), torch.empty(1, 4), technology=technology(), activity=0.5)
    spare = next(layer for layer in found.layers if layer.name == "spare")
    assert spare.energy == 0.0
    assert spare.duration.serial == 0.0
    assert spare.area == found.layers[0].area
