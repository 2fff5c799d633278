"""Where examples come from, how they are split and ordered, and what is done to them on the device."""
