"""Facts about machines: inventory, topology, fabric settings. Starts nothing."""
