"""How target conductances become the conductances of devices: one statistical draw, or pulses and reads in turn."""
