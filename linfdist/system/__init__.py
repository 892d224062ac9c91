"""Devices, processes, the disk, values and names: what knows nothing of l_inf-dist nets."""
