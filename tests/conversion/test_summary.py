"""The summary counts tiles and devices and lists the modules that stay digital."""

from __future__ import annotations

from dataclasses import replace

from torch import nn

import phasegrad as pg
from phasegrad.conversion import Summary

TILES = replace(pg.presets.ideal_inference(), rows=10, columns=4)


def test_tiles_devices_and_utilisation_are_counted() -> None:
    net = pg.convert(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Flatten(), nn.Linear(25, 4)), TILES)
    conv, linear = pg.summary(net).layers
    assert (conv.out_features, conv.in_features, conv.tiles, conv.devices) == (6, 27, 3 * 2, 2 * 6 * 27)
    assert (linear.tiles, linear.devices) == (3, 2 * 100)
    assert linear.utilisation == 100 / (3 * 40)
    assert pg.summary(net).tiles == 9
    assert pg.summary(net).devices == 2 * (162 + 100)


def test_groups_of_a_convolution_share_no_tile() -> None:
    conv = pg.summary(pg.convert(nn.Conv2d(8, 8, 3, groups=4), TILES)).layers[0]
    assert conv.tiles == 4 * 2  # each group needs two row tiles for 18 inputs and one column tile for 2 outputs
    assert conv.utilisation == 8 * 18 / (8 * 40)


def test_all_devices_of_a_cell_are_counted() -> None:
    device = pg.devices.ideal_device()
    cell = pg.cells.SignificancePairs(device=device, significances=(2.0, 1.0))
    net = pg.convert(nn.Linear(5, 3), replace(TILES, cell=cell))
    assert pg.summary(net).devices == 4 * 15


def test_a_module_in_two_places_is_counted_once() -> None:
    layer = nn.Linear(4, 4)
    assert len(pg.summary(pg.convert(nn.Sequential(layer, nn.ReLU(), layer), TILES)).layers) == 1


def test_summary_prints_one_row_per_layer_the_total_and_the_digital_modules() -> None:
    net = pg.convert(nn.Sequential(nn.Linear(12, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), TILES)
    assert str(pg.summary(net)).splitlines() == [
        "layer  kind          out x in  tiles  devices  utilisation  weight",
        "-------------------------------------------------------------------",
        "0      AnalogLinear    4 x 12      2       96        60.0%  digital",
        "2      AnalogLinear     2 x 4      1       16        20.0%  digital",
        "-------------------------------------------------------------------",
        "total                              3      112",
        "",
        "digital:",
        "  1  no analog counterpart of BatchNorm1d",
    ]


def test_summary_shows_the_store_and_names_the_root() -> None:
    chip = pg.inference.program(pg.convert(nn.Linear(4, 2), TILES), seed=0)
    assert pg.summary(chip).layers[0].store == "programmed"
    assert "(root)" in str(pg.summary(chip))


def test_summary_of_a_digital_model_lists_all_modules_as_digital() -> None:
    found = pg.summary(nn.Sequential(nn.Linear(2, 2)))
    assert isinstance(found, Summary)
    assert found.layers == ()
    assert found.digital == {"0": "not converted"}
    assert "not converted" in str(found)
