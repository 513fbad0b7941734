"""Reading from a device, measured."""
