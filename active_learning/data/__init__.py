"""Sources of examples, their splits and order, and the transforms on the device."""
